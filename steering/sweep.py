"""The safe range of a policy: how strong it may be before benign answers pay for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from artifacts.errors import NotBeaten
from evaluation.judges.tokens import RefusalTokens
from hooks import Model
from steering.behaviour import Behaviour
from steering.guard import refused_share
from steering.measuring import Paths, first_margins, touched, utility
from steering.options import FitOptions
from steering.policy import Policy


@dataclass(frozen=True)
class Point:
    """One strength: what it does, and what it costs."""

    strength: float
    harmful_refused: float
    """Share of harmful prompts whose first token refuses."""
    benign_refused: float
    kl: float
    """Mean divergence on benign answers, nats a token."""
    perplexity: float
    """Ratio, steered over unsteered, on benign answers."""
    safe: bool
    """Both costs, and the benign prompts lost, are within their limits."""


def margins_under(
    model: Model,
    policy: Policy,
    found: Behaviour,
    tokens: RefusalTokens,
    hit: Bool[np.ndarray, "row"],
) -> Float[np.ndarray, "row"]:
    """Return the margins of all rows; only rows that the policy changes are read again."""
    after = found.margins.copy()
    rows = np.flatnonzero(hit)
    if len(rows):
        part = found.encoded.select(rows.tolist())
        after[rows] = first_margins(model, policy, part, tokens)
    return after


def changed_rows(model: Model, policy: Policy, found: Behaviour) -> Bool[np.ndarray, "row"]:
    """Say which rows the policy changes; states that were read before are not read again."""
    gates = [term.gate for term in policy.terms]
    if policy.transition is not None or None in gates:
        return touched(model, policy, found.encoded)
    hit = np.zeros(len(found.encoded), dtype=bool)
    for gate in gates:
        if gate is not None:
            hit |= (gate.law(found.states[gate.block].float() @ gate.direction) != 0).numpy()
    return hit


def sweep(
    model: Model,
    make: Callable[[float], Policy],
    found: Behaviour,
    answers: Paths,
    tokens: RefusalTokens,
    options: FitOptions,
) -> tuple[Point, ...]:
    """Measure strengths from the weakest on, up to the first that is not safe.

    The range is safe up to a strength if every weaker one that was tried is safe, too.
    """
    points: list[Point] = []
    # Which rows are changed at all does not depend on the strength.
    first = make(options.strengths[0])
    hits = (changed_rows(model, first, found), touched(model, first, answers.encoded))
    before = refused_share(found.margins, ~found.harmful)
    for strength in options.strengths:
        policy = make(strength)
        after = margins_under(model, policy, found, tokens, hits[0])
        cost = utility(model, policy, answers, hit=hits[1], seed=options.seed)
        points.append(
            Point(
                strength,
                refused_share(after, found.harmful),
                refused_share(after, ~found.harmful),
                cost.divergence.value,
                cost.perplexity.value,
                cost.within(options.max_kl, options.max_perplexity)
                and refused_share(after, ~found.harmful) - before <= options.max_benign_lost,
            )
        )
        if not points[-1].safe:
            break
    return tuple(points)


def choose(points: Sequence[Point], *, before: float, what: str) -> Point:
    """Choose the weakest of the safe strengths that refuse most.

    The limits of the safe range say what defence may cost; inside them there is no reason to
    defend less.

    Raises:
        NotBeaten: no strength is safe, or none refuses more than the unsteered model.
    """
    safe = [point for point in points if point.safe]
    if not safe:
        first = points[0]
        raise NotBeaten(
            f"{what}: strength {first.strength} already costs KL {first.kl:.3f}, perplexity "
            f"x{first.perplexity:.3f} and refuses {first.benign_refused:.1%} of benign prompts; "
            "try weaker --strengths or a higher limit"
        )
    best = max(point.harmful_refused for point in safe)
    if best <= before:
        last = points[-1]
        raise NotBeaten(
            f"{what}: no safe strength refuses more harmful prompts than the {before:.1%} of the "
            f"unsteered model; {last.strength:g}, the strongest that was tried, refuses "
            f"{last.harmful_refused:.1%} of them and {last.benign_refused:.1%} of benign prompts "
            f"at KL {last.kl:.3f}; try other --blocks or another --gate-block"
        )
    return next(point for point in safe if point.harmful_refused == best)


def as_table(points: Sequence[Point]) -> Float[Tensor, "row column"]:
    """Return strength, both refused shares, KL, perplexity ratio and safe (0 or 1) by row."""
    return torch.tensor([[float(value) for value in vars(point).values()] for point in points])
