"""The largest eigenvalue of many symmetric operators at once, each known only by its products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from einops import einsum
from jaxtyping import Float

Columns = Float[np.ndarray, "n batch"]
"""One column for each operator."""


def largest_eigenvalues(
    product: Callable[[Columns], Columns], start: Columns, *, steps: int = 20
) -> Float[np.ndarray, "batch"]:
    """Give the largest Ritz value of each operator after some Lanczos steps.

        K_m = span(v, A v, ..., A^(m-1) v),   theta = max eigenvalue of Q_m^T A Q_m
                                                     (Lanczos 1950; Golub & Van Loan 2013, 10.1)

    with full reorthogonalisation. theta never exceeds the eigenvalue and equals it once K_m holds
    the eigenvector. Where a statistic is compared with its own null, both pass through here with
    starts of one distribution, so a value that has not converged costs power and not validity.

    Args:
        product: applies operator b to column b; symmetric and positive semidefinite.
        start: one starting column for each operator, not zero.
        steps: Lanczos steps, at most the length of a column.
    """
    n, batch = start.shape
    steps = min(steps, n)
    basis = np.zeros((steps, n, batch), dtype=start.dtype)
    diagonal, side = np.zeros((steps, batch)), np.zeros((steps, batch))
    vector = start / np.linalg.norm(start, axis=0)
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal[step] = einsum(vector, image, "n b, n b -> b")
        for _ in range(2):  # twice is enough (Parlett 1980, section 6.9)
            seen = basis[: step + 1]
            parts = einsum(seen, image, "m n b, n b -> m b")
            image = image - einsum(seen, parts, "m n b, m b -> n b")
        norm = np.linalg.norm(image, axis=0)
        # An invariant space is complete: what follows would be rounding.
        alive = norm > 1e-6 * np.maximum(np.abs(diagonal).max(0), np.finfo(start.dtype).tiny)
        side[step] = np.where(alive, norm, 0)
        vector = np.where(alive, image / np.where(alive, norm, 1), 0).astype(start.dtype)
    small = np.zeros((batch, steps, steps))
    places = np.arange(steps)
    small[:, places, places] = diagonal.T
    small[:, places[1:], places[:-1]] = side[:-1].T  # eigvalsh reads the lower triangle
    return np.linalg.eigvalsh(small)[:, -1]
