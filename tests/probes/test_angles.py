"""Claims: angles are exact from 0 to 90 degrees and belong to spaces, not bases."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from artifacts.errors import InputError
from probes.angles import chance_angles, principal_angles, split_half_angles


def _basis(rng: np.random.Generator, k: int, d: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, k)))[0].T


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.3, 1.2, np.pi / 2])
def test_a_planted_angle_comes_back(angle: float) -> None:
    rng = np.random.default_rng(0)
    frame = _basis(rng, 4, 9)
    turned = np.stack([frame[0], np.cos(angle) * frame[1] + np.sin(angle) * frame[2]])
    found = principal_angles(frame[:2], turned)
    np.testing.assert_allclose(found, [0, angle], atol=1e-15, rtol=1e-7)


def test_scipy_agrees_for_any_sizes() -> None:
    rng = np.random.default_rng(1)
    for k, m in ((1, 1), (3, 3), (2, 5), (5, 2)):
        first, second = _basis(rng, k, 12), _basis(rng, m, 12)
        oracle = np.sort(scipy.linalg.subspace_angles(first.T, second.T))
        np.testing.assert_allclose(principal_angles(first, second), oracle, atol=1e-12)


def test_the_basis_and_the_order_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    first, second = _basis(rng, 3, 10), _basis(rng, 3, 10)
    mixed = _basis(rng, 3, 3) @ first
    expected = principal_angles(first, second)
    np.testing.assert_allclose(principal_angles(mixed, second), expected, atol=1e-12)
    np.testing.assert_allclose(principal_angles(second, -first), expected, atol=1e-12)
    batch = principal_angles(np.stack([first, mixed]), np.stack([second, second]))
    np.testing.assert_allclose(batch, [expected, expected], atol=1e-12)


def test_more_rows_than_a_space_has_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="orthonormal rows"):
        principal_angles(np.ones((3, 2)), np.ones((1, 2)))


def test_halves_that_agree_have_angle_zero_and_unrelated_ones_that_of_chance() -> None:
    rng = np.random.default_rng(4)
    same = np.broadcast_to(_basis(rng, 2, 40), (20, 2, 2, 40))
    found = split_half_angles(same, same, n=10)
    assert float(found.value.max()) < 1e-6
    assert float(found.high.max()) < 1e-6
    apart = np.stack([[_basis(rng, 2, 40), _basis(rng, 2, 40)] for _ in range(200)])
    found = split_half_angles(apart, apart, n=10)
    np.testing.assert_allclose(found.value, chance_angles(2, 40, seed=0), atol=2)
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()


def test_the_interval_is_the_definition() -> None:
    """Mean angle plus the deviations of the drawn angles' quantiles, dimension by dimension."""
    rng = np.random.default_rng(5)
    splits = np.stack([[_basis(rng, 2, 6), _basis(rng, 2, 6)] for _ in range(7)])
    drawn = np.stack([[_basis(rng, 2, 6), _basis(rng, 2, 6)] for _ in range(40)])
    for level, tail in ((0.95, 0.025), (0.8, 0.1)):
        found = split_half_angles(splits, drawn, n=23, level=level)
        each = np.degrees([principal_angles(*pair) for pair in splits])
        again = np.degrees([principal_angles(*pair) for pair in drawn])
        for row in range(2):
            middle, spread = each[:, row].mean(), again[:, row] - again[:, row].mean()
            low, high = np.quantile(spread, [tail, 1 - tail])
            assert found.value[row] == pytest.approx(middle)
            assert found.low[row] == pytest.approx(max(middle + low, 0))
            assert found.high[row] == pytest.approx(min(middle + high, 90))
        assert (found.n, found.level) == (23, level)
    # Near the right angle the interval ends at it, and near 0 there.
    right = np.eye(4)[None, :2], np.eye(4)[None, 2:]
    square = np.stack(right, axis=1)
    wide = split_half_angles(square, drawn[..., :4] * 0 + square, n=5)
    np.testing.assert_allclose(wide.high, 90)
    noisy = split_half_angles(np.repeat(square, 3, axis=0), _near(rng, square), n=5)
    assert float(noisy.high.max()) <= 90
    same = np.repeat(square[:, :1], 2, axis=1)
    low = split_half_angles(same, _near(rng, same), n=5).low
    assert float(low.min()) == 0


def _near(rng: np.random.Generator, pair: np.ndarray) -> np.ndarray:
    moved = pair + 0.3 * rng.normal(size=(50, *pair.shape[1:]))
    return np.swapaxes(np.linalg.qr(np.swapaxes(moved, -1, -2))[0], -1, -2)


def test_one_split_and_one_sample_do_and_none_is_refused() -> None:
    pair = np.stack([np.eye(4)[:1], np.eye(4)[1:2]])[None]
    np.testing.assert_allclose(split_half_angles(pair, pair, n=4).value, 90)
    for splits, drawn in ((pair[:0], pair), (pair, pair[:0])):
        with pytest.raises(InputError, match="at least one split"):
            split_half_angles(splits, drawn, n=4)


def test_spaces_may_fill_the_width() -> None:
    np.testing.assert_allclose(principal_angles(np.eye(3), np.eye(3)[::-1]), 0, atol=1e-12)


def test_chance_has_a_seed() -> None:
    found = chance_angles(2, 8, seed=3)
    np.testing.assert_array_equal(found, chance_angles(2, 8, seed=3))
    assert (found != chance_angles(2, 8, seed=4)).all()
