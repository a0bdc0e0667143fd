"""The chapter of an ablation: the effect beside its controls, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ablation.result import ANSWERS, COSTS, AblationReport, Row, answer_cells, cost_cells
from evaluation.intervals import Change
from reports import style, words
from reports.chapter import Block, Chapter, Drawing
from reports.tables import Table

_LOOKS = {
    "clean": style.PALETTE[5],
    "ablation": style.PALETTE[1],
    "comparison": style.PALETTE[4],
    "control": style.GREY,
}
_CAPTION = (
    "Shares have Wilson intervals, margins (log-odds of the refusal tokens at the first answer "
    "token) and perplexities bootstrap intervals, all at 95%. Grey: random controls. Fewer "
    "refusals show an effect only where the controls stay up and broken answers stay rare; what "
    "the perplexity rises by is the cost."
)
_ROWS = (
    "Answered: coherently and without a refusal; broken text is neither refused nor answered. "
    "KL: from the clean model on harmless requests, at the first answer token and later, in nats."
)


def chapter(report: AblationReport, digest: str) -> Chapter:
    """Return what the page says of an ablation."""
    about, controls = report.about, report.of("control")
    claimed = (words.claim_text("causally necessary", about.name),) if report.verdict.beats else ()
    rows = report.rows
    lead = [
        Block("What is answered", Table(ANSWERS, tuple(map(answer_cells, rows))), _ROWS, wide=True),
        Block("What it costs", Table(COSTS, tuple(map(cost_cells, rows))), wide=True),
    ]
    if any(row.control_margins for row in report.of("comparison")):
        said = "Each beside the largest fall of the harmful margin under its own random controls."
        lead.append(Block("Other ways to remove it", _compared(report), said, wide=True))
    options = tuple((key, _option(value)) for key, value in sorted(about.options.items()))
    return Chapter(
        title=f"Ablation of {about.name}: {about.model}",
        finding=finding(report),
        created=about.created,
        source="the ablation report with SHA-256",
        digest=digest,
        claims=claimed,
        lead=tuple(lead),
        drawings=(Drawing("ablation_effects", "What happens?", _CAPTION, lambda: effects(report)),),
        trail=(
            Block("Provenance", _provenance(report)),
            Block("Options of the run", Table(("option", "value"), options)),
        ),
        notes=(
            f"Random controls: {controls[0].what}.",
            f"Rule: {report.verdict.rule}.",
            *report.notes,
            *filter(None, [about.judge_warning]),
        ),
        warning=None if report.verdict.beats else f"No claim: {report.verdict.reason}.",
    )


def finding(report: AblationReport) -> str:
    """Return one sentence with the effect, its interval, n, its controls and its cost."""
    about, verdict, change = report.about, report.verdict, report.ablation.change
    weakest = min(verdict.over, key=lambda over: over.difference.low)
    read = "" if about.block is None else f", read at block {about.block}"
    sentence = (
        f"With {about.name} removed ({about.mode}, {about.where}{read}) the model answers "
        f"{verdict.effect.after:.0%} of harmful requests instead of {verdict.effect.before:.0%} "
        f"(n = {verdict.effect.difference.n}; change {_moved(verdict.effect)}). Against the "
        f"strongest of {len(verdict.over)} random controls, which answer "
        f"{min(over.before for over in verdict.over):.0%} to "
        f"{max(over.before for over in verdict.over):.0%}, that is {_moved(weakest)}: "
        f"{'beyond its controls' if verdict.beats else 'NOT beyond its controls'}."
    )
    if change is None:
        return sentence
    return (
        f"{sentence} Refusals of harmless requests change by {_moved(change.harmless)} "
        f"(n = {change.harmless.difference.n}), perplexity by x{change.perplexity.value:.2f} "
        f"[{change.perplexity.low:.2f}, {change.perplexity.high:.2f}]."
    )


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
    title = words.plain(
        f"Ablation of {about.name} ({about.mode}, {about.where}) in {about.model}, "
        f"n = {about.n.get('harmful', 0)} + {about.n.get('harmless', 0)}"
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
        y=[words.plain(row.name) for row in rows],
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


def _compared(report: AblationReport) -> Table:
    rows = [
        (
            row.name,
            f"{row.change.margin_harmful.value:+.2f} [{row.change.margin_harmful.low:.2f}, "
            f"{row.change.margin_harmful.high:.2f}]",
            f"{min(row.control_margins):+.2f}",
            str(len(row.control_margins)),
            row.what,
        )
        for row in (report.ablation, *report.of("comparison"))
        if row.change is not None and row.control_margins
    ]
    columns = ("setting", "change of the margin [95%]", "largest of controls", "controls", "what")
    return Table(columns, tuple(rows))


def _provenance(report: AblationReport) -> Table:
    about = report.about
    rows = [
        ("created", about.created),
        ("theodolite", about.version),
        ("model", f"{about.model}, description {about.model_digest}"),
        ("artifact", about.artifact or "in memory"),
        ("prompts", f"{about.prompts} ({_counts(about.n)}), {about.prompts_digest}"),
        ("development prompts", f"{about.development}, {about.development_digest}"),
        ("refusal tokens", ", ".join(map(repr, about.tokens))),
        ("judge", about.judge),
        *(("allowed mismatch", text) for text in about.mismatch),
    ]
    return Table(("", ""), tuple(rows))


def _moved(change: Change) -> str:
    d = change.difference
    return f"{d.value:+.0%} [{d.low:+.0%}, {d.high:+.0%}]"


def _counts(n: dict[str, int]) -> str:
    return ", ".join(f"{count} {label}" for label, count in sorted(n.items()))


def _option(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
