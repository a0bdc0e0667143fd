"""python -m artifacts.show FILE: say what is in an artifact and whether it is intact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main

if TYPE_CHECKING:
    from artifacts.artifact import Artifact
    from artifacts.manifest import ModelInfo

_MAIN = ("auc", "auc_shuffled", "auc_random", "split_half_cosine")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Verify an artifact and print what a person wants to know about it."""

    file: tyro.conf.Positional[Path]
    """The artifact (.safetensors)."""
    output: OutputFlags = Output()

    def run(self) -> int:
        """Verify the file, then print it; exit code 2 if it is not a valid artifact."""
        from artifacts.digest import manifest_json
        from artifacts.read import load

        artifact = load(self.file)
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", manifest_json(artifact.manifest)))
        elif not self.output.quiet:
            _print(artifact, self.file)
        return 0


def _print(artifact: Artifact, file: Path) -> None:
    emit_table(f"{file}", ("", ""), _facts(artifact))
    if artifact.manifest.directions:
        columns = ("direction", "site @ position", "blocks", "norm", "n", "claim")
        rows = [_direction_row(artifact, name) for name in artifact.names]
        emit_table("Directions", columns, rows)
    _print_measures(artifact)
    for note in artifact.manifest.notes:
        emit_line(f"note: {note}")
    emit_line(f"next: python -m reports.build {file} --out report.html")


def _facts(artifact: Artifact) -> list[tuple[str, str]]:
    manifest = artifact.manifest
    facts = [
        ("kind", f"{manifest.kind}, format {manifest.format}"),
        ("digest", f"{manifest.digest} (verified)"),
        ("created", f"{manifest.created} by theodolite {manifest.tool.version}"),
        ("base", _model(manifest.base)),
        ("aligned", _model(manifest.aligned)),
    ]
    for data in manifest.data:
        facts.append((f"data ({data.role})", f"{data.source}: {_counts(data.n)}"))
    facts += [
        ("positions", manifest.positions),
        ("contrasts", ", ".join(manifest.contrast) or "none"),
        ("device, seed", f"{manifest.device}, {manifest.seed}"),
        ("tensors", _sizes(artifact)),
    ]
    return facts


def _sizes(artifact: Artifact) -> str:
    """Return the families of tensors with their bytes, the largest first."""
    found: dict[str, int] = {}
    for key, tensor in artifact.tensors.items():
        family = key.split("/")[0]
        found[family] = found.get(family, 0) + tensor.nbytes
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{family} {_bytes(size)}" for family, size in ordered)


def _bytes(size: int) -> str:
    for unit, step in (("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"


def _model(model: ModelInfo | None) -> str:
    if model is None:
        return "none"
    shape = f"{model.n_layers} blocks, {model.n_heads} heads, d_model {model.d_model}"
    return f"{model.spec} ({shape}, {model.dtype}, {model.attention})"


def _direction_row(artifact: Artifact, name: str) -> tuple[str, ...]:
    info = artifact.manifest.directions[name]
    norms: list[float] = artifact.direction(name).square().sum(-1).sqrt().numpy().tolist()
    return (
        name,
        f"{info.site} @ {info.position}",
        _blocks(info.blocks),
        f"{min(norms):.3g} - {max(norms):.3g} ({info.norm})",
        _counts(info.n),
        info.claim,
    )


def _print_measures(artifact: Artifact) -> None:
    directions = artifact.manifest.directions
    described = {
        (measure, about.what, about.n): None
        for name in artifact.names
        for measure, about in sorted(directions[name].measures.items())
    }
    names = list(dict.fromkeys(measure for measure, _, _ in described))
    if names:
        shown = [name for name in _MAIN if name in names] or names[:4]
        rows = [_measure_row(artifact, name, shown) for name in artifact.names]
        title = "Measures at the best block of each direction: value [interval]"
        emit_table(title, ("direction", "block", *shown), rows)
        meanings = [(measure, what, str(n)) for measure, what, n in described]
        emit_table("What they are", ("measure", "what", "n"), meanings)


def _measure_row(artifact: Artifact, name: str, shown: list[str]) -> tuple[str, ...]:
    info = artifact.manifest.directions[name]
    found = [measure for measure in shown if measure in info.measures]
    if not found:
        return (name, *("-" for _ in (0, *shown)))
    # Controls are shown at the block where the separation itself is best, so they compare.
    leading: list[float] = artifact.tensors[f"measure/{name}/{found[0]}"][:, 0].numpy().tolist()
    row = leading.index(max(leading))
    cells = [_cell(artifact, name, measure, row) if measure in found else "-" for measure in shown]
    return (name, str(info.blocks[row]), *cells)


def _cell(artifact: Artifact, name: str, measure: str, row: int) -> str:
    stored: list[list[float]] = artifact.tensors[f"measure/{name}/{measure}"].numpy().tolist()
    value, low, high = stored[row]
    return f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _blocks(blocks: tuple[int, ...]) -> str:
    if len(blocks) > 2 and blocks == tuple(range(blocks[0], blocks[-1] + 1)):
        return f"{blocks[0]}-{blocks[-1]}"
    return ", ".join(map(str, blocks))


def _counts(n: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {label}" for label, count in sorted(n.items())) or "none"


if __name__ == "__main__":
    raise SystemExit(main(Show))
