"""Held-out separation along a fitted direction and its controls, at one site and position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float32, Float64

from directions.contrasts import ALIGNED, Contrast
from directions.fitters import FittedContrast
from directions.shards import Part
from probes import controls, resampling, separation, stability
from probes.separation import Estimate

SHUFFLES, RANDOM, SPLITS, BOOTSTRAPS = 199, 99, 50, 100
LEVEL = 0.95
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What held-out prompts say about one direction at one site and position."""

    estimates: dict[str, Estimate]
    """Scalar estimates by measure name."""
    shuffled: Float64[np.ndarray, "k"]
    """Held-out AUC of each label-shuffled fit."""
    random: Float64[np.ndarray, "r"]
    """max(A, 1-A) of each random direction."""
    random_d_prime: Float64[np.ndarray, "r"]
    projections: tuple[Float32[np.ndarray, "p"], Float32[np.ndarray, "q"]]
    """Projections of the two groups on the unit direction."""


def measure(
    contrast: Contrast,
    fitted: FittedContrast,
    parts: Iterable[Part],
    harmful: Bool[np.ndarray, "n"],
    *,
    n_fit: int,
    seed: int,
) -> HeldOut:
    """Measure one fitted direction on held-out prompts.

    Args:
        contrast: what the direction is.
        fitted: the direction and its resampled fits.
        parts: held-out states, in order.
        harmful: class of every held-out prompt.
        n_fit: prompts behind the fit.
        seed: the user's seed.
    """
    d = len(fitted.direction)
    unit = fitted.direction / np.linalg.norm(fitted.direction)
    nulls = np.concatenate(
        [fitted.resampled[:SHUFFLES], controls.random_units(RANDOM, d, seed=seed)]
    )
    plus, minus, plain = _project(contrast, unit, nulls, parts, harmful)
    estimates = {
        "auc": separation.auc_estimate(plus[0], minus[0], paired=contrast.paired, level=LEVEL),
        "d_prime": separation.d_prime(plus[0], minus[0], level=LEVEL),
        "split_half_cosine": _stability(fitted, n_fit),
    }
    if contrast.paired:
        # Do the classes part along what training or template added?
        estimates["auc_harmful"] = separation.auc_estimate(plain[harmful], plain[~harmful])
    shuffled = _shuffled(contrast, plus[1], minus[1], harmful, seed)
    random, gaps = _random(plus[1], minus[1])
    estimates["auc_shuffled"] = _scalar(controls.band(shuffled[None], level=LEVEL))
    estimates["auc_random"] = _scalar(controls.band(random[None], level=LEVEL))
    kept = (plus[0].astype(np.float32), minus[0].astype(np.float32))
    return HeldOut(estimates, shuffled, random, gaps, kept)


def describe(contrast: Contrast) -> dict[str, str]:
    """Say in words what each measure of a direction is."""
    words = {
        "auc": f"held-out AUC along the direction: {contrast.what}",
        "d_prime": "held-out distance of the group means in pooled standard deviations",
        "split_half_cosine": "cosine between fits on random halves, mean over splits; interval "
        "from prompts drawn again within halves",
        "auc_shuffled": f"held-out AUC of {SHUFFLES} fits with shuffled labels: mean and band",
        "auc_random": f"max(AUC, 1-AUC) of {RANDOM} random directions: mean and band",
    }
    if contrast.paired:
        words["auc_harmful"] = (
            "held-out AUC of harmful against harmless prompts, aligned states along the direction"
        )
    return words


Scores = tuple[Float64[np.ndarray, "m"], Float32[np.ndarray, "k m"]]
"""Projections of one group on the direction and on all null directions."""


def _project(
    contrast: Contrast,
    unit: Float64[np.ndarray, "d"],
    nulls: Float64[np.ndarray, "k d"],
    parts: Iterable[Part],
    harmful: Bool[np.ndarray, "n"],
) -> tuple[Scores, Scores, Float64[np.ndarray, "n"]]:
    """Project both groups, and the aligned states, prompt by prompt."""
    # Single precision is ample for nulls and half the time; the direction itself stays double.
    single = nulls.astype(np.float32)
    main: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    null: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    plain: list[np.ndarray] = []
    for part in parts:
        for side, states in enumerate(contrast.sides(part.cells, harmful[part.rows])):
            main[side].append(states @ unit)
            null[side].append(single @ states.T.astype(np.float32))
        plain.append(part.cells[ALIGNED] @ unit)
    plus, minus = (
        (np.concatenate(main[side]), np.concatenate(null[side], axis=1)) for side in (0, 1)
    )
    return plus, minus, np.concatenate(plain)


def _shuffled(
    contrast: Contrast,
    plus: Float32[np.ndarray, "k p"],
    minus: Float32[np.ndarray, "k q"],
    harmful: Bool[np.ndarray, "n"],
    seed: int,
) -> Float64[np.ndarray, "shuffles"]:
    """Give the held-out AUC of each shuffled fit, held-out labels shuffled as well."""
    # For two classes the scores stand with the harmful prompts first.
    order = harmful if contrast.paired else np.sort(harmful)[::-1]
    labels = resampling.shuffled_labels(order, SHUFFLES, paired=contrast.paired, seed=seed)
    found = []
    for rows in _slices(0, SHUFFLES):
        left, right = plus[rows].astype(np.float64), minus[rows].astype(np.float64)
        if contrast.paired:
            keep = labels[rows]
            swapped = np.where(keep, left, right), np.where(keep, right, left)
            found.append(separation.auc(*swapped))
        else:
            joined = np.concatenate([left, right], axis=1)
            found.append(separation.auc_of_labels(joined, labels[rows]))
    return np.concatenate(found)


def _random(
    plus: Float32[np.ndarray, "k p"], minus: Float32[np.ndarray, "k q"]
) -> tuple[Float64[np.ndarray, "r"], Float64[np.ndarray, "r"]]:
    """Give max(A, 1-A) and d' of each random direction."""
    aucs, gaps = [], []
    for rows in _slices(SHUFFLES, SHUFFLES + RANDOM):
        left, right = plus[rows].astype(np.float64), minus[rows].astype(np.float64)
        aucs.append(controls.unsigned(separation.auc(left, right)))
        gaps.append(separation.d_prime(left, right).value)
    return np.concatenate(aucs), np.concatenate(gaps)


def _slices(start: int, stop: int) -> Iterator[slice]:
    """Cut the nulls, so that ranks of many held-out prompts need little memory at a time."""
    for first in range(start, stop, _CHUNK):
        yield slice(first, min(first + _CHUNK, stop))


def _stability(fitted: FittedContrast, n_fit: int) -> Estimate:
    halves = rearrange(fitted.resampled[SHUFFLES:], "(pair two) d -> pair two d", two=2)
    return stability.split_half_cosine(halves[:SPLITS], halves[SPLITS:], n=n_fit, level=LEVEL)


def _scalar(estimate: Estimate) -> Estimate:
    return Estimate(
        estimate.value[0:1].reshape(()),
        estimate.low[0:1].reshape(()),
        estimate.high[0:1].reshape(()),
        estimate.n,
        estimate.level,
    )
