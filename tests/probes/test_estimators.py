"""Claims: the probes keep scikit-learn's contract and equal independent oracles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

import probes
from artifacts.errors import InputError
from probes.erasure import Leace
from probes.errors import NonFiniteError
from probes.estimators import PROBES, Discriminant, Logistic, MassMean, maker
from probes.shrinkage import Shrunk, ledoit_wolf

EVERY = [MassMean(), MassMean(covariance=True), Logistic(), Discriminant(), Leace()]


@parametrize_with_checks(EVERY)
def test_the_scikit_learn_contract(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def _states(n: int = 120, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes that share a covariance of unequal, correlated coordinates."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) * np.geomspace(0.3, 3, d)
    positive = np.arange(n) % 2 == 0
    rows = rng.normal(size=(n, d)) @ mix + 5
    rows[positive, 0] += 2.0
    return rows, positive


def _along(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_mass_mean_is_the_difference_of_class_means() -> None:
    rows, positive = _states()
    found = MassMean().fit(rows, positive)
    expected = rows[positive].mean(0) - rows[~positive].mean(0)
    np.testing.assert_allclose(found.coef_, expected, atol=1e-12)
    middle = (rows[positive].mean(0) + rows[~positive].mean(0)) / 2
    np.testing.assert_allclose(found.decision_function(middle[None]), 0, atol=1e-9)


@pytest.mark.parametrize("probe", [MassMean(covariance=True), Discriminant(shrinkage=0.0)])
def test_without_shrinkage_both_are_scikit_learns_discriminant(probe: MassMean) -> None:
    rows, positive = _states()
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(rows, positive)
    found = probe.fit(rows, positive)
    assert _along(found.coef_ / found.scale_, oracle.coef_[0]) > 1 - 1e-9


def test_discriminant_probabilities_are_those_of_scikit_learn_without_shrinkage() -> None:
    rows, positive = _states()
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(rows, positive)
    found = Discriminant(shrinkage=0.0).fit(rows, positive)
    np.testing.assert_allclose(found.predict_proba(rows), oracle.predict_proba(rows), atol=1e-8)


def test_logistic_minimises_its_own_loss() -> None:
    rows, positive = _states()
    found = Logistic(strength=2.0).fit(rows, positive)
    scaled, sign = (rows - found.mean_) / found.scale_, np.where(positive, 1.0, -1.0)
    d = rows.shape[1]

    def loss(at: np.ndarray) -> float:
        z = scaled @ at[:d] + at[d]
        return float(np.logaddexp(0, -sign * z).sum() + (at[:d] ** 2).sum() * d / 4)

    best = minimize(loss, np.zeros(d + 1), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(np.r_[found.coef_, found.intercept_], best.x, atol=2e-3)


def test_a_constant_coordinate_changes_nothing() -> None:
    rows, positive = _states()
    wide = np.c_[rows, np.full(len(rows), 7.0)]
    for name in ("mass-mean", "lda"):
        narrow, padded = maker(name)().fit(rows, positive), maker(name)().fit(wide, positive)
        assert padded.coef_[-1] == 0
        if name == "mass-mean":
            np.testing.assert_allclose(padded.coef_[:-1], narrow.coef_, atol=1e-12)


@pytest.mark.parametrize("name", ["logistic", "lda"])
def test_standardised_probes_do_not_depend_on_units(name: str) -> None:
    rows, positive = _states()
    units = np.geomspace(1e-3, 1e4, rows.shape[1])
    here = maker(name)().fit(rows, positive).decision_function(rows)
    there = maker(name)().fit(rows * units - 3, positive).decision_function(rows * units - 3)
    np.testing.assert_allclose(here, there, atol=1e-6)


@pytest.mark.parametrize("name", list(PROBES))
def test_exchanging_the_classes_turns_the_probe_round(name: str) -> None:
    rows, positive = _states()
    here = maker(name)().fit(rows, positive).decision_function(rows)
    there = maker(name)().fit(rows, ~positive).decision_function(rows)
    np.testing.assert_allclose(here, -there, atol=1e-4)


@pytest.mark.parametrize("name", ["mass-mean", "logistic", "lda"])
def test_a_planted_direction_is_read_nearly_as_well_as_by_bayes(name: str) -> None:
    """Isotropic classes at distance 2: the best possible AUC is Phi(2 / sqrt 2)."""
    rng = np.random.default_rng(1)
    d, n = 10, 2000
    unit = rng.normal(size=d)
    unit /= np.linalg.norm(unit)
    positive = np.arange(n) % 2 == 0
    rows = rng.normal(size=(n, d)) + 2.0 * positive[:, None] * unit
    half = n // 2
    found = maker(name)().fit(rows[:half], positive[:half])
    scores = found.decision_function(rows[half:])
    reached = probes.auc(scores[positive[half:]], scores[~positive[half:]])
    assert abs(reached - norm.cdf(2 / np.sqrt(2))) < 0.02
    assert _along(found.coef_ / found.scale_, unit) > 0.97


def test_only_the_covariance_corrects_for_a_nuisance_that_correlates() -> None:
    """A loud coordinate shared with the class direction hides it from the plain mass mean."""
    rng = np.random.default_rng(2)
    n = 1000
    positive = np.arange(n) % 2 == 0
    loud = 10 * rng.normal(size=n)
    rows = np.stack([loud + positive, loud + 0.3 * rng.normal(size=n)], axis=1)
    auc = {}
    for name in ("mass-mean", "mass-mean-iid", "lda"):
        half = np.arange(n) < n // 2
        scores = maker(name)().fit(rows[half], positive[half]).decision_function(rows[~half])
        auc[name] = float(probes.auc(scores[positive[~half]], scores[~positive[~half]]))
    assert auc["mass-mean"] < 0.65
    assert min(auc["mass-mean-iid"], auc["lda"]) > 0.9


@pytest.mark.parametrize("shape", [(40, 8), (12, 30), (30, 30)])
def test_the_shrinkage_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape) * np.geomspace(1, 20, shape[1])
    rows -= rows.mean(0)
    assert ledoit_wolf(rows) == pytest.approx(
        ledoit_wolf_shrinkage(rows, assume_centered=True), abs=1e-12
    )


@pytest.mark.parametrize("shape", [(40, 8), (12, 30)])
@pytest.mark.parametrize("share", [None, 0.3, 1.0])
def test_the_solver_inverts_its_own_matrix(shape: tuple[int, int], share: float | None) -> None:
    rng = np.random.default_rng(0)
    found = Shrunk.fit(rng.normal(size=shape), share)
    right = rng.normal(size=(shape[1], 2))
    np.testing.assert_allclose(found.matrix() @ found.solve(right), right, atol=1e-9)


def test_a_covariance_without_inverse_and_shares_outside_0_to_1_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 9))
    with pytest.raises(InputError, match="has no inverse"):
        Shrunk.fit(rows, 0.0).solve(np.eye(9))
    with pytest.raises(InputError, match="share from 0 to 1"):
        Shrunk.fit(rows, 1.5)
    with pytest.raises(InputError, match="strength 0"):
        Logistic(strength=0).fit(*_states())


def test_an_unknown_probe_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="'svm' is unknown.*mass-mean, mass-mean-iid, logistic"):
        maker("svm")


def test_states_that_overflow_are_refused_as_non_finite() -> None:
    rows, positive = _states()
    for name in ("logistic", "lda"):
        with pytest.raises(NonFiniteError, match="overflow"):
            maker(name)().fit(rows * 1e200, positive)
