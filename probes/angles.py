"""Angles between subspaces, and whether a subspace comes back on other prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from artifacts.errors import InputError
from probes.seeds import generator
from probes.separation import Estimate


def principal_angles(
    first: Float[np.ndarray, "*batch k d"], second: Float[np.ndarray, "*batch m d"]
) -> Float[np.ndarray, "*batch q"]:
    """Give the principal angles between two row spaces with orthonormal rows, ascending, radians.

        cos t_i = sigma_i(A B^T),   sin t_i = sigma_i(B - B A^T A)      (Bjorck & Golub 1973)

    From the sine where the angle is below 45 degrees, so that small angles are exact too; q is the
    smaller number of rows.

    Raises:
        InputError: rows of different widths, or more rows than columns.
    """
    if (
        first.shape[-1] != second.shape[-1]
        or max(first.shape[-2], second.shape[-2]) > first.shape[-1]
    ):
        raise InputError(
            f"principal angles between spaces of shapes {first.shape} and {second.shape}: give "
            "orthonormal rows of one width"
        )
    if first.shape[-2] < second.shape[-2]:
        first, second = second, first
    cross = second @ np.swapaxes(first, -1, -2)
    cosine = np.clip(np.linalg.svd(cross, compute_uv=False), 0, 1)
    rest = np.linalg.svd(second - cross @ first, compute_uv=False)
    sine = np.clip(rest[..., ::-1], 0, 1)
    return np.where(cosine**2 > 0.5, np.arcsin(sine), np.arccos(cosine))


def split_half_angles(
    splits: Float[np.ndarray, "splits 2 k d"],
    bootstraps: Float[np.ndarray, "bootstraps 2 k d"],
    *,
    n: int,
    level: float = 0.95,
) -> Estimate:
    """Give the mean principal angles between fits on random halves, ascending, in degrees.

        a_i = mean_s t_i(V_A(s), V_B(s));   interval a_i + (a*_q - mean a*), within [0, 90]

    with a* the same angle after prompts were drawn again within each half, as in
    :func:`probes.split_half_cosine`: a bootstrap sample is noisier than its half, so only its
    spread is used. The spread is that of one split, so the interval is wider than the mean needs.
    Read them beside :func:`chance_angles`; angles near those say that these dimensions do not come
    back.

    Raises:
        InputError: if there is no split or no bootstrap sample.
    """
    if len(splits) == 0 or len(bootstraps) == 0:
        raise InputError("split-half angles need at least one split and one bootstrap sample")
    value, drawn = (
        np.degrees(principal_angles(pairs[:, 0], pairs[:, 1])) for pairs in (splits, bootstraps)
    )
    middle, tail = value.mean(0), (1 - level) / 2
    spread = np.quantile(drawn, [tail, 1 - tail], axis=0) - drawn.mean(0)
    low, high = np.clip(middle + spread, 0, 90)
    return Estimate(middle, np.minimum(low, middle), np.maximum(high, middle), n, level)


def chance_angles(k: int, d: int, *, seed: int, draws: int = 49) -> Float[np.ndarray, "k"]:
    """Give the mean principal angles, in degrees, between two unrelated k-dimensional spaces."""
    drawn = generator("chance-angles", k, d, seed).standard_normal((2 * draws, d, k))
    bases = np.swapaxes(np.linalg.qr(drawn)[0], -1, -2)
    return np.degrees(principal_angles(bases[:draws], bases[draws:])).mean(0)
