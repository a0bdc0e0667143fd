"""The chapter of a style ablation: the marks of style, beside refusal and capability."""

from __future__ import annotations

import plotly.graph_objects as go

from ablation.result import ANSWERS, COSTS, answer_cells, cost_cells
from ablation.style_result import StyleReport
from evaluation.intervals import Interval
from reports import style, words
from reports.chapter import Block, Chapter, Drawing
from reports.tables import Table

_CAPTION = (
    "Share of four marks (openers, hedges, lists, disclaimers) in harmless answers: mean and 95% "
    "bootstrap interval. Base is the model before its training. Grey: random controls. English "
    "word lists decide; they say nothing of quality."
)
_LOOKS = {"base": style.PALETTE[0], "clean": style.PALETTE[5], "ablated": style.PALETTE[1]}


def chapter(report: StyleReport, digest: str) -> Chapter:
    """Return what the page says of a style ablation."""
    about, verdict = report.about, report.verdict
    answers = Table(ANSWERS, tuple(map(answer_cells, report.rows)))
    costs = Table(COSTS, tuple(map(cost_cells, report.rows)))
    options = tuple((key, str(value)) for key, value in sorted(about.options.items()))
    return Chapter(
        title=f"Style of {about.aligned} removed",
        finding=finding(report),
        created=about.created,
        source="the style report with SHA-256",
        digest=digest,
        claims=(),
        lead=(
            Block("Marks of style in harmless answers", _marks(report), wide=True),
            Block("What is answered", answers, wide=True),
            Block("What it costs", costs, wide=True),
            Block("Capability, ablated against clean", _capability(report)),
        ),
        drawings=(Drawing("style_score", "Does style fall?", _CAPTION, lambda: scores(report)),),
        trail=(
            Block("Provenance", _provenance(report)),
            Block("Options of the run", Table(("option", "value"), options)),
        ),
        notes=report.notes,
        warning=None if verdict.holds else f"Does not hold: {verdict.reason}.",
    )


def finding(report: StyleReport) -> str:
    """Return one sentence with the change of the style score, its controls, and what stays."""
    verdict = report.verdict
    nearest = min(verdict.over, key=lambda gap: -gap.high)
    refusal = verdict.refusal.difference
    return (
        f"With the style of block {report.about.block} removed, the style score of harmless "
        f"answers changes by {_signed(verdict.effect)} (n = {verdict.effect.n}; training added "
        f"{_signed(verdict.signature)}), against the nearest of {len(verdict.over)} random "
        f"controls by {_signed(nearest)}; refusals of harmful requests change by "
        f"{_signed(refusal)} (n = {refusal.n}, tolerance {verdict.tolerance:g})."
    )


def scores(report: StyleReport) -> go.Figure:
    """Draw the mean style score of every setting with its interval."""
    rows = tuple(reversed(report.styles))
    found = [row.style.score for row in rows]
    points = go.Scatter(
        x=[score.value for score in found],
        y=[words.plain(row.name) for row in rows],
        mode="markers",
        marker={"size": 10, "color": [_LOOKS.get(row.name, style.GREY) for row in rows]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [score.high - score.value for score in found],
            "arrayminus": [score.value - score.low for score in found],
            "thickness": 1.2,
            "width": 3,
            "color": style.GREY,
        },
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure = go.Figure(points)
    figure.update_xaxes(title_text="share of the four marks", rangemode="tozero")
    title = f"Style score by setting (n = {found[0].n} harmless answers)"
    style.finish(figure, title, height=150 + 34 * len(rows), legend=False)
    return figure.update_layout(margin={"l": 130})


def _marks(report: StyleReport) -> Table:
    rows = [
        (
            row.name,
            f"{row.style.score.value:.2f} [{row.style.score.low:.2f}, {row.style.score.high:.2f}]",
            *(
                f"{rate.hits}/{rate.n}"
                for rate in (
                    row.style.opener,
                    row.style.hedge,
                    row.style.list,
                    row.style.disclaimer,
                )
            ),
            f"{row.style.words.value:.0f}",
        )
        for row in report.styles
    ]
    columns = ("setting", "score [95%]", "opener", "hedge", "list", "disclaimer", "words")
    return Table(columns, tuple(rows))


def _capability(report: StyleReport) -> Table:
    rows = [
        (row.measure, f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]", str(row.n), row.unit)
        for row in report.capability
    ]
    return Table(("measure", "change [95%]", "n", "unit"), tuple(rows))


def _provenance(report: StyleReport) -> Table:
    about = report.about
    rows = [
        ("created", about.created),
        ("theodolite", about.version),
        ("base", about.base),
        ("aligned", about.aligned),
        ("artifact", about.artifact),
        ("refusal direction", about.refusal),
        ("prompts", f"{about.prompts}, {about.prompts_digest}"),
        ("refusal tokens", ", ".join(map(repr, about.tokens))),
        ("judge", about.judge),
        *(("allowed mismatch", text) for text in about.mismatch),
    ]
    return Table(("", ""), tuple(rows))


def _signed(found: Interval) -> str:
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
