"""How well one number separates two groups: area under the ROC curve with an interval, and d'.

Everything is vectorised over leading axes (blocks, repetitions). None of it shows that a model
*uses* the direction that gave the numbers; separation supports the claim "decodable" at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit
from scipy.stats import norm, rankdata

from artifacts.errors import InputError


@dataclass(frozen=True, eq=False)
class Estimate:
    """Values with the two ends of an interval, one per leading index."""

    value: Float[np.ndarray, "*batch"]
    low: Float[np.ndarray, "*batch"]
    high: Float[np.ndarray, "*batch"]
    n: int
    """Independent units (prompts, or repetitions of a null) behind each value."""
    level: float
    """Coverage that the interval aims at, for example 0.95."""

    def row(self, index: int) -> Estimate:
        """Return the entry of one leading index."""
        value, low, high = (np.asarray(e[index]) for e in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n, self.level)


def auc(
    positive: Float[np.ndarray, "*batch m"], negative: Float[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """Give the probability that a positive exceeds a negative; ties count one half.

        A = (1 / mn) sum_ij [x_i > y_j] + [x_i = y_j] / 2        (Hanley & McNeil 1982, eq. 1)

    Equals ``sklearn.metrics.roc_auc_score`` (a test compares them).

    Raises:
        InputError: if a group is empty or holds a number that is not finite.
    """
    _check(positive, negative)
    m, n = positive.shape[-1], negative.shape[-1]
    ranks = rankdata(np.concatenate([positive, negative], axis=-1), axis=-1)
    return np.asarray((ranks[..., :m].sum(-1) - m * (m + 1) / 2) / (m * n))


def auc_of_labels(
    scores: Float[np.ndarray, "*batch n"], positive: Bool[np.ndarray, "*batch n"]
) -> Float[np.ndarray, "*batch"]:
    """Give the AUC where every row has labels of its own; see :func:`auc`.

    Raises:
        InputError: if a row has a single class or a score is not finite.
    """
    m = positive.sum(-1)
    n = positive.shape[-1] - m
    if (m == 0).any() or (n == 0).any():
        raise InputError("AUC needs both classes in every row; give more prompts of each class")
    if not np.isfinite(scores).all():
        raise InputError("AUC of scores that are not finite; look for overflow in the states")
    ranks = rankdata(scores, axis=-1)
    return np.asarray(((ranks * positive).sum(-1) - m * (m + 1) / 2) / (m * n))


def auc_estimate(
    positive: Float[np.ndarray, "*batch m"],
    negative: Float[np.ndarray, "*batch n"],
    *,
    paired: bool = False,
    level: float = 0.95,
) -> Estimate:
    """Give the AUC with an interval that is honest near and at 1.

    The interval is the hull of two: DeLong's variance on the logit scale,

        logit A +- z s / (A (1 - A)),   s^2 = var(V10) / m + var(V01) / n
                                            (DeLong et al. 1988; Pohar Perme & Manevski 2019)

    and Newcombe's score interval (see :func:`score_interval`), which keeps a width when the
    sample separates perfectly and s = 0. With ``paired`` (index i of both groups is the same
    prompt) s^2 = var(V10_i + V01_i) / m, the clustered form of Obuchowski 1997, eq. 6.

    Args:
        positive: scores expected to be larger.
        negative: scores expected to be smaller.
        paired: whether index i of both groups is the same prompt.
        level: coverage.

    Raises:
        InputError: if a group has fewer than 2 members, holds a number that is not finite, or
            paired groups differ in length.
    """
    value = auc(positive, negative)
    m, n = positive.shape[-1], negative.shape[-1]
    if min(m, n) < 2:
        raise InputError(f"an AUC interval needs 2 prompts in each group, got {m} and {n}")
    if paired and m != n:
        raise InputError(f"paired groups differ in length: {m} and {n}")
    z = float(norm.ppf(0.5 + level / 2))
    low, high = score_interval(value, m, n, level=level)
    spread = np.sqrt(_variance(positive, negative, paired=paired))
    inner = (value > 0) & (value < 1)
    safe = np.where(inner, value, 0.5)
    logit, half = np.log(safe / (1 - safe)), z * spread / (safe * (1 - safe))
    low = np.where(inner, np.minimum(low, expit(logit - half)), low)
    high = np.where(inner, np.maximum(high, expit(logit + half)), high)
    return Estimate(value, low, high, m if paired else m + n, level)


def score_interval(
    value: Float[np.ndarray, "*batch"], m: int, n: int, *, level: float = 0.95
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Give Newcombe's score interval for an AUC, from the AUC and the group sizes alone.

        |A - t| = z sqrt( t (1-t) [1 + N ((1-t)/(2-t) + t/(1+t))] / mn ),   N = (m+n)/2 - 1
                                                                  (Newcombe 2006, method 5)

    solved for t below and above A by bisection. Assumes independent groups whose scores follow
    the exponential model behind the variance of Hanley & McNeil 1982.
    """
    z = float(norm.ppf(0.5 + level / 2))
    half = (m + n) / 2 - 1

    def excess(t: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        variance = t * (1 - t) * (1 + half * ((1 - t) / (2 - t) + t / (1 + t))) / (m * n)
        return np.asarray(np.abs(value - t) - z * np.sqrt(variance))

    ends = []
    for far in (np.zeros_like(value), np.ones_like(value)):
        outside, inside = far, value
        for _ in range(60):
            middle = np.asarray((outside + inside) / 2)
            beyond = excess(middle) > 0
            outside, inside = np.where(beyond, middle, outside), np.where(beyond, inside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def d_prime(
    positive: Float[np.ndarray, "*batch m"],
    negative: Float[np.ndarray, "*batch n"],
    *,
    level: float = 0.95,
) -> Estimate:
    """Give the distance of the group means in pooled standard deviations.

        d' = (mean x - mean y) / s,   s^2 = ((m-1) s_x^2 + (n-1) s_y^2) / (m + n - 2)
        d' +- z sqrt( (m+n)/mn + d'^2 / 2(m+n) )             (Hedges & Olkin 1985, ch. 5, eq. 14)

    Unlike the AUC it keeps growing after the groups have parted. The interval takes the groups
    as independent; for paired groups it is too wide where the pairs correlate.

    Raises:
        InputError: if a group has fewer than 2 members or a number that is not finite.
    """
    _check(positive, negative)
    m, n = positive.shape[-1], negative.shape[-1]
    if min(m, n) < 2:
        raise InputError(f"d' needs 2 prompts in each group, got {m} and {n}")
    within = (m - 1) * positive.var(-1, ddof=1) + (n - 1) * negative.var(-1, ddof=1)
    pooled = np.sqrt(within / (m + n - 2))
    gap = positive.mean(-1) - negative.mean(-1)
    # A group without any spread has no d'; the smallest normal number keeps the value finite.
    scale = np.maximum(pooled, 1e-12 * np.abs(gap) + np.finfo(np.float64).tiny)
    value = np.asarray(gap / scale)
    half = float(norm.ppf(0.5 + level / 2)) * np.sqrt((m + n) / (m * n) + value**2 / (2 * (m + n)))
    return Estimate(value, np.asarray(value - half), np.asarray(value + half), m + n, level)


def placements(
    positive: Float[np.ndarray, "*batch m"], negative: Float[np.ndarray, "*batch n"]
) -> tuple[Float[np.ndarray, "*batch m"], Float[np.ndarray, "*batch n"]]:
    """Give for each score the share of the other group that it exceeds, or that exceeds it.

        V10_i = (1/n) sum_j [x_i > y_j] + [x_i = y_j] / 2,   V01_j likewise over i

    from mid-ranks (Sun & Xu 2014). Both have the AUC as their mean.
    """
    m, n = positive.shape[-1], negative.shape[-1]
    ranks = rankdata(np.concatenate([positive, negative], axis=-1), axis=-1)
    v10 = (ranks[..., :m] - rankdata(positive, axis=-1)) / n
    v01 = 1 - (ranks[..., m:] - rankdata(negative, axis=-1)) / m
    return v10, v01


def _variance(
    positive: Float[np.ndarray, "*batch m"],
    negative: Float[np.ndarray, "*batch n"],
    *,
    paired: bool,
) -> Float[np.ndarray, "*batch"]:
    v10, v01 = placements(positive, negative)
    m, n = v10.shape[-1], v01.shape[-1]
    if paired:
        return np.asarray((v10 + v01).var(-1, ddof=1) / m)
    return np.asarray(v10.var(-1, ddof=1) / m + v01.var(-1, ddof=1) / n)


def _check(
    positive: Float[np.ndarray, "*batch m"], negative: Float[np.ndarray, "*batch n"]
) -> None:
    if positive.shape[-1] == 0 or negative.shape[-1] == 0:
        raise InputError("separation needs at least one prompt in each group")
    if not (np.isfinite(positive).all() and np.isfinite(negative).all()):
        raise InputError("scores are not finite; look for overflow in the states, try --dtype")
