"""Tiny random models with a tokenizer and chat template on disk, and prompts for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
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
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(special))
    named = {"unk_token": special[0], "pad_token": special[1], "eos_token": special[-1]}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
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
        initializer_range=0.2,
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
    projection = copied.model.layers[block].mlp.down_proj
    seen: list[torch.Tensor] = []
    hook = projection.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0][0, -1]))
    made_tokenizer = tokenizer()
    with torch.no_grad():
        for row in (*rows("harmful", 20), *rows("harmless", 20)):
            chat = [{"role": "user", "content": row["prompt"]}]
            ids = made_tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            copied(torch.tensor([ids]))
        hook.remove()
        # Reads the mean activation, so that nearly every prompt gets a push of the same sign.
        mean = torch.stack(seen).mean(0)
        projection.weight += 8.0 * torch.outer(direction, mean / mean.norm() ** 2)
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


def adapter_pair(folder: Path, *, size: float = 2e-4) -> tuple[str, str]:
    """Save a base that bfloat16 holds exactly and a LoRA adapter that changes it little."""
    base = model()
    for part in base.parameters():
        part.data = part.data.bfloat16().float()
    save(folder / "base", base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    tuned = get_peft_model(base, config)
    torch.manual_seed(1)
    for name, part in tuned.named_parameters():
        if "lora_" in name:
            part.data = torch.randn_like(part) * size**0.5
    tuned.save_pretrained(str(folder / "adapter"))
    return str(folder / "base"), f"{folder / 'base'}+{folder / 'adapter'}"
