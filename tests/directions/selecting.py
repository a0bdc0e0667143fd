"""Tiny models in which one direction, written by one block, brings out the refusal token."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from transformers import LlamaForCausalLM

import hooks
from evaluation.prompts import Prompt, PromptSet
from tests.directions import tiny

LAYERS = 5
REFUSAL = "no"


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the planted direction and the one that marks harmful words; orthonormal."""
    torch.manual_seed(3)
    q, _ = torch.linalg.qr(torch.randn(tiny.D_MODEL, 2))
    return q[:, 0], q[:, 1]


def made(block: int | None) -> LlamaForCausalLM:
    """Make a model whose ``block`` writes the planted direction where a word was harmful.

    Everything else is small and random, and neither reads nor writes the two directions. None
    plants nothing.
    """
    planted, mark = vectors()
    model = tiny.model(5, num_hidden_layers=LAYERS)
    words = tiny.tokenizer(extra=(REFUSAL,)).get_vocab()
    off = torch.eye(tiny.D_MODEL) - torch.outer(planted, planted) - torch.outer(mark, mark)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ off)
        for word in tiny.HARMFUL_WORDS:
            model.model.embed_tokens.weight[words[word]] += 2 * mark
        model.lm_head.weight.copy_(0.2 * model.lm_head.weight @ off)
        model.lm_head.weight[words[REFUSAL]] = 2.5 * planted
        for layer in model.model.layers:
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.copy_(0.1 * off @ part.weight)
        if block is not None:
            _plant(model, block, planted, mark)
    return model


def _plant(model: LlamaForCausalLM, block: int, planted: torch.Tensor, mark: torch.Tensor) -> None:
    attention = model.model.layers[block].self_attn
    # Equal attention to all tokens; one head's first value carries the mark.
    attention.q_proj.weight.zero_()
    attention.v_proj.weight[0] = mark
    attention.o_proj.weight[:, 0] = 12 * planted


@cache
def model(block: int | None) -> hooks.Model:
    return hooks.wrap(made(block), tiny.tokenizer(extra=(REFUSAL,)))


def prompts(n: int = 48) -> PromptSet:
    rows = [
        replace(Prompt(r["id"], r["prompt"], r["label"]), category=r["category"], source="made")
        for label in ("harmful", "harmless")
        for r in tiny.rows(label, n)
    ]
    return PromptSet("made", "made", None, tuple(rows))
