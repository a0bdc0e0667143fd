"""Claims: a planted direction beats its controls; no signal is claimed in at most alpha of runs."""

from __future__ import annotations

import numpy as np
import pytest

import probes
from artifacts.errors import InputError

BLOCKS, D = 3, 12


def _judge(fit: np.ndarray, test: np.ndarray, labels: np.ndarray, seed: int) -> probes.Verdict:
    """The whole protocol on states [block, prompt, d] with the same labels in fit and test."""
    plan = probes.plan(labels, paired=False, seed=seed, shuffles=99, splits=1, bootstraps=1)
    fits = np.stack([plan.weights()[:99] @ y for y in fit])
    main = np.stack([plan.fit_weights() @ y for y in fit])
    scores = np.einsum("bnd,bd->bn", test, main)
    auc = probes.auc_estimate(scores[:, labels], scores[:, ~labels])
    gap = probes.d_prime(scores[:, labels], scores[:, ~labels]).value
    held_out = probes.shuffled_labels(labels, 99, paired=False, seed=seed)
    null = probes.auc_of_labels(
        np.einsum("bnd,bkd->bkn", test, fits), np.repeat(held_out[None], len(test), axis=0)
    )
    units = probes.random_units(99, test.shape[-1], seed=seed)
    drawn = np.einsum("bnd,rd->brn", test, units)
    random = probes.unsigned(probes.auc(drawn[..., labels], drawn[..., ~labels]))
    random_gap = probes.d_prime(drawn[..., labels], drawn[..., ~labels]).value
    return probes.beats_control(auc, gap, null, random, random_gap)


def _states(seed: int, gap: float, scale: np.ndarray | float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    labels = np.arange(40) < 20
    states = rng.normal(size=(2, BLOCKS, 40, D)) * scale
    states[:, 1, labels, 4] += gap
    return states[0], states[1], labels


def test_no_signal_is_claimed_in_at_most_alpha_of_200_seeds() -> None:
    claims = sum(_judge(*_states(seed, 0.0), seed).beats for seed in range(200))
    assert claims <= 10


def test_no_signal_is_not_claimed_when_one_coordinate_carries_nearly_all_the_variance() -> None:
    """Massive activations make every fitted direction alike, which must not look like signal."""
    scale = np.where(np.arange(D) == 0, 100.0, 1.0)
    claims = sum(_judge(*_states(seed, 0.0, scale), seed).beats for seed in range(200))
    assert claims <= 10


def test_a_planted_gap_is_claimed_at_its_block() -> None:
    verdicts = [_judge(*_states(seed, 4.0), seed) for seed in range(10)]
    assert all(verdict.beats for verdict in verdicts)
    assert {verdict.best for verdict in verdicts} == {1}
    assert "beats shuffled labels" in verdicts[0].reason


def test_labels_that_hold_only_in_the_fit_are_not_claimed() -> None:
    fit, _, labels = _states(0, 6.0)
    _, test, _ = _states(1, 0.0)
    verdict = _judge(fit, test, labels, 0)
    assert not verdict.beats


def test_separation_by_any_direction_is_not_claimed() -> None:
    """One-dimensional states: every direction separates as well as the fitted one."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) < 20
    states = rng.normal(size=(2, 1, 40, 1)) + 6 * labels[:, None]
    verdict = _judge(states[0], states[1], labels, 0)
    assert verdict.p_shuffled <= 0.025
    assert not verdict.beats
    assert "random directions separate as well" in verdict.reason


def test_a_direction_that_separates_the_wrong_way_round_is_not_claimed() -> None:
    fit, test, labels = _states(0, 4.0)
    assert not _judge(-fit, test, labels, 0).beats


def test_ties_at_one_go_to_the_larger_distance() -> None:
    ones = np.ones(3)
    auc = probes.Estimate(ones, ones * 0.9, ones, 20, 0.95)
    null = np.full((3, 99), 0.5)
    verdict = probes.beats_control(auc, np.array([2.0, 5.0, 3.0]), null, null, null)
    assert verdict.best == 1
    equal = probes.beats_control(auc, np.array([2.0, 5.0, 3.0]), null, np.ones((3, 99)), null)
    assert equal.beats  # the random directions reach 1.0 too, but by a smaller distance
    lost = probes.beats_control(auc, np.array([2.0, 5.0, 3.0]), null, np.ones((3, 99)), 9 + null)
    assert not lost.beats


def test_an_interval_that_includes_one_half_is_not_claimed() -> None:
    auc = probes.Estimate(np.array([0.6]), np.array([0.45]), np.array([0.74]), 20, 0.95)
    null = np.full((1, 99), 0.5)
    verdict = probes.beats_control(auc, np.array([0.4]), null, null, null)
    assert not verdict.beats
    assert "includes 0.5" in verdict.reason


def test_too_few_repetitions_for_alpha_are_refused() -> None:
    auc = probes.Estimate(np.array([0.9]), np.array([0.8]), np.array([0.95]), 20, 0.95)
    with pytest.raises(InputError, match="38 shuffled repetitions cannot reach p = 0.025"):
        probes.beats_control(auc, np.array([2.0]), *(np.full((1, 38), 0.5),) * 3)


def test_random_directions_are_unit_uniform_and_repeatable() -> None:
    units = probes.random_units(2000, 8, seed=1)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1)
    np.testing.assert_allclose(units.T @ units / 2000, np.eye(8) / 8, atol=0.02)
    np.testing.assert_array_equal(units, probes.random_units(2000, 8, seed=1))
    assert not np.array_equal(units, probes.random_units(2000, 8, seed=2))


def test_a_band_is_mean_and_quantiles_of_the_null() -> None:
    null = np.linspace(0, 1, 1001)[None]
    found = probes.band(null)
    np.testing.assert_allclose([found.value[0], found.low[0], found.high[0]], [0.5, 0.025, 0.975])
    assert found.n == 1001
