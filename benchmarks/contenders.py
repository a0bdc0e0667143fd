"""Three ways to take last-token states of every block: a plain loop, TransformerLens, theodolite.

Each is given the same chat prompts as text and returns [block, prompt, d_model] for one model;
models are loaded beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import hooks
from hooks.model import merged_copy

BATCH = 32
States = Callable[[Sequence[str]], Tensor]
Pairs = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Prompts -> the states of base and aligned."""


def plain_loop(hf: torch.nn.Module, tokenizer: object) -> States:
    """The usual script: padded batches, logits for every token, ``output_hidden_states``."""

    def run(prompts: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(prompts), BATCH):
            batch = pad_chats(tokenizer, prompts[start : start + BATCH], hf.device)
            with torch.no_grad():
                out = hf(**batch, output_hidden_states=True)
            found.append(torch.stack([h[:, -1].float().cpu() for h in out.hidden_states[1:]]))
        return torch.cat(found, dim=1)

    return run


def transformer_lens(hf: torch.nn.Module, tokenizer: object, name: str) -> States:
    """TransformerBridge with ``run_with_cache`` filtered to the same sites."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        name, hf_model=hf, tokenizer=tokenizer, dtype=hf.dtype
    )
    wanted = [f"blocks.{block}.hook_resid_post" for block in range(hf.config.num_hidden_layers)]

    def run(prompts: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(prompts), BATCH):
            batch = pad_chats(tokenizer, prompts[start : start + BATCH], hf.device)
            with torch.no_grad():
                _, cache = bridge.run_with_cache(
                    batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    names_filter=wanted,
                    return_type=None,
                )
            found.append(torch.stack([cache[name][:, -1].float().cpu() for name in wanted]))
        return torch.cat(found, dim=1)

    return run


def one_by_one(left: States, right: States) -> Pairs:
    """Run one side, then the other."""
    return lambda prompts: (left(prompts), right(prompts))


def theodolite_joint(base: hooks.Model, aligned: hooks.Model) -> Pairs:
    """Both sides in one pass, as ``directions.extract`` reads them in bfloat16."""

    def run(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        both = hooks.read_pair(base, aligned, aligned.encode(prompts), hooks.Capture().sites)
        left, right = (
            torch.stack([part for part in side.values() if isinstance(part, Tensor)])
            for side in (both.base, both.aligned)
        )
        return left, right

    return run


def theodolite(model: hooks.Model) -> States:
    """The passes of ``directions.extract`` where each side has one of its own."""

    def run(prompts: Sequence[str]) -> Tensor:
        rows = hooks.Rows()
        with model.hooks(capture=hooks.Capture(into=rows)) as context:
            context.forward(model.encode(prompts))
        return rows.stack()

    return run


def twin(model: hooks.Model) -> torch.nn.Module:
    """A plain copy of one side of a pair, its adapter merged, for the other contenders."""
    with model._view:  # switches the adapter; a hook context would be copied with its hooks
        return merged_copy(model.hf, adapter=model.shares_weights or None)


def pad_chats(tokenizer: object, prompts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
