"""Many tests at once: sign flips of paired differences, and the false discovery rate over them."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
from jaxtyping import Float
from scipy.stats import false_discovery_control

from artifacts.errors import InputError
from probes.seeds import generator

LEAST_REPEATS = 9_999
_CHUNK = 2_048
_TIE = 1e-12


def benjamini_hochberg(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Adjust p-values so that ``q <= alpha`` keeps the false discovery rate at ``alpha``.

        q_(i) = min_{j >= i} m p_(j) / j            (Benjamini & Hochberg 1995, procedure 3.1)

    All entries are one family of m tests. The rate holds for independent tests and for positively
    dependent ones (Benjamini & Yekutieli 2001); it says nothing about any single discovery.

    Raises:
        InputError: an entry that is not a probability, or none at all.
    """
    if p.size == 0 or not ((p >= 0) & (p <= 1)).all():
        raise InputError("p-values lie between 0 and 1, and there is at least one")
    return np.asarray(false_discovery_control(p.ravel(), method="bh")).reshape(p.shape)


def sign_flip_p(
    values: Float[np.ndarray, "n m"],
    *,
    repeats: int,
    seed: int,
    weights: Float[np.ndarray, "n"] | None = None,
) -> Float[np.ndarray, "m"]:
    """Test, column by column, whether paired differences are symmetric about zero; two-sided.

        T_j = |sum_i w_i d_ij|,   p_j = #{flips s: |sum_i s_i w_i d_ij| >= T_j} / #flips
                                                  (Fisher 1935, section 21; Phipson & Smyth 2010)

    Under the null the two members of a pair are exchangeable: swapping them changes the sign of the
    difference and nothing else, and pairs are independent. All 2^(n-1) flips are taken where that
    is at most ``repeats``; else ``repeats`` random ones and the data themselves. One flip serves
    all columns, so their dependence stays as it is. A rejection says that the differences are not
    symmetric about zero, not that they are large.

    Args:
        values: differences, a row for each pair.
        repeats: most flips.
        seed: of the random flips.
        weights: of the pairs in the sum; by default equal.

    Raises:
        InputError: a difference that is not finite, or no pair.
    """
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        raise InputError("paired differences must be finite, with at least one pair")
    weighted = values if weights is None else values * weights[:, None]
    # Sums of the same numbers in another order may differ by rounding; a tie must stay one.
    bar = np.abs(weighted.sum(0)) - _TIE * np.abs(weighted).sum(0)
    exact = n - 1 <= log2(repeats)
    total = 2 ** (n - 1) if exact else repeats
    rng = generator("sign-flips", n, seed)
    reached = np.zeros(values.shape[1], dtype=np.int64)
    for start in range(0, total, _CHUNK):
        size = min(_CHUNK, total - start)
        bits = _enumerated(start, size, n) if exact else rng.integers(0, 2, (size, n), np.int8)
        flipped = (2.0 * bits - 1.0) @ weighted
        reached += (np.abs(flipped) >= bar).sum(0)
    return reached / total if exact else (reached + 1) / (total + 1)


def repeats_for(tests: int, *, alpha: float) -> int:
    """Return flips enough for a single true effect among ``tests`` to pass Benjamini-Hochberg."""
    return max(LEAST_REPEATS, ceil(4 * tests / alpha) - 1)


def least_pairs(tests: int, *, alpha: float) -> int:
    """Return the fewest pairs with which one of ``tests`` sign-flip tests can pass alone.

    2^(1 - n) <= alpha / tests
    """
    return ceil(1 + log2(tests / alpha))


def _enumerated(start: int, size: int, n: int) -> Float[np.ndarray, "size n"]:
    """Give sign patterns ``start`` onwards, the last pair never flipped."""
    numbers = np.arange(start, start + size)[:, None]
    return 1.0 - ((numbers >> np.arange(n)) & 1)
