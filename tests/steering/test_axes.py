"""Directions, positions and regressions: planted truth comes back, closed forms hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from probes.shrinkage import Shrunk
from steering.axes import (
    Axes,
    as_reading,
    axes_at,
    cross_validated,
    fit_logistic,
    pooled,
    project,
    stratified,
)
from steering.errors import PolicyError


def test_the_regression_recovers_planted_coefficients() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40_000, 2)) * [2.0, 0.5] + [1.0, -3.0]
    logit = 1.5 * z[:, 0] - 2.0 * z[:, 1] - 7.5
    positive = rng.random(len(z)) < 1 / (1 + np.exp(-logit))
    fit = fit_logistic(z, positive, c=1e6)
    slope = fit.weight / fit.scale
    assert slope == pytest.approx([1.5, -2.0], rel=0.05)
    # Weighting the classes alike moves the intercept by the log of their odds.
    odds = np.log(positive.mean() / (1 - positive.mean()))
    intercept = fit.bias - float(fit.mean @ slope)
    assert intercept == pytest.approx(-7.5 - odds, abs=0.4)


def test_a_reading_gives_the_log_odds_of_the_regression() -> None:
    rng = np.random.default_rng(1)
    states = torch.tensor(rng.normal(size=(50, 16)) * 3 + 1, dtype=torch.float32)
    rows = torch.tensor(rng.normal(size=(3, 16)), dtype=torch.float32)
    axes = Axes.of(4, rows[0], rows[1:])
    z = axes.positions(states)
    fit = fit_logistic(z, z[:, 0] - 0.4 * z[:, 1] + 0.1 * rng.normal(size=50) > 0)
    reading = as_reading(axes, fit, shift=-0.7, floor=0.0)
    share = reading.law((states * reading.direction).sum(-1))
    wanted = 1 / (1 + np.exp(-(fit.logit(z) - 0.7)))
    np.testing.assert_allclose(share.numpy(), wanted, atol=1e-4)
    assert float(reading.direction.norm()) == pytest.approx(1.0, abs=1e-6)


def test_positions_are_zero_and_one_at_the_class_means() -> None:
    origin, other = torch.randn(8), torch.randn(8)
    lines = torch.stack([other - origin, torch.randn(8)])
    within = Shrunk.fit(np.random.default_rng(0).normal(size=(20, 8)), 0.3)
    for metric in (None, within):
        axes = Axes.of(0, origin, lines, metric)
        z = axes.positions(torch.stack([origin, other, (origin + other) / 2]))
        np.testing.assert_allclose(z[:, 0], [0.0, 1.0, 0.5], atol=1e-6)
    with pytest.raises(PolicyError, match="equal means"):
        Axes.of(0, origin, torch.stack([lines[0], torch.zeros(8)]))


def test_full_shrinkage_is_the_reading_of_the_paper() -> None:
    rng = torch.Generator().manual_seed(3)
    states = torch.randn(2, 60, 6, generator=rng)
    masks = _masks(60)
    mean = axes_at(states, masks, 1)
    torch.testing.assert_close(axes_at(states, masks, 1, shrinkage=1.0).readers, mean.readers)
    assert not torch.allclose(axes_at(states, masks, 1, shrinkage=0.3).readers, mean.readers)


def _masks(n: int) -> dict[str, np.ndarray]:
    kind = np.arange(n) % 3
    names = ("refused harmful", "complied harmful", "complied harmless")
    return {name: kind == index for index, name in enumerate(names)}


def _correlated(n: int, seed: int) -> torch.Tensor:
    """Return states whose loud coordinates leak into the first, the one that tells the classes."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    loud = 3 * rng.normal(size=(n, 20))
    told = 4.0 * (kind == 0) - 4.0 * (kind == 2) + rng.normal(size=n) + loud.sum(axis=1)
    return torch.tensor(np.column_stack([told, loud]), dtype=torch.float32)[None]


def test_the_whitened_reading_finds_the_best_linear_rule_and_the_plain_one_does_not() -> None:
    # Without what leaks from the loud ones the classes are 4 standard deviations apart, with it
    # 0.3, and the difference of means does not know which coordinates leak.
    found = {}
    for name, shrinkage in (("lda", 0.01), ("mean", None)):
        axes = axes_at(_correlated(3000, 0), _masks(3000), 0, shrinkage=shrinkage)
        z = axes.positions(_correlated(900, 1)[0])
        needy, harmless = _masks(900)["complied harmful"], _masks(900)["complied harmless"]
        rows = needy | harmless
        found[name] = float(roc_auc_score(needy[rows], cross_validated(z[rows], needy[rows])))
    assert found["lda"] > 0.99
    assert found["mean"] < 0.8
    rng = np.random.default_rng(2)
    order = rng.permutation(3000)
    blind = axes_at(_correlated(3000, 0)[:, order], _masks(3000), 0, shrinkage=0.01)
    z = blind.positions(_correlated(900, 1)[0])[rows]
    shuffled = rng.permutation(needy[rows])
    assert abs(float(roc_auc_score(shuffled, cross_validated(z, shuffled))) - 0.5) < 0.12


def test_stratified_means_do_not_see_the_form() -> None:
    rng = torch.Generator().manual_seed(0)
    truth, form_shift = torch.randn(3, 12, generator=rng), 30 * torch.randn(3, 12, generator=rng)
    refused = np.array([True] * 45 + [False] * 5 + [True] * 5 + [False] * 45)
    forms = ["plain"] * 50 + ["wrapped"] * 50
    wrapped = torch.tensor([form == "wrapped" for form in forms]).float()
    states = 0.01 * torch.randn(3, 100, 12, generator=rng)
    states = states + torch.from_numpy(refused).float()[None, :, None] * truth[:, None]
    states = states + wrapped[None, :, None] * form_shift[:, None]
    found = stratified(states, refused, ~refused, forms)
    torch.testing.assert_close(found, truth, atol=0.05, rtol=0.05)
    confounded = pooled(states, refused, ~refused)
    assert (confounded - truth).norm() > 5 * truth.norm(), "pooled means are the form's"
    one_form = stratified(states, refused, ~refused, ["plain"] * 100)
    torch.testing.assert_close(one_form, confounded)
    with pytest.raises(PolicyError, match="no form among"):
        stratified(states[:, :1], refused[:1], ~refused[:1], forms[:1])


def test_parallel_and_orthogonal_parts_add_up() -> None:
    a, b = torch.randn(5, 9), torch.randn(5, 9)
    along = project(a, b)
    assert torch.cosine_similarity(along, b).abs().min() > 1 - 1e-5
    assert ((a - along) * b).sum(-1).abs().max() < 1e-4
    torch.testing.assert_close(project(along, b), along, atol=1e-5, rtol=1e-5)


def test_cross_validation_sees_no_signal_in_shuffled_labels() -> None:
    rng = np.random.default_rng(3)
    truth = np.arange(200) < 100
    z = rng.normal(size=(200, 2)) + 2.0 * truth[:, None]
    assert roc_auc_score(truth, cross_validated(z, truth)) > 0.95
    shuffled = rng.permutation(truth)
    assert abs(float(roc_auc_score(shuffled, cross_validated(z, shuffled))) - 0.5) < 0.12
    with pytest.raises(PolicyError, match="one class"):
        fit_logistic(z, np.ones(200, dtype=bool))
