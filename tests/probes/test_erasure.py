"""Claims: LEACE is guarded, moves states least, and equals the authors' own implementation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import probes
from probes.erasure import Leace


def _states(
    n: int = 200, d: int = 7, classes: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    rows = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) + 2 * np.eye(d)) - 4
    for label in range(classes):
        rows[y == label, label] += 3
    return rows, y


def _oracle(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, while it is imported
        from concept_erasure import LeaceFitter
    hot = np.eye(int(y.max()) + 1)[y]
    fitter = LeaceFitter(
        rows.shape[1],
        hot.shape[1],
        dtype=torch.float64,
        shrinkage=False,
        constrain_cov_trace=False,
        svd_tol=1e-9,
    )
    fitter.update(torch.from_numpy(rows), torch.from_numpy(hot))
    return fitter.eraser(torch.from_numpy(rows)).numpy()


@pytest.mark.parametrize("classes", [2, 3])
def test_it_equals_concept_erasure(classes: int) -> None:
    rows, y = _states(classes=classes)
    ours = Leace(shrinkage=0.0).fit(rows, y).transform(rows)
    np.testing.assert_allclose(ours, _oracle(rows, y), atol=1e-8)


@pytest.mark.parametrize("shrinkage", [0.0, None, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(200, 7), (30, 60)])
def test_classes_have_equal_means_afterwards(
    shrinkage: float | None, shape: tuple[int, int]
) -> None:
    rows, y = _states(*shape)
    erased = Leace(shrinkage=shrinkage).fit(rows, y).transform(rows)
    before = np.abs(rows[y == 0].mean(0) - rows[y == 1].mean(0)).max()
    assert np.abs(erased[y == 0].mean(0) - erased[y == 1].mean(0)).max() < 1e-9 * before
    np.testing.assert_allclose(erased.mean(0), rows.mean(0), atol=1e-9)


def test_a_linear_probe_learns_nothing_after_and_something_before() -> None:
    rows, y = _states()
    erased = Leace().fit(rows, y).transform(rows)
    before = LogisticRegression(max_iter=1000).fit(rows, y).score(rows, y)
    after = LogisticRegression(max_iter=1000).fit(erased, y)
    assert before > 0.8
    assert np.abs(after.coef_).max() < 1e-4
    assert abs(after.score(erased, y) - 0.5) < 0.05


def test_erasing_twice_is_erasing_once() -> None:
    rows, y = _states()
    eraser = Leace().fit(rows, y)
    once = eraser.transform(rows)
    np.testing.assert_allclose(eraser.transform(once), once, atol=1e-8)


def test_it_moves_states_less_than_an_orthogonal_projection() -> None:
    """The paper's theorem: least expected squared distance of all affine erasers."""
    rows, y = _states()
    erased = Leace(shrinkage=0.0).fit(rows, y).transform(rows)
    gap = rows[y == 1].mean(0) - rows[y == 0].mean(0)
    unit = gap / np.linalg.norm(gap)
    projected = rows - ((rows - rows.mean(0)) @ unit)[:, None] * unit
    assert ((erased - rows) ** 2).sum() < ((projected - rows) ** 2).sum()


def test_without_a_class_difference_nothing_moves() -> None:
    rows, y = _states()
    rows[y == 1] += rows[y == 0].mean(0) - rows[y == 1].mean(0)
    erased = Leace().fit(rows, y).transform(rows)
    np.testing.assert_allclose(erased, rows, atol=1e-6)


def test_what_one_source_taught_is_erased_in_another_only_if_they_share_it() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    shared, other = rng.normal(size=(400, 6)), rng.normal(size=(400, 6))
    shared[y == 1, 0] += 3
    other[y == 1, 3] += 3
    eraser = Leace().fit(shared[:200], y[:200])
    for rows, left in ((shared[200:], 0.65), (other[200:], 1.0)):
        erased = eraser.transform(rows)
        probe = probes.MassMean().fit(erased[:100], y[200:300])
        scores = probe.decision_function(erased[100:])
        found = probes.auc(scores[y[300:] == 1], scores[y[300:] == 0])
        assert (found < left) if left < 1 else (found > 0.9)
