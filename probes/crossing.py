"""Fit on one source, test on each other one: scores first, then everything read off the scores.

    Z_s(i) = score of row i by the probe fitted on source s alone (i in s: fitted on other folds)
    Z_*(i) = score of row i by the probe fitted on all sources but that of i

No row is ever scored by a probe that saw it or another row of its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.estimators import Linear, Maker
from probes.labels import Labels
from probes.pooled import mean_auc
from probes.separation import Estimate, auc_estimate


@dataclass(frozen=True, eq=False)
class Scores:
    """Held-out scores of one probe by block."""

    alone: Float[np.ndarray, "k block n"]
    """By the probe fitted on one source."""
    rest: Float[np.ndarray, "block n"]
    """By the probe fitted on all sources but the row's own."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """AUC by fitted source (first axis) and tested source (second), by block."""

    auc: Estimate
    """[k k block]; the diagonal is held out by folds within the source."""

    @property
    def k(self) -> int:
        """Number of sources."""
        return self.auc.value.shape[0]

    def transfer(self, among: Sequence[int] | None = None) -> Float[np.ndarray, "block"]:
        """Give the mean AUC between different sources; within, where there is only one."""
        chosen = list(range(self.k)) if among is None else list(among)
        values = self.auc.value[np.ix_(chosen, chosen)]
        if len(chosen) == 1:
            return values[0, 0]
        return values[~np.eye(len(chosen), dtype=bool)].mean(0)

    def within(self) -> Float[np.ndarray, "block"]:
        """Give the mean AUC within a source."""
        return self.auc.value[np.arange(self.k), np.arange(self.k)].mean(0)

    def best(self, among: Sequence[int] | None = None) -> int:
        """Return the row of the block that transfers best among some sources; ties go early."""
        return int(np.argmax(self.transfer(among)))

    def chosen(self) -> Int[np.ndarray, "k"]:
        """Return for each source the row of the block that the OTHER sources choose.

        A source has no say in the block at which it is tested.
        """
        others = [[t for t in range(self.k) if t != s] for s in range(self.k)]
        return np.array([self.best(among) for among in others])


def score_block(
    make: Maker, states: Float[np.ndarray, "n d"], labels: Labels
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "n"]]:
    """Fit on each source and on all but each; return ``alone`` and ``rest`` of one block."""
    wide = states.astype(np.float64)
    alone = np.empty((labels.k, len(wide)))
    rest = np.empty(len(wide))
    for source in range(labels.k):
        here = labels.of(source)
        alone[source, ~here] = _fit(make, wide, labels, here).decision_function(wide[~here])
        for test in labels.folds(source):
            fitted = _fit(make, wide, labels, here & ~test)
            alone[source, test] = fitted.decision_function(wide[test])
        if labels.k > 2:
            fitted = _fit(make, wide, labels, ~here)
            rest[here] = fitted.decision_function(wide[here])
    if labels.k == 2:
        rest = np.where(labels.of(0), alone[1], alone[0])
    return alone, rest


def matrix(scores: Scores, labels: Labels) -> Matrix:
    """Give the AUC of every pair of sources at every block, with intervals."""
    k = labels.k
    found: list[list[Estimate]] = []
    for fitted in range(k):
        row: list[Estimate] = []
        for tested in range(k):
            here = labels.of(tested)
            values, positive = scores.alone[fitted][:, here], labels.positive[here]
            if fitted == tested:
                row.append(mean_auc(values, positive, labels.fold[here]))
            else:
                row.append(auc_estimate(values[:, positive], values[:, ~positive]))
        found.append(row)
    ends = [
        np.array([[getattr(e, name) for e in row] for row in found])
        for name in ("value", "low", "high")
    ]
    return Matrix(Estimate(ends[0], ends[1], ends[2], len(labels.positive), found[0][0].level))


def nested(
    by_block: Float[np.ndarray, "block n"], chosen: Int[np.ndarray, "k"], labels: Labels
) -> Float[np.ndarray, "n"]:
    """Take each row's entry at the block that the other sources chose for its source."""
    return by_block[chosen[labels.source], np.arange(len(labels.source))]


def _fit(
    make: Maker, states: Float[np.ndarray, "n d"], labels: Labels, rows: Bool[np.ndarray, "n"]
) -> Linear:
    return make().fit(states[rows], labels.positive[rows])
