"""Claims: Platt recovers a planted map, errors are those of the definition, R20 holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from probes.calibration import calibration, log_loss, platt
from probes.errors import NonFiniteError


def _planted(n: int = 4000, slope: float = 0.4, offset: float = -1.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=n) * 5
    return scores, rng.random(n) < expit(slope * scores + offset)


def test_platt_recovers_the_planted_map() -> None:
    scores, positive = _planted()
    found = platt(scores, positive)
    assert found.slope == pytest.approx(0.4, rel=0.1)
    assert found.offset == pytest.approx(-1.0, rel=0.1)


def test_platt_is_logistic_regression_without_penalty() -> None:
    scores, positive = _planted()
    oracle = LogisticRegression(C=np.inf).fit(scores[:, None], positive)
    found = platt(scores, positive)
    np.testing.assert_allclose(
        found(scores), oracle.predict_proba(scores[:, None])[:, 1], atol=2e-3
    )


def test_scores_that_separate_perfectly_get_a_finite_slope_and_wrong_ones_stay_silent() -> None:
    positive = np.arange(40) < 20
    right = platt(np.where(positive, 1.0, -1.0), positive)
    assert np.isfinite(right.slope)
    assert right(np.array([1.0]))[0] == pytest.approx(21 / 22, abs=1e-3)
    wrong = platt(np.where(positive, -1.0, 1.0), positive)
    assert wrong.slope > 0
    assert abs(wrong(np.array([1.0]))[0] - 0.5) < 0.01


def test_platt_does_not_depend_on_the_scale_of_the_scores() -> None:
    scores, positive = _planted(400)
    here, there = platt(scores, positive), platt(1e6 * scores + 1e7, positive)
    np.testing.assert_allclose(here(scores), there(1e6 * scores + 1e7), atol=1e-5)


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_names_its_step(step: int, where: str) -> None:
    scores, positive = _planted(200)
    calls = 0

    def broken(at, values, targets):
        nonlocal calls
        loss, gradient = log_loss(at, values, targets)
        if calls == step:
            loss = np.nan if where == "loss" else loss
            gradient = np.array([np.inf, 0.0]) if where == "gradient" else gradient
        calls += 1
        return float(loss), gradient

    with pytest.raises(NonFiniteError, match=f"not finite at step {step}") as caught:
        platt(scores, positive, loss=broken)
    assert caught.value.step == step


def test_the_gradient_of_the_loss_is_that_of_finite_differences() -> None:
    scores, positive = _planted(100)
    at, targets = np.array([0.3, -0.2]), positive.astype(float)
    _, gradient = log_loss(at, scores, targets)
    for axis in range(2):
        step = 1e-6 * np.eye(2)[axis]
        up, down = (log_loss(at + s, scores, targets)[0] for s in (step, -step))
        assert gradient[axis] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_right_probabilities_have_the_error_of_chance_and_wrong_ones_more() -> None:
    scores, positive = _planted(1000)
    p = expit(0.4 * scores - 1.0)
    good = calibration(p, positive, seed=0)
    assert float(good.brier.value) == pytest.approx(brier_score_loss(positive, p))
    assert good.ece_chance.low <= good.ece.value <= good.ece_chance.high
    inside = (good.observed.low <= good.predicted) & (good.predicted <= good.observed.high)
    assert inside.mean() >= 0.8
    assert good.counts.sum() == good.ece.n == 1000
    bad = calibration(expit(4 * (0.4 * scores - 1.0)), positive, seed=0)
    assert bad.ece.value > 2 * good.ece_chance.high
    assert bad.brier.value > good.brier.value


def test_the_calibration_error_is_that_of_the_definition() -> None:
    p = np.repeat([0.2, 0.8], 40)
    positive = np.arange(80) % 4 == 0
    found = calibration(p, positive, seed=0)
    assert float(found.ece.value) == pytest.approx((abs(0.25 - 0.2) + abs(0.25 - 0.8)) / 2)
