"""How many components stand above a null: parallel analysis as a sequence of permutation tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from artifacts.errors import InputError

Stage = Callable[[int], tuple[float, Float64[np.ndarray, "draws"]]]
"""Component number (0-based) -> its statistic and the same statistic under the null."""


@dataclass(frozen=True, eq=False)
class RankTest:
    """The components that were tested in order, up to the first that did not pass."""

    claimed: int
    """Components that passed before the first that did not."""
    p: tuple[float, ...]
    """p-value of each component tested."""
    observed: Float64[np.ndarray, "tested"]
    null: Float64[np.ndarray, "tested draws"]
    alpha: float

    @property
    def capped(self) -> bool:
        """Whether every component tested passed, so that more may be real."""
        return self.claimed == len(self.p)


def claim_rank(stage: Stage, *, most: int, alpha: float) -> RankTest:
    """Test components in order until one does not exceed its null.

        p_k = (1 + #{j: T_k(j) >= T_k}) / (draws + 1),   claimed = #{k: p_1..p_k <= alpha}
                                             (Horn 1965; Buja & Eyuboglu 1992, permutation form)

    If a draw is exchangeable with the data when nothing is there, P(claimed >= 1) <= alpha in any
    sample size. For later components the test is approximate: it takes the earlier ones as known.

    Args:
        stage: gives statistic and null of a component; called in order.
        most: components to test at most.
        alpha: level of each test.

    Raises:
        InputError: too few draws to reach alpha.
    """
    tested: list[tuple[float, float, Float64[np.ndarray, "draws"]]] = []
    for number in range(most):
        value, null = stage(number)
        if (len(null) + 1) * alpha < 1:
            raise InputError(
                f"{len(null)} draws cannot reach p = {alpha}; use at least "
                f"{int(np.ceil(1 / alpha)) - 1}"
            )
        p = float((1 + (null >= value).sum()) / (len(null) + 1))
        tested.append((p, value, null))
        if p > alpha:
            break
    passed = sum(p <= alpha for p, _, _ in tested)
    return RankTest(
        claimed=passed,
        p=tuple(p for p, _, _ in tested),
        observed=np.array([value for _, value, _ in tested]),
        null=np.stack([null for _, _, null in tested]),
        alpha=alpha,
    )


def any_place(
    observed: Float64[np.ndarray, "places"], null: Float64[np.ndarray, "places draws"]
) -> float:
    """Give the p-value of the strongest of several places, its choice paid for.

        z_b(j) = T_b(j) as a share of the mean over all draws and the data at b
        p = (1 + #{j: max_b z_b(j) >= max_b z_b}) / (draws + 1)      (Westfall & Young 1993, ch. 2)

    Valid if draw j is the same permutation at every place.
    """
    joined = np.concatenate([observed[:, None], null], axis=1)
    # A scale that treats the data and the draws alike keeps them exchangeable.
    scale = joined.mean(1, keepdims=True)
    share = np.divide(joined, scale, out=np.ones_like(joined), where=scale > 0).max(0)
    return float((1 + (share[1:] >= share[0]).sum()) / (null.shape[1] + 1))
