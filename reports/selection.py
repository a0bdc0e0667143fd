"""Figures of a selection: every candidate's scores, and what the chosen one does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from artifacts.artifact import Artifact
from artifacts.manifest import Option
from reports import style
from reports.chapter import Block
from reports.reading import MissingPart
from reports.tables import NONE, Table

NAME = "selected"
CAPTIONS = {
    "selection_scores": "Every candidate: the difference of mean states of harmful and harmless "
    "prompts, by block and by template position counted from the end. Induce: refusal log-odds of "
    "harmless prompts with the candidate added. KL: what ablating it changes on harmless prompts. "
    "Bypass: refusal log-odds of harmful prompts with it ablated. White: dropped by a filter to "
    "the left, so not computed. The star is the least bypass of what passed.",
    "selection_effects": "Prompts that nothing was fitted or chosen on. Points: mean change of the "
    "refusal log-odds with its interval. Grey: the range over random directions of the same norm "
    "at the same block. A point whose interval lies outside the grey is an effect of this "
    "direction and not of any edit of its size; it does not say that no other one would do.",
}
_PANELS = (
    ("induce", 1, "induce (log-odds)"),
    ("kl", 2, "KL (nats)"),
    ("bypass", 3, "bypass (log-odds)"),
)
"""Score, the stage at which it is computed, and its title."""


@dataclass(frozen=True)
class _Grid:
    """The stored scores of all candidates; None where one was not computed."""

    blocks: list[int]
    positions: list[int]
    stage: list[list[float]]

    @classmethod
    def of(cls, artifact: Artifact) -> _Grid:
        method = artifact.manifest.method
        blocks, positions = method.get("candidate_blocks"), method.get("candidate_positions")
        stage = artifact.tensors.get("score/select/stage")
        if stage is None or not isinstance(blocks, tuple) or not isinstance(positions, tuple):
            raise MissingPart("no selection is in this artifact; run python -m directions.select")
        return cls([int(str(b)) for b in blocks], [int(str(p)) for p in positions], stage.tolist())

    def values(self, artifact: Artifact, name: str, least: int) -> list[list[float | None]]:
        """Return [position, block] values of the candidates that came as far as ``least``."""
        found: list[list[float]] = artifact.tensors[f"score/select/{name}"].tolist()
        return [
            [
                found[column][row] if self.stage[column][row] >= least else None
                for column in range(len(self.blocks))
            ]
            for row in range(len(self.positions))
        ]


def present(artifact: Artifact) -> bool:
    """Return whether the artifact holds a selection."""
    return "score/select/stage" in artifact.tensors and NAME in artifact.names


def scores(artifact: Artifact) -> go.Figure:
    """Draw induce, KL and bypass of every candidate by block and position, the choice marked.

    Log-odds and nats, means over validation prompts. They guided the choice, so the chosen one's
    are optimistic. KL is drawn up to ten times the limit; for a candidate that fell at it, it is
    the value at which it was given up, not its mean.

    Raises:
        MissingPart: the artifact holds no selection.
    """
    grid, method = _Grid.of(artifact), artifact.manifest.method
    figure = make_subplots(
        rows=1, cols=3, shared_yaxes=True, subplot_titles=[p[2] for p in _PANELS]
    )
    for column, (name, least, title) in enumerate(_PANELS, start=1):
        panel = _panel(grid, grid.values(artifact, name, least), title, method)
        figure.add_trace(panel, row=1, col=column)
        figure.add_trace(_star(method), row=1, col=column)
    figure.update_xaxes(title_text="block")
    figure.update_yaxes(title_text="position from the end", col=1)
    n = f"{method['n_validation_harmful']} harmful, {method['n_validation_harmless']} harmless"
    height = 190 + 40 * len(grid.positions)
    style.finish(figure, f"Candidates by block and position (n = {n})", height=height, legend=False)
    return figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False)


def effects(artifact: Artifact) -> go.Figure:
    """Draw what ablating and adding the chosen direction does, beside random directions.

    drop = m(x) - m(x | ablated) on harmful, rise = m(x | + r) - m(x) on harmless test prompts

    In log-odds of the refusal tokens. Says what happens to the first answer token only.

    Raises:
        MissingPart: the artifact holds no selection.
    """
    _Grid.of(artifact)
    figure, names = go.Figure(), ("drop", "rise")
    n = {}
    for index, name in enumerate(names):
        value, low, high = _measure(artifact, name)
        mean, least, most = _measure(artifact, f"{name}_random")
        n[name] = artifact.manifest.directions[NAME].measures[name].n
        random = go.Scatter(
            x=[least, most],
            y=[name, name],
            mode="lines",
            line={"color": style.GREY, "width": 16},
            opacity=0.45,
            name="random directions, least to greatest",
            showlegend=index == 0,
            hovertemplate=f"random, mean {mean:.3f}: %{{x:.3f}}<extra></extra>",
        )
        point = go.Scatter(
            x=[value],
            y=[name],
            mode="markers",
            marker={"color": style.PALETTE[index], "size": 11},
            error_x={
                "array": [high - value],
                "arrayminus": [value - low],
                "color": style.PALETTE[index],
            },
            name="under ablation, harmful" if name == "drop" else "under addition, harmless",
            hovertemplate="%{x:.3f}<extra></extra>",
        )
        figure.add_traces([random, point])
    figure.update_xaxes(title_text="change of the refusal metric (log-odds)")
    figure.update_yaxes(range=[1.6, -0.6])
    title = (
        f"Chosen direction on test prompts (n = {n['drop']} harmful, {n['rise']} harmless; "
        f"{artifact.manifest.directions[NAME].measures['drop_random'].n} random directions)"
    )
    return style.finish(figure, title, height=300).update_layout(legend={"y": -0.4})


def finding(artifact: Artifact) -> str:
    """Return one sentence with the main numbers, their intervals, n and controls.

    Raises:
        MissingPart: the artifact holds no selection.
    """
    grid = _Grid.of(artifact)
    about, method = artifact.manifest.directions[NAME], artifact.manifest.method
    drop, rise = _measure(artifact, "drop"), _measure(artifact, "rise")
    return (
        f"Of {len(grid.blocks) * len(grid.positions)} candidates the one at position "
        f"{method['position']} behind block {method['block']} was chosen. On test prompts, "
        f"ablating it lowers the refusal log-odds of harmful ones by {drop[0]:.2f} "
        f"({about.measures['drop'].level:.0%} interval {drop[1]:.2f} to {drop[2]:.2f}, "
        f"n = {about.measures['drop'].n}; {about.measures['drop_random'].n} random directions: "
        f"{_span(artifact, 'drop_random')}), and adding it raises that of harmless ones by "
        f"{rise[0]:.2f} ({rise[1]:.2f} to {rise[2]:.2f}, n = {about.measures['rise'].n}; random: "
        f"{_span(artifact, 'rise_random')})."
    )


def lead(artifact: Artifact) -> tuple[Block, ...]:
    """Return every measure of the chosen direction beside random directions, as a table."""
    measures = artifact.manifest.directions[NAME].measures
    rows = []
    for name, about in sorted(measures.items()):
        if name.endswith("_random") or f"measure/{NAME}/{name}" not in artifact.tensors:
            continue
        value, low, high = _measure(artifact, name)
        random = NONE
        if f"{name}_random" in measures:
            n = measures[f"{name}_random"].n
            random = f"{_span(artifact, f'{name}_random')} ({n})"
        rows.append(
            (name, f"{value:.3g} [{low:.3g}, {high:.3g}]", random, str(about.n), about.what)
        )
    columns = ("measure", "value [interval]", "random directions, range", "n", "what it is")
    said = "On prompts that nothing was fitted or chosen on."
    return (Block("The chosen direction, measured", Table(columns, tuple(rows)), said),)


def _panel(
    grid: _Grid, values: list[list[float | None]], title: str, method: Mapping[str, Option]
) -> go.Heatmap:
    known = [abs(v) for row in values for v in row if v is not None]
    odds = not title.startswith("KL")
    top = max(known, default=1.0) if odds else 10 * float(str(method["max_kl"]))
    cold, hot, bare = style.PALETTE[0], style.PALETTE[1], "#f4f3ef"
    return go.Heatmap(
        z=values,
        x=grid.blocks,
        y=[str(position) for position in grid.positions],
        zmin=-top if odds else 0.0,
        zmax=top,
        colorscale=[(0, cold), (0.5, bare), (1, hot)] if odds else [(0, bare), (1, hot)],
        hovertemplate="block %{x}, position %{y}: %{z:.3f}<extra>" + title + "</extra>",
        showscale=False,
        xgap=1,
        ygap=1,
    )


def _measure(artifact: Artifact, name: str) -> tuple[float, float, float]:
    value, low, high = artifact.tensors[f"measure/{NAME}/{name}"][0].tolist()
    return value, low, high


def _span(artifact: Artifact, name: str) -> str:
    _, low, high = _measure(artifact, name)
    return f"{low:.2f} to {high:.2f}"


def _star(method: Mapping[str, Option]) -> go.Scatter:
    return go.Scatter(
        x=[method["block"]],
        y=[str(method["position"])],
        mode="markers",
        marker={
            "symbol": "star",
            "size": 13,
            "color": "#222",
            "line": {"color": "#fff", "width": 1},
        },
        hoverinfo="skip",
        showlegend=False,
    )
