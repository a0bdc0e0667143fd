"""A covariance shrunk towards a multiple of the identity, and its inverse without forming it.

    S = (1 - s) R'R / n + s m I,   m = tr(R'R) / (n d)         (Ledoit & Wolf 2004, eq. 14)

``R`` holds n centred rows. For s > 0 the inverse exists whatever n and d are, and where n < d it
costs n x n, not d x d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from artifacts.errors import InputError


def ledoit_wolf(rows: Float[np.ndarray, "n d"]) -> float:
    """Give the share s that minimises the expected squared error of the shrunk covariance.

        s = min(b, f) / f,   f = |S - m I|^2 / d,   b = (sum_i |r_i|^4 / n - |S|^2) / (n d)
                                                     (Ledoit & Wolf 2004, lemma 3.2 to 3.4)

    Equals ``sklearn.covariance.ledoit_wolf_shrinkage`` of centred rows (a test compares them), at
    the cost of the smaller of the two Gram matrices.
    """
    n, d = rows.shape
    gram = rows @ rows.T if n < d else rows.T @ rows
    squared = float((gram**2).sum()) / n**2
    mean = float(np.trace(gram)) / (n * d)
    off = (squared - d * mean**2) / d
    norms = np.square(rows).sum(1)
    error = (float((norms**2).sum()) / n - squared) / (n * d)
    return 1.0 if off <= 0 else min(max(error, 0.0), off) / off


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A shrunk covariance as a solver."""

    rows: Float[np.ndarray, "n d"]
    """Centred rows."""
    share: float
    """Weight of the identity, from 0 to 1."""

    @classmethod
    def fit(cls, rows: Float[np.ndarray, "n d"], share: float | None = None) -> Shrunk:
        """Take ``share``, or Ledoit and Wolf's where it is None.

        Raises:
            InputError: ``share`` is not between 0 and 1.
        """
        if share is not None and not 0 <= share <= 1:
            raise InputError(f"shrinkage {share}: give a share from 0 to 1, or None")
        return cls(rows, ledoit_wolf(rows) if share is None else share)

    @property
    def variance(self) -> float:
        """The mean variance m of a coordinate."""
        return float(np.square(self.rows).mean())

    def matrix(self) -> Float[np.ndarray, "d d"]:
        """Return S itself."""
        n, d = self.rows.shape
        return (1 - self.share) / n * self.rows.T @ self.rows + self.share * self.variance * np.eye(
            d
        )

    def solve(self, right: Float[np.ndarray, "d k"]) -> Float[np.ndarray, "d k"]:
        """Give S^-1 B; for n < d by S^-1 = (I - R'(RR' + t I)^-1 R) / (s m), t = n s m / (1 - s).

        Raises:
            InputError: S has no inverse (no shrinkage and too few rows, or rows without variance).
        """
        n, d = self.rows.shape
        floor = self.share * self.variance
        try:
            if n >= d or floor == 0:
                return cho_solve(cho_factor(self.matrix()), right)
            if self.share == 1:
                return right / floor
            ridge = n * floor / (1 - self.share)
            small = cho_factor(self.rows @ self.rows.T + ridge * np.eye(n))
            return (right - self.rows.T @ cho_solve(small, self.rows @ right)) / floor
        except LinAlgError as error:
            raise InputError(
                f"the covariance of {n} rows in {d} dimensions with shrinkage {self.share:.3g} has "
                "no inverse; leave the shrinkage to Ledoit and Wolf or give more prompts"
            ) from error
