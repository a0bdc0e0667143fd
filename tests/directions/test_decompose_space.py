"""Claims: ridge and its cross-validation are the textbook ones; both forms give one space."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SkRidge

from artifacts.errors import InputError
from directions import residual_space as spaces
from directions.residual_validation import cross_validate
from hooks import PairedMoments
from probes.angles import principal_angles


def _pair(
    seed: int, n: int, d: int, rank: int = 3, noise: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, d)) * np.geomspace(3, 0.3, d) + rng.normal(size=d)
    planted = rng.normal(size=(d, rank)) @ rng.normal(size=(rank, d)) / np.sqrt(d)
    return base, base @ planted + noise * rng.normal(size=(n, d)) + rng.normal(size=d)


@pytest.mark.parametrize(("n", "d"), [(20, 50), (50, 20), (30, 30)])
def test_the_map_is_scikit_learns_ridge_with_intercept(n: int, d: int) -> None:
    base, shift = _pair(0, n, d)
    problem = spaces.ridge(base, shift)
    for penalty in problem.penalties[[0, 7, -1]]:
        oracle = SkRidge(alpha=float(penalty), solver="svd").fit(base, shift)
        found = problem.solve(float(penalty), 3)
        fresh = np.random.default_rng(1).normal(size=(9, d))
        np.testing.assert_allclose(found.predict(fresh), oracle.predict(fresh), atol=1e-6)
        explained = oracle.predict(base) - shift.mean(0)
        values = np.linalg.svd(explained, compute_uv=False)
        m = len(found.singular_values)
        np.testing.assert_allclose(found.singular_values, values[:m], atol=1e-6 * values[0])


@pytest.mark.parametrize(("n", "d"), [(24, 40), (40, 12)])
def test_the_closed_form_is_the_loop_over_folds(n: int, d: int) -> None:
    base, shift = _pair(1, n, d)
    problem = spaces.ridge(base, shift)
    folds = tuple(np.array_split(np.random.default_rng(2).permutation(n), 5))
    found = cross_validate(problem, folds)
    for penalty, loss in zip(problem.penalties, found.losses, strict=True):
        total = 0.0
        for fold in folds:
            kept = np.setdiff1d(np.arange(n), fold)
            oracle = SkRidge(alpha=float(penalty), solver="svd").fit(base[kept], shift[kept])
            total += float(np.square(shift[fold] - oracle.predict(base[fold])).sum())
        assert loss == pytest.approx(total, rel=1e-5)


def test_a_permuted_pairing_chooses_the_penalty_that_fitting_it_would() -> None:
    base, shift = _pair(3, 30, 12)
    problem = spaces.ridge(base, shift)
    folds = tuple(np.array_split(np.arange(30), 6))
    validation = cross_validate(problem, folds)
    moved = shift - shift.mean(0)
    orders = np.stack([np.random.default_rng(s).permutation(30) for s in range(20)])
    chosen = validation.permuted(moved @ moved.T, orders)
    for order, penalty in zip(orders, chosen, strict=True):
        own = cross_validate(spaces.ridge(base, shift[order]), folds)
        assert own.penalty == pytest.approx(penalty)


@pytest.mark.parametrize(("n", "d"), [(40, 40), (40, 25), (25, 60)])
def test_rows_and_moments_give_one_space(n: int, d: int) -> None:
    """The largest angle between the two is below 1e-3 (in fact below 1e-6) on the same data."""
    base, shift = _pair(4, n, d, noise=0.05)
    moments = PairedMoments()
    import torch

    for part in np.array_split(np.arange(n), 3):
        states = torch.from_numpy(base[part])
        moments.update("x", states, states + torch.from_numpy(shift[part]))
    second = {key: value.numpy() for key, value in moments.second("x").items()}
    rows = spaces.ridge(base, shift)
    other = spaces.ridge_of_moments(**second, base_mean=base.mean(0), shift_mean=shift.mean(0), n=n)
    penalty = float(rows.penalties[8])
    first, again = rows.solve(penalty, 3), other.solve(penalty, 3)
    assert principal_angles(first.components, again.components)[-1] < 1e-5
    np.testing.assert_allclose(first.singular_values[:3], again.singular_values[:3], rtol=1e-6)
    plain = spaces.shift_svd(shift, 3)
    same = spaces.shift_svd_of_moments(
        second["shift_shift"], shift_mean=shift.mean(0), n=n, count=3
    )
    assert principal_angles(plain.components, same.components)[-1] < 1e-5


@pytest.mark.parametrize("count", [1, 4])
def test_gram_and_covariance_form_give_one_space(count: int) -> None:
    """Repeating every prompt changes the form (n < d to n > d) and nothing else."""
    base, shift = _pair(5, 30, 40)
    narrow = spaces.ridge(base, shift)
    wide = spaces.ridge(np.repeat(base, 2, axis=0), np.repeat(shift, 2, axis=0))
    assert narrow.left is not None and wide.left is not None
    assert narrow.left.shape[0] <= 40 < wide.left.shape[0]
    penalty = float(narrow.penalties[8])
    first, again = narrow.solve(penalty, count), wide.solve(2 * penalty, count)
    assert principal_angles(first.components, again.components)[-1] < 1e-6
    np.testing.assert_allclose(
        first.singular_values[:count] * np.sqrt(2), again.singular_values[:count], rtol=1e-6
    )


def test_a_part_of_the_prompts_is_refitted_as_if_it_were_alone() -> None:
    base, shift = _pair(6, 40, 60)
    problem = spaces.ridge(base, shift)
    rows = np.random.default_rng(0).integers(0, 40, 25)
    alone = spaces.ridge(base[rows], shift[rows]).solve(3.0, 3)
    again = spaces.refit(problem, rows, 3.0, 3)
    assert principal_angles(alone.components, again)[-1] < 1e-6


def test_the_plain_svd_is_numpys_and_has_no_map() -> None:
    _, shift = _pair(7, 20, 30)
    found = spaces.shift_svd(shift, 5)
    _, values, right = np.linalg.svd(shift, full_matrices=False)
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.components @ right[:5].T), np.eye(5), atol=1e-7)
    with pytest.raises(InputError, match="use method affine"):
        found.predict(shift)


def test_components_stay_orthonormal_when_the_shift_has_fewer_dimensions() -> None:
    rng = np.random.default_rng(8)
    base = rng.normal(size=(20, 30))
    shift = np.outer(rng.normal(size=20), rng.normal(size=30))
    for found in (spaces.shift_svd(shift, 5), spaces.ridge(base, shift).solve(1.0, 5)):
        np.testing.assert_allclose(found.components @ found.components.T, np.eye(5), atol=1e-9)
        assert found.singular_values[1] < 1e-6 * found.singular_values[0]


def test_signs_follow_the_rule_and_nothing_else_changes() -> None:
    base, shift = _pair(9, 30, 20)
    found = spaces.ridge(base, shift).solve(1.0, 4)
    toward = np.random.default_rng(0).normal(size=20)
    signed = spaces.with_signs(found, toward)
    assert (signed.components @ toward > 0).all()
    np.testing.assert_allclose(np.abs(signed.components), np.abs(found.components))
    flipped = spaces.with_signs(found, -toward)
    np.testing.assert_allclose(flipped.components, -signed.components)
    again = spaces.with_signs(signed, np.zeros(20))
    assert (
        np.take_along_axis(again.components, np.abs(again.components).argmax(1)[:, None], 1) > 0
    ).all()


def test_scaling_states_and_shift_scales_values_alone() -> None:
    base, shift = _pair(10, 30, 20)
    folds = tuple(np.array_split(np.arange(30), 5))

    def fit(scale: float) -> spaces.ResidualSpace:
        problem = spaces.ridge(scale * base, scale * shift)
        return problem.solve(cross_validate(problem, folds).penalty, 3)

    one, large = fit(1.0), fit(1e4)
    np.testing.assert_allclose(large.singular_values, 1e4 * one.singular_values, rtol=1e-6)
    assert principal_angles(one.components, large.components)[-1] < 1e-6


def test_rows_that_are_not_finite_or_all_equal_are_refused() -> None:
    base, shift = _pair(11, 12, 8)
    broken = base.copy()
    broken[[4, 7], 2] = np.nan
    with pytest.raises(InputError, match="2 of 12 rows are not finite, the first at prompt 4"):
        spaces.ridge(broken, shift)
    with pytest.raises(InputError, match="all base states are equal"):
        spaces.ridge(np.ones((12, 8)), shift)
    with pytest.raises(InputError, match="give at least 3"):
        spaces.shift_svd(shift[:2], 1)
