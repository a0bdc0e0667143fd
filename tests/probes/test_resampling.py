"""Claims: resampled fits are the fits of resampled prompts; plans repeat; halves never overlap."""

from __future__ import annotations

import numpy as np
import pytest

import probes
from artifacts.errors import InputError

POSITIVE = np.arange(30) % 3 == 0


def _rows(d: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, d)) + POSITIVE[:, None]


def test_two_class_weights_give_the_difference_of_class_means() -> None:
    plan = probes.plan(POSITIVE, paired=False, seed=0)
    y = _rows()
    expected = y[POSITIVE].mean(0) - y[~POSITIVE].mean(0)
    np.testing.assert_allclose(plan.fit_weights() @ y, expected, atol=1e-12)


def test_paired_weights_give_classes_the_same_weight() -> None:
    plan = probes.plan(POSITIVE, paired=True, seed=0)
    y = _rows()
    expected = (y[POSITIVE].mean(0) + y[~POSITIVE].mean(0)) / 2
    np.testing.assert_allclose(plan.fit_weights() @ y, expected, atol=1e-12)
    assert not np.allclose(expected, y.mean(0))  # the classes differ in size: it matters


@pytest.mark.parametrize("paired", [False, True])
def test_weights_may_be_taken_in_parts(paired: bool) -> None:
    plan = probes.plan(POSITIVE, paired=paired, seed=3, shuffles=20, splits=4, bootstraps=6)
    parts = [slice(0, 7), slice(7, 8), slice(8, 30)]
    whole = np.concatenate([plan.weights(part) for part in parts], axis=1)
    np.testing.assert_array_equal(whole, plan.weights())
    assert len(whole) == plan.n_rows == 20 + 8 + 12


def test_a_shuffled_fit_is_the_fit_of_shuffled_labels() -> None:
    plan = probes.plan(POSITIVE, paired=False, seed=0, shuffles=25)
    y = _rows()
    for row, signs in zip(plan.weights()[:25], plan.signs, strict=True):
        labels = signs > 0
        assert labels.sum() == POSITIVE.sum()
        expected = y[labels].mean(0) - y[~labels].mean(0)
        np.testing.assert_allclose(row @ y, expected, atol=1e-5)


@pytest.mark.parametrize("paired", [False, True])
def test_halves_share_no_prompt_and_are_stratified(paired: bool) -> None:
    plan = probes.plan(POSITIVE, paired=paired, seed=0, shuffles=19, splits=5, bootstraps=7)
    for first in range(19, plan.n_rows, 2):
        a, b = plan.weights()[first : first + 2]
        assert not ((a != 0) & (b != 0)).any()
        for weights in (a, b):
            for group in (POSITIVE, ~POSITIVE):
                total = np.abs(weights[group]).sum()
                assert total == pytest.approx(0.5 if paired else 1.0, abs=1e-6)


def test_the_mean_of_the_two_halves_is_the_fit_when_classes_halve_evenly() -> None:
    positive = np.arange(40) < 16
    plan = probes.plan(positive, paired=False, seed=0, shuffles=19, splits=3, bootstraps=1)
    for first in (19, 21, 23):
        middle = plan.weights()[first : first + 2].mean(0)
        np.testing.assert_allclose(middle, plan.fit_weights(), atol=1e-6)


def test_seeds_repeat_and_differ_by_use() -> None:
    one, two = (probes.plan(POSITIVE, paired=False, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.weights(), two.weights())
    other = probes.plan(POSITIVE, paired=False, seed=6)
    assert not np.array_equal(one.signs, other.signs)
    assert not np.array_equal(one.halves[:50], one.boot_halves[:50])
    assert probes.derive("a", 1) != probes.derive("a", "1") != probes.derive("a1")
    with pytest.raises(ValueError, match="needs a key"):
        probes.derive()


def test_held_out_labels_are_apart_from_the_labels_of_the_fit() -> None:
    plan = probes.plan(POSITIVE, paired=False, seed=0, shuffles=50)
    held_out = probes.shuffled_labels(POSITIVE, 50, paired=False, seed=0)
    assert (held_out.sum(1) == POSITIVE.sum()).all()
    assert not np.array_equal(held_out, plan.signs > 0)
    flips = probes.shuffled_labels(POSITIVE, 400, paired=True, seed=0)
    assert flips.mean() == pytest.approx(0.5, abs=0.02)


def test_a_class_too_small_to_halve_is_refused() -> None:
    with pytest.raises(InputError, match="got 1 and 5"):
        probes.plan(np.arange(6) < 1, paired=False, seed=0)


@pytest.mark.parametrize(("gap", "low", "high"), [(0.0, -0.2, 0.2), (2.0, 0.4, 0.8)])
def test_split_half_cosine_tells_signal_from_none_and_covers_its_expectation(
    gap: float, low: float, high: float
) -> None:
    """Truth: the mean split-half cosine over independent data sets of the same kind."""
    positive, d = np.arange(60) < 30, 24
    found = []
    for seed in range(40):
        y = np.random.default_rng(seed).normal(size=(60, d))
        y[positive, 0] += gap
        plan = probes.plan(positive, paired=False, seed=seed, shuffles=1)
        fits = (plan.weights() @ y)[1:].reshape(-1, 2, d)
        found.append(probes.split_half_cosine(fits[:50], fits[50:], n=60))
    truth = np.mean([estimate.value for estimate in found])
    covered = np.mean([(e.low <= truth) and (truth <= e.high) for e in found])
    assert low < truth < high
    assert covered >= 0.85


def test_split_half_cosine_is_one_without_noise_and_needs_samples() -> None:
    same = np.ones((4, 2, 3))
    estimate = probes.split_half_cosine(same, same, n=8)
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], 1.0)
    zero = probes.split_half_cosine(np.zeros((4, 2, 3)), same, n=8)
    assert zero.value == 0
    with pytest.raises(InputError, match="at least one split"):
        probes.split_half_cosine(same[:0], same, n=8)


def test_chance_cosine_is_exceeded_as_often_as_stated() -> None:
    units = probes.random_units(4000, 64, seed=0)
    cosines = np.abs((units[:2000] * units[2000:]).sum(-1))
    assert (cosines > probes.chance_cosine(64)).mean() == pytest.approx(0.05, abs=0.015)
