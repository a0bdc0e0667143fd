"""States of several sources with a planted truth: what is shared, what belongs to one source."""

from __future__ import annotations

import numpy as np

from probes.labels import Labels
from probes.protocol import Task

BLOCKS = (0, 1)


def task(
    seed: int,
    *,
    n: int = 40,
    d: int = 8,
    k: int = 3,
    shared: float = 0.0,
    private: float = 0.0,
    length: float = 0.0,
    refits: int = 2,
) -> Task:
    """Block 1 carries the class along axis 0 (``shared``) and along one axis a source."""
    rng = np.random.default_rng(seed)
    positive, source = np.tile(np.arange(n) % 2 == 0, k), np.repeat(np.arange(k), n)
    states = rng.normal(size=(len(BLOCKS), n * k, d))
    states[1, positive, 0] += shared
    for s in range(k):
        states[1, positive & (source == s), 1 + s] += private
    lengths = rng.integers(10, 40, size=n * k) + (length * positive).astype(int)
    fold = np.tile(np.arange(n) // 2 % 5, k)
    names = tuple(f"s{s}" for s in range(k))
    labels = Labels(positive, source, fold, names, crossed=True)
    return Task(states.astype(np.float32), lengths, labels, BLOCKS, seed, refits)
