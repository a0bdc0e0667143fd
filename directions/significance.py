"""From paired differences to effect sizes, intervals, p-values and q-values, for many components.

    score_j = mean_i d_ij / S,      S^2 = mean over components of var_i d_ij

d_ij is the aligned-minus-base contribution of component j on prompt i. The unit S is one for all
components, so that scores are paired standardised differences *and* add up as contributions do.
A unit of each component's own (Cohen's d for pairs) would do neither, and would put a component
that changes by next to nothing, but always alike, above all others. How reliable a change is, its
interval and its p-value say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64

from artifacts.errors import InputError
from probes.multiple import benjamini_hochberg, least_pairs, repeats_for, sign_flip_p
from probes.seeds import generator

LEVEL = 0.95
_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class Tested:
    """What is known of m components; rows of every array are components."""

    score: Float64[np.ndarray, "m"]
    low: Float64[np.ndarray, "m"]
    high: Float64[np.ndarray, "m"]
    p: Float64[np.ndarray, "m"]
    q: Float64[np.ndarray, "m"]
    difference: Float64[np.ndarray, "m"]
    """Mean difference in the units of the contributions."""
    n: int


@dataclass(frozen=True, eq=False)
class Resamples:
    """Prompts with their weights, and bootstrap samples of them within classes."""

    weights: Float64[np.ndarray, "n"]
    """Sum to 1; each class holds the same share."""
    counts: Float64[np.ndarray, "b n"]

    @classmethod
    def draw(cls, harmful: Bool[np.ndarray, "n"], *, repeats: int, seed: int) -> Resamples:
        """Draw ``repeats`` samples with replacement, each class by itself (Efron 1979)."""
        rng = generator("localisation-bootstrap", len(harmful), seed)
        weights, counts = np.zeros(len(harmful)), np.zeros((repeats, len(harmful)))
        groups = [group for group in (harmful, ~harmful) if group.any()]
        for group in groups:
            size = int(group.sum())
            weights[group] = 1 / (size * len(groups))
            counts[:, group] = rng.multinomial(size, np.full(size, 1 / size), repeats)
        return cls(weights, counts)

    def mean(
        self, values: Float[np.ndarray, "n m"]
    ) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
        """Return weighted means with the two ends of their percentile intervals."""
        drawn = (self.counts * self.weights) @ values
        low, high = np.quantile(drawn, _tails(), axis=0)
        return self.weights @ values, low, high


def assess(
    parts: Mapping[_Part, Float64[np.ndarray, "n m"]],
    resamples: Resamples,
    *,
    alpha: float,
    seed: int,
) -> dict[_Part, Tested]:
    """Test every part (total, origin, echo); the components of one part are one family.

    Args:
        parts: paired differences; the first part fixes the unit of all.
        resamples: weights of the prompts and bootstrap samples.
        alpha: false discovery rate at which the flips must be able to decide.
        seed: of the sign flips.

    Raises:
        InputError: too few prompts to find a single component among so many.
    """
    first = next(iter(parts.values()))
    n, m = first.shape
    need = least_pairs(m, alpha=alpha)
    if n < need:
        raise InputError(
            f"{n} scored prompts cannot reach q = {alpha:g} among {m} heads and MLPs; at least "
            f"{need} must be scored, so give more prompts"
        )
    unit = unit_of(first, resamples)
    repeats = repeats_for(m, alpha=alpha)
    return {name: _test(d, unit, resamples, repeats, seed) for name, d in parts.items()}


def unit_of(d: Float64[np.ndarray, "n m"], resamples: Resamples) -> float:
    """Return S, over the components that change at all; 1 where none does."""
    moved = d[:, np.abs(d).max(0) > 0]
    if moved.shape[1] == 0:
        return 1.0
    mean = resamples.weights @ moved
    size = len(moved)
    spread = resamples.weights @ np.square(moved - mean) * size / (size - 1)
    # Changes that are exactly alike on all prompts have no spread; the score stays finite.
    return float(max(np.sqrt(spread.mean()), 1e-3 * np.abs(mean).max()))


def _test(
    d: Float64[np.ndarray, "n m"], unit: float, resamples: Resamples, repeats: int, seed: int
) -> Tested:
    p = sign_flip_p(d, repeats=repeats, seed=seed, weights=resamples.weights)
    mean, low, high = resamples.mean(d)
    q = benjamini_hochberg(p)
    return Tested(mean / unit, low / unit, high / unit, p, q, mean, len(d))


def _tails() -> list[float]:
    tail = (1 - LEVEL) / 2
    return [tail, 1 - tail]
