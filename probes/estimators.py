"""Linear probes as scikit-learn classifiers: mass-mean, logistic, discriminant analysis.

    z = ((x - mean) / scale) . coef + intercept,   p(second class) = 1 / (1 + exp(-z))

All have two classes and the attributes ``mean_``, ``scale_``, ``coef_`` and ``intercept_``. A probe
that reads a class off the states shows that the class is decodable, not that the model uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.linalg import pinvh
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Tags
from sklearn.utils.multiclass import type_of_target

from artifacts.errors import InputError
from probes.errors import NonFiniteError
from probes.shrinkage import Shrunk
from probes.validation import fit_input, later_input


class Linear(ClassifierMixin, BaseEstimator):
    """What the probes share: two classes, standardised or merely centred states, finite weights."""

    standardise = True
    """Whether coordinates are divided by their standard deviation; else only centred."""

    def fit(self, X: object, y: object) -> Linear:
        """Fit on rows [n, d] with one of two labels each; the second in sorted order is positive.

        Takes whatever scikit-learn's own classifiers take for rows and labels.

        Raises:
            ValueError: not two classes, or a number that is not finite (scikit-learn's contract).
            NonFiniteError: the states overflow, or the fit gave a weight that is not finite.
        """
        X, y = fit_input(self, X, y)
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind not in ("binary", "multiclass"):
            raise ValueError(f"Unknown label type: {kind}. Give one of two labels to each row.")
        if kind != "binary":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}."
            )
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier can't train when only one class is present.")
        with np.errstate(over="ignore", invalid="ignore"):
            self.mean_ = X.mean(0)
            self.scale_ = spread(X, self.mean_) if self.standardise else np.ones(X.shape[1])
            if not (np.isfinite(self.mean_).all() and np.isfinite(self.scale_).all()):
                raise NonFiniteError("states overflow when they are standardised; look for --dtype")
            self.coef_, self.intercept_ = self._fit((X - self.mean_) / self.scale_, codes)
        if not (np.isfinite(self.coef_).all() and np.isfinite(self.intercept_)):
            raise NonFiniteError(f"{type(self).__name__}: weights are not finite")
        return self

    def _fit(
        self, rows: Float[np.ndarray, "n d"], codes: Int[np.ndarray, "n"]
    ) -> tuple[Float[np.ndarray, "d"], float]:
        raise NotImplementedError

    def decision_function(self, X: object) -> Float[np.ndarray, "n"]:
        """Give z of each row."""
        X = later_input(self, X)
        return np.asarray((X - self.mean_) / self.scale_ @ self.coef_ + self.intercept_)

    def predict_proba(self, X: object) -> Float[np.ndarray, "n 2"]:
        """Give the probability of both classes; not calibrated, see ``probes.calibration``."""
        second = expit(self.decision_function(X))
        return np.stack([1 - second, second], axis=1)

    def predict(self, X: object) -> Shaped[np.ndarray, "n"]:
        """Give the likelier class of each row."""
        second = self.decision_function(X) > 0
        return np.asarray(self.classes_[second.astype(np.intp)])

    def __sklearn_tags__(self) -> Tags:
        """Say that there are two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class MassMean(Linear):
    """Read along the difference of the class means.

        w = m_1 - m_0,   and with ``covariance``  w = S^+ (m_1 - m_0)
                                                       (Marks & Tegmark 2023, section 5.1)

    S is the covariance of the states about their own class mean, S^+ its pseudo-inverse. States
    are centred on the mean of the class means, so that both classes weigh the same. Without the
    correction, a coordinate that varies for other reasons is read along with the class; with it,
    the direction is that of discriminant analysis without shrinkage, which needs more prompts than
    dimensions.
    """

    standardise = False

    @no_type_check  # scikit-learn: parameters are checked in fit, never here
    def __init__(self, *, covariance: bool = False) -> None:
        self.covariance = covariance

    def _fit(
        self, rows: Float[np.ndarray, "n d"], codes: Int[np.ndarray, "n"]
    ) -> tuple[Float[np.ndarray, "d"], float]:
        first, second = _means(rows, codes)
        weight = second - first
        if self.covariance:
            within = rows - np.stack([first, second])[codes]
            weight = pinvh(within.T @ within / len(rows)) @ weight
        return weight, -float(weight @ (first + second) / 2)


class Logistic(Linear):
    """Logistic regression with a penalty that means the same in any number of dimensions.

        min_w,b  sum_i log(1 + exp(-y_i z_i)) + |w|^2 d / (2 strength)       (Cox 1958; ridge)

    on standardised states; scikit-learn's ``LogisticRegression`` with C = strength / d. It is the
    mode under w ~ N(0, strength / d), so that z of a standardised state has a prior standard
    deviation of sqrt(strength), about 3, in 8 dimensions and in 8,000.
    """

    @no_type_check  # scikit-learn: parameters are checked in fit, never here
    def __init__(self, *, strength: float = 10.0) -> None:
        self.strength = strength

    def _fit(
        self, rows: Float[np.ndarray, "n d"], codes: Int[np.ndarray, "n"]
    ) -> tuple[Float[np.ndarray, "d"], float]:
        if self.strength <= 0:
            raise InputError(f"strength {self.strength}: give a number above 0")
        solver = LogisticRegression(C=self.strength / rows.shape[1], max_iter=2000)
        solver.fit(rows, codes)
        self.n_iter_ = int(np.max(solver.n_iter_))
        return np.ravel(solver.coef_), float(np.ravel(solver.intercept_)[0])


class Discriminant(Linear):
    """Linear discriminant analysis with a shrunk covariance.

        w = S^-1 (m_1 - m_0),   b = -w . (m_0 + m_1) / 2 + log(n_1 / n_0)      (Fisher 1936)

    S is the covariance within classes of standardised states, shrunk as in ``probes.shrinkage``;
    ``shrinkage`` is its share of the identity, by Ledoit and Wolf where it is None. Where classes
    are Gaussian with one covariance and this is known, no probe separates better.
    """

    @no_type_check  # scikit-learn: parameters are checked in fit, never here
    def __init__(self, *, shrinkage: float | None = None) -> None:
        self.shrinkage = shrinkage

    def _fit(
        self, rows: Float[np.ndarray, "n d"], codes: Int[np.ndarray, "n"]
    ) -> tuple[Float[np.ndarray, "d"], float]:
        first, second = _means(rows, codes)
        within = rows - np.stack([first, second])[codes]
        if not within.any():  # every state is its class mean: any covariance gives that direction
            weight = second - first
        else:
            solver = Shrunk.fit(within, self.shrinkage)
            weight = solver.solve((second - first)[:, None])[:, 0]
        ratio = float(np.log(codes.sum() / (len(codes) - codes.sum())))
        return weight, ratio - float(weight @ (first + second) / 2)


Maker = Callable[[], Linear]
"""Makes a probe that was not fitted."""

PROBES: Mapping[str, Maker] = {
    "mass-mean": MassMean,
    "mass-mean-iid": partial(MassMean, covariance=True),
    "logistic": Logistic,
    "lda": Discriminant,
}
"""By the name to ask for."""


def maker(name: str) -> Maker:
    """Return what makes the probe called ``name``.

    Raises:
        InputError: there is no such probe; the message lists the names.
    """
    if name not in PROBES:
        raise InputError(f"probe {name!r} is unknown; choose from {', '.join(PROBES)}")
    return PROBES[name]


def spread(rows: Float[np.ndarray, "n d"], mean: Float[np.ndarray, "d"]) -> Float[np.ndarray, "d"]:
    """Give the standard deviation of each coordinate, 1 where it does not vary beyond rounding."""
    found = rows.std(0)
    return np.where(found > 10 * np.finfo(np.float64).eps * np.abs(mean), found, 1.0)


def _means(
    rows: Float[np.ndarray, "n d"], codes: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"]]:
    return rows[codes == 0].mean(0), rows[codes == 1].mean(0)
