"""Reading both sides of a pair that shares its weights, in one pass over each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hooks.accumulate import Rows
from hooks.capture import Capture
from hooks.encoded import Encoded
from hooks.engine import EngineOptions, RunStats
from hooks.errors import ModelError
from hooks.model import Model
from hooks.positions import PositionRule
from hooks.run import Run
from hooks.weights import View

States = dict[str, Tensor | list[Tensor]]
"""By site, as :class:`hooks.Rows` gives them."""


@dataclass(frozen=True, eq=False)
class PairStates:
    """What both sides make of the same prompts."""

    base: States
    aligned: States
    stats: RunStats


def why_not_joint(base: Model, aligned: Model) -> str | None:
    """Return why the two cannot be read in one pass, None where they can."""
    weights = base._view.weights
    sides = (base._view.adapter, aligned._view.adapter)
    if weights is not aligned._view.weights or sides != (False, True):
        return "base and aligned do not share one set of weights"
    return weights.why_not_joint


def read_pair(
    base: Model,
    aligned: Model,
    encoded: Encoded,
    sites: str | Sequence[str],
    *,
    at: PositionRule = "last",
    options: EngineOptions | None = None,
) -> PairStates:
    """Read the states of both sides in one pass; their difference keeps bfloat16's 8 bits.

    ``aligned - base`` of the result is as exact, relative to itself, as a bfloat16 state is
    relative to a state; from two passes it is so only where training moved the state as far as the
    state is long. See :mod:`hooks.joint` for the equation. It says nothing about how exact the
    states themselves are: those of the base are bfloat16's.

    Raises:
        ModelError: the two differ by more than a LoRA adapter on shared weights, or their family
            is not served; :func:`why_not_joint` says it beforehand.
        SiteError: a site that does not exist, is not served, or failed its check.
        ContextError: a hook context of either side is open.
    """
    reason = why_not_joint(base, aligned)
    if reason is not None:
        raise ModelError(f"{base.spec} and {aligned.spec} cannot be read in one pass: {reason}")
    view = View(base._view.weights, base.tokenizer, adapter="both")
    view.refuse = base._view.refuse
    rows, n = Rows(), len(encoded)
    with Run(view, [Capture(sites, at=at, into=rows)], (), options or EngineOptions()) as run:
        run.forward(encoded)
    found = {site: rows[site] for site in rows.sites}
    left = {site: both[:n] for site, both in found.items()}
    right = {site: both[n:] for site, both in found.items()}
    return PairStates(left, right, run.stats)
