"""What the tests of ``steering`` share: a tiny model, prompts, vectors and policies."""

from __future__ import annotations

import torch
from torch import Tensor

import hooks
import steering
from benchmarks.steering import counted as counted
from steering.policy import Policy, Reading, Term
from tests.hooks.common import ids_of, vector
from tests.hooks.common import model as tiny_model
from tests.tiny import WIDTH as WIDTH

PROMPTS = ids_of([7, 14, 9, 11, 5])
GATE_BLOCK = 0
NEW = 6


def model() -> hooks.Model:
    return tiny_model("llama")


def vectors(*blocks: int, size: float = 6.0) -> dict[int, Tensor]:
    return {block: size * vector(block + 20) for block in blocks}


def scores(encoded: hooks.Encoded = PROMPTS, block: int = GATE_BLOCK) -> Tensor:
    """Return what a gate along ``vector(3)`` reads."""
    states = hooks.Rows()
    read = hooks.Capture(f"blocks.{block}.hook_resid_post", into=states)
    with model().hooks(capture=read) as run:
        run.forward(encoded)
    direction = vector(3)
    return states.stack()[0] @ (direction / direction.norm())


def middle() -> float:
    """Return a threshold that opens the gate for some prompts only."""
    return float(scores().median()) - 1e-4


def gated(law: object, *, steered: tuple[int, ...] = (1, 2), **more: object) -> Policy:
    """Return a policy with one gated term; ``two_pass`` may follow."""
    rows = torch.stack(list(vectors(*steered).values()))
    gate = Reading(GATE_BLOCK if "gate" not in more else int(more.pop("gate")), vector(3), law)
    term = Term("reject", steered, rows, gate)
    made = model()
    return Policy("adasteer", (term,), made.info(), made.tokenizer_info(), **more)


def greedy(policy: Policy, encoded: hooks.Encoded = PROMPTS) -> list[list[int]]:
    found = steering.answer(model(), policy, encoded, max_new_tokens=NEW)
    return [list(row) for row in found.ids]


def plain(encoded: hooks.Encoded = PROMPTS) -> list[list[int]]:
    with model().hooks() as run:
        return run.generate_ids(encoded, max_new_tokens=NEW)


def always(policy: Policy, encoded: hooks.Encoded = PROMPTS) -> list[list[int]]:
    """Return the answers with every gate taken off."""
    edits = [
        hooks.Add(row, f"blocks.{block}.hook_resid_post", steps=term.steps)
        for term in policy.terms
        for block, row in zip(term.blocks, term.vectors, strict=True)
    ]
    with model().hooks(edits=edits) as run:
        return run.generate_ids(encoded, max_new_tokens=NEW)
