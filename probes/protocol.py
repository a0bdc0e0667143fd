"""The whole protocol of one probe at one place: states in, everything measured about it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from probes import calibration, nulls
from probes.calibration import Calibration
from probes.crossing import Matrix, Scores, matrix, score_block
from probes.erasure import Leace
from probes.estimators import Maker
from probes.labels import Labels
from probes.nulls import ByBlock, Judged, Refits
from probes.pooled import mean_auc
from probes.separation import Estimate
from probes.transfer import transfer_warnings


@dataclass(frozen=True, eq=False)
class Weights:
    """Linear probes by block, in float32, as an artifact holds them.

    p(harmful) = sigmoid(((x - mean) / scale) . weight + bias)
    """

    weight: Float32[np.ndarray, "block d"]
    bias: Float32[np.ndarray, "block"]
    mean: Float32[np.ndarray, "block d"]
    scale: Float32[np.ndarray, "block d"]

    @property
    def direction(self) -> Float32[np.ndarray, "block d"]:
        """The direction in the units of the states along which the probe reads."""
        return (self.weight.astype(np.float64) / self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Fitted:
    """One probe at every block of one place."""

    weights: Weights
    """Fitted on all sources, with probabilities calibrated out of source."""
    held_out: Estimate
    """AUC by block on sources that the probe was not fitted on."""
    own: Estimate
    """AUC by block on other folds of the source that the probe was fitted on."""
    matrix: Matrix
    null: ByBlock
    best: int
    """Row of the block that transfers best between all sources."""
    chosen: Int[np.ndarray, "k"]
    """Row of the block that the other sources choose for each source."""
    judged: Judged
    refits: Refits
    erased: Estimate
    """AUC within each source after LEACE took out what the other sources know of the class."""
    within: Estimate
    """The same without erasure."""
    calibration: Calibration
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Task:
    """States with their labels and what is asked of them."""

    states: Float32[np.ndarray, "block n d"]
    lengths: Int[np.ndarray, "n"]
    """Tokens of each prompt."""
    labels: Labels
    blocks: tuple[int, ...]
    seed: int = 0
    refits: int = nulls.REFITS


def fit_probe(
    name: str,
    make: Maker,
    task: Task,
    *,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Fitted:
    """Fit one probe at every block, choose the block without the test source, and judge it.

    Args:
        name: for messages.
        make: makes the probe.
        task: states and labels.
        progress: wraps the loop over blocks.
    """
    states, labels, seed = task.states, task.labels, task.seed
    per_block = [score_block(make, states[row], labels) for row in progress(range(len(states)))]
    alone, rest = (np.stack(part) for part in zip(*per_block, strict=True))
    scores = Scores(np.moveaxis(alone, 0, 1), rest)
    found = matrix(scores, labels)
    chosen = found.chosen()
    erased, within = _erasure(make, task, chosen)
    own = scores.alone[labels.source, :, np.arange(len(labels.source))].T
    return Fitted(
        weights=_weights(make, task, rest),
        held_out=mean_auc(rest, labels.positive, labels.source, together=True),
        own=mean_auc(own, labels.positive, _folds(labels)),
        matrix=found,
        null=nulls.by_block(states, rest, labels, seed=seed),
        best=found.best(),
        chosen=chosen,
        judged=nulls.judge(states, rest, task.lengths, labels, chosen, seed=seed),
        refits=nulls.refits(make, states, labels, chosen, seed=seed, repeats=task.refits),
        erased=erased,
        within=within,
        calibration=_calibration(make, task, chosen),
        warnings=transfer_warnings(name, found, labels, task.blocks),
    )


def _weights(make: Maker, task: Task, rest: Float64[np.ndarray, "block n"]) -> Weights:
    """Fit on all rows; the probabilities are those of scores out of source."""
    rows: list[tuple[np.ndarray, float, np.ndarray, np.ndarray]] = []
    for states, scores in zip(task.states, rest, strict=True):
        fitted = make().fit(states.astype(np.float64), task.labels.positive)
        map_ = calibration.platt(scores, task.labels.positive)
        bias = map_.slope * fitted.intercept_ + map_.offset
        rows.append((map_.slope * fitted.coef_, bias, fitted.mean_, fitted.scale_))
    parts = [np.array(part, dtype=np.float32) for part in zip(*rows, strict=True)]
    return Weights(parts[0], parts[1], parts[2], parts[3])


def _calibration(make: Maker, task: Task, chosen: Int[np.ndarray, "k"]) -> Calibration:
    """Measure probabilities of each source by a probe and a map that never saw it."""
    labels = task.labels
    p = np.empty(len(labels.positive))
    for source in range(labels.k):
        here = labels.of(source)
        rows = task.states[chosen[source]].astype(np.float64)
        map_ = calibration.platt(_inner(make, rows, labels, ~here)[~here], labels.positive[~here])
        fitted = make().fit(rows[~here], labels.positive[~here])
        p[here] = map_(fitted.decision_function(rows[here]))
    return calibration.calibration(p, labels.positive, seed=task.seed)


def _inner(
    make: Maker, rows: Float64[np.ndarray, "n d"], labels: Labels, fit: Bool[np.ndarray, "n"]
) -> Float64[np.ndarray, "n"]:
    """Score fitted rows by probes that did not see them: by source, or by fold within one."""
    scores = np.zeros(len(rows))
    sources = np.unique(labels.source[fit])
    if len(sources) > 1:
        parts = [labels.of(int(source)) for source in sources]
    else:
        parts = list(labels.folds(int(sources[0])))
    for part in parts:
        kept = fit & ~part
        fitted = make().fit(rows[kept], labels.positive[kept])
        scores[part] = fitted.decision_function(rows[part])
    return scores


def _erasure(make: Maker, task: Task, chosen: Int[np.ndarray, "k"]) -> tuple[Estimate, Estimate]:
    """Compare the AUC within each source with and without what the other sources know."""
    labels = task.labels
    scores = np.empty((2, len(labels.positive)))
    for source in range(labels.k):
        here = labels.of(source)
        rows = task.states[chosen[source]].astype(np.float64)
        eraser = Leace().fit(rows[~here], labels.positive[~here])
        for index, states in enumerate((np.asarray(eraser.transform(rows)), rows)):
            for test in labels.folds(source):
                kept = here & ~test
                fitted = make().fit(states[kept], labels.positive[kept])
                scores[index, test] = fitted.decision_function(states[test])
    found = [mean_auc(values, labels.positive, _folds(labels)) for values in scores]
    return found[0], found[1]


def _folds(labels: Labels) -> Int[np.ndarray, "n"]:
    """Number the folds of all sources."""
    return labels.source * (int(labels.fold.max()) + 1) + labels.fold
