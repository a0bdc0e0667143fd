"""Claims: every interval is its definition, at the level asked for, and says its n and level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from artifacts.errors import InputError
from probes import multiple, ranks, separation, shrinkage, spectrum, stability

LEVELS = (0.95, 0.8)


def _groups(seed: int, m: int = 14, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.8, 1, m), rng.normal(0, 1, n)


def _delong(x: np.ndarray, y: np.ndarray, z: float) -> tuple[float, float]:
    above = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    a = above.mean()
    s = np.sqrt(above.mean(1).var(ddof=1) / len(x) + above.mean(0).var(ddof=1) / len(y))
    centre, half = np.log(a / (1 - a)), z * s / (a * (1 - a))
    return tuple(1 / (1 + np.exp(-(centre + sign * half))) for sign in (-1, 1))  # type: ignore[return-value]


def _newcombe(a: float, m: int, n: int, z: float) -> tuple[float, float]:
    big = (m + n) / 2 - 1

    def gap(t: float) -> float:
        inner = 1 + big * ((1 - t) / (2 - t) + t / (1 + t))
        return abs(a - t) - z * np.sqrt(t * (1 - t) * inner / (m * n))

    return brentq(gap, 1e-12, a), brentq(gap, a, 1 - 1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(4))
def test_the_auc_interval_is_the_hull_of_delong_and_newcombe(seed: int, level: float) -> None:
    x, y = _groups(seed)
    z = float(norm.ppf(0.5 + level / 2))
    found = separation.auc_estimate(x, y, level=level)
    first, second = _delong(x, y, z), _newcombe(float(found.value), len(x), len(y), z)
    assert float(found.low) == pytest.approx(min(first[0], second[0]), abs=1e-9)
    assert float(found.high) == pytest.approx(max(first[1], second[1]), abs=1e-9)
    assert (found.n, found.level) == (len(x) + len(y), level)


def test_pairs_count_once() -> None:
    x, y = _groups(0, 10, 10)
    found = separation.auc_estimate(x, y, paired=True, level=0.9)
    assert (found.n, found.level) == (10, 0.9)
    assert separation.auc_estimate(x[:2], y[:2], paired=True).n == 2


@pytest.mark.parametrize("level", LEVELS)
def test_the_interval_of_d_prime_is_that_of_hedges_and_olkin(level: float) -> None:
    x, y = _groups(1)
    m, n = len(x), len(y)
    pooled = np.sqrt(((m - 1) * x.var(ddof=1) + (n - 1) * y.var(ddof=1)) / (m + n - 2))
    d = (x.mean() - y.mean()) / pooled
    half = norm.ppf(0.5 + level / 2) * np.sqrt((m + n) / (m * n) + d**2 / (2 * (m + n)))
    found = separation.d_prime(x, y, level=level)
    assert float(found.value) == pytest.approx(d)
    assert float(found.low) == pytest.approx(d - half)
    assert float(found.high) == pytest.approx(d + half)
    assert (found.n, found.level) == (m + n, level)
    assert np.isfinite(separation.d_prime(x[:2], y[:2]).value)


@pytest.mark.parametrize("level", LEVELS)
def test_the_interval_of_the_split_half_cosine_is_the_definition(level: float) -> None:
    rng = np.random.default_rng(2)
    splits, drawn = rng.normal(0.7, 1, (6, 2, 5)), rng.normal(0.7, 1, (30, 2, 5))

    def cosines(pairs: np.ndarray) -> np.ndarray:
        return np.array([a @ b / np.sqrt(a @ a * (b @ b)) for a, b in pairs])

    value, spread = cosines(splits).mean(), cosines(drawn) - cosines(drawn).mean()
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
    found = stability.split_half_cosine(splits, drawn, n=17, level=level)
    assert float(found.value) == pytest.approx(value)
    assert float(found.low) == pytest.approx(max(value + low, -1))
    assert float(found.high) == pytest.approx(min(value + high, 1))
    assert (found.n, found.level) == (17, level)


def test_a_cosine_stays_between_its_bounds_and_one_sample_is_enough() -> None:
    rng = np.random.default_rng(3)
    same = np.ones((1, 2, 4))
    opposite = same * np.array([1, -1])[:, None]
    noise = rng.normal(size=(200, 2, 4))
    assert float(stability.split_half_cosine(same, noise, n=5).high) == 1
    assert float(stability.split_half_cosine(opposite, noise, n=5).low) == -1
    assert float(stability.split_half_cosine(same, same, n=5).value) == pytest.approx(1)
    for splits, drawn in ((same[:0], same), (same, same[:0])):
        with pytest.raises(InputError, match="at least one split"):
            stability.split_half_cosine(splits, drawn, n=5)


@pytest.mark.parametrize("level", LEVELS)
def test_unrelated_directions_exceed_the_chance_cosine_as_often_as_it_says(level: float) -> None:
    bar = stability.chance_cosine(400, level=level)
    assert bar == pytest.approx(norm.ppf(0.5 + level / 2) / 20)
    drawn = np.random.default_rng(4).normal(size=(4000, 400))
    cosines = drawn[:, 0] / np.linalg.norm(drawn, axis=1)
    assert (np.abs(cosines) > bar).mean() == pytest.approx(1 - level, abs=0.02)


@pytest.mark.parametrize("level", LEVELS)
def test_a_participation_ratio_says_its_n_and_level_and_has_a_seed(level: float) -> None:
    rows = np.random.default_rng(5).normal(size=(12, 4))
    gram = rows @ rows.T
    found = spectrum.participation_estimate(gram, centred=False, seed=1, level=level)
    assert (found.n, found.level) == (12, level)
    assert 0 <= found.low < found.value < found.high
    again = spectrum.participation_estimate(gram, centred=False, seed=1, level=level)
    other = spectrum.participation_estimate(gram, centred=False, seed=2, level=level)
    assert (again.low, again.high) == (found.low, found.high)
    assert other.low != found.low
    # The scale of the rows is nothing to it, and two rows are enough.
    scaled = spectrum.participation_estimate(1e-9 * gram, centred=False, seed=1, level=level)
    assert float(scaled.low) == pytest.approx(float(found.low))
    assert spectrum.participation_estimate(gram[:2, :2], centred=False, seed=0).n == 2
    assert float(spectrum.participation_estimate(0 * gram, centred=True, seed=0).value) == 0


def test_a_batch_of_spectra_has_the_ratio_of_each() -> None:
    values = np.array([[3.0, 2.0, 0.5], [1.0, 1.0, 1.0]])
    each = [float((row**2).sum() ** 2 / (row**4).sum()) for row in values]
    np.testing.assert_allclose(spectrum.participation_ratio(values), each)
    np.testing.assert_array_equal(spectrum.effective_rank(values, 0.9), [2, 3])


def test_one_row_of_many_estimates_keeps_their_n_and_level() -> None:
    x, y = np.random.default_rng(12).normal(size=(2, 3, 8))
    found = separation.auc_estimate(x, y, level=0.9)
    row = found.row(1)
    assert (row.n, row.level) == (16, 0.9)
    assert (row.value, row.low, row.high) == (found.value[1], found.low[1], found.high[1])


def test_a_wider_level_gives_a_wider_interval_everywhere() -> None:
    rows = np.random.default_rng(6).normal(size=(12, 4))
    narrow, wide = (
        spectrum.participation_estimate(rows @ rows.T, centred=True, seed=1, level=level)
        for level in (0.5, 0.99)
    )
    assert wide.low < narrow.low
    assert narrow.high < wide.high


def test_the_strongest_place_by_hand() -> None:
    """Two places, three draws: z of the data 6 / 3 and 1 / 1; a draw reaches 2 in one of three."""
    observed = np.array([6.0, 1.0])
    null = np.array([[2.0, 2.0, 2.0], [2.0, 0.5, 0.5]])
    assert ranks.any_place(observed, null) == pytest.approx((1 + 1) / 4)
    # A place where nothing was ever seen does not count.
    assert ranks.any_place(np.array([6.0, 0]), np.array([[2.0, 2, 2], [0, 0, 0]])) == 1 / 4


def test_a_rank_test_keeps_what_it_saw() -> None:
    null = np.arange(19.0)
    values = (30.0, 18.0, 25.0)
    found = ranks.claim_rank(lambda k: (values[k], null + k), most=3, alpha=0.05)
    assert (found.claimed, found.capped, found.alpha) == (1, False, 0.05)
    assert found.p == (pytest.approx(1 / 20), pytest.approx(3 / 20))
    np.testing.assert_array_equal(found.observed, [30, 18])
    np.testing.assert_array_equal(found.null, [null, null + 1])
    every = ranks.claim_rank(lambda k: (30.0 + k, null), most=2, alpha=0.05)
    assert (every.claimed, every.capped) == (2, True)


def test_weights_of_pairs_are_factors_of_their_differences() -> None:
    rng = np.random.default_rng(7)
    values, weights = rng.normal(0.3, 1, (9, 3)), rng.uniform(0.2, 2, 9)
    np.testing.assert_allclose(
        multiple.sign_flip_p(values, repeats=999, seed=0, weights=weights),
        multiple.sign_flip_p(values * weights[:, None], repeats=999, seed=0),
    )
    assert (multiple.sign_flip_p(values, repeats=999, seed=0) > 0).all()


def test_flips_are_enumerated_up_to_the_number_asked_for_and_drawn_beyond() -> None:
    """2^(n-1) flips: 256 for 9 pairs; with one pair fewer allowed they are drawn, by a seed."""
    values = np.random.default_rng(8).normal(0.5, 1, (9, 1))
    exact = multiple.sign_flip_p(values, repeats=256, seed=0)
    np.testing.assert_array_equal(exact, multiple.sign_flip_p(values, repeats=256, seed=1))
    assert (exact * 256 == np.round(exact * 256)).all()
    drawn = [multiple.sign_flip_p(values, repeats=255, seed=seed)[0] for seed in range(6)]
    assert len(set(drawn)) > 1
    assert all(p * 256 == pytest.approx(round(p * 256)) for p in drawn)
    assert multiple.sign_flip_p(np.ones((1, 1)), repeats=10, seed=0) == 1
    # More flips than one slice holds.
    many = np.random.default_rng(9).normal(0.2, 1, (40, 2))
    p = multiple.sign_flip_p(many, repeats=5000, seed=0)
    np.testing.assert_allclose(p * 5001, np.round(p * 5001), atol=1e-6)


def test_how_many_flips_and_pairs_a_family_needs() -> None:
    assert multiple.repeats_for(10, alpha=0.05) == 9_999
    assert multiple.repeats_for(1000, alpha=0.05) == 79_999
    assert multiple.least_pairs(32, alpha=0.5) == 7
    assert multiple.least_pairs(33, alpha=0.5) == 8


def test_shrinkage_is_a_share_and_its_solver_an_inverse() -> None:
    rows = np.random.default_rng(10).normal(size=(6, 9))
    right = np.random.default_rng(11).normal(size=(9, 2))
    for share in (0.2, 1.0):
        shrunk = shrinkage.Shrunk.fit(rows, share)
        want = (1 - share) * rows.T @ rows / 6 + share * np.mean(rows**2) * np.eye(9)
        np.testing.assert_allclose(shrunk.matrix(), want)
        np.testing.assert_allclose(shrunk.solve(right), np.linalg.solve(want, right))
    tall = shrinkage.Shrunk.fit(np.vstack([rows] * 2)[:, :5], 0.0)
    np.testing.assert_allclose(tall.matrix() @ tall.solve(right[:5]), right[:5], atol=1e-9)
    for share in (-0.1, 1.1):
        with pytest.raises(InputError, match="give a share from 0 to 1"):
            shrinkage.Shrunk.fit(rows, share)
    with pytest.raises(InputError, match="no inverse"):
        shrinkage.Shrunk.fit(rows, 0.0).solve(right)
    # Rows whose covariance is a multiple of the identity already: nothing is left to shrink.
    assert shrinkage.ledoit_wolf(np.vstack([np.eye(3), -np.eye(3)])) == 1.0
