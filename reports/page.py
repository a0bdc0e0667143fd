"""Assemble the one-file HTML page of artifacts and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ablation.result import AblationReport
from ablation.style_result import StyleReport
from artifacts.artifact import Artifact
from reports import ablation, answers, frontier, stored, stylometry
from reports.chapter import Chapter, Drawing
from reports.reading import MissingPart
from reports.shapes import Answers
from reports.sources import Record

_PLOT_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # By name: the library's full bar holds buttons that reach for a network.
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}


@dataclass(frozen=True)
class Section:
    """One figure of the page, or the reason why it is not there."""

    key: str
    heading: str
    caption: str
    figure: Markup | None
    missing: str | None


@dataclass(frozen=True)
class Page:
    """A finished page."""

    html: str
    finding: str
    """The one-sentence result on top of the page."""
    shown: tuple[str, ...]
    """Keys of the figures on the page."""
    missing: tuple[str, ...]
    """Why each other figure is not there."""


@dataclass(frozen=True)
class _Placed:
    """A chapter at its place in the page."""

    anchor: str
    chapter: Chapter
    sections: tuple[Section, ...]


def report(
    source: Artifact | Record, *others: Artifact | Record, absent: Sequence[str] = ()
) -> Page:
    """Return the page of one or more artifacts and reports: opens in a browser without a network.

    Parts that a file does not hold are replaced by a sentence that says so. All text of a file is
    escaped, and the page's own policy forbids the browser to load anything.

    Args:
        source: a loaded artifact, or a JSON report from ``reports.read``.
        others: further ones; each gets a chapter, in this order.
        absent: sentences on what is not on the page, and why; they stand on top.

    Returns:
        The page as text with what it says.
    """
    every = (source, *others)
    anchors = [f"part-{n + 1}" if others else "" for n in range(len(every))]
    placed = [_place(_chapter(one), at) for one, at in zip(every, anchors, strict=True)]
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.tests["unbroken"] = _unbroken
    html = environment.get_template("page.html.j2").render(
        title=placed[0].chapter.title,
        placed=placed,
        absent=absent,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own text, not input
    )
    sections = [section for one in placed for section in one.sections]
    return Page(
        html=html,
        finding=" ".join(one.chapter.finding for one in placed),
        shown=tuple(section.key for section in sections if section.figure is not None),
        missing=tuple(section.missing for section in sections if section.missing is not None),
    )


def _unbroken(cell: str) -> bool:
    """Say whether a cell holds a word, such as a digest, that must be broken to fit a column."""
    return any(len(word) > 40 for word in cell.split())


def _chapter(source: Artifact | Record) -> Chapter:
    if isinstance(source, Artifact):
        return stored.chapter(source)
    if isinstance(source.value, AblationReport):
        return ablation.chapter(source.value, source.digest)
    if isinstance(source.value, StyleReport):
        return stylometry.chapter(source.value, source.digest)
    if isinstance(source.value, Answers):
        return answers.chapter(source.value, source.digest)
    return frontier.chapter(source.value, source.digest)


def _place(chapter: Chapter, anchor: str) -> _Placed:
    return _Placed(anchor, chapter, tuple(_section(anchor, one) for one in chapter.drawings))


def _section(anchor: str, drawing: Drawing) -> Section:
    try:
        figure = drawing.draw()
    except MissingPart as missing:
        return Section(drawing.key, drawing.heading, drawing.caption, None, str(missing))
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config=_PLOT_CONFIG,
        div_id="-".join(filter(None, (anchor, "figure", drawing.key))),
    )
    # Plotly writes the figure as JSON with <, > and / escaped. Names of an artifact hold letters,
    # digits, dots, underscores and hyphens only; names of a JSON report go through words.plain.
    return Section(drawing.key, drawing.heading, drawing.caption, Markup(text), None)  # noqa: S704
