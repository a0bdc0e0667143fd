"""Serving a policy that looks ahead (SCANS): read, branch, decide, read the last prompt token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hooks import Add, Encoded, Gate, Model
from hooks.kv import KVState
from hooks.run import Run
from steering.errors import PolicyError
from steering.policy import Policy
from steering.transition import Branch, Transition, moves


@contextmanager
def scans_context(model: Model, policy: Policy) -> Iterator[tuple[Run, Branch]]:
    """Open the context of a SCANS policy: additions shut at first, and a branch that is read.

    Raises:
        PolicyError: a policy of another method.
    """
    branch = Branch(_transition_of(policy).sites)
    adds = tuple(
        replace(edit, steps="generated")
        for term in policy.terms
        for edit in term.edits()
        if isinstance(edit, Add)
    )
    first = policy.terms[0].vectors[0]
    gates = (Gate(torch.ones_like(first), "hook_embed", adds, _shut),) if adds else ()
    with model.hooks(capture=branch.capture, edits=gates) as run:
        yield run, branch


def start_scans(
    run: Run, branch: Branch, policy: Policy, encoded: Encoded
) -> tuple[KVState, Float[Tensor, "row"]]:
    """Read prompts, decide by the branch, and read the last prompt token under steering.

    Returns:
        The state behind the prompts, and the sign that each of them got.

    Raises:
        PolicyError: a policy of another method, or a prompt of a single token.
    """
    transition = _transition_of(policy)
    state, last, moved = moves(run, branch, encoded, transition.opener)
    sign = transition.sign(transition.score(moved))
    if any(term.vectors.any() for term in policy.terms):
        state.hold(sign)
    return state.append(last), sign


def _transition_of(policy: Policy) -> Transition:
    if policy.transition is None:
        raise PolicyError(f"{policy.method}: not a SCANS policy")
    return policy.transition


def _shut(score: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Nothing is added before the branch has decided."""
    return torch.zeros_like(score)
