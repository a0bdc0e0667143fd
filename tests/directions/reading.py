"""What the tests of reading a component share: prompts, tokens and models with a known truth."""

from __future__ import annotations

import torch

import hooks
from evaluation.judges.tokens import RefusalTokens
from tests.hooks.common import model
from tests.tiny import make_hf, tokenizer

HARMFUL = [f"Request number {number} of the one kind, zz" for number in range(10)]
HARMLESS = [f"Request number {number} of the other kind, !?" for number in range(10)]


def refusal_tokens(used: hooks.Model, ids: tuple[int, ...] = (40, 41)) -> RefusalTokens:
    share = tuple(0.5 for _ in ids)
    texts = tuple(used.tokenizer.decode([i]) for i in ids)
    digest = used.tokenizer_info().digest
    return RefusalTokens(ids, texts, share, share, (8, 8), "made", "", digest)


def encoded(used: hooks.Model) -> dict[str, hooks.Encoded]:
    return {"harmful": used.encode(HARMFUL), "harmless": used.encode(HARMLESS)}


def silent_after(block: int) -> hooks.Model:
    """Return a random model whose blocks after ``block`` add nothing to the stream."""
    made = make_hf("llama")
    with torch.no_grad():
        for layer in made.model.layers[block + 1 :]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return hooks.wrap(made, tokenizer())


def toward(used: hooks.Model, ids: tuple[int, ...]) -> torch.Tensor:
    """Return the direction along which the logits of ``ids`` rise most, at a fixed norm."""
    weight = used.hf.get_output_embeddings().weight
    return (weight[list(ids)].mean(0) - weight.mean(0)) * used.hf.model.norm.weight


__all__ = ["HARMFUL", "HARMLESS", "encoded", "model", "refusal_tokens", "silent_after", "toward"]
