"""A tiny model whose last token says what a prompt is, so that the right gate is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

import hooks
from hooks import Capture, Rows
from steering.behaviour import Behaviour
from steering.designs import Material
from tests.tiny import make_hf, tokenizer

REFUSED, NEEDY, BENIGN = 200, 201, 202
MARKS = {"refused": REFUSED, "needy": NEEDY, "benign": BENIGN}


@cache
def model() -> hooks.Model:
    """Return a tiny model with loud marks and decided logits; nobody may change it."""
    made = make_hf("llama")
    with torch.no_grad():
        made.get_input_embeddings().weight[[REFUSED, NEEDY, BENIGN]] *= 12
        made.get_output_embeddings().weight *= 4
    return hooks.wrap(made, tokenizer())


def prompts(mark: int, n: int, seed: int) -> list[list[int]]:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(5, 190, (n, 9), generator=rng).tolist()
    return [[*row[: 5 + index % 4], mark] for index, row in enumerate(rows)]


def behaviour(part: int, n: int = 24, *, shuffled: bool = False) -> Behaviour:
    """Return planted behaviour: the marked last token decides the class, unless shuffled."""
    ids = [
        row
        for index, mark in enumerate(MARKS.values())
        for row in prompts(mark, n, 10 * part + index)
    ]
    order = list(range(3 * n))
    if shuffled:
        rng = np.random.default_rng(part)
        order = rng.permutation(3 * n).tolist()
        ids = [ids[place] for place in order]
    encoded = hooks.Encoded.from_ids(ids)
    states = Rows()
    with model().hooks(capture=Capture("blocks.*.hook_resid_post", into=states)) as run:
        run.forward(encoded)
    kinds = [kind for kind in MARKS for _ in range(n)]
    harmful = np.array([kind != "benign" for kind in kinds])
    outcomes = tuple("refused" if kind == "refused" else "complied" for kind in kinds)
    margins = np.array([3.0 if outcome == "refused" else -3.0 for outcome in outcomes])
    forms = tuple("plain" if row % 2 else "wrapped" for row in range(3 * n))
    return Behaviour(encoded, states.stack(), harmful, outcomes, forms, (part,) * (3 * n), margins)


def masks(found: Behaviour) -> dict[str, np.ndarray]:
    return {
        "refused harmful": found.harmful & found.refused,
        "complied harmful": found.harmful & found.complied,
        "complied harmless": ~found.harmful & found.complied,
    }


def material(*, shuffled: bool = False) -> Material:
    first = behaviour(0, shuffled=shuffled)
    return Material(first, behaviour(1, shuffled=shuffled), masks(first))
