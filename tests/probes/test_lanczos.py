"""Claims: the largest eigenvalue of each operator, never above it, exact once steps suffice."""

from __future__ import annotations

import numpy as np
import pytest

from probes.lanczos import largest_eigenvalues


def _operators(rng: np.random.Generator, batch: int, n: int) -> np.ndarray:
    rows = rng.normal(size=(batch, n, n)) * np.geomspace(1, 1e-2, n)
    return rows @ np.swapaxes(rows, 1, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_agrees_for_every_operator_of_a_batch(dtype: type) -> None:
    rng = np.random.default_rng(0)
    matrices = _operators(rng, 7, 30).astype(dtype)
    found = largest_eigenvalues(
        lambda x: np.einsum("bij,jb->ib", matrices, x),
        rng.normal(size=(30, 7)).astype(dtype),
        steps=30,
    )
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrices)[:, -1], rtol=1e-5)


def test_few_steps_come_from_below_and_more_steps_are_never_worse() -> None:
    rng = np.random.default_rng(1)
    matrices = _operators(rng, 4, 60)
    start = rng.normal(size=(60, 4))
    truth = np.linalg.eigvalsh(matrices)[:, -1]
    last = np.zeros(4)
    for steps in (1, 3, 6, 12, 24):
        found = largest_eigenvalues(
            lambda x: np.einsum("bij,jb->ib", matrices, x), start, steps=steps
        )
        assert (found <= truth * (1 + 1e-12)).all()
        assert (found >= last - 1e-9).all()
        last = found
    np.testing.assert_allclose(last, truth, rtol=1e-4)


def test_zero_and_low_rank_operators_end_early_without_noise() -> None:
    rng = np.random.default_rng(2)
    direction = rng.normal(size=9)
    one = np.outer(direction, direction)
    matrices = np.stack([np.zeros((9, 9)), one, np.eye(9)])
    found = largest_eigenvalues(
        lambda x: np.einsum("bij,jb->ib", matrices, x), rng.normal(size=(9, 3)), steps=9
    )
    np.testing.assert_allclose(found, [0, direction @ direction, 1], atol=1e-9)
