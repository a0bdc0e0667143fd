"""Which rows are fitted on and which are tested on: whole sources, and folds within a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped
from sklearn.model_selection import StratifiedGroupKFold

from artifacts.errors import InputError
from probes.rows import LABELS, Row
from probes.seeds import derive

FOLDS = 5
MIN_TEST = 2
"""Prompts of each class that a fold needs for an interval."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Class, source and fold of every row."""

    positive: Bool[np.ndarray, "n"]
    """True for harmful."""
    source: Int[np.ndarray, "n"]
    """Number of its source in ``names``."""
    fold: Int[np.ndarray, "n"]
    """Fold within its source; rows of one group share a fold."""
    names: tuple[str, ...]
    crossed: bool
    """False where there is one source only and ``names`` are parts of it."""

    @property
    def k(self) -> int:
        """Number of sources, or of parts of one."""
        return len(self.names)

    def of(self, source: int) -> Bool[np.ndarray, "n"]:
        """Return which rows belong to a source."""
        return self.source == source

    def folds(self, source: int) -> Iterator[Bool[np.ndarray, "n"]]:
        """Give the rows of each fold of a source."""
        here = self.of(source)
        for fold in np.unique(self.fold[here]):
            yield here & (self.fold == fold)


def labels_of(rows: Sequence[Row], *, seed: int) -> Labels:
    """Number the sources and cut each into folds; one source alone is cut into parts first.

    Raises:
        InputError: too few groups to cut.
    """
    positive = np.array([row.label == LABELS[0] for row in rows])
    group = np.unique([row.group for row in rows], return_inverse=True)[1]
    names = tuple(dict.fromkeys(row.source for row in rows))
    source = np.array([names.index(row.source) for row in rows])
    crossed = len(names) > 1
    if not crossed:
        only = rows[0].source
        parts = 3 if min(positive.sum(), (~positive).sum()) >= 24 else 2
        source = cut(positive, group, parts, seed=derive("parts", seed), what=only)
        names = tuple(f"{only} part {part + 1}" for part in range(int(source.max()) + 1))
    fold = np.zeros(len(rows), dtype=np.intp)
    for number, name in enumerate(names):
        here = source == number
        smallest = min((positive & here).sum(), (~positive & here).sum())
        folds = max(2, min(FOLDS, int(smallest) // 4))
        fold[here] = cut(
            positive[here], group[here], folds, seed=derive("folds", name, seed), what=name
        )
    return Labels(positive, source, fold, names, crossed)


def cut(
    positive: Bool[np.ndarray, "n"],
    group: Shaped[np.ndarray, "n"],
    parts: int,
    *,
    seed: int,
    what: str,
) -> Int[np.ndarray, "n"]:
    """Cut rows into parts that share no group, with both classes in each; fewer where need be.

    Raises:
        InputError: not even two parts have ``MIN_TEST`` prompts of each class.
    """
    for wanted in range(parts, 1, -1):
        splitter = StratifiedGroupKFold(wanted, shuffle=True, random_state=seed % 2**32)
        part = np.zeros(len(positive), dtype=np.intp)
        if min(positive.sum(), (~positive).sum(), len(np.unique(group))) < wanted:
            continue
        for number, (_, test) in enumerate(splitter.split(positive, positive, group)):
            part[test] = number
        counts = [np.bincount(part[chosen], minlength=wanted) for chosen in (positive, ~positive)]
        if min(count.min() for count in counts) >= MIN_TEST:
            return part
    raise InputError(
        f"source {what!r} cannot be cut into fit and test: {len(np.unique(group))} groups of "
        "prompts (pairs count as one); give more prompts"
    )
