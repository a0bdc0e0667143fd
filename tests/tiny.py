"""Tiny random models of every proven family, made in memory, with a tokenizer of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB = 300
LAYERS = 4
WIDTH = 32
HEADS = 4
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _common(**more: object) -> dict[str, object]:
    base: dict[str, object] = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return base | more


FAMILIES: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**_common()),
    "mistral": lambda: hf.MistralConfig(**_common(sliding_window=12)),
    "qwen2": lambda: hf.Qwen2Config(**_common()),
    "qwen3": lambda: hf.Qwen3Config(**_common(head_dim=16)),
    "gemma2": lambda: hf.Gemma2Config(
        **_common(head_dim=16, sliding_window=12, query_pre_attn_scalar=16)
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **_common(head_dim=16, sliding_window=12, query_pre_attn_scalar=16)
    ),
    "phi3": lambda: hf.Phi3Config(**_common()),
    "olmo2": lambda: hf.Olmo2Config(**_common()),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCAB,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=256,
        bos_token_id=None,
        eos_token_id=2,
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(
        **{k: v for k, v in _common().items() if k != "num_key_value_heads"}
    ),
    "mixtral": lambda: hf.MixtralConfig(**_common(num_local_experts=4, num_experts_per_tok=2)),
}
SLIDING = ("mistral", "gemma2", "gemma3")


def make_hf(family: str, *, seed: int = 0, **changes: object) -> hf.PreTrainedModel:
    """Return a random model of ``family``, large enough in scale that blocks matter."""
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norm gains, too: a gain of exactly 1 would hide a site taken before the norm.
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


@cache
def tokenizer() -> hf.PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with a chat template; the same object each time."""
    return make_tokenizer()


def make_tokenizer(template: str | None = TEMPLATE) -> hf.PreTrainedTokenizerFast:
    """Return a byte-level tokenizer: 256 bytes and five template tokens."""
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|spare|>"]
    vocab = {
        symbol: index + 5
        for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    vocab |= {token: index for index, token in enumerate(special)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",
        pad_token="<|end|>",
        clean_up_tokenization_spaces=False,
    )
    if template is not None:
        made.chat_template = template
    return made


def save(folder: Path, family: str = "llama", *, seed: int = 0, **changes: object) -> Path:
    """Write a tiny model and its tokenizer to ``folder``."""
    make_hf(family, seed=seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
