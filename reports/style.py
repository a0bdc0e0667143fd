"""One look for all figures: colours, bands, axes. Readable on light and on dark paper."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

PALETTE = ("#2f7fb5", "#c8553d", "#3c8d6e", "#8a63b0", "#c9962b", "#5b6b7a", "#b0577f", "#4aa3a2")
GREY = "#8a8f98"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
GRID = "rgba(128,128,128,0.22)"

_GROUPS = {"harmful": PALETTE[1], "harmless": PALETTE[0], "aligned": PALETTE[2]}


def colour(index: int) -> str:
    """Return the colour of the index-th line."""
    return PALETTE[index % len(PALETTE)]


def group_colour(group: str, index: int) -> str:
    """Return the colour of a class: the same in every figure."""
    return _GROUPS.get(group, colour(index + 3))


def band(
    x: Sequence[int], low: Sequence[float], high: Sequence[float], colour: str, *, opacity: float
) -> go.Scatter:
    """Return a filled band between ``low`` and ``high``."""
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=_transparent(colour, opacity),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        mode="lines",
    )


def line(
    x: Sequence[int], y: Sequence[float], name: str, colour: str, *, dash: str = "solid"
) -> go.Scatter:
    """Return a line through the blocks, with points where there are few of them."""
    mode = "lines+markers" if len(x) <= 48 and dash == "solid" else "lines"
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=name,
        mode=mode,
        line={"color": colour, "width": 2 if dash == "solid" else 1.4, "dash": dash},
        marker={"size": 5},
        hovertemplate="block %{x}: %{y:.3f}<extra>" + name + "</extra>",
    )


def finish(figure: go.Figure, title: str, *, height: int = 380, legend: bool = True) -> go.Figure:
    """Apply the common layout and return the same figure."""
    figure.update_layout(
        title={"text": title, "x": 0.008, "xanchor": "left", "font": {"size": 15}},
        font={"family": FONT, "size": 13, "color": "#5f6570"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=height,
        margin={"l": 62, "r": 18, "t": 58, "b": 52},
        showlegend=legend,
        legend={"orientation": "h", "y": -0.22, "x": 0, "yanchor": "top"},
        hovermode="closest",
    )
    axes = {
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "linecolor": GRID,
        "ticks": "",
        "title": {"font": {"size": 13}},
    }
    figure.update_xaxes(axes)
    figure.update_yaxes(axes)
    figure.update_annotations(font={"size": 13})
    return figure


def _transparent(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
