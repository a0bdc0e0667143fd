"""The result of a fit as plain JSON values and as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from probes.result import ProbeSet

COLUMNS = ("probe", "block", "AUC [95%]", "controls", "within, after LEACE", "ECE", "beats")
BLOCK_COLUMNS = ("block", "held-out source", "own source", "shuffled", "random", "length")
_ESTIMATES = (
    "auc",
    "auc_shuffled",
    "auc_random",
    "auc_length",
    "gain_over_length",
    "auc_shuffled_fits",
    "auc_random_features",
    "auc_within",
    "auc_within_erased",
    "brier",
    "ece",
    "ece_chance",
)


def summary(found: ProbeSet, out: str | Path) -> dict[str, object]:
    """Return what ``--json`` prints; ``warning`` is null or what must be known first."""
    manifest = found.artifact.manifest
    return {
        "out": str(out),
        "digest": found.digest,
        "model": manifest.aligned.spec if manifest.aligned else None,
        "dtype": manifest.aligned.dtype if manifest.aligned else None,
        "split": manifest.method["split"],
        "sources": {data.source: dict(data.n) for data in manifest.data if data.role == "fit"},
        "probes": {name: _probe(found, name) for name in found.names},
        "warning": " | ".join(found.warnings) or None,
        "warnings": list(found.warnings),
        "notes": list(manifest.notes),
        "seconds": round(found.seconds, 3),
    }


def weakest(found: ProbeSet) -> str | None:
    """Say why the run did not beat its controls; None where a probe did, or a warning says more.

    A probe that reads its own source only is a finding, told by a warning, and no failure.
    """
    if any(found.beats_control(name) for name in found.names):
        return None
    if found.artifact.manifest.method["crossed"] and found.warnings:
        return None
    said = "; ".join(f"{name}: {found.verdict(name)}" for name in found.names)
    return f"no probe beats its controls: {said}; the file is written with claim 'none'"


def rows(found: ProbeSet) -> list[tuple[str, ...]]:
    """Return one row a probe, for ``COLUMNS``."""
    return [
        (
            name,
            str(found.best_block(name)),
            _cell(found.triple(name, "auc")),
            _controls(found, name),
            f"{found.triple(name, 'auc_within')[0]:.2f}, "
            f"{found.triple(name, 'auc_within_erased')[0]:.2f}",
            f"{found.triple(name, 'ece')[0]:.3f} ({found.triple(name, 'ece_chance')[0]:.3f})",
            "yes" if found.beats_control(name) else "no",
        )
        for name in found.names
    ]


def block_rows(found: ProbeSet, name: str) -> list[tuple[str, ...]]:
    """Return one row a block, for ``BLOCK_COLUMNS``."""
    measures = {
        key: found.artifact.tensors[f"measure/{name}/{key}"].tolist()
        for key in ("auc", "auc_within", "auc_shuffled", "auc_random", "auc_length")
    }
    best = found.best_block(name)
    return [
        (
            f"{block} *" if block == best else str(block),
            _cell(measures["auc"][row]),
            _cell(measures["auc_within"][row]),
            f"{measures['auc_shuffled'][row][2]:.2f}",
            f"{measures['auc_random'][row][2]:.2f}",
            f"{measures['auc_length'][row][0]:.2f}",
        )
        for row, block in enumerate(found.blocks(name))
    ]


def matrix_rows(found: ProbeSet, name: str) -> list[tuple[str, ...]]:
    """Return the cross-source matrix at the best block as rows of text."""
    auc = found.matrix(name)
    return [
        (
            source,
            *(
                _cell((auc.value[s, t], auc.low[s, t], auc.high[s, t]))
                for t in range(len(found.sources))
            ),
        )
        for s, source in enumerate(found.sources)
    ]


def _probe(found: ProbeSet, name: str) -> Mapping[str, object]:
    auc, about = found.matrix(name), found.artifact.manifest.directions[name]
    return {
        "best_block": found.best_block(name),
        "chosen_blocks": dict(
            zip(found.sources, _list(found.fact(name, "chosen_blocks")), strict=True)
        ),
        "site": about.site,
        "position": about.position,
        "n_test": found.fact(name, "n_test"),
        **{
            key: dict(zip(("value", "low", "high"), found.triple(name, key), strict=True))
            for key in _ESTIMATES
        },
        "matrix": {
            s: {
                t: {"value": auc.value[i, j], "low": auc.low[i, j], "high": auc.high[i, j]}
                for j, t in enumerate(found.sources)
            }
            for i, s in enumerate(found.sources)
        },
        "by_block": {
            key: found.artifact.tensors[f"measure/{name}/{key}"][:, 0].tolist()
            for key in ("auc", "auc_within")
        },
        "p_shuffled": found.fact(name, "p_shuffled"),
        "p_random": found.fact(name, "p_random"),
        "beats_control": found.beats_control(name),
        "verdict": found.verdict(name),
        "warning": found.fact(name, "warning"),
    }


def _controls(found: ProbeSet, name: str) -> str:
    bands = ("auc_shuffled", "auc_random", "auc_random_features")
    tops = [f"{found.triple(name, key)[2]:.2f}" for key in bands]
    return " ".join([*tops, f"{found.triple(name, 'auc_length')[0]:.2f}"])


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _cell(estimate: tuple[float, float, float] | list[float]) -> str:
    value, low, high = estimate
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
