"""How many dimensions a set of singular values has: effective rank and participation ratio.

Neither says that a dimension is more than noise; for that see :mod:`probes.ranks`.
"""

from __future__ import annotations

import numpy as np
from einops import einsum
from jaxtyping import Float, Int

from artifacts.errors import InputError
from probes.seeds import generator
from probes.separation import Estimate


def effective_rank(
    singular_values: Float[np.ndarray, "*batch k"], tau: float
) -> Int[np.ndarray, "*batch"]:
    """Give the number of components that hold a share tau of the energy.

        k(tau) = min k with sum_{i<=k} s_i^2 >= tau sum_i s_i^2        (Pan et al. 2025, section 3)

    All zeros have rank 0. The values may come in any order.

    Raises:
        InputError: tau outside (0, 1].
    """
    if not 0 < tau <= 1:
        raise InputError(f"effective rank at tau = {tau}; give a share above 0 and at most 1")
    energy = -np.sort(-np.square(singular_values.astype(np.float64)), axis=-1)
    total = energy.sum(-1, keepdims=True)
    # The last sums may fall short of the whole by rounding.
    reached = energy.cumsum(-1) >= tau * total * (1 - 1e-12)
    return np.asarray(np.where(total[..., 0] > 0, reached.argmax(-1) + 1, 0))


def participation_ratio(
    singular_values: Float[np.ndarray, "*batch k"],
) -> Float[np.ndarray, "*batch"]:
    """Give the number of equal components with the same concentration of energy.

        PR = (sum_i s_i^2)^2 / sum_i s_i^4

    1 for one component, k for k equal ones, 0 where all are zero.
    """
    energy = np.square(singular_values.astype(np.float64))
    largest = energy.max(-1, keepdims=True)
    energy = np.divide(energy, largest, out=np.zeros_like(energy), where=largest > 0)
    square = np.square(energy).sum(-1)
    whole = np.square(energy.sum(-1))
    return np.asarray(np.divide(whole, square, out=np.zeros_like(whole), where=square > 0))


def participation_estimate(
    gram: Float[np.ndarray, "n n"],
    *,
    centred: bool,
    seed: int,
    bootstraps: int = 500,
    level: float = 0.95,
) -> Estimate:
    """Give the participation ratio of rows from their Gram matrix, with a bootstrap interval.

        PR(w) = (sum_i w_i K_ii)^2 / sum_ij w_i w_j K_ij^2,   w = multinomial counts / n

    K is the Gram matrix, about the weighted mean if ``centred``; both sums then have the closed
    forms used here (the centring terms are those of a centred kernel), so no bootstrap sample
    needs a decomposition. Repeated rows lower the ratio of a bootstrap sample, so only its spread
    is used, about the value.

    Raises:
        InputError: fewer than 2 rows.
    """
    n = len(gram)
    if n < 2:
        raise InputError(f"a participation ratio with interval needs 2 rows, got {n}")
    counts = generator("participation", n, seed).multinomial(n, np.full(n, 1 / n), bootstraps)
    scale = float(np.diagonal(gram).max()) or 1.0
    weights = np.concatenate([np.full((1, n), 1 / n), counts / n])
    found = _weighted_ratio(gram / scale, weights, centred=centred)
    value, drawn = found[0], found[1:]
    tail = (1 - level) / 2
    low, high = value + np.quantile(drawn, [tail, 1 - tail]) - drawn.mean()
    return Estimate(
        np.asarray(value),
        np.asarray(min(max(low, 0.0), value)),
        np.asarray(max(high, value)),
        n,
        level,
    )


def _weighted_ratio(
    gram: Float[np.ndarray, "n n"], weights: Float[np.ndarray, "b n"], *, centred: bool
) -> Float[np.ndarray, "b"]:
    trace = weights @ np.diagonal(gram)
    square = einsum(weights @ np.square(gram), weights, "b n, b n -> b")
    if centred:
        means = weights @ gram
        mean = einsum(means, weights, "b n, b n -> b")
        trace = trace - mean
        square = square - 2 * einsum(np.square(means), weights, "b n, b n -> b") + mean**2
    return np.divide(trace**2, square, out=np.zeros_like(trace), where=square > 0)
