"""Controls for a direction's separation, and the decision whether it beats them.

Two nulls answer two questions. *Shuffled labels*: would fitting a direction have separated this
many prompts even if labels meant nothing? *Random directions*: is separation special to this
direction, or does any direction separate these states?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from artifacts.errors import InputError
from probes.seeds import generator
from probes.separation import Estimate


@dataclass(frozen=True)
class Verdict:
    """Whether a direction separates held-out prompts better than its controls do."""

    beats: bool
    best: int
    """Row (not block number) with the largest held-out AUC; ties go to the larger d'."""
    p_shuffled: float
    """Corrected for the choice of the best of all rows."""
    p_random: float
    """Share of random directions at the best row that separate at least as well."""
    alpha: float
    reason: str
    """One sentence."""


def random_units(count: int, d: int, *, seed: int) -> Float64[np.ndarray, "count d"]:
    """Draw directions uniformly on the unit sphere (an AUC does not depend on their norm)."""
    drawn = generator("random-directions", d, seed).standard_normal((count, d))
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def unsigned(auc: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """Give max(A, 1 - A): a direction without a sign gets the better one.

    This favours the control, whose sign nothing fixes, over the direction, whose sign the fit
    fixed before the held-out prompts were seen.
    """
    return np.maximum(auc, 1 - auc)


def band(null: Float[np.ndarray, "rows k"], *, level: float = 0.95) -> Estimate:
    """Give mean and central band of a null by row; ``n`` is the number of repetitions."""
    tail = (1 - level) / 2
    low, high = np.quantile(null, [tail, 1 - tail], axis=-1)
    return Estimate(null.mean(-1), low, high, null.shape[-1], level)


def beats_control(
    auc: Estimate,
    d_prime: Float[np.ndarray, "rows"],
    shuffled: Float[np.ndarray, "rows k"],
    random: Float[np.ndarray, "rows r"],
    random_d_prime: Float[np.ndarray, "rows r"],
    *,
    alpha: float = 0.05,
) -> Verdict:
    """Decide whether held-out separation beats both controls.

        p_s = (1 + #{k: max_b S_bk >= max_b A_b}) / (K + 1)      (Ojala & Garriga 2010, eq. 1;
                                                       max over b: Westfall & Young 1993, ch. 2)
        p_r = (1 + #{r: (R_br, |d_br|) >= (A_b, d_b) at the best b}) / (R + 1)
        beats  iff  p_s <= alpha/2  and  p_r <= alpha  and  low_b > 1/2

    A_b is the held-out AUC by row, S_bk the same after shuffling the labels of fit and held-out
    prompts and fitting again, R_br = max(A, 1-A) of a random direction; pairs are compared in
    lexicographic order, because an AUC of 1 cannot grow further. The claim has one side, so its
    level is alpha/2, as that of the interval's lower end. With no signal labels are exchangeable
    and P(p_s <= alpha/2) <= alpha/2: false claims stay below alpha whatever the other two
    conditions do. Does not show that the model uses the direction.

    Raises:
        InputError: if a null has too few repetitions to reach ``alpha``.
    """
    for name, null, level in (("shuffled", shuffled, alpha / 2), ("random", random, alpha)):
        if (null.shape[-1] + 1) * level < 1:
            raise InputError(
                f"{null.shape[-1]} {name} repetitions cannot reach p = {level}; "
                f"use at least {int(np.ceil(1 / level)) - 1}"
            )
    best = int(np.lexsort((d_prime, auc.value))[-1])
    top = float(auc.value[best])
    p_shuffled = _p_value(int((shuffled.max(0) >= top).sum()), shuffled.shape[-1])
    equal_or_better = (random[best] > top) | (
        (random[best] == top) & (np.abs(random_d_prime[best]) >= d_prime[best])
    )
    p_random = _p_value(int(equal_or_better.sum()), random.shape[-1])
    above_half = bool(auc.low[best] > 0.5)
    beats = p_shuffled <= alpha / 2 and p_random <= alpha and above_half
    reason = _reason(p_shuffled, p_random, above_half, alpha)
    return Verdict(beats, best, p_shuffled, p_random, alpha, reason)


def _p_value(at_least: int, repeats: int) -> float:
    return (1 + at_least) / (repeats + 1)


def _reason(p_shuffled: float, p_random: float, above_half: bool, alpha: float) -> str:
    if p_shuffled > alpha / 2:
        return f"shuffled labels separate as well (p = {p_shuffled:.3f} > {alpha / 2})"
    if p_random > alpha:
        return f"random directions separate as well (p = {p_random:.3f} > {alpha})"
    if not above_half:
        return "the interval of the AUC includes 0.5"
    return (
        f"beats shuffled labels (p = {p_shuffled:.3f}) and random directions (p = {p_random:.3f})"
    )
