"""AUC over parts: sources or folds, between which scores need not be on one scale.

A part is compared with itself only, so that a probe that merely tells parts apart gains nothing.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import expit
from scipy.stats import norm

from artifacts.errors import InputError
from probes.separation import Estimate, auc_of_labels, placements, score_interval


def mean_auc(
    scores: Float[np.ndarray, "*batch n"],
    positive: Bool[np.ndarray, "n"],
    part: Int[np.ndarray, "n"],
    *,
    together: bool = False,
    level: float = 0.95,
) -> Estimate:
    """Give the mean AUC of the parts, each weighing the same, with an interval.

        A = (1/K) sum_k A_k,   s^2 = (1/K^2) sum_k s_k^2         (s_k: DeLong et al. 1988)

    With ``together`` s = (1/K) sum_k s_k, the most that dependent parts can give: probes that were
    fitted on each other's test rows err together. The interval is the hull of A -+ z s on the logit
    scale and of Newcombe's for all prompts, as in :func:`probes.auc_estimate`. It takes the probes
    as given: where parts are folds, the fits share prompts, which it does not count.

    Raises:
        InputError: a part with fewer than 2 prompts of a class, or scores that are not finite.
    """
    found = [_part(scores, positive, part == number) for number in np.unique(part)]
    value = np.asarray(np.mean([auc for auc, _, _ in found], axis=0))
    squares = np.array([_spread(up, down) for _, up, down in found])
    spread = np.sqrt(squares).mean(0) if together else np.sqrt(squares.sum(0)) / len(found)
    m, n = int(positive.sum()), int((~positive).sum())
    low, high = score_interval(value, m, n, level=level)
    inner = (value > 0) & (value < 1)
    safe = np.where(inner, value, 0.5)
    half = float(norm.ppf(0.5 + level / 2)) * spread / (safe * (1 - safe))
    logit = np.log(safe / (1 - safe))
    low = np.where(inner, np.minimum(low, expit(logit - half)), low)
    high = np.where(inner, np.maximum(high, expit(logit + half)), high)
    return Estimate(value, np.asarray(low), np.asarray(high), m + n, level)


def auc_gain(
    scores: Float[np.ndarray, "n"],
    rival: Float[np.ndarray, "n"],
    positive: Bool[np.ndarray, "n"],
    part: Int[np.ndarray, "n"],
    *,
    level: float = 0.95,
) -> Estimate:
    """Give the difference of two mean AUCs of the same prompts, with DeLong's paired interval.

        D = A - A',   s = (1/K) sum_k sqrt( var(V10 - V10') / m_k + var(V01 - V01') / n_k )
                                                              (DeLong et al. 1988, eq. 7)

    s is that of parts that err together, see :func:`mean_auc`.

    Raises:
        InputError: as :func:`mean_auc`.
    """
    parts = np.unique(part)
    gain, spread = 0.0, 0.0
    for number in parts:
        one, two = (_part(s, positive, part == number) for s in (scores, rival))
        gain += float(one[0] - two[0])
        spread += float(np.sqrt(_spread(one[1] - two[1], one[2] - two[2])))
    value = gain / len(parts)
    half = float(norm.ppf(0.5 + level / 2)) * spread / len(parts)
    ends = np.clip([value - half, value + half], -1, 1)
    return Estimate(
        np.asarray(value), np.asarray(ends[0]), np.asarray(ends[1]), len(positive), level
    )


def auc_by_part(
    scores: Float[np.ndarray, "*rows n"],
    positive: Bool[np.ndarray, "*labels n"],
    part: Int[np.ndarray, "n"],
) -> Float[np.ndarray, "*batch"]:
    """Give the mean AUC of the parts without an interval; rows may have labels of their own.

    Raises:
        InputError: a part of one class, or scores that are not finite.
    """
    scores, positive = np.broadcast_arrays(scores, positive)
    values = [
        auc_of_labels(scores[..., part == number], positive[..., part == number])
        for number in np.unique(part)
    ]
    return np.asarray(np.mean(values, axis=0))


def null_auc(
    scores: Float[np.ndarray, "n"],
    shuffled: Bool[np.ndarray, "repeats n"],
    part: Int[np.ndarray, "n"],
) -> Float[np.ndarray, "repeats"]:
    """Give the mean AUC under shuffled labels, of parts that err together.

        A*_(j) = (1/K) sum_k A*_k(j),   A*_k(1) <= A*_k(2) <= ... over the shuffles

    For one part it is the permutation distribution of scores that never saw these labels: exact.
    With several, the probe of each part was fitted on the labels of the others (two mass-mean
    probes of two sources have AUCs that rise and fall as one), so that independent shuffles would
    give too narrow a null. Adding equal ranks gives the widest one.
    """
    values = [
        np.sort(
            auc_of_labels(
                np.broadcast_to(scores[part == number], shuffled[:, part == number].shape),
                shuffled[:, part == number],
            )
        )
        for number in np.unique(part)
    ]
    return np.asarray(np.mean(values, axis=0))


def shuffled_within(
    positive: Bool[np.ndarray, "n"],
    part: Shaped[np.ndarray, "n"],
    repeats: int,
    rng: np.random.Generator,
) -> Bool[np.ndarray, "repeats n"]:
    """Permute labels within each part, so that every part keeps its class sizes."""
    shuffled = np.repeat(positive[None], repeats, axis=0)
    for number in np.unique(part):
        here = part == number
        shuffled[:, here] = rng.permuted(shuffled[:, here], axis=1)
    return shuffled


def _part(
    scores: Float[np.ndarray, "*batch n"],
    positive: Bool[np.ndarray, "n"],
    here: Bool[np.ndarray, "n"],
) -> tuple[
    Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch m"], Float[np.ndarray, "*batch k"]
]:
    if not np.isfinite(scores).all():
        raise InputError("AUC of scores that are not finite; look for overflow in the states")
    up, down = placements(scores[..., here & positive], scores[..., here & ~positive])
    if min(up.shape[-1], down.shape[-1]) < 2:
        raise InputError(
            f"a part with {up.shape[-1]} and {down.shape[-1]} prompts; an interval needs 2 of each"
        )
    return np.asarray(up.mean(-1)), up, down


def _spread(
    up: Float[np.ndarray, "*batch m"], down: Float[np.ndarray, "*batch k"]
) -> Float[np.ndarray, "*batch"]:
    return np.asarray(up.var(-1, ddof=1) / up.shape[-1] + down.var(-1, ddof=1) / down.shape[-1])
