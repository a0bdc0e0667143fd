"""From what was fitted to an artifact: tensors by key and the manifest that explains them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.manifest import (
    DataInfo,
    DirectionInfo,
    Manifest,
    MeasureInfo,
    ModelInfo,
    Option,
    TokenizerInfo,
)
from artifacts.provenance import tool, versions
from probes.controls import band
from probes.labels import Labels
from probes.nulls import RANDOM, SHUFFLES
from probes.options import Options
from probes.protocol import Fitted
from probes.rows import LABELS, Row, digest
from probes.separation import Estimate
from probes.states import Place

_MEANINGS = {
    "auc": "AUC on sources that the probe was not fitted on, mean over sources",
    "auc_within": "AUC on other folds of the probe's own source, mean over sources",
    "auc_shuffled": f"AUC under {SHUFFLES} shuffles of the held-out labels: mean and band",
    "auc_random": f"max(AUC, 1-AUC) of {RANDOM} random directions: mean and band",
    "auc_length": "AUC of the prompt's length in tokens alone, same fits and tests",
}


@dataclass(frozen=True)
class Origin:
    """Where the states came from."""

    model: ModelInfo
    tokenizer: TokenizerInfo
    rows: tuple[Row, ...]
    device: str
    created: str
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Found:
    """One fitted probe with its names."""

    name: str
    probe: str
    place: Place
    fitted: Fitted


def artifact(found: Sequence[Found], labels: Labels, origin: Origin, options: Options) -> Artifact:
    """Build the artifact; its digest is that of its content, ``created`` included.

    A probe's direction, weight / scale, stands beside it as ``direction/{name}``, so that whatever
    reads directions (reports, edits) reads probes too.
    """
    keys = source_keys(labels.names)
    tensors: dict[str, Tensor] = {}
    for each in found:
        tensors |= _tensors(each, keys)
    manifest = Manifest(
        kind="probe-set",
        created=origin.created,
        tool=tool(),
        base=None,
        aligned=origin.model,
        tokenizer=origin.tokenizer,
        data=_data(origin.rows),
        positions=options.positions,
        contrast=("harmful-harmless",),
        method=_method(found, labels, keys, options),
        directions={each.name: _info(each, labels) for each in found},
        seed=options.seed,
        versions=versions(),
        device=origin.device,
        notes=(*origin.notes, *(note for each in found for note in each.fitted.warnings)),
    )
    return Artifact(manifest, tensors)


def source_keys(names: Sequence[str]) -> tuple[str, ...]:
    """Turn source names into parts of tensor keys.

    Raises:
        InputError: two names become the same part.
    """
    keys = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:60] or "source" for name in names]
    for key in keys:
        if keys.count(key) > 1:
            clash = [name for name, other in zip(names, keys, strict=True) if other == key]
            raise InputError(f"sources {', '.join(map(repr, clash))} look alike; rename one")
    return tuple(re.sub(r"\.{2,}", ".", key) for key in keys)


def _tensors(each: Found, keys: Sequence[str]) -> dict[str, Tensor]:
    fitted, name = each.fitted, each.name
    weights = fitted.weights
    tensors = {
        f"probe/{name}/weight": torch.from_numpy(weights.weight),
        f"probe/{name}/bias": torch.from_numpy(weights.bias),
        f"probe/{name}/mean": torch.from_numpy(weights.mean),
        f"probe/{name}/scale": torch.from_numpy(weights.scale),
        f"direction/{name}": torch.from_numpy(weights.direction),
    }
    for measure, estimate in _measures(fitted).items():
        columns = np.stack([estimate.value, estimate.low, estimate.high], axis=1)
        tensors[f"measure/{name}/{measure}"] = _single(columns)
    for s, fit in enumerate(keys):
        for t, test in enumerate(keys):
            tensors |= _scored(f"{name}/{fit}/{test}", fitted.matrix.auc, (s, t))
    tensors |= _scored(f"{name}/observed", fitted.calibration.observed)
    tensors[f"score/{name}/predicted"] = _single(fitted.calibration.predicted)
    return tensors


def _scored(key: str, estimate: Estimate, at: tuple[int, ...] = ()) -> dict[str, Tensor]:
    return {
        f"score/{key}": _single(estimate.value[at]),
        f"score_low/{key}": _single(estimate.low[at]),
        f"score_high/{key}": _single(estimate.high[at]),
    }


def _single(values: Float[np.ndarray, "*shape"]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _measures(fitted: Fitted) -> Mapping[str, Estimate]:
    length = fitted.judged.length
    ones = np.ones_like(fitted.held_out.value)
    repeated = [ones * end for end in (length.value, length.low, length.high)]
    return {
        "auc": fitted.held_out,
        "auc_within": fitted.own,
        "auc_shuffled": band(fitted.null.shuffled),
        "auc_random": band(fitted.null.random),
        "auc_length": Estimate(repeated[0], repeated[1], repeated[2], length.n, length.level),
    }


def _info(each: Found, labels: Labels) -> DirectionInfo:
    return DirectionInfo(
        site=each.place.site,
        position=each.place.position,
        blocks=each.place.blocks,
        norm="raw",
        sign_rule="a larger score is harmful",
        n=_counts(labels),
        contrast="harmful-harmless",
        claim="decodable" if each.fitted.judged.verdict.beats else "none",
        measures={
            name: MeasureInfo(n=estimate.n, what=_MEANINGS[name], level=estimate.level)
            for name, estimate in _measures(each.fitted).items()
        },
    )


def _counts(labels: Labels) -> dict[str, int]:
    harmful = int(labels.positive.sum())
    return {LABELS[0]: harmful, LABELS[1]: len(labels.positive) - harmful}


def _data(rows: Sequence[Row]) -> tuple[DataInfo, ...]:
    """Name every source twice: each is fitted on by some probes and tested on by others."""
    found = []
    for role in ("fit", "test"):
        for source in dict.fromkeys(row.source for row in rows):
            mine = [row for row in rows if row.source == source]
            n = {label: sum(row.label == label for row in mine) for label in LABELS}
            found.append(DataInfo(source=source, digest=digest(mine), n=n, role=role))
    return tuple(found)


def _method(
    found: Sequence[Found], labels: Labels, keys: Sequence[str], options: Options
) -> dict[str, Option]:
    method: dict[str, Option] = {
        **options.record(),
        "name": "linear probes",
        "split": "leave one source out" if labels.crossed else "leave one part out (one source)",
        "sources": labels.names,
        "source_keys": tuple(keys),
        "crossed": labels.crossed,
        "shuffles": SHUFFLES,
        "random_directions": RANDOM,
    }
    for each in found:
        for key, value in _facts(each, labels).items():
            method[f"{key}.{each.name}"] = value
    return method


def _facts(each: Found, labels: Labels) -> dict[str, Option]:
    """Return what is one number a probe."""
    fitted, blocks = each.fitted, each.place.blocks
    judged, verdict = fitted.judged, fitted.judged.verdict
    return {
        "probe": each.probe,
        "best_block": blocks[fitted.best],
        "chosen_blocks": tuple(blocks[row] for row in fitted.chosen),
        "auc": _triple(judged.auc),
        "auc_shuffled": _triple(band(judged.shuffled[None])),
        "auc_random": _triple(band(judged.random[None])),
        "auc_length": _triple(judged.length),
        "gain_over_length": _triple(judged.gain),
        "auc_shuffled_fits": _triple(band(fitted.refits.shuffled[None])),
        "auc_random_features": _triple(band(fitted.refits.features[None])),
        "auc_within": _triple(fitted.within),
        "auc_within_erased": _triple(fitted.erased),
        "brier": _triple(fitted.calibration.brier),
        "ece": _triple(fitted.calibration.ece),
        "ece_chance": _triple(fitted.calibration.ece_chance),
        "bin_counts": tuple(int(count) for count in fitted.calibration.counts),
        "n_test": len(labels.positive),
        "beats_control": verdict.beats,
        "p_shuffled": verdict.p_shuffled,
        "p_random": verdict.p_random,
        "alpha": verdict.alpha,
        "verdict": verdict.reason,
        "warning": " | ".join(fitted.warnings) or None,
    }


def _triple(estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = (np.ravel(v)[0] for v in (estimate.value, estimate.low, estimate.high))
    return float(value), float(low), float(high)
