"""Figure of an ablation report: the effect beside its controls, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ablation.result import AblationReport, Row
from reports import style

_LOOKS = {
    "clean": style.PALETTE[5],
    "ablation": style.PALETTE[1],
    "comparison": style.PALETTE[4],
    "control": style.GREY,
}


def effects(report: AblationReport) -> go.Figure:
    """Draw refusals, the refusal margin and the perplexity of every setting, with intervals.

    Rates have Wilson intervals, margins (nats of log-odds) and perplexities bootstrap intervals,
    all at 95%. Grey: random controls. A fall of refusals shows an effect only where the controls
    stay up, the share of broken answers stays low, and perplexity does.
    """
    rows = tuple(reversed(report.rows))
    figure = make_subplots(
        rows=1,
        cols=3,
        shared_yaxes=True,
        column_widths=[0.42, 0.32, 0.26],
        horizontal_spacing=0.04,
        subplot_titles=["refused", "refusal margin", "perplexity"],
    )
    for label, symbol in (("harmful", "circle"), ("harmless", "diamond-open")):
        rates = [getattr(row, label) for row in rows]
        bounds = [(r.value, r.low, r.high) for r in rates]
        figure.add_trace(_points(rows, bounds, f"{label} requests", symbol), row=1, col=1)
        margins = [getattr(row, f"margin_{label}") for row in rows]
        bounds = [(m.value, m.low, m.high) for m in margins]
        figure.add_trace(_points(rows, bounds, None, symbol), row=1, col=2)
    broken = [(r.incoherent.value, r.incoherent.low, r.incoherent.high) for r in rows]
    figure.add_trace(_points(rows, broken, "broken, of all answers", "x"), row=1, col=1)
    costs = [(r.perplexity.value, r.perplexity.low, r.perplexity.high) for r in rows]
    figure.add_trace(_points(rows, costs, None, "circle"), row=1, col=3)
    figure.update_xaxes(range=[-0.03, 1.03], tickformat=".0%", title_text="share", col=1)
    figure.update_xaxes(title_text="log-odds (nats)", col=2)
    figure.update_xaxes(type="log", title_text="neutral text", col=3)
    about = report.about
    title = (
        f"Ablation of {about.name} ({about.mode}, {about.where}) in {about.model}, "
        f"n = {about.n['harmful']} + {about.n['harmless']}"
    )
    style.finish(figure, title, height=170 + 34 * len(rows))
    return figure.update_layout(margin={"l": 130})


def _points(
    rows: Sequence[Row],
    bounds: Sequence[tuple[float, float, float]],
    name: str | None,
    symbol: str,
) -> go.Scatter:
    values = [value for value, _, _ in bounds]
    return go.Scatter(
        x=values,
        y=[row.name for row in rows],
        mode="markers",
        name=name,
        showlegend=name is not None,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, _, high in bounds],
            "arrayminus": [value - low for value, low, _ in bounds],
            "thickness": 1.2,
            "width": 3,
            "color": style.GREY,
        },
        marker={"symbol": symbol, "size": 9, "color": [_LOOKS[row.role] for row in rows]},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
