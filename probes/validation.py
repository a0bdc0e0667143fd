"""scikit-learn's own input checks, in one place: its stubs call every input ``str``."""

from __future__ import annotations

from typing import cast

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data


def fit_input(
    estimator: BaseEstimator, X: object, y: object
) -> tuple[Float[np.ndarray, "n d"], Shaped[np.ndarray, "n"]]:
    """Check rows and labels for ``fit``.

    Raises:
        ValueError: as scikit-learn's estimators do.
    """
    checked = validate_data(
        estimator,
        X,  # pyright: ignore[reportArgumentType]
        y,  # pyright: ignore[reportArgumentType]
        dtype=np.float64,
        ensure_min_samples=2,
    )
    return cast("tuple[np.ndarray, np.ndarray]", checked)


def later_input(estimator: BaseEstimator, X: object) -> Float[np.ndarray, "n d"]:
    """Check rows for a fitted estimator.

    Raises:
        ValueError: as scikit-learn's estimators do.
    """
    check_is_fitted(estimator)
    checked = validate_data(
        estimator,
        X,  # pyright: ignore[reportArgumentType]
        dtype=np.float64,
        reset=False,
    )
    return cast("np.ndarray", checked)
