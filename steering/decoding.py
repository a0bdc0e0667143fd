"""Greedy continuation of a state that was read already."""

from __future__ import annotations

import torch

from hooks import Model
from hooks.kv import KVState


def continue_greedily(model: Model, state: KVState, max_new_tokens: int) -> list[list[int]]:
    """Return each row's most likely continuation, without its end token.

    The state grows; it is the same loop as ``generate()`` without its options.
    """
    ends = torch.tensor(end_tokens(model), dtype=torch.long)
    going = torch.ones(len(state.logits), dtype=torch.bool)
    chosen: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []
    for step in range(max_new_tokens):
        ids = state.logits.argmax(dim=-1)
        going = going & ~torch.isin(ids, ends)
        chosen.append(ids)
        kept.append(going)
        if not going.any() or step == max_new_tokens - 1:
            break
        state.append(ids[:, None])
    ids, live = torch.stack(chosen, dim=1), torch.stack(kept, dim=1)
    return [row[keep].tolist() for row, keep in zip(ids, live, strict=True)]


def end_tokens(model: Model) -> list[int]:
    """Return the tokens that end an answer, by the model's own generation settings first."""
    ends = getattr(model.hf.generation_config, "eos_token_id", None) or model.tokenizer.eos_token_id
    if ends is None:
        return []
    return [int(end) for end in ends] if isinstance(ends, list) else [int(ends)]
