"""Designs of policies: everything but the strength, which the safe range decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.manifest import Option
from hooks import Model
from probes.separation import Estimate, auc_estimate
from steering.axes import (
    Axes,
    Mask,
    as_reading,
    axes_at,
    cross_validated,
    fit_logistic,
    project,
    stratified,
)
from steering.behaviour import LEAST, Behaviour
from steering.errors import PolicyError
from steering.laws import Logistic, Step
from steering.options import FitOptions
from steering.policy import Policy, Reading, Term

_NORMAL = 1.96
"""Half the width of a 95% interval in standard errors."""


@dataclass(frozen=True, eq=False)
class Material:
    """What a design is made of: two parts of the requests, and the classes of the first."""

    first: Behaviour
    second: Behaviour
    masks: Mapping[str, Mask]


@dataclass(frozen=True, eq=False)
class Design:
    """A policy for every strength, and what is known of it."""

    make: Callable[[float], Policy]
    facts: Mapping[str, Option] = field(default_factory=dict)
    tables: Mapping[str, Float[Tensor, "row column"]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def design_of(model: Model, material: Material, options: FitOptions) -> Design:
    """Design the policy that the options ask for."""
    if options.method == "scans":
        from steering.scans import scans

        return scans(model, material, options)
    return adasteer(model, material, options)


def adasteer(model: Model, material: Material, options: FitOptions) -> Design:
    """Design AdaSteer, or one of its baselines with the same vectors and the same gate.

        x'_l = x_l + c_r(s) s_l RD_l + c_c(s) s_l HD'_l,   s_l = strength n_l / |v_l|

    c_r: logistic in the positions on both axes, fitted to tell complied harmful from harmless
    prompts of another part. c_c: fitted to tell harmless from harmful ones; it pushes towards
    compliance what looks harmless, and only where harmless prompts are refused at all. HD' is
    the projection of HD on RD (``parallel``) or what is orthogonal to it. Hard gate: c_r is 0 or
    1. Additive: no gate, c_r = 1.

    Raises:
        PolicyError: blocks that this model has not, or that come before the gate.
    """
    first, second = material.first, material.second
    block, auc_value = _gate_block(model, material, options)
    axes = _axes(material, block, options)
    blocks = options.blocks or tuple(range(block + 1, model.n_layers))
    vectors = _vectors(material, options)
    norms = first.states.norm(dim=-1).mean(dim=-1)
    unit_of = {
        name: _at_norm(rows, norms, blocks, model.n_layers) for name, rows in vectors.items()
    }
    reject, notes = _rejecting(axes, second, options)
    comply = _complying(axes, material, options) if options.method == "adasteer" else None

    def make(strength: float) -> Policy:
        terms = [Term("rejection", blocks, strength * unit_of["rejection"], reject)]
        if comply is not None:
            terms.append(Term("harmfulness", blocks, strength * unit_of["harmfulness"], comply))
        info, tokenizer = model.info(), model.tokenizer_info()
        return Policy(options.method, tuple(terms), info, tokenizer)

    facts: dict[str, Option] = {"gate_block": block, "blocks": blocks} | auc_value
    if comply is None and options.method == "adasteer":
        notes = (*notes, "no harmfulness term: no harmless prompt of the fit was refused")
    return Design(make, facts, notes=notes)


def _vectors(material: Material, options: FitOptions) -> dict[str, Float[Tensor, "block d"]]:
    first, masks = material.first, material.masks
    refused, complied = masks["refused harmful"], masks["complied harmful"]
    rejection = stratified(first.states, refused, complied, first.forms)
    harm = stratified(first.states, masks["complied harmless"], complied, first.forms)
    along = project(harm, rejection)
    # Towards compliance whatever the sign of the projection: the shipped vectors of two models
    # point there and those of a third do not, so the sign comes from what the term is for.
    parallel = -along.norm(dim=-1, keepdim=True) / rejection.norm(dim=-1, keepdim=True) * rejection
    chosen = parallel if options.hd == "parallel" else harm - along
    return {"rejection": rejection, "harmfulness": chosen}


def _at_norm(
    rows: Float[Tensor, "block d"],
    norms: Float[Tensor, "block"],
    blocks: Sequence[int],
    n_layers: int,
) -> Float[Tensor, "steered d"]:
    """Return the vectors of the steered blocks at the ambient norm, so that strength is relative.

    Raises:
        PolicyError: a block that does not exist, or whose vector is zero.
    """
    found = []
    for block in blocks:
        if not 0 <= block < n_layers:
            raise PolicyError(f"block {block}: this model has blocks 0 to {n_layers - 1}")
        norm = float(rows[block].norm())
        if norm == 0:
            raise PolicyError(f"block {block}: the classes have equal means there; leave it out")
        found.append(rows[block] * (float(norms[block]) / norm))
    return torch.stack(found).float()


def _gate_block(
    model: Model, material: Material, options: FitOptions
) -> tuple[int, dict[str, Option]]:
    """Choose the earliest block that tells complied harmful from harmless prompts well.

    Well: an AUC that is no more than one standard error below the best block's (Breiman et al.
    1984). The earlier the block, the more blocks are left to steer.
    """
    second = material.second
    rows = _needy(second) | ~second.harmful
    last = model.n_layers - 1 - max(1, min(2, model.n_layers // 10))
    if options.gate_block is not None:
        if not 0 <= options.gate_block < model.n_layers - 1:
            raise PolicyError(
                f"gate block {options.gate_block}: choose 0 to {model.n_layers - 2}, so that a "
                "block behind it is left to steer"
            )
        blocks = [options.gate_block]
    else:
        blocks = list(range(model.n_layers // 3, last + 1))
    harmful = second.harmful[rows]
    found: dict[int, Estimate] = {}
    for block in blocks:
        here = _axes(material, block, options).positions(second.states[block])[rows]
        logit = cross_validated(here, harmful)
        found[block] = auc_estimate(logit[harmful], logit[~harmful])
    best = max(found.values(), key=lambda estimate: estimate.value)
    least = best.value - (best.high - best.low) / (2 * _NORMAL)
    chosen = next(block for block in blocks if found[block].value >= least)
    estimate = found[chosen]
    return chosen, {
        "gate_auc": float(estimate.value),
        "gate_auc_low": float(estimate.low),
        "gate_auc_high": float(estimate.high),
        "gate_auc_n": estimate.n,
    }


def _axes(material: Material, block: int, options: FitOptions) -> Axes:
    shrinkage = options.shrinkage if options.reading == "lda" else None
    return axes_at(material.first.states, material.masks, block, shrinkage=shrinkage)


def _needy(found: Behaviour) -> Mask:
    """Return harmful prompts that the model answers, or all harmful ones where these are few."""
    needy = found.harmful & found.complied
    return needy if needy.sum() >= LEAST else found.harmful


def _rejecting(
    axes: Axes, found: Behaviour, options: FitOptions
) -> tuple[Reading | None, tuple[str, ...]]:
    if options.method == "additive":
        return None, ()
    rows = _needy(found) | ~found.harmful
    reading = _calibrated(axes, found, rows, found.harmful, options)
    if options.method == "adasteer":
        return reading, ()
    law = reading.law
    if not isinstance(law, Logistic):
        raise PolicyError("a hard gate is cut from a logistic law")
    return Reading(reading.block, reading.direction, Step(-law.bias / law.weight)), ()


def _complying(axes: Axes, material: Material, options: FitOptions) -> Reading | None:
    """Fit the law that pushes towards compliance; None where nothing harmless is refused."""
    parts = (material.first, material.second)
    if not any((~part.harmful & part.refused).any() for part in parts):
        return None
    found = material.second
    every = np.ones(len(found.harmful), dtype=bool)
    return _calibrated(axes, found, every, ~found.harmful, options)


def _calibrated(
    axes: Axes, found: Behaviour, rows: Mask, positive: Mask, options: FitOptions
) -> Reading:
    """Fit a law, and shift it so that it is half open for few of the negative class.

    The shift is the (1 - false_open) quantile of log-odds that cross-validation gives negatives.
    """
    here = axes.positions(found.states[axes.block])[rows]
    truth = positive[rows]
    logit = cross_validated(here, truth)[~truth]
    shift = -max(float(np.quantile(logit, 1 - options.false_open)), 0.0)
    return as_reading(axes, fit_logistic(here, truth), shift)
