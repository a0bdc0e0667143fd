"""Figures of a decomposition: singular values against their null, and ranks by block.

Like :mod:`reports.figures`: a figure is returned, never shown; ``MissingPart`` says what is not
there. Nothing is estimated here.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from artifacts.artifact import Artifact
from reports import reading, style
from reports.reading import MissingPart

CAPTIONS = {
    "singular_values": "Each panel is one decomposition at the block that fitted prompts separate "
    "best. Points: singular values of the listed components. Grey: the band of the null, in which "
    "shifts belong to other prompts (affine) or have random signs (svd). A component inside the "
    "grey is not evidence; a component above it need not matter to the model.",
    "ranks": "Components above the null by block, each block tested on its own, and the held-out "
    "share of the shift that the map explains (0: no better than the mean shift).",
    "component_effects": "Interventions at the block of the decomposition, on held-out prompts. "
    "Removed: harmful prompts are moved along the component to where harmless ones are; added: "
    "the other way round. Points: mean change of the refusal log-odds with its 95% bootstrap "
    "interval. Grey: the range over random directions that move every prompt as far. Open points "
    "are not beyond their controls.",
}
_PARTS = (("removed", "removed, harmful prompts"), ("added", "added, harmless prompts"))


def names(artifact: Artifact) -> tuple[str, ...]:
    """Return the directions of an artifact that are decompositions."""
    return tuple(name for name in artifact.names if f"singular_values/{name}" in artifact.tensors)


def singular_values(artifact: Artifact) -> go.Figure:
    """Draw the listed singular values of every decomposition at its best block with their null.

    In units of the states, over all fitted prompts, on a logarithmic axis.

    Raises:
        MissingPart: the artifact holds no decomposition.
    """
    shown = names(artifact)
    if not shown:
        raise MissingPart("there is no decomposition; run python -m directions.decompose")
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    blocks = {name: _best(artifact, name) for name in shown}
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"{name}, block {blocks[name]}" for name in shown],
        horizontal_spacing=0.09,
        vertical_spacing=0.3 / rows,
    )
    for index, name in enumerate(shown):
        row, column = divmod(index, columns)
        for trace in _panel(artifact, name, blocks[name], first=index == 0):
            figure.add_trace(trace, row=row + 1, col=column + 1)
    figure.update_yaxes(type="log")
    figure.update_xaxes(title_text="component", row=rows, dtick=1)
    title = "Singular values and their null (units of the states)"
    return style.finish(figure, title, height=130 + 250 * rows)


def ranks(artifact: Artifact) -> go.Figure:
    """Draw the number of components above the null, and the held-out R2 of the shift, by block.

    Raises:
        MissingPart: the artifact holds no decomposition with ranks.
    """
    method = artifact.manifest.method
    shown = [name for name in names(artifact) if f"rank.{name}" in method]
    if not shown:
        raise MissingPart("there are no ranks; run python -m directions.decompose")
    titles = ("components above the null", "held-out R2 of the shift")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.1)
    for index, name in enumerate(shown):
        blocks, colour = reading.info(artifact, name).blocks, style.colour(index)
        found = method[f"rank.{name}"]
        counts = [float(str(rank)) for rank in found] if isinstance(found, tuple | list) else []
        line = style.line(blocks, counts, name, colour)
        figure.add_trace(line.update(hovertemplate="block %{x}: %{y}"), row=1, col=1)
        share = reading.series(artifact, name, "r2")
        if share is not None:
            band = style.band(share.blocks, share.low, share.high, colour, opacity=0.15)
            figure.add_trace(band, row=1, col=2)
            curve = style.line(share.blocks, share.value, name, colour)
            figure.add_trace(curve.update(showlegend=False), row=1, col=2)
    figure.update_xaxes(title_text="block (0-based)")
    return style.finish(figure, "Ranks and explained share by block (bands: 95% intervals)")


def acted(artifact: Artifact) -> tuple[str, ...]:
    """Return the decompositions whose components were intervened on."""
    method = artifact.manifest.method
    return tuple(name for name in names(artifact) if f"removed.{name}.c1" in method)


def effects(artifact: Artifact) -> go.Figure:
    """Draw what removing and adding each component does to refusal, beside random directions.

    In log-odds of the refusal tokens at the first answer token.

    Raises:
        MissingPart: no intervention was run.
    """
    shown = acted(artifact)
    if not shown:
        raise MissingPart("no intervention was run on the components (--effect-prompts 0)")
    figure = make_subplots(
        rows=len(shown),
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        vertical_spacing=0.3 / len(shown),
        subplot_titles=[f"{name}: {title}" for name in shown for _, title in _PARTS],
    )
    counts: set[str] = set()
    for row, name in enumerate(shown, start=1):
        for column, (part, _) in enumerate(_PARTS, start=1):
            for trace in _effect(artifact, name, part, first=row == column == 1):
                figure.add_trace(trace, row=row, col=column)
        counts.add(str(artifact.manifest.method.get(f"removed_n.{name}.c1", "?")))
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="change of the log-odds (nats)", row=len(shown))
    title = f"What each component does to refusal (n = {'/'.join(sorted(counts))} prompts a class)"
    return style.finish(figure, title, height=130 + 210 * len(shown))


def _effect(artifact: Artifact, name: str, part: str, *, first: bool) -> list[go.Scatter]:
    method = artifact.manifest.method
    many = artifact.tensors[f"singular_values/{name}"].shape[-1]
    keys = [f"c{k}" for k in range(1, many + 1) if f"{part}.{name}.c{k}" in method]
    found = [_numbers(method[f"{part}.{name}.{key}"]) for key in keys]
    traces = []
    for index, key in enumerate(keys):
        band = _numbers(method.get(f"{part}_control.{name}.{key}"))
        random = go.Scatter(
            x=band,
            y=[key.upper()] * len(band),
            mode="lines",
            line={"color": style.GREY, "width": 14},
            opacity=0.45,
            name="random directions, least to greatest",
            showlegend=first and index == 0,
            hovertemplate="random: %{x:.3f}<extra></extra>",
        )
        traces.append(random)
    beats = [method.get(f"{part}_beats.{name}.{key}") is True for key in keys]
    return [*traces, _points(keys, found, beats, first=first)]


def _points(
    keys: Sequence[str], found: Sequence[Sequence[float]], beats: Sequence[bool], *, first: bool
) -> go.Scatter:
    return go.Scatter(
        x=[value for value, *_ in found],
        y=[key.upper() for key in keys],
        mode="markers",
        name="component",
        showlegend=first,
        marker={
            "color": style.PALETTE[1],
            "size": 9,
            "symbol": ["circle" if one else "circle-open" for one in beats],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, _, high in found],
            "arrayminus": [value - low for value, low, _ in found],
            "color": style.PALETTE[1],
            "thickness": 1.2,
            "width": 3,
        },
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )


def _numbers(value: object) -> list[float]:
    return [float(str(part)) for part in value] if isinstance(value, tuple | list) else []


def _best(artifact: Artifact, name: str) -> int:
    found = artifact.manifest.method.get(f"best_block.{name}")
    blocks = reading.info(artifact, name).blocks
    return found if isinstance(found, int) and found in blocks else blocks[-1]


def _panel(artifact: Artifact, name: str, block: int, *, first: bool) -> list[go.Scatter]:
    row = reading.info(artifact, name).blocks.index(block)
    values: list[float] = artifact.tensors[f"singular_values/{name}"][row].tolist()
    numbers = list(range(1, len(values) + 1))
    traces: list[go.Scatter] = []
    nulls = [reading.series(artifact, name, f"null_c{number}") for number in numbers]
    if all(null is not None for null in nulls):
        ends = [(null.low[row], null.high[row]) for null in nulls if null is not None]
        low, high = ([max(end[i], 1e-12) for end in ends] for i in (0, 1))
        traces.append(style.band(numbers, low, high, style.GREY, opacity=0.25))
    traces.append(
        go.Scatter(
            x=numbers,
            y=[max(value, 1e-12) for value in values],
            name="singular value",
            mode="lines+markers",
            line={"color": style.PALETTE[0], "width": 2},
            showlegend=first,
            hovertemplate="C%{x}: %{y:.4g}<extra></extra>",
        )
    )
    return traces
