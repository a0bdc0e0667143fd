"""The safety residual space of one block: what an affine map explains of the shift, and its SVD.

Everything is closed form: one eigendecomposition of the inputs serves every penalty, every fold of
the cross-validation and every permutation. With fewer prompts than dimensions it is that of the
n x n Gram matrix, else that of the d x d second moments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64, Int

from artifacts.errors import InputError
from directions.decompose_input import check_rows

PENALTIES = 16


@dataclass(frozen=True, eq=False)
class ResidualSpace:
    """Components of a shift at one site and position, largest singular value first.

    A component has no sign and no causal order of its own.
    """

    singular_values: Float64[np.ndarray, "m"]
    """All of them, over all prompts (not divided by n)."""
    components: Float64[np.ndarray, "k d"]
    """Orthonormal; what follows the last positive singular value is any completion."""
    shift_mean: Float64[np.ndarray, "d"]
    n: int
    penalty: float | None = None
    """None for the plain SVD, which has no map."""
    base_mean: Float64[np.ndarray, "q"] | None = None
    inputs: Float64[np.ndarray, "r q"] | None = None
    weights: Float64[np.ndarray, "r d"] | None = None

    def predict(self, base: Float64[np.ndarray, "m q"]) -> Float64[np.ndarray, "m d"]:
        """Return the shift that the affine map gives new base states.

            mean(D) + (x - mean(X)) B,   B = V diag(s / (s^2 + penalty)) U^T D

        Raises:
            InputError: a plain SVD has no map.
        """
        if self.base_mean is None or self.inputs is None or self.weights is None:
            raise InputError("shift-svd fits no map, so it predicts nothing; use method affine")
        return self.shift_mean + ((base - self.base_mean) @ self.inputs.T) @ self.weights


@dataclass(frozen=True, eq=False)
class Ridge:
    """A ridge of centred shifts on centred base states, all penalties at once.

        B(lam) = argmin |D_c - X_c B|^2 + lam |B|^2,   X_c = U diag(s) V^T,   Z = U^T D_c

    after Pan et al. 2025, section 3.1: their map S(x) = W x + b has W = I + B^T, and the mean shift
    is b's part at the mean state. The penalty is ours: their least squares interpolates whenever
    there are fewer prompts than dimensions, and then its explained shift is the shift itself.
    """

    base_mean: Float64[np.ndarray, "q"]
    shift_mean: Float64[np.ndarray, "d"]
    values: Float64[np.ndarray, "r"]
    """s, largest first."""
    right: Float64[np.ndarray, "r q"]
    """Rows of V^T."""
    responses: Float64[np.ndarray, "r d"]
    """Z."""
    n: int
    energy: float
    """|D_c|^2."""
    left: Float64[np.ndarray, "n r"] | None = None
    """U; None where only moments are known."""
    shift: Float64[np.ndarray, "n d"] | None = None
    """D_c; None where only moments are known."""

    @cached_property
    def penalties(self) -> Float64[np.ndarray, "l"]:
        """Penalties to choose from, from fitting nearly everything to nearly nothing."""
        square = np.square(self.values)
        return np.geomspace(1e-3 * float(np.median(square)), 1e2 * float(square[0]), PENALTIES)

    def shrinkage(self, penalty: Float[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch r"]:
        """Return s^2 / (s^2 + penalty)."""
        square = np.square(self.values)
        return square / (square + np.asarray(penalty, dtype=np.float64)[..., None])

    def generalised_loss(
        self, responses: Float64[np.ndarray, "r d"] | None = None
    ) -> Float64[np.ndarray, "l"]:
        """Return the generalised cross-validation of every penalty, from moments alone.

        GCV = (1/n) |D_c - H D_c|^2 / (1 - (1 + sum_i f_i) / n)^2    (Golub, Heath & Wahba 1979)
        """
        rows = np.square(self.responses if responses is None else responses).sum(1)
        kept = self.shrinkage(self.penalties)
        left_over = self.energy - (2 * kept - kept**2) @ rows
        free = np.maximum(1 - (1 + kept.sum(1)) / self.n, 1 / self.n)
        return np.maximum(left_over, 0) / self.n / free**2

    def solve(self, penalty: float, count: int) -> ResidualSpace:
        """Return the SVD of the explained shift X_c B at one penalty."""
        kept = self.shrinkage(np.asarray(penalty))
        values, components = spectrum(kept[:, None] * self.responses, count)
        return ResidualSpace(
            singular_values=values,
            components=components,
            shift_mean=self.shift_mean,
            n=self.n,
            penalty=penalty,
            base_mean=self.base_mean,
            inputs=self.right,
            weights=(kept / self.values)[:, None] * self.responses,
        )


def ridge(base: Float64[np.ndarray, "n q"], shift: Float64[np.ndarray, "n d"]) -> Ridge:
    """Factor the inputs of one block; see :class:`Ridge`.

    Args:
        base: states before training, a row a prompt, in any orthonormal coordinates.
        shift: what training added to each.

    Raises:
        InputError: fewer than 3 prompts, states that are not finite, or all base states equal.
    """
    check_rows(base, shift)
    mean, shift_mean = base.mean(0), shift.mean(0)
    centred, moved = base - mean, shift - shift_mean
    n, d = base.shape
    if n <= d:
        square, left = _descending(centred @ centred.T)
        kept = _numerical(square, n)
        values, left = np.sqrt(square[kept]), left[:, kept]
        right = (left / values).T @ centred
    else:
        square, vectors = _descending(centred.T @ centred)
        kept = _numerical(square, n)
        values, right = np.sqrt(square[kept]), vectors[:, kept].T
        left = centred @ (right.T / values)
    if not len(values):
        raise InputError(
            "all base states are equal here, so there is nothing to map from; choose another site"
        )
    energy = float(np.square(moved).sum())
    return Ridge(mean, shift_mean, values, right, left.T @ moved, n, energy, left=left, shift=moved)


def ridge_of_moments(
    base_base: Float[np.ndarray, "d d"],
    base_shift: Float[np.ndarray, "d d"],
    shift_shift: Float[np.ndarray, "d d"],
    *,
    base_mean: Float64[np.ndarray, "d"],
    shift_mean: Float64[np.ndarray, "d"],
    n: int,
) -> Ridge:
    """Factor the inputs from centred second moments with divisor n, as extraction stores them.

    Raises:
        InputError: moments that are not finite, or all base states equal.
    """
    for found in (base_base, base_shift, shift_shift):
        if not np.isfinite(found).all():
            raise InputError("second moments hold numbers that are not finite; extract again")
    square, vectors = _descending(base_base.astype(np.float64))
    kept = _numerical(square, n, eps=float(np.finfo(np.float32).eps))
    if not kept.any():
        raise InputError("all base states are equal here, so there is nothing to map from")
    kept = np.flatnonzero(kept)
    values, right = np.sqrt(square[kept] * n), vectors[:, kept].T
    responses = (right @ base_shift.astype(np.float64)) * n / values[:, None]
    energy = float(np.trace(shift_shift.astype(np.float64))) * n
    return Ridge(base_mean, shift_mean, values, right, responses, n, energy)


def refit(
    problem: Ridge, rows: Int[np.ndarray, "h"], penalty: float, count: int
) -> Float64[np.ndarray, "count d"]:
    """Return the components of a fit to some of the prompts, repeats allowed.

    In the coordinates of the whole fit, X_c = (U S) V^T, so that the factors are computed once.

    Raises:
        InputError: the problem was made from moments, or the prompts do not differ.
    """
    if problem.left is None or problem.shift is None:
        raise InputError("moments hold no single prompts, so no part of them can be fitted")
    shift = problem.shift[rows]
    part = ridge(problem.left[rows] * problem.values, shift)
    kept = part.shrinkage(np.asarray(penalty))
    return spectrum(kept[:, None] * part.responses, count)[1]


def shift_svd(shift: Float64[np.ndarray, "n d"], count: int) -> ResidualSpace:
    """Return the uncentred SVD of the shift, what the reference code of Pan et al. 2025 computes.

        Y - X = U diag(s) V^T

    The first component is near the mean shift where that dominates, and noise that has a direction
    of its own counts as a component.

    Raises:
        InputError: fewer than 3 prompts or numbers that are not finite.
    """
    check_rows(shift, shift)
    values, components = spectrum(shift, count)
    return ResidualSpace(values, components, shift.mean(0), len(shift))


def shift_svd_of_moments(
    shift_shift: Float[np.ndarray, "d d"],
    *,
    shift_mean: Float64[np.ndarray, "d"],
    n: int,
    count: int,
) -> ResidualSpace:
    """Return :func:`shift_svd` from the centred second moment and the mean."""
    whole = n * (shift_shift.astype(np.float64) + np.outer(shift_mean, shift_mean))
    square, vectors = _descending(whole)
    m = min(n, len(whole))
    values = np.sqrt(np.maximum(square[:m], 0))
    return ResidualSpace(values, orthonormal(vectors[:, :count].T), shift_mean, n)


def with_signs(space: ResidualSpace, toward: Float64[np.ndarray, "d"]) -> ResidualSpace:
    """Return the same space with every component pointing along ``toward``.

    A component at a right angle to it keeps the sign in which its largest entry is positive.
    """
    along = space.components @ toward
    largest = np.take_along_axis(
        space.components, np.abs(space.components).argmax(1)[:, None], axis=1
    )[:, 0]
    bar = 1e-9 * float(np.linalg.norm(toward))
    signs = np.where(np.where(np.abs(along) > bar, along, largest) < 0, -1.0, 1.0)
    return replace(space, components=space.components * signs[:, None])


def spectrum(
    rows: Float64[np.ndarray, "r d"], count: int
) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "count d"]]:
    """Return all singular values of a matrix and its first right singular vectors.

    From the smaller of its two Gram matrices, so values below 1e-8 of the largest are rounding.
    """
    r, d = rows.shape
    if r <= d:
        square, left = _descending(rows @ rows.T)
        values = np.sqrt(np.maximum(square, 0))
        real = np.maximum(values[:count], 1e-8 * values[0] + np.finfo(np.float64).tiny)
        found = (left[:, :count] / real).T @ rows
    else:
        square, vectors = _descending(rows.T @ rows)
        values = np.sqrt(np.maximum(square, 0))
        found = vectors[:, :count].T
    if len(found) < count:
        found = np.concatenate([found, np.zeros((count - len(found), d))])
    return values, orthonormal(found)


def orthonormal(rows: Float64[np.ndarray, "k d"]) -> Float64[np.ndarray, "k d"]:
    """Return orthonormal rows whose leading spans are those of ``rows``, signs kept."""
    basis, upper = np.linalg.qr(rows.T)
    signs = np.where(np.diagonal(upper) < 0, -1.0, 1.0)
    return np.ascontiguousarray((basis * signs).T)


def explained_gram(problem: Ridge, penalty: float) -> Float64[np.ndarray, "n n"]:
    """Return the Gram matrix of the explained shift, prompt by prompt.

    Raises:
        InputError: the problem was made from moments.
    """
    if problem.left is None:
        raise InputError("moments hold no single prompts, so there is no Gram matrix over them")
    kept = problem.shrinkage(np.asarray(penalty))[:, None] * problem.responses
    return problem.left @ (kept @ kept.T) @ problem.left.T


def _descending(
    matrix: Float64[np.ndarray, "n n"],
) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n n"]]:
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1], vectors[:, ::-1]


def _numerical(
    square: Float64[np.ndarray, "n"], n: int, *, eps: float = float(np.finfo(np.float64).eps)
) -> np.ndarray:
    """Say which eigenvalues are more than rounding; centring takes one degree of freedom."""
    above = square > max(float(square[0]), 0.0) * len(square) * eps
    above[n - 1 :] = False
    return above
