"""Figures of a decomposition: singular values against their null, and ranks by block.

Like :mod:`reports.figures`: a figure is returned, never shown; ``MissingPart`` says what is not
there. Nothing is estimated here.
"""

from __future__ import annotations

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
}


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
