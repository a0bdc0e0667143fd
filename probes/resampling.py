"""Resampled fits of a mean-difference direction, as weights over prompts.

A mean-difference direction is linear in the prompts, ``v = sum_i w_i y_i``, so every resampled
direction is one more row of weights, and all of them stream over the prompts together. ``y`` is a
state (two classes) or the difference of two states of one prompt (pairs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, UInt8

from artifacts.errors import InputError
from probes.seeds import generator


@dataclass(frozen=True, eq=False)
class Resampling:
    """The plan of all resampled fits; small integers only, one column a prompt.

    Rows of :meth:`weights`: ``shuffles`` label-shuffled fits, then two rows (halves A and B) for
    each of ``splits`` random half-splits, then two for each of ``bootstraps`` bootstrap samples
    taken within the halves of further splits.
    """

    positive: Bool[np.ndarray, "n"]
    """True for the class that a two-class direction points to."""
    paired: bool
    """Whether ``y_i`` is a paired difference, so that a shuffled label flips its sign."""
    signs: Int8[np.ndarray, "shuffles n"]
    halves: Bool[np.ndarray, "splits n"]
    boot_halves: Bool[np.ndarray, "bootstraps n"]
    boot_counts: UInt8[np.ndarray, "bootstraps n"]

    @property
    def n_rows(self) -> int:
        """Number of resampled fits."""
        return len(self.signs) + 2 * len(self.halves) + 2 * len(self.boot_halves)

    def fit_weights(self, part: slice = slice(None)) -> Float64[np.ndarray, "m"]:
        """Return the weights of the fit itself for some prompts.

        Two classes: w_i = 1/n_+ or -1/n_-. Pairs: w_i = 1/(2 n_c), classes weigh the same.
        """
        return self._base()[part]

    def weights(self, part: slice = slice(None)) -> Float32[np.ndarray, "rows m"]:
        """Return the weights of all resampled fits for some prompts."""
        base = self._base()
        halves = self._half_weights(self.halves, np.ones_like(self.halves, dtype=np.uint8), part)
        boots = self._half_weights(self.boot_halves, self.boot_counts, part)
        return np.concatenate([self._shuffled(base, part), halves, boots]).astype(np.float32)

    def _base(self) -> Float64[np.ndarray, "n"]:
        n_plus, n_minus = int(self.positive.sum()), int((~self.positive).sum())
        if self.paired:
            return np.where(self.positive, 0.5 / max(n_plus, 1), 0.5 / max(n_minus, 1))
        return np.where(self.positive, 1.0 / n_plus, -1.0 / n_minus)

    def _shuffled(
        self, base: Float64[np.ndarray, "n"], part: slice
    ) -> Float64[np.ndarray, "shuffles m"]:
        if self.paired:
            return self.signs[:, part] * base[part]
        # A permutation keeps the class sizes, so a shuffled label takes its class's weight.
        plus, minus = base[self.positive][0], base[~self.positive][0]
        return np.where(self.signs[:, part] > 0, plus, minus)

    def _half_weights(
        self,
        half: Bool[np.ndarray, "repeats n"],
        counts: UInt8[np.ndarray, "repeats n"],
        part: slice,
    ) -> Float64[np.ndarray, "rows m"]:
        signs = np.where(self.positive, 1.0, 1.0 if self.paired else -1.0)
        share = 0.5 if self.paired else 1.0
        rows = np.zeros((2 * len(half), len(self.positive[part])))
        for offset, chosen in ((0, half), (1, ~half)):
            drawn = chosen * counts
            for group in (self.positive, ~self.positive):
                total = drawn[:, group].sum(-1, keepdims=True, dtype=np.int64)
                scale = np.where(total > 0, share / np.maximum(total, 1), 0.0)
                rows[offset::2] += drawn[:, part] * (group * signs)[part] * scale
        return rows


def plan(
    positive: Bool[np.ndarray, "n"],
    *,
    paired: bool,
    seed: int,
    shuffles: int = 199,
    splits: int = 50,
    bootstraps: int = 100,
) -> Resampling:
    """Draw a resampling plan; the same arguments give the same plan.

    Args:
        positive: class of each prompt.
        paired: whether rows are paired differences.
        seed: the user's seed.
        shuffles: label-shuffled fits (19 is the least that can reach p = 0.05).
        splits: random half-splits, stratified by class.
        bootstraps: bootstrap samples for the split-half interval.

    Raises:
        InputError: if a class has fewer than 2 prompts (a half would be empty).
    """
    sizes = [int(positive.sum()), int((~positive).sum())]
    if min(sizes) < 2:
        raise InputError(f"resampling needs 2 prompts of each class, got {sizes[0]} and {sizes[1]}")
    kind = "paired" if paired else "classes"
    signs = _signs(positive, shuffles, paired=paired, seed=seed)
    halves = _halves(positive, splits, seed=seed, use=f"splits-{kind}")
    boot_halves = _halves(positive, bootstraps, seed=seed, use=f"boot-splits-{kind}")
    counts = _bootstrap_counts(positive, boot_halves, seed=seed, use=f"boot-{kind}")
    return Resampling(positive, paired, signs, halves, boot_halves, counts)


def shuffled_labels(
    positive: Bool[np.ndarray, "n"], repeats: int, *, paired: bool, seed: int
) -> Bool[np.ndarray, "repeats n"]:
    """Shuffle the labels of held-out prompts, with a stream apart from the fit's.

    Two classes: a permutation of ``positive``. Pairs: a fair coin for each prompt says whether its
    two states keep their labels.
    """
    rng = generator("held-out-labels", "paired" if paired else "classes", seed)
    if paired:
        return rng.random((repeats, len(positive))) < 0.5
    return rng.permuted(np.repeat(positive[None], repeats, axis=0), axis=1)


def _signs(
    positive: Bool[np.ndarray, "n"], repeats: int, *, paired: bool, seed: int
) -> Int8[np.ndarray, "repeats n"]:
    rng = generator("fit-labels", "paired" if paired else "classes", seed)
    if paired:
        kept = rng.random((repeats, len(positive))) < 0.5
    else:
        kept = rng.permuted(np.repeat(positive[None], repeats, axis=0), axis=1)
    return np.where(kept, 1, -1).astype(np.int8)


def _halves(
    positive: Bool[np.ndarray, "n"], repeats: int, *, seed: int, use: str
) -> Bool[np.ndarray, "repeats n"]:
    rng = generator(use, seed)
    chosen = np.zeros((repeats, len(positive)), dtype=bool)
    for group in (positive, ~positive):
        members = np.flatnonzero(group)
        order = rng.random((repeats, len(members))).argsort(axis=1)
        chosen[:, members] = order < len(members) // 2
    return chosen


def _bootstrap_counts(
    positive: Bool[np.ndarray, "n"], halves: Bool[np.ndarray, "repeats n"], *, seed: int, use: str
) -> UInt8[np.ndarray, "repeats n"]:
    rng = generator(use, seed)
    counts = np.zeros(halves.shape, dtype=np.uint8)
    for row, half in enumerate(halves):
        for group in (positive, ~positive):
            for side in (half, ~half):
                members = np.flatnonzero(group & side)
                drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)))
                counts[row, members] = np.minimum(drawn, 255)
    return counts
