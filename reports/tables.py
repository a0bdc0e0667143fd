"""The tables of the page as rows of text; every number has its n or stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup, escape

from artifacts.artifact import Artifact
from artifacts.manifest import ModelInfo
from reports import reading
from reports.words import CONTROL_WORDS

NONE = "–"


@dataclass(frozen=True)
class Table:
    """Column names and rows of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_html_(self) -> str:
        """Return the table as a notebook shows it; all text is escaped."""
        lines = [_line("th", self.columns), *(_line("td", row) for row in self.rows)]
        return f"<table>{''.join(lines)}</table>"


def directions(artifact: Artifact) -> Table:
    """Return one row for each direction, read at its best block."""
    columns = (
        "direction",
        "block",
        "AUC",
        "AUC above both bands",
        "shuffled labels",
        "random directions",
        "split-half cosine",
        "norm / state norm",
        "n fit, test",
    )
    several = len(places(artifact)) > 1
    rows = tuple(_direction(artifact, name) for name in artifact.names)
    if several:
        columns = (*columns, "site @ position")
        rows = tuple(
            (*row, _place(artifact, name)) for row, name in zip(rows, artifact.names, strict=True)
        )
    return Table(columns, rows)


def verdicts(artifact: Artifact) -> Table:
    """Return what the run itself concluded about each direction over all blocks."""
    rows = [
        (name, artifact.manifest.directions[name].claim, stated)
        for name in artifact.names
        if (stated := reading.stated(artifact, name)) is not None
    ]
    return Table(("direction", "claim", "over all blocks"), tuple(rows))


def places(artifact: Artifact) -> tuple[str, ...]:
    """Return the sites and positions that the directions were read at."""
    return tuple(sorted({_place(artifact, name) for name in artifact.names}))


def controls(artifact: Artifact) -> Table:
    """Return which measures and controls were run, and for how many directions."""
    rows: list[tuple[str, ...]] = []
    total = len(artifact.names)
    described: dict[tuple[str, str], list[int]] = {}
    for about in artifact.manifest.directions.values():
        for measure, entry in about.measures.items():
            described.setdefault((measure, entry.what), []).append(entry.n)
    for (measure, what), counts in sorted(described.items()):
        rows.append((measure, what, _span(counts), f"{len(counts)} of {total}"))
    for control, label in CONTROL_WORDS.items():
        if total and not any(measure == control for measure, _ in described):
            rows.append((control, f"{label}: NOT RUN", NONE, f"0 of {total}"))
    return Table(("measure", "what it is", "n", "directions"), tuple(rows))


def models(artifact: Artifact) -> Table:
    """Return the models by field, base and aligned side by side."""
    return side_by_side({"base": artifact.manifest.base, "aligned": artifact.manifest.aligned})


def side_by_side(models: Mapping[str, ModelInfo | None]) -> Table:
    """Return models by field, one column each."""
    columns = {name: _model(model) for name, model in models.items() if model is not None}
    keys = list(next(iter(columns.values()), {}))
    rows = tuple((key, *(column[key] for column in columns.values())) for key in keys)
    return Table(("", *columns), rows)


def data(artifact: Artifact) -> Table:
    """Return the prompt sets with their sizes and digests."""
    rows = tuple(
        (entry.role, entry.source, _counts(entry.n), entry.digest)
        for entry in artifact.manifest.data
    )
    return Table(("role", "source", "n", "digest"), rows)


def run(artifact: Artifact) -> Table:
    """Return when, where and with what the artifact was made."""
    manifest = artifact.manifest
    tool, tokenizer = manifest.tool, manifest.tokenizer
    commit = f"{tool.commit or 'no checkout'}{' with uncommitted changes' if tool.dirty else ''}"
    rows = [
        ("content digest", artifact.digest),
        ("created", manifest.created),
        ("theodolite", f"{tool.version}, {commit}"),
        ("device, seed", f"{manifest.device}, {manifest.seed}"),
        ("positions", manifest.positions),
        ("contrasts", ", ".join(manifest.contrast) or NONE),
        ("versions", ", ".join(f"{name} {v}" for name, v in sorted(manifest.versions.items()))),
    ]
    if tokenizer is not None:
        rows.append(("tokenizer digest", tokenizer.digest))
        rows.append(("chat template digest", tokenizer.chat_template_digest or "no chat template"))
    rows += [("computed from", parent) for parent in manifest.parents]
    return Table(("", ""), tuple(rows))


def method(artifact: Artifact) -> Table:
    """Return every option of the run."""
    rows = tuple((key, _option(value)) for key, value in sorted(artifact.manifest.method.items()))
    return Table(("option", "value"), rows)


def _line(tag: str, cells: tuple[str, ...]) -> str:
    cell = Markup('<{0} style="text-align:left">{1}</{0}>')
    return f"<tr>{''.join(cell.format(tag, escape(text)) for text in cells)}</tr>"


def _place(artifact: Artifact, name: str) -> str:
    about = reading.info(artifact, name)
    return f"{about.site} @ {about.position}"


def _direction(artifact: Artifact, name: str) -> tuple[str, ...]:
    about, found = reading.info(artifact, name), reading.verdict(artifact, name)
    relative = reading.relative_norm(artifact, name)
    halves = reading.series(artifact, name, "split_half_cosine")
    fit = sum(about.n.values())
    if found is None:
        return (name, NONE, "not measured", *(NONE,) * 5, str(fit))
    nulls = dict(found.controls)
    row = about.blocks.index(found.block)
    return (
        name,
        str(found.block),
        str(found.auc),
        "yes" if found.beaten else ("no" if found.controls else "no control"),
        *(_range(nulls.get(control)) for control in reading.CONTROLS),
        NONE if halves is None else str(halves.at(found.block)),
        NONE if relative is None else f"{relative[row]:.3f}",
        f"{fit}, {found.auc.about.n}",
    )


def _range(point: reading.Point | None) -> str:
    return NONE if point is None else f"{point.low:.3f} – {point.high:.3f}"


def _model(model: ModelInfo) -> dict[str, str]:
    weights = ", ".join(f"{file}: {sha}" for file, sha in sorted(model.weight_digests.items()))
    return {
        "model": model.spec,
        "revision": model.revision or NONE,
        "shape": f"{model.n_layers} blocks, {model.n_heads} heads ({model.n_kv_heads} for keys and "
        f"values), d_model {model.d_model}, d_mlp {model.d_mlp or NONE}",
        "dtype, attention": f"{model.dtype}, {model.attention}",
        "configuration digest": model.config_digest,
        "weight digests": weights or NONE,
        "adapter digest": model.adapter_digest or NONE,
    }


def _option(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_option, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return NONE if value is None else str(value)


def _counts(n: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {label}" for label, count in sorted(n.items())) or NONE


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} – {high}"
