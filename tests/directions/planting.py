"""Pairs whose difference is known: a rank-1 write planted in single heads or MLPs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

import hooks
from directions.origin import Plan
from probes.controls import random_units
from tests.tiny import HEADS, LAYERS, WIDTH, make_hf, tokenizer


def unit(seed: int, d: int = WIDTH) -> Float[Tensor, "d"]:
    rng = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(d, generator=rng), dim=0)


def prompts(n: int, seed: int = 0) -> hooks.Encoded:
    rng = np.random.default_rng(seed)
    return hooks.Encoded.from_ids(
        [rng.integers(5, 250, k).tolist() for k in rng.integers(4, 12, n)]
    )


def with_heads(
    raw: PreTrainedModel,
    heads: Sequence[tuple[int, int]],
    direction: Float[Tensor, "d"],
    encoded: hooks.Encoded,
    *,
    scale: float = 3.0,
) -> PreTrainedModel:
    """Let heads write along ``direction``, about as much on every prompt."""
    model = hooks.wrap(raw, tokenizer())
    rows = hooks.Rows()
    with model.hooks(capture=hooks.Capture("blocks.*.attn.hook_z", into=rows)) as run:
        run.forward(encoded)
    planted = copy.deepcopy(raw)
    layout = hooks.wrap(planted, tokenizer()).layout
    for block, head in heads:
        read = _reads_one(rows[f"blocks.{block}.attn.hook_z"][:, head])
        _add(layout.component(f"blocks.{block}.attn.o"), head, read, direction * scale)
    return planted


def with_mlp(
    raw: PreTrainedModel,
    block: int,
    direction: Float[Tensor, "d"],
    encoded: hooks.Encoded,
    *,
    scale: float = 3.0,
) -> PreTrainedModel:
    """Let one MLP write along ``direction``."""
    model = hooks.wrap(raw, tokenizer())
    rows = hooks.Rows()
    with model.hooks(capture=hooks.Capture("blocks.*.mlp.hook_post", into=rows)) as run:
        run.forward(encoded)
    planted = copy.deepcopy(raw)
    layout = hooks.wrap(planted, tokenizer()).layout
    read = _reads_one(rows[f"blocks.{block}.mlp.hook_post"])
    _add(layout.component(f"blocks.{block}.mlp.out"), 0, read, direction * scale)
    return planted


def _reads_one(states: Float[Tensor, "n width"]) -> Float[Tensor, "width"]:
    """Return u with x . u near 1 on all prompts, so that the write rarely changes its sign."""
    gram = states.T @ states
    ridge = 0.02 * gram.trace() / len(gram) * torch.eye(len(gram))
    return torch.linalg.solve(gram + ridge, states.sum(0))


def _add(module: torch.nn.Module, head: int, read: Tensor, write: Tensor) -> None:
    matrix = module.weight if isinstance(module, torch.nn.Linear) else module.weight.T
    columns = slice(head * len(read), (head + 1) * len(read))
    with torch.no_grad():
        matrix[:, columns] += torch.outer(write, read)


def plan(direction: Float[Tensor, "d"], **more: object) -> Plan:
    """Read along one direction at every block."""
    random = torch.from_numpy(random_units(12, WIDTH, seed=0))
    return Plan(direction.double().expand(LAYERS, -1), random, **more)


def pair(
    family: str, seed: int, encoded: hooks.Encoded, heads: Sequence[tuple[int, int]]
) -> tuple[hooks.Model, hooks.Model]:
    """A tiny model and itself with planted heads."""
    raw = make_hf(family, seed=seed)
    aligned = with_heads(raw, heads, unit(seed), encoded)
    return hooks.wrap(raw, tokenizer()), hooks.wrap(aligned, tokenizer())


def place(seed: int) -> tuple[int, int]:
    rng = np.random.default_rng(seed)
    return int(rng.integers(LAYERS)), int(rng.integers(HEADS))
