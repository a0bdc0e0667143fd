"""LEACE: change states as little as possible so that no linear probe can read a class off them."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float
from scipy.linalg import pinvh
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from probes.estimators import spread
from probes.shrinkage import Shrunk
from probes.validation import fit_input, later_input

_ROUNDING = 1e-12
"""A correlation below this is rounding; erasing it would remove a direction of chance."""


class Leace(TransformerMixin, BaseEstimator):
    """Least-squares concept erasure.

        r(x) = x - L A'(x - mean),   L = C (C' S^-1 C)^+,   A = S^-1 C
                                        (Belrose et al. 2023, theorem 4.3, written without W)

    C [d, k] is the covariance of states and one-hot classes, S that of the states, shrunk as in
    ``probes.shrinkage`` (``shrinkage`` is its share, by Ledoit and Wolf where it is None; 0 is the
    paper's own). Whatever the share, the classes have equal means afterwards, so that on the
    fitted states no affine probe has a smaller loss than a constant; the shrinkage only
    changes how far states move. Does not remove what a nonlinear reader can find, and on other
    states it removes what these had in common with the fitted ones.
    """

    @no_type_check  # scikit-learn: parameters are checked in fit, never here
    def __init__(self, *, shrinkage: float | None = None) -> None:
        self.shrinkage = shrinkage

    def fit(self, X: object, y: object) -> Leace:
        """Fit on rows [n, d] with their classes, in any form that scikit-learn takes.

        Raises:
            ValueError: a number that is not finite (scikit-learn's contract).
        """
        X, y = fit_input(self, X, y)
        classes, codes = np.unique(y, return_inverse=True)
        self.mean_ = X.mean(0)
        # LEACE does not depend on units, its shrunk covariance does: it is shrunk in these ones.
        self.scale_ = spread(X, self.mean_)
        rows = (X - self.mean_) / self.scale_
        hot = np.eye(len(classes))[codes]
        cross = rows.T @ (hot - hot.mean(0)) / len(rows)
        cross = np.where(np.abs(cross) > _ROUNDING, cross, 0.0)
        if self.shrinkage == 0:
            read = pinvh(rows.T @ rows / len(rows)) @ cross
        else:
            read = Shrunk.fit(rows, self.shrinkage).solve(cross) if rows.any() else cross
        self.left_ = cross @ pinvh(cross.T @ read)
        self.right_ = read
        return self

    def transform(self, X: object) -> Float[np.ndarray, "n d"]:
        """Give the states with the class erased."""
        X = later_input(self, X)
        rows = (X - self.mean_) / self.scale_
        return X - (rows @ self.right_) @ self.left_.T * self.scale_

    def __sklearn_tags__(self) -> Tags:
        """Say that classes are needed."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
