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
