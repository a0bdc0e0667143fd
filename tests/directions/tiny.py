"""Tiny random models with a tokenizer and chat template on disk, and prompts for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HARMFUL_WORDS = ("steal", "poison", "hack", "burn")
HARMLESS_WORDS = ("bake", "paint", "sing", "plant")
THINGS = ("bread", "wall", "song", "tree", "car", "lamp", "boat", "coat", "river", "cloud")
FILLER = ("please", "quickly", "today", "near", "home", "with", "care", "and", "a", "the")
WORDS = (*HARMFUL_WORDS, *HARMLESS_WORDS, *THINGS, *FILLER)
D_MODEL, LAYERS = 32, 3


def tokenizer(
    template: str | None = TEMPLATE, extra: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    special = ("<unk>", "<pad>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>")
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS, *extra))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(special))
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<|end|>"
    )
    made.chat_template = template
    return made


def config(**changes: int) -> LlamaConfig:
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": D_MODEL, "max_position_embeddings": 64}
    return LlamaConfig(
        vocab_size=48,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=5,
        pad_token_id=1,
        **{**sizes, **changes},
    )


def model(seed: int = 0, **changes: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(config(**changes)).float().eval()


def save(
    folder: Path,
    made: LlamaForCausalLM,
    template: str | None = TEMPLATE,
    extra: tuple[str, ...] = (),
) -> Path:
    made.save_pretrained(folder)
    tokenizer(template, extra).save_pretrained(folder)
    return folder


def planted(made: LlamaForCausalLM, direction: torch.Tensor, block: int) -> LlamaForCausalLM:
    """Add a rank-1 write along ``direction`` to what ``block``'s MLP writes."""
    torch.manual_seed(1)
    copied = LlamaForCausalLM(made.config).float().eval()
    copied.load_state_dict(made.state_dict())
    weight = copied.model.layers[block].mlp.down_proj.weight
    with torch.no_grad():
        # Reads the mean of |x| through one unit, so that every prompt gets a push.
        weight += 6.0 * torch.outer(direction, torch.ones(weight.shape[1]) / weight.shape[1] ** 0.5)
    return copied


def rows(label: str, n: int, *, start: int = 0, fields: bool = True) -> list[dict[str, str]]:
    words = HARMFUL_WORDS if label == "harmful" else HARMLESS_WORDS
    found = []
    for i in range(start, start + n):
        text = (
            f"{words[i % 4]} {FILLER[i % 10]} {THINGS[(i // 4) % 10]} {FILLER[(i // 40) % 10]} "
            f"{THINGS[(i * 7 + i // 10) % 10]}"
        )
        row = {"id": f"{label}-{i}", "prompt": text, "label": label}
        if fields:
            row |= {"category": f"c{i // 4 % 4}", "source": "made"}
        found.append(row)
    return found


def write(path: Path, content: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path
