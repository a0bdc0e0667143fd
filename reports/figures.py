"""Figures of an artifact: each function takes the artifact and returns a plotly figure.

Figures are returned, never shown; titles carry units and n. A function raises ``MissingPart`` if
the artifact lacks what it draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from artifacts.artifact import Artifact
from probes.stability import chance_cosine
from reports import reading, style
from reports.reading import MissingPart, Series

MOST_PANELS = 8
_CONTROL_LOOKS = (
    ("auc_shuffled", "shuffled labels", "dot", 0.22),
    ("auc_random", "random directions", "dash", 0.12),
)


def separation(artifact: Artifact, names: Sequence[str] | None = None) -> go.Figure:
    """Draw the held-out AUC of directions by block with its interval and its control bands.

        AUC = P(projection of a held-out state of group 1 > that of group 2)

    One panel for each direction, at most ``MOST_PANELS``. Dimensionless, 0.5 is chance. Shows that
    the groups can be told apart along the direction, not that the model uses it.

    Raises:
        MissingPart: if no direction has the measure ``auc``.
    """
    measured = [
        (name, found)
        for name in (artifact.names if names is None else names)
        if (found := reading.series(artifact, name, "auc")) is not None
    ]
    shown = measured[:MOST_PANELS]
    if not shown:
        raise MissingPart("no separation was measured (measure 'auc'); extract with held-out data")
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        subplot_titles=[f"{name} (n = {found.about.n})" for name, found in shown],
        horizontal_spacing=0.06,
        vertical_spacing=0.3 / rows,
    )
    for index, (name, found) in enumerate(shown):
        for trace in _separation_panel(artifact, name, found, first=index == 0):
            figure.add_trace(trace, row=index // columns + 1, col=index % columns + 1)
    figure.update_yaxes(range=[-0.02, 1.04], dtick=0.25)
    _block_axis(figure, artifact, row=rows)
    figure.update_yaxes(title_text="AUC", col=1)
    level = shown[0][1].about.level
    title = f"Held-out separation by block (AUC; bands: {level:.0%} intervals)"
    if len(shown) < len(measured):
        title += f", {len(shown)} of {len(measured)} directions"
    style.finish(figure, title, height=130 + 250 * rows)
    return figure.update_layout(legend={"y": -0.3 / (rows + 0.4)}, margin={"t": 78})


def stability(artifact: Artifact, names: Sequence[str] | None = None) -> go.Figure:
    """Draw the split-half cosine of directions by block with its interval.

        c_b = mean over splits of cos(v_b(half A), v_b(half B))

    Dimensionless. High values say that the direction comes back on other prompts of the same kind,
    not that it means what its name says.

    Raises:
        MissingPart: if no direction has the measure ``split_half_cosine``.
    """
    figure, levels, counts = go.Figure(), set[float](), set[int]()
    for name in artifact.names if names is None else names:
        found = reading.series(artifact, name, "split_half_cosine")
        if found is not None:
            colour = _colour(artifact, name)
            figure.add_trace(style.band(found.blocks, found.low, found.high, colour, opacity=0.15))
            figure.add_trace(style.line(found.blocks, found.value, name, colour))
            levels.add(found.about.level)
            counts.add(found.about.n)
    if not levels:
        raise MissingPart("no split-half cosine was measured (measure 'split_half_cosine')")
    _block_axis(figure, artifact)
    figure.update_yaxes(title_text="cosine", range=[None, 1.03])
    return style.finish(
        figure,
        f"Split-half cosine by block (n = {_span(counts)} prompts; bands: "
        f"{'/'.join(f'{level:.0%}' for level in sorted(levels))} intervals)",
    )


def norms(artifact: Artifact, names: Sequence[str] | None = None) -> go.Figure:
    """Draw the norm of directions by block, in units of the mean norm of the aligned states there.

        r_b = |v_b| / mean |x_b|

    Dimensionless. Large values say that the contrast moves states far, not that it matters.

    Raises:
        MissingPart: if the artifact has no ``ambient_norm`` for any direction.
    """
    figure, counts = go.Figure(), set[int]()
    for name in artifact.names if names is None else names:
        relative = reading.relative_norm(artifact, name)
        if relative is not None:
            about = reading.info(artifact, name)
            figure.add_trace(style.line(about.blocks, relative, name, _colour(artifact, name)))
            counts.add(sum(about.n.values()))
    if not counts:
        raise MissingPart("the artifact has no ambient_norm, so norms cannot be compared")
    _block_axis(figure, artifact)
    figure.update_yaxes(title_text="|direction| / mean |state|", rangemode="tozero")
    return style.finish(
        figure, f"Norm by block, relative to the mean state norm (n = {_span(counts)} prompts)"
    )


def cosine_curves(artifact: Artifact, name: str) -> go.Figure:
    """Draw the cosine between one direction and the others at its site and position, by block.

        cos_b = v_b . w_b / (|v_b| |w_b|)

    The grey band holds 95% of the cosines of unrelated directions in that many dimensions. A large
    cosine says that two contrasts point the same way, not that they have the same cause.

    Raises:
        MissingPart: if there is no other direction at the same site and position.
    """
    _, *others = reading.companions(artifact, name)
    if not others:
        raise MissingPart(f"{name} is the only direction at its site and position")
    about = reading.info(artifact, name)
    chance = chance_cosine(artifact.direction(name).shape[1])
    figure = go.Figure()
    low, high = ([sign * chance] * len(about.blocks) for sign in (-1, 1))
    figure.add_trace(style.band(about.blocks, low, high, style.GREY, opacity=0.22))
    for other in others:
        found = reading.cosine(artifact, name, other)
        curve = style.line(list(found), list(found.values()), other, _colour(artifact, other))
        figure.add_trace(curve)
    _block_axis(figure, artifact)
    figure.update_yaxes(title_text=f"cosine with {name}", range=[-1.05, 1.05])
    return style.finish(
        figure,
        f"Cosine with {name} by block (n = {sum(about.n.values())} prompts; "
        f"grey: chance, |cos| < {chance:.3f})",
    )


def cosine_map(artifact: Artifact, name: str, block: int) -> go.Figure:
    """Draw the cosines between all directions at the site and position of ``name``, at one block.

    Raises:
        MissingPart: if fewer than two directions have that block.
    """
    names = [
        other
        for other in reading.companions(artifact, name)
        if block in reading.info(artifact, other).blocks
    ]
    if len(names) < 2:
        raise MissingPart(f"fewer than two directions at block {block}, so there is no angle")
    values = [[1.0] * len(names) for _ in names]
    for i, j in combinations(range(len(names)), 2):
        values[i][j] = values[j][i] = reading.cosine(artifact, names[i], names[j])[block]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=names,
            y=names,
            zmin=-1,
            zmax=1,
            colorscale=[(0, style.PALETTE[1]), (0.5, "#f4f3ef"), (1, style.PALETTE[0])],
            texttemplate="%{z:.2f}",
            textfont={"color": "#222"},
            hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
            colorbar={"title": "cosine", "thickness": 12, "outlinewidth": 0},
            xgap=2,
            ygap=2,
        )
    )
    figure.update_yaxes(autorange="reversed")
    about = reading.info(artifact, name)
    title = f"Cosine between directions at block {block} (n = {sum(about.n.values())} prompts)"
    style.finish(figure, title, height=200 + 46 * len(names), legend=False)
    figure.update_layout(margin={"l": 120})
    return figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False)


def projection(artifact: Artifact, name: str, block: int) -> go.Figure:
    """Draw the held-out projections of single prompts on the unit direction, by class.

        p_i = x_i . v / |v|

    In the units of the state at that site. Overlap is what the AUC counts.

    Raises:
        MissingPart: if the artifact stores no projections of this direction, or not at this block.
    """
    if block not in reading.info(artifact, name).blocks:
        raise MissingPart(f"{name} has no row at block {block}")
    groups = reading.projections(artifact, name, block)
    if not groups:
        raise MissingPart(f"the artifact stores no projections of {name}")
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.03
    )
    everything = [value for values in groups.values() for value in values]
    low, high = min(everything), max(everything)
    bins = {"start": low, "end": high, "size": (high - low) / 30 or 1.0}
    for index, (group, values) in enumerate(groups.items()):
        colour = style.group_colour(group, index)
        figure.add_trace(_histogram(group, values, bins, colour), row=1, col=1)
        figure.add_trace(_points(group, values, colour), row=2, col=1)
    figure.update_xaxes(title_text="projection (units of the state)", row=2)
    figure.update_yaxes(title_text="prompts", row=1)
    counts = ", ".join(f"n = {len(values)} {group}" for group, values in groups.items())
    style.finish(figure, f"Held-out prompts along {name} at block {block} ({counts})")
    return figure.update_layout(barmode="overlay")


def _separation_panel(
    artifact: Artifact, name: str, found: Series, *, first: bool
) -> list[go.Scatter]:
    chance = style.line(found.blocks, [0.5] * len(found.blocks), "chance", style.GREY)
    traces = [chance.update(mode="lines", line={"width": 1}, opacity=0.6, hoverinfo="skip")]
    for control, label, dash, opacity in _CONTROL_LOOKS:
        null = reading.series(artifact, name, control)
        if null is not None:
            traces.append(style.band(null.blocks, null.low, null.high, style.GREY, opacity=opacity))
            traces.append(style.line(null.blocks, null.value, label, style.GREY, dash=dash))
    colour = style.PALETTE[0]
    traces.append(style.band(found.blocks, found.low, found.high, colour, opacity=0.25))
    traces.append(style.line(found.blocks, found.value, "direction", colour))
    for trace in traces:
        trace.legendgroup = trace.name
        trace.showlegend = first and trace.name is not None
    return traces


def _block_axis(figure: go.Figure, artifact: Artifact, *, row: int | None = None) -> None:
    blocks = [block for about in artifact.manifest.directions.values() for block in about.blocks]
    step = max(1, round((max(blocks) - min(blocks)) / 8))
    figure.update_xaxes(tick0=0, dtick=step)  # whole blocks only
    figure.update_xaxes(title_text="block", row=row)


def _colour(artifact: Artifact, name: str) -> str:
    return style.colour(artifact.names.index(name))  # one colour for a direction in every figure


def _histogram(
    group: str, values: list[float], bins: dict[str, float], colour: str
) -> go.Histogram:
    return go.Histogram(
        x=values,
        name=f"{group} (n = {len(values)})",
        xbins=bins,
        autobinx=False,
        marker={"color": colour},
        opacity=0.6,
        hovertemplate="%{x}: %{y} prompts<extra>" + group + "</extra>",
    )


def _points(group: str, values: list[float], colour: str) -> go.Scatter:
    return go.Scatter(
        x=values,
        y=[group] * len(values),
        mode="markers",
        marker={"symbol": "line-ns-open", "color": colour, "size": 11},
        showlegend=False,
        hovertemplate="%{x:.3f}<extra>" + group + "</extra>",
    )


def _span(counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"
