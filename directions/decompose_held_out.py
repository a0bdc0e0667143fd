"""What prompts that were not fitted say of a space: share of the shift explained, separation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64

from evaluation.intervals import pooled_interval
from probes import controls, separation
from probes.seeds import derive
from probes.separation import Estimate

if TYPE_CHECKING:
    from directions.decompose_block import Rows
    from directions.residual_null import PermutedPairing
    from directions.residual_space import ResidualSpace

RANDOM = 99
LEVEL = 0.95
_PAIRINGS = 99


def share_explained(
    rest: Float64[np.ndarray, "m d"], whole: Float64[np.ndarray, "m d"], seed: int
) -> Estimate:
    """Give R2 = 1 - sum_i |rest_i|^2 / sum_i |whole_i|^2 with a bootstrap interval over prompts.

    Of the shift, never of the states: states that hardly move are explained by themselves. Below 0
    where the map predicts worse than the mean shift of the fitted prompts.
    """
    lost, total = np.square(rest).sum(1), np.square(whole).sum(1)
    if not total.sum() > 0:
        zero = np.zeros(())
        return Estimate(zero, zero, zero, len(total), LEVEL)
    value = 1 - lost.sum() / total.sum()
    low, high = pooled_interval(lost, total, derive("r2", seed) % 2**32)
    ends = min(1 - high, value), max(1 - low, value)
    return Estimate(np.asarray(value), np.asarray(ends[0]), np.asarray(ends[1]), len(total), LEVEL)


def permuted_share(
    null: PermutedPairing, base: Float64[np.ndarray, "m d"], shift: Float64[np.ndarray, "m d"]
) -> Estimate:
    """Give mean and band of the held-out R2 of maps that were fitted to permuted pairings.

        D^ = mean(D) + A P D_c,   A = (X - mean) V diag(s / (s^2 + lam)) U^T

    from inner products alone: |D - D^|^2 = |D|^2 - 2 <D D_c^T, A P> + <A^T A, P G P^T>.
    """
    problem = null.problem
    if problem.left is None or problem.shift is None:
        raise ValueError("moments hold no single prompts, so no pairing can be permuted")
    moved = shift - problem.shift_mean
    total = float(np.square(moved).sum())
    coordinates = (base - problem.base_mean) @ problem.right.T
    cross, gram = moved @ problem.shift.T, null.gram
    found = np.zeros(min(_PAIRINGS, len(null.orders)))
    for penalty in np.unique(null.penalties):
        gain = problem.shrinkage(np.asarray(penalty)) / problem.values
        reach = (coordinates * gain) @ problem.left.T
        square = reach.T @ reach
        for draw in np.flatnonzero(null.penalties[: len(found)] == penalty):
            order = null.orders[draw]
            inner = float((reach * cross[:, order]).sum())
            outer = float((square * gram[order[:, None], order]).sum())
            found[draw] = (2 * inner - outer) / total if total else 0.0
    band = controls.band(found[None], level=LEVEL)
    return band.row(0)


def held_out(
    space: ResidualSpace,
    test: Rows,
    harmful: Bool[np.ndarray, "m"],
    count: int,
    seed: int,
    *,
    centred: bool,
) -> dict[str, Estimate]:
    """Measure the listed components on held-out prompts.

    ``auc`` is that of the first component, ``auc_c2`` and so on those of the others: harmful
    against harmless prompts, aligned states along the component. ``auc_random`` is the control of
    each. ``captured`` is the share of the shift's energy in the listed components, about the mean
    shift of the fitted prompts if ``centred``.
    """
    listed = space.components[:count]
    along = listed @ test.aligned.T
    plus, minus = along[:, harmful], along[:, ~harmful]
    auc = separation.auc_estimate(plus, minus, level=LEVEL)
    gap = separation.d_prime(plus[0], minus[0], level=LEVEL)
    drawn = controls.random_units(RANDOM, listed.shape[1], seed=seed) @ test.aligned.T
    random = controls.unsigned(separation.auc(drawn[:, harmful], drawn[:, ~harmful]))
    whole = test.shift - space.shift_mean if centred else test.shift
    found = {
        "auc": auc.row(0),
        "d_prime": gap,
        "auc_random": controls.band(random[None], level=LEVEL).row(0),
        "captured": share_explained(whole - (whole @ listed.T) @ listed, whole, seed),
    }
    return found | {f"auc_c{k + 1}": auc.row(k) for k in range(1, count)}
