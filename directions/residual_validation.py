"""Cross-validation of the ridge's penalty over prompts, in closed form, for any pairing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from artifacts.errors import InputError
from directions.residual_space import Ridge

_LARGEST_CROSS = 1024
"""Prompts up to which the cross-validation of a permuted pairing is a quadratic form in memory."""


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Held-out loss of every penalty, for the pairing as it is and for permuted ones.

        loss(lam) = sum_folds |(I - H_ff)^-1 (D - H D)_f|^2 = <Q_lam, G>,   G = D_c D_c^T

    which is exact for a ridge with a free intercept (Cook & Weisberg 1982, section 2.2, for one
    row; a block of rows is the same identity). Q does not depend on D, so a permuted pairing costs
    one inner product for each penalty.
    """

    problem: Ridge
    folds: tuple[Int[np.ndarray, "_"], ...]
    forms: Float64[np.ndarray, "l n n"] | None
    """Q by penalty; None where there are too many prompts to hold it."""
    losses: Float64[np.ndarray, "l"]

    @property
    def penalty(self) -> float:
        """The penalty of least loss."""
        return float(self.problem.penalties[int(self.losses.argmin())])

    def permuted(
        self, gram: Float64[np.ndarray, "n n"], orders: Int[np.ndarray, "b n"]
    ) -> Float64[np.ndarray, "b"]:
        """Return the penalty that each permuted pairing would choose.

        Without ``forms`` it is the penalty of the pairing as it is; the test is then approximate.
        """
        if self.forms is None:
            return np.full(len(orders), self.penalty)
        flat = self.forms.reshape(len(self.forms), -1)
        best = [int((flat @ gram[order[:, None], order].reshape(-1)).argmin()) for order in orders]
        return self.problem.penalties[best]


def cross_validate(problem: Ridge, folds: tuple[Int[np.ndarray, "_"], ...]) -> CrossValidation:
    """Give the loss of every penalty on folds of the fitted prompts.

    Raises:
        InputError: the problem was made from moments, which hold no single prompts.
    """
    left, shift, n = problem.left, problem.shift, problem.n
    if left is None or shift is None:
        raise InputError("moments hold no single prompts to validate on; use generalised_loss")
    keep_forms = n <= _LARGEST_CROSS
    forms: list[Float64[np.ndarray, "n n"]] = []
    losses: list[float] = []
    gram = shift @ shift.T if keep_forms else None
    for kept in problem.shrinkage(problem.penalties):
        rest = -(left * kept) @ left.T - 1 / n
        rest[np.diag_indices(n)] += 1
        parts: list[Float64[np.ndarray, "_ n"]] = [
            np.linalg.solve(rest[np.ix_(rows, rows)], rest[rows]) for rows in folds
        ]
        if gram is None:
            losses.append(sum(float(np.square(part @ shift).sum()) for part in parts))
            continue
        stacked = np.concatenate(parts)
        forms.append(stacked.T @ stacked)
        losses.append(float((forms[-1] * gram).sum()))
    found = np.stack(forms) if forms else None
    return CrossValidation(problem, folds, found, np.array(losses))
