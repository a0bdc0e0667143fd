"""What the singular values would be if nothing related the shift to the states, or to itself.

    permuted pairing   D = P D: the same shifts, each at another prompt's state     (affine)
    random signs       D = R o D, R independent signs entry by entry                (shift-svd)
    Gaussian twins     of both, where only moments are known

The affine null keeps everything about the shift but its relation to the state, so a shift of one
dominant axis that no state predicts claims nothing. The sign null (Hong, Sheng & Dobriban 2020)
takes entries as independent and symmetric: noise that is correlated between coordinates of the
stream counts as a component there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int

from directions.residual_space import ResidualSpace, Ridge
from directions.residual_validation import CrossValidation
from probes.lanczos import largest_eigenvalues
from probes.seeds import generator

PERMUTATIONS = 99
FLIPS = 99
TWINS = 19
_Known = TypeVar("_Known")
SPECTRA = 19
"""Draws whose whole spectrum is computed, for the null of an effective rank."""
_CHUNK_BYTES = 1 << 26


def orders(n: int, seed: int) -> Int[np.ndarray, "draws n"]:
    """Return the permuted pairings, the same ones at every block of the same prompts."""
    rng = generator("pairings", n, seed)
    return rng.permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1)


@dataclass(frozen=True, eq=False)
class PermutedPairing:
    """Null of the affine map's singular values.

    Draw j fits the same ridge to shifts that are dealt to other prompts. For the first component
    each draw chooses its penalty as the data did, which makes that test exact. For component k > 1
    the first k - 1 are taken out of the shift and all keep the data's penalty.
    """

    problem: Ridge
    validation: CrossValidation
    space: ResidualSpace
    orders: Int[np.ndarray, "draws n"]
    seed: int

    @cached_property
    def gram(self) -> Float64[np.ndarray, "n n"]:
        """D_c D_c^T."""
        shift = _known(self.problem.shift)
        return shift @ shift.T

    @cached_property
    def penalties(self) -> Float64[np.ndarray, "draws"]:
        """The penalty that each draw chooses."""
        return self.validation.permuted(self.gram, self.orders)

    def stage(self, number: int) -> tuple[float, Float64[np.ndarray, "draws"]]:
        """Return the singular value of one component and its null."""
        problem = self.problem
        left = _known(problem.left).astype(np.float32)
        own = _known(self.space.penalty)
        chosen = self.penalties if number == 0 else np.full(len(self.orders), own)
        kept = problem.shrinkage(np.append(own, chosen)).T.astype(np.float32)
        # The data is one more draw, with the pairing as it is, and passes through the same steps.
        deal = np.concatenate([np.arange(problem.n)[None], self.orders]).T
        back = deal.argsort(axis=0)
        taken = _known(problem.shift) @ self.space.components[:number].T
        gram = (self.gram - taken @ taken.T).astype(np.float32)

        def product(columns: Float32[np.ndarray, "r b"]) -> Float32[np.ndarray, "r b"]:
            states = np.take_along_axis(left @ (kept * columns), back, axis=0)
            return kept * (left.T @ np.take_along_axis(gram @ states, deal, axis=0))

        rng = generator("lanczos", number, self.seed)
        start = rng.standard_normal(kept.shape, dtype=np.float32)
        found = np.sqrt(np.maximum(largest_eigenvalues(product, start, steps=14), 0))
        return float(found[0]), found[1:]

    def spectra(self) -> Iterator[Float64[np.ndarray, "r"]]:
        """Yield the whole spectrum of the first draws."""
        left = _known(self.problem.left)
        for order, penalty in zip(self.orders[:SPECTRA], self.penalties, strict=False):
            kept = left * self.problem.shrinkage(np.asarray(penalty))
            square = np.linalg.eigvalsh(kept.T @ self.gram[order[:, None], order] @ kept)
            yield np.sqrt(np.maximum(square, 0))


@dataclass(frozen=True, eq=False)
class RandomSigns:
    """Null of the plain SVD's singular values: every component against the largest one's null."""

    shift: Float64[np.ndarray, "n d"]
    space: ResidualSpace
    seed: int

    @cached_property
    def _first(self) -> tuple[float, Float64[np.ndarray, "draws"]]:
        n, d = self.shift.shape
        plain = self.shift.astype(np.float32)
        size = max(1, _CHUNK_BYTES // (4 * n * d))
        rng = generator("lanczos", 0, self.seed)
        found: list[Float64[np.ndarray, "b"]] = []
        for first in range(0, FLIPS + 1, size):
            numbers = range(first, min(first + size, FLIPS + 1))
            # Number 0 is the data itself.
            batch = np.stack([plain if i == 0 else plain * self._signs(i) for i in numbers])

            def product(
                columns: Float32[np.ndarray, "n b"], batch: Float32[np.ndarray, "b n d"] = batch
            ) -> Float32[np.ndarray, "n b"]:
                wide = np.matmul(columns.T[:, None], batch)
                return np.matmul(batch, np.swapaxes(wide, 1, 2))[:, :, 0].T

            start = rng.standard_normal((n, len(numbers)), dtype=np.float32)
            found.append(largest_eigenvalues(product, start, steps=16))
        values = np.sqrt(np.maximum(np.concatenate(found), 0))
        return float(values[0]), values[1:]

    def stage(self, number: int) -> tuple[float, Float64[np.ndarray, "draws"]]:
        """Return the singular value of one component and the null of the first."""
        value, null = self._first
        later = self.space.singular_values
        own = value if number == 0 else float(later[number]) if number < len(later) else 0.0
        return own, null

    def spectra(self) -> Iterator[Float64[np.ndarray, "r"]]:
        """Yield the whole spectrum of the first draws."""
        plain = self.shift.astype(np.float32)
        for number in range(1, SPECTRA + 1):
            drawn = plain * self._signs(number)
            square = drawn @ drawn.T if len(drawn) <= drawn.shape[1] else drawn.T @ drawn
            yield np.sqrt(np.maximum(np.linalg.eigvalsh(square), 0)).astype(np.float64)

    def _signs(self, number: int) -> Float32[np.ndarray, "n d"]:
        n, d = self.shift.shape
        rng = generator("signs", number, self.seed)
        bits = np.asarray(rng.integers(0, 256, -(-n * d // 8), dtype=np.uint8), dtype=np.uint8)
        return 2 * np.unpackbits(bits, count=n * d).reshape(n, d).astype(np.float32) - 1


@dataclass(frozen=True, eq=False)
class GaussianPairing:
    """The permuted pairing where only moments are known: shifts of the same covariance, unrelated.

        Z_j = W_j (S n / (n-1))^(1/2),   W_j standard normal, S the covariance of the shift

    Exact for Gaussian shifts; each draw chooses its penalty by generalised cross-validation.
    """

    problem: Ridge
    space: ResidualSpace
    shift_shift: Float64[np.ndarray, "d d"]
    seed: int

    @cached_property
    def _root(self) -> Float64[np.ndarray, "d d"]:
        n = self.problem.n
        values, vectors = np.linalg.eigh(self.shift_shift * (n / (n - 1)))
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def stage(self, number: int) -> tuple[float, Float64[np.ndarray, "draws"]]:
        """Return the singular value of one component and its null."""
        taken = self.space.components[:number]
        problem, own = self.problem, _known(self.space.penalty)
        found: list[float] = []
        for draw in range(TWINS + 1):
            responses = problem.responses if draw == 0 else self._drawn(draw)
            penalty = own
            if draw and number == 0:
                penalty = float(problem.penalties[problem.generalised_loss(responses).argmin()])
            rows = problem.shrinkage(np.asarray(penalty))[:, None] * responses
            rows = rows - (rows @ taken.T) @ taken
            start = generator("lanczos", number, draw, self.seed).standard_normal((len(rows), 1))
            found.append(float(largest_eigenvalues(_of_rows(rows), start)[0]))
        values = np.sqrt(np.maximum(np.array(found), 0))
        return float(values[0]), values[1:]

    def spectra(self) -> Iterator[Float64[np.ndarray, "r"]]:
        """Yield the whole spectrum of the first draws."""
        for draw in range(1, SPECTRA + 1):
            responses = self._drawn(draw)
            losses = self.problem.generalised_loss(responses)
            penalty = np.asarray(self.problem.penalties[losses.argmin()])
            rows = self.problem.shrinkage(penalty)[:, None] * responses
            yield np.sqrt(np.maximum(np.linalg.eigvalsh(rows @ rows.T), 0))

    def _drawn(self, draw: int) -> Float64[np.ndarray, "r d"]:
        shape = self.problem.responses.shape
        return generator("twins", draw, self.seed).standard_normal(shape) @ self._root


@dataclass(frozen=True, eq=False)
class GaussianSigns:
    """The random signs where only moments are known: independent entries of the same column sizes.

    W_j diag(mean of D^2 by column)^(1/2),   W_j standard normal, n x d
    """

    space: ResidualSpace
    column_squares: Float64[np.ndarray, "d"]
    seed: int

    @cached_property
    def _first(self) -> tuple[float, Float64[np.ndarray, "draws"]]:
        found: list[float] = []
        for draw in range(1, TWINS + 1):
            rows = self._drawn(draw)
            start = generator("lanczos", draw, self.seed).standard_normal((len(rows), 1))
            found.append(float(largest_eigenvalues(_of_rows(rows), start, steps=60)[0]))
        # The data's own value is exact, so the draws get enough steps to be so, too.
        return float(self.space.singular_values[0]), np.sqrt(np.maximum(np.array(found), 0))

    def stage(self, number: int) -> tuple[float, Float64[np.ndarray, "draws"]]:
        """Return the singular value of one component and the null of the first."""
        later = self.space.singular_values
        return float(later[number]) if number < len(later) else 0.0, self._first[1]

    def spectra(self) -> Iterator[Float64[np.ndarray, "r"]]:
        """Yield the whole spectrum of the first draws."""
        for draw in range(1, SPECTRA + 1):
            rows = self._drawn(draw)
            square = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
            yield np.sqrt(np.maximum(np.linalg.eigvalsh(square), 0))

    def _drawn(self, draw: int) -> Float64[np.ndarray, "m d"]:
        rng, n, d = generator("twins", draw, self.seed), self.space.n, len(self.column_squares)
        if n <= d:
            return rng.standard_normal((n, d)) * np.sqrt(self.column_squares)
        # W^T W without W (Bartlett 1933): a triangle with chi on the diagonal.
        factor = np.triu(rng.standard_normal((d, d)), 1)
        factor[np.diag_indices(d)] = np.sqrt(rng.chisquare(n - np.arange(d)))
        return factor * np.sqrt(self.column_squares)


Null = PermutedPairing | RandomSigns | GaussianPairing | GaussianSigns
"""Anything with ``stage`` and ``spectra``."""


def _of_rows(
    rows: Float64[np.ndarray, "r d"],
) -> Callable[[Float64[np.ndarray, "r b"]], Float64[np.ndarray, "r b"]]:
    return lambda columns: rows @ (rows.T @ columns)


def _known(value: _Known | None) -> _Known:
    if value is None:
        raise ValueError("this null needs single prompts, and only moments are known")
    return value
