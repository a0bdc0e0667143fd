"""Claims: with nothing there no component is claimed, in 200 seeds; planted ones are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from directions import residual_null as nulls
from directions import residual_space as spaces
from directions.residual_validation import cross_validate
from hooks import PairedMoments
from probes.angles import principal_angles
from probes.ranks import claim_rank

SEEDS, ALPHA = 200, 0.05
ALLOWED = int(binom.ppf(0.999, SEEDS, ALPHA))
"""Claims in 200 seeds that a test of level 0.05 exceeds once in a thousand times."""
N, D = 24, 10


def _base(rng: np.random.Generator, n: int = N, d: int = D) -> np.ndarray:
    return rng.normal(size=(n, d)) * np.geomspace(5, 0.2, d) + 3 * rng.normal(size=d)


def _affine(base: np.ndarray, shift: np.ndarray, seed: int) -> nulls.PermutedPairing:
    problem = spaces.ridge(base, shift)
    folds = tuple(np.arange(len(base)).reshape(4, -1))
    validation = cross_validate(problem, folds)
    space = problem.solve(validation.penalty, 5)
    return nulls.PermutedPairing(problem, validation, space, nulls.orders(len(base), seed), seed)


def _noise(rng: np.random.Generator, kind: str) -> np.ndarray:
    if kind == "isotropic":
        return rng.normal(size=(N, D))
    if kind == "one axis":  # a real shift, dealt to the wrong prompts
        strength = rng.standard_t(2, size=(N, 1))
        return strength * rng.normal(size=D) + 0.1 * rng.normal(size=(N, D))
    return rng.standard_t(3, size=(N, D)) * np.geomspace(100, 1, D)


@pytest.mark.parametrize("kind", ["isotropic", "one axis"])
def test_a_shift_that_no_state_predicts_has_rank_zero(kind: str) -> None:
    """Base against itself with noise, or shifts of random prompts: at most 5% claim anything."""
    claims = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, len(kind)])
        null = _affine(_base(rng), _noise(rng, kind), seed)
        claims += claim_rank(null.stage, most=1, alpha=ALPHA).claimed
    assert claims <= ALLOWED


def test_three_planted_components_are_found_and_a_fourth_is_not() -> None:
    ranks, angles = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, d = 60, 20
        base = rng.normal(size=(n, d))
        right = np.linalg.qr(rng.normal(size=(d, 3)))[0].T
        left = np.linalg.qr(rng.normal(size=(d, 3)))[0]
        shift = base @ (left * np.array([3, 2, 1.5])) @ right + 0.2 * rng.normal(size=(n, d)) + 1
        null = _affine(base, shift, seed)
        ranks.append(claim_rank(null.stage, most=8, alpha=ALPHA).claimed)
        angles.append(principal_angles(null.space.components[:3], right)[-1])
    assert min(ranks) >= 3
    assert sum(rank > 3 for rank in ranks) <= binom.ppf(0.999, 20, ALPHA)
    assert max(angles) < 0.3


def test_the_observed_statistic_is_the_singular_value() -> None:
    rng = np.random.default_rng(0)
    base = _base(rng)
    null = _affine(base, base @ rng.normal(size=(D, D)) + rng.normal(size=(N, D)), 0)
    for number in range(3):
        value, drawn = null.stage(number)
        assert value == pytest.approx(null.space.singular_values[number], rel=1e-4)
        assert len(drawn) == nulls.PERMUTATIONS


def test_a_draw_is_the_fit_of_a_permuted_pairing() -> None:
    """The operator form gives the singular values that fitting the permuted rows gives."""
    rng = np.random.default_rng(1)
    base = _base(rng)
    shift = base @ rng.normal(size=(D, D)) + rng.normal(size=(N, D))
    null = _affine(base, shift, 3)
    first, spectra = null.stage(0)[1], list(null.spectra())
    for draw in range(5):
        order = null.orders[draw]
        oracle = spaces.ridge(base, shift[order]).solve(float(null.penalties[draw]), 1)
        expected = oracle.singular_values
        assert first[draw] == pytest.approx(expected[0], rel=1e-4)
        np.testing.assert_allclose(spectra[draw][::-1], expected, atol=1e-6 * expected[0])
    second = null.stage(1)[1]
    left_over = shift - np.outer(shift @ null.space.components[0], null.space.components[0])
    assert null.space.penalty is not None
    oracle = spaces.ridge(base, left_over[null.orders[0]]).solve(null.space.penalty, 1)
    assert second[0] == pytest.approx(oracle.singular_values[0], rel=1e-4)


def test_independent_noise_has_no_plain_component() -> None:
    claims, kind = 0, "heavy tails"
    for seed in range(SEEDS):
        shift = _noise(np.random.default_rng([seed, 7, len(kind)]), kind)
        null = nulls.RandomSigns(shift, spaces.shift_svd(shift, 3), seed)
        claims += claim_rank(null.stage, most=1, alpha=ALPHA).claimed
    assert claims <= ALLOWED


def test_planted_plain_components_are_found() -> None:
    ranks = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (80, 40))
        shift = (left * np.array([90, 80, 70])) @ right.T + rng.normal(size=(80, 40))
        null = nulls.RandomSigns(shift, spaces.shift_svd(shift, 6), seed)
        ranks.append(claim_rank(null.stage, most=6, alpha=ALPHA).claimed)
    assert set(ranks) == {3}


def _moments(base: np.ndarray, shift: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    moments = PairedMoments()
    moments.update("x", torch.from_numpy(base), torch.from_numpy(base + shift))
    return {key: value.numpy() for key, value in moments.second("x").items()}


def _from_moments(base: np.ndarray, shift: np.ndarray, seed: int) -> nulls.GaussianPairing:
    second = _moments(base, shift)
    problem = spaces.ridge_of_moments(
        **second, base_mean=base.mean(0), shift_mean=shift.mean(0), n=len(base)
    )
    penalty = float(problem.penalties[problem.generalised_loss().argmin()])
    return nulls.GaussianPairing(problem, problem.solve(penalty, 5), second["shift_shift"], seed)


def test_moments_claim_nothing_where_nothing_is_and_planted_components_where_they_are() -> None:
    claims, ranks = 0, []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, 11])
        base = _base(rng, 40, 8)
        null = _from_moments(base, rng.normal(size=(40, 8)) @ rng.normal(size=(8, 8)), seed)
        claims += claim_rank(null.stage, most=1, alpha=ALPHA).claimed
        if seed < 10:
            left, right = rng.normal(size=(8, 2)), rng.normal(size=(2, 8))
            shift = base @ left @ right + 0.05 * rng.normal(size=(40, 8))
            ranks.append(claim_rank(_from_moments(base, shift, seed).stage, most=5, alpha=0.05))
    assert claims <= ALLOWED
    assert sum(rank.claimed == 2 for rank in ranks) >= 8
    assert min(rank.claimed for rank in ranks) >= 2


def test_plain_components_of_moments_keep_the_level() -> None:
    claims = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, 13])
        shift = rng.normal(size=(30, 8)) * np.geomspace(3, 1, 8)
        squares = np.square(shift).mean(0)
        found = spaces.shift_svd_of_moments(
            np.cov(shift.T, bias=True), shift_mean=shift.mean(0), n=30, count=3
        )
        null = nulls.GaussianSigns(found, squares, seed)
        claims += claim_rank(null.stage, most=1, alpha=ALPHA).claimed
    assert claims <= ALLOWED
