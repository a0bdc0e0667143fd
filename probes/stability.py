"""Whether a direction comes back when it is fitted on other prompts of the same kind."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from artifacts.errors import InputError
from probes.separation import Estimate


def split_half_cosine(
    splits: Float[np.ndarray, "splits 2 d"],
    bootstraps: Float[np.ndarray, "bootstraps 2 d"],
    *,
    n: int,
    level: float = 0.95,
) -> Estimate:
    """Give the mean cosine between directions fitted on random halves, with an interval.

        c = mean_s cos(v_A(s), v_B(s));   interval c + (c*_q - mean c*),  clipped to [-1, 1]

    with v_A, v_B the directions of the two halves of split s, and c* the same cosine after
    resampling prompts with replacement *within* each half (so that no prompt is in both). A
    bootstrap sample is noisier than its half, which lowers c*; only its spread is used, about c.
    That spread is that of one split, so the interval is wider than the mean over splits needs.
    Low values say that n is too small or the direction is not one; high values do not say that
    the direction means what its name says.

    Args:
        splits: half-directions of the random splits.
        bootstraps: half-directions of the bootstrap samples.
        n: number of fitted prompts.
        level: coverage.

    Raises:
        InputError: if there is no split or no bootstrap sample.
    """
    if len(splits) == 0 or len(bootstraps) == 0:
        raise InputError("split-half cosine needs at least one split and one bootstrap sample")
    value = _cosine(splits).mean()
    drawn = _cosine(bootstraps)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) - drawn.mean()
    ends = np.clip([value + low, value + high], -1, 1)
    return Estimate(np.asarray(value), np.asarray(ends[0]), np.asarray(ends[1]), n, level)


def chance_cosine(d: int, *, level: float = 0.95) -> float:
    """Give the |cosine| that two unrelated directions exceed with probability ``1 - level``.

    cos ~ N(0, 1/d) for independent uniform directions in d dimensions, d large
    """
    return float(norm.ppf(0.5 + level / 2) / np.sqrt(d))


def _cosine(pairs: Float[np.ndarray, "k 2 d"]) -> Float[np.ndarray, "k"]:
    left, right = pairs[:, 0].astype(np.float64), pairs[:, 1].astype(np.float64)
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    # Two halves that agree on zero have no angle; 0 is the value that claims nothing.
    return np.divide((left * right).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)
