"""The result of an extraction as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from directions.result import DirectionSet


def summary(result: DirectionSet, out: str | Path) -> Mapping[str, object]:
    """Return what ``--json`` prints."""
    manifest = result.artifact.manifest
    return {
        "out": str(out),
        "digest": result.digest,
        "n": {data.role: dict(data.n) for data in manifest.data},
        "seconds": round(result.seconds, 3),
        "stats": dict(result.stats),
        "base": manifest.base.spec if manifest.base else None,
        "aligned": manifest.aligned.spec if manifest.aligned else None,
        "dtype": manifest.aligned.dtype if manifest.aligned else None,
        "split": manifest.method["split"],
        "directions": {name: _direction_summary(result, name) for name in result.names},
        "notes": list(manifest.notes),
    }


def _direction_summary(result: DirectionSet, name: str) -> dict[str, object]:
    score, method = result.score(name), result.artifact.manifest.method
    return {
        "best_block": score.block,
        "blocks": len(result.blocks(name)),
        "auc": score.auc,
        "low": score.low,
        "high": score.high,
        "auc_shuffled": list(score.auc_shuffled),
        "auc_random": list(score.auc_random),
        "p_shuffled": method[f"p_shuffled.{name}"],
        "p_random": method[f"p_random.{name}"],
        "split_half_cosine": list(score.split_half_cosine),
        "norm": score.norm,
        "relative_norm": score.relative_norm,
        "n_fit": score.n_fit,
        "n_test": score.n_test,
        "beats_control": result.beats_control(name),
        "verdict": result.verdict(name),
    }
