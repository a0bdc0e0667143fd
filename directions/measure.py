"""Held-out separation along a fitted direction and its controls, at one site and position."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float64

from directions.contrasts import ALIGNED, Contrast
from directions.fitters import FittedContrast
from directions.shards import Part
from probes import controls, resampling, separation, stability
from probes.separation import Estimate

SHUFFLES, RANDOM, SPLITS, BOOTSTRAPS = 199, 99, 50, 100
LEVEL = 0.95


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
    projections: tuple[Float64[np.ndarray, "p"], Float64[np.ndarray, "q"]]
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
    auc = separation.auc_estimate(plus[0], minus[0], paired=contrast.paired, level=LEVEL)
    estimates = {
        "auc": auc,
        "d_prime": separation.d_prime(plus[0], minus[0], level=LEVEL),
        "split_half_cosine": _stability(fitted, n_fit),
    }
    if contrast.paired:
        # Do the classes part along what training or template added?
        estimates["auc_harmful"] = separation.auc_estimate(plain[harmful], plain[~harmful])
    shuffled = _shuffled(contrast, plus, minus, harmful, seed)
    first = 1 + SHUFFLES
    random = controls.unsigned(separation.auc(plus[first:], minus[first:]))
    gaps = separation.d_prime(plus[first:], minus[first:]).value
    estimates["auc_shuffled"] = _scalar(controls.band(shuffled[None], level=LEVEL))
    estimates["auc_random"] = _scalar(controls.band(random[None], level=LEVEL))
    return HeldOut(estimates, shuffled, random, gaps, (plus[0], minus[0]))


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


def _project(
    contrast: Contrast,
    unit: Float64[np.ndarray, "d"],
    nulls: Float64[np.ndarray, "k d"],
    parts: Iterable[Part],
    harmful: Bool[np.ndarray, "n"],
) -> tuple[
    Float64[np.ndarray, "one_k p"], Float64[np.ndarray, "one_k q"], Float64[np.ndarray, "n"]
]:
    """Project both groups on the direction (row 0) and on all null directions (further rows)."""
    # Single precision is ample for nulls and half the time; the direction itself stays double.
    single = nulls.astype(np.float32)

    def project(states: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "one_k m"]:
        null = (single @ states.T.astype(np.float32)).astype(np.float64)
        return np.concatenate([(states @ unit)[None], null])

    plus, minus, plain = [], [], []
    for part in parts:
        left, right = contrast.sides(part.cells, harmful[part.rows])
        plus.append(project(left))
        minus.append(project(right))
        plain.append(part.cells[ALIGNED] @ unit if ALIGNED in part.cells else np.zeros(0))
    return (
        np.concatenate(plus, axis=1),
        np.concatenate(minus, axis=1),
        np.concatenate(plain),
    )


def _shuffled(
    contrast: Contrast,
    plus: Float64[np.ndarray, "one_k p"],
    minus: Float64[np.ndarray, "one_k q"],
    harmful: Bool[np.ndarray, "n"],
    seed: int,
) -> Float64[np.ndarray, "shuffles"]:
    """Give the held-out AUC of each shuffled fit, held-out labels shuffled as well."""
    left, right = plus[1 : 1 + SHUFFLES], minus[1 : 1 + SHUFFLES]
    if contrast.paired:
        keep = resampling.shuffled_labels(harmful, SHUFFLES, paired=True, seed=seed)
        return separation.auc(np.where(keep, left, right), np.where(keep, right, left))
    grouped = np.sort(harmful)[::-1]  # scores stand with the harmful prompts first
    labels = resampling.shuffled_labels(grouped, SHUFFLES, paired=False, seed=seed)
    return separation.auc_of_labels(np.concatenate([left, right], axis=1), labels)


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
