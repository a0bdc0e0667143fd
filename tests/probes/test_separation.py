"""Claims: the AUC is sklearn's; its variance is DeLong's; its interval covers; d' is a distance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

import probes
from artifacts.errors import InputError


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    m=st.integers(1, 30),
    n=st.integers(1, 30),
    ties=st.booleans(),
)
def test_auc_is_that_of_sklearn(seed: int, m: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(0.4, 1, (3, m)), rng.normal(0, 1, (3, n))
    if ties:
        positive, negative = positive.round(), negative.round()
    ours = probes.auc(positive, negative)
    labels = np.r_[np.ones(m), np.zeros(n)]
    theirs = [roc_auc_score(labels, np.r_[p, q]) for p, q in zip(positive, negative, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_auc_with_labels_of_each_row_is_that_of_sklearn() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(5, 40)).round(1)
    labels = rng.permuted(np.repeat((np.arange(40) < 13)[None], 5, axis=0), axis=1)
    expected = [roc_auc_score(y, s) for y, s in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(probes.auc_of_labels(scores, labels), expected, atol=1e-12)


def test_swapping_the_groups_mirrors_the_auc_and_its_interval() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(1, 1, 25), rng.normal(0, 1, 31)
    a, b = probes.auc_estimate(x, y), probes.auc_estimate(y, x)
    np.testing.assert_allclose([a.value, a.low, a.high], [1 - b.value, 1 - b.high, 1 - b.low])


def test_a_monotone_map_of_the_scores_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(1, 1, 25), rng.normal(0, 1, 31)
    a, b = probes.auc_estimate(x, y), probes.auc_estimate(np.exp(x), np.exp(y))
    np.testing.assert_allclose([a.value, a.low, a.high], [b.value, b.low, b.high])


def _delong_variance(x: np.ndarray, y: np.ndarray, *, paired: bool) -> float:
    """The definition, pair by pair, without ranks."""
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    v10, v01 = wins.mean(1), wins.mean(0)
    if paired:
        return float((v10 + v01).var(ddof=1) / len(x))
    return float(v10.var(ddof=1) / len(x) + v01.var(ddof=1) / len(y))


@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_contains_the_delong_interval_computed_by_definition(paired: bool) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(1, 1, 400).round(2), rng.normal(0, 1, 400).round(2)
    found = probes.auc_estimate(x, y, paired=paired)
    a = float(found.value)
    half = norm.ppf(0.975) * np.sqrt(_delong_variance(x, y, paired=paired)) / (a * (1 - a))
    logit = np.log(a / (1 - a))
    low, high = (1 / (1 + np.exp(-(logit + s * half))) for s in (-1, 1))
    score = probes.score_interval(found.value, 400, 400)
    assert float(found.low) == pytest.approx(min(low, float(score[0])), abs=1e-12)
    assert float(found.high) == pytest.approx(max(high, float(score[1])), abs=1e-12)


@pytest.mark.parametrize("true_auc", [0.5, 0.75, 0.9, 0.97])
@pytest.mark.parametrize(("m", "n", "ratio"), [(20, 20, 1.0), (15, 60, 1.0), (30, 30, 3.0)])
def test_the_interval_covers_planted_truth(true_auc: float, m: int, n: int, ratio: float) -> None:
    rng = np.random.default_rng(5)
    gap = norm.ppf(true_auc) * np.sqrt(1 + ratio**2)
    found = probes.auc_estimate(rng.normal(gap, ratio, (1500, m)), rng.normal(0, 1, (1500, n)))
    covered = ((found.low <= true_auc) & (true_auc <= found.high)).mean()
    assert covered >= 0.935  # 0.95 less 2.7 standard errors of 1,500 repetitions


@pytest.mark.parametrize("correlation", [0.8, -0.8])
def test_the_paired_interval_covers_whatever_the_correlation(correlation: float) -> None:
    rng = np.random.default_rng(6)
    covariance = [[1, correlation], [correlation, 1]]
    drawn = rng.multivariate_normal([1.0, 0.0], covariance, size=(1500, 25))
    found = probes.auc_estimate(drawn[..., 0], drawn[..., 1], paired=True)
    truth = norm.cdf(1 / np.sqrt(2))
    assert ((found.low <= truth) & (truth <= found.high)).mean() >= 0.93


def test_treating_negatively_correlated_pairs_as_independent_would_cover_too_rarely() -> None:
    rng = np.random.default_rng(6)
    drawn = rng.multivariate_normal([1.0, 0.0], [[1, -0.95], [-0.95, 1]], size=(1500, 25))
    truth = norm.cdf(1 / np.sqrt(2))
    widths = {}
    for paired in (True, False):
        found = probes.auc_estimate(drawn[..., 0], drawn[..., 1], paired=paired)
        widths[paired] = ((found.low <= truth) & (truth <= found.high)).mean()
    assert widths[False] < 0.92 < widths[True]


def test_perfect_separation_keeps_an_interval_that_shrinks_with_n() -> None:
    lows = []
    for n in (8, 20, 100):
        found = probes.auc_estimate(np.arange(n) + 100.0, np.arange(n) + 0.0)
        assert float(found.value) == float(found.high) == 1.0
        lows.append(float(found.low))
    assert lows == sorted(lows)
    assert lows[0] < 0.85
    assert lows[2] > 0.98


def test_d_prime_is_the_planted_distance_and_has_no_sign_of_its_own() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(3, 2, (400, 40)), rng.normal(0, 2, (400, 50))
    found = probes.d_prime(x, y)
    assert found.value.mean() == pytest.approx(1.5, abs=0.05)
    assert ((found.low <= 1.5) & (found.high >= 1.5)).mean() >= 0.92
    np.testing.assert_allclose(probes.d_prime(y, x).value, -found.value)


def test_d_prime_of_groups_without_spread_is_finite_and_zero_when_equal() -> None:
    assert probes.d_prime(np.ones(4), np.ones(4)).value == 0
    assert np.isfinite(probes.d_prime(np.ones(4), np.zeros(4)).value)


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        (np.zeros(0), np.zeros(3), "at least one prompt"),
        (np.array([1.0, np.nan]), np.zeros(3), "not finite"),
        (np.zeros(1), np.zeros(3), "2 prompts in each group"),
    ],
)
def test_groups_that_have_no_interval_are_refused(
    positive: np.ndarray, negative: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        probes.auc_estimate(positive, negative)


def test_pairs_of_different_length_and_rows_of_one_class_are_refused() -> None:
    with pytest.raises(InputError, match="differ in length: 4 and 3"):
        probes.auc_estimate(np.zeros(4), np.zeros(3), paired=True)
    with pytest.raises(InputError, match="both classes"):
        probes.auc_of_labels(np.zeros((1, 4)), np.ones((1, 4), dtype=bool))
