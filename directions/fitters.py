"""Streaming fits: every ``update`` adds prompts, ``result`` gives a frozen value.

All sums are float64 in the order of the updates; memory does not depend on the number of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from directions.contrasts import Cells, Contrast
from probes.resampling import Resampling


@dataclass(frozen=True, eq=False)
class FittedContrast:
    """A mean-difference direction and its resampled fits, at one site and position."""

    direction: Float64[np.ndarray, "d"]
    resampled: Float64[np.ndarray, "rows d"]
    """Rows as in :class:`probes.Resampling`."""


class ContrastFitter:
    """Accumulate v = sum_i w_i y_i and its resampled variants.

        y_i from ``Contrast.values``, w_i from ``Resampling.fit_weights``

    For two classes v is the difference of class means (Marks & Tegmark 2023; Arditi et al. 2024,
    eq. 3), for pairs the mean difference with equal weight for both classes.
    """

    def __init__(self, contrast: Contrast, plan: Resampling) -> None:
        """Start empty."""
        self._contrast = contrast
        self._plan = plan
        self._direction: Float64[np.ndarray, "d"] | None = None
        self._resampled: Float64[np.ndarray, "rows d"] | None = None

    def update(
        self, cells: Cells, rows: slice, weights: Float[np.ndarray, "rows n"] | None = None
    ) -> None:
        """Add the prompts that stand at ``rows`` of the plan.

        Args:
            cells: their states.
            rows: their places among all fitted prompts.
            weights: ``plan.weights(rows)``, where the caller has it already.
        """
        y = self._contrast.values(cells)
        main = self._plan.fit_weights(rows) @ y
        drawn = self._plan.weights(rows) if weights is None else weights
        # Single precision is ample for controls, and half the time; the sum over shards is double.
        more = (drawn @ y.astype(np.float32)).astype(np.float64)
        self._direction = main if self._direction is None else self._direction + main
        self._resampled = more if self._resampled is None else self._resampled + more

    def result(self) -> FittedContrast:
        """Return the directions.

        Raises:
            ValueError: if no prompt was given.
        """
        if self._direction is None or self._resampled is None:
            raise ValueError("no prompts were given; call update first")
        return FittedContrast(self._direction, self._resampled)


@dataclass(frozen=True, eq=False)
class StateMeans:
    """Class means and mean norm of one model's states."""

    mean: dict[str, Float64[np.ndarray, "d"]]
    """By class."""
    norm: float
    """Mean Euclidean norm over all prompts."""
    n: int


class MeanFitter:
    """Accumulate the mean state of each class and the mean norm.

    mean_c = (1/n_c) sum_{i in c} x_i,    norm = (1/n) sum_i |x_i|
    """

    def __init__(self) -> None:
        """Start empty."""
        self._sum: dict[str, Float64[np.ndarray, "d"]] = {}
        self._count = {"harmful": 0, "harmless": 0}
        self._norm = 0.0

    def update(self, states: Float64[np.ndarray, "n d"], harmful: Bool[np.ndarray, "n"]) -> None:
        """Add prompts."""
        for name, chosen in (("harmful", harmful), ("harmless", ~harmful)):
            total = states[chosen].sum(0)
            self._sum[name] = self._sum[name] + total if name in self._sum else total
            self._count[name] += int(chosen.sum())
        self._norm += float(np.linalg.norm(states, axis=1).sum())

    def result(self) -> StateMeans:
        """Return the means.

        Raises:
            ValueError: if a class had no prompt.
        """
        empty = [name for name, n in self._count.items() if n == 0]
        if empty:
            raise ValueError(f"no {' and no '.join(empty)} prompts were given")
        mean = {name: total / self._count[name] for name, total in self._sum.items()}
        n = sum(self._count.values())
        return StateMeans(mean, self._norm / n, n)
