"""Assemble the one-file HTML page of an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from artifacts.artifact import Artifact
from reports import decomposition, figures, localization, probes, reading, selection, tables, words
from reports.reading import MissingPart

_CAPTIONS = (
    words.CAPTIONS
    | decomposition.CAPTIONS
    | localization.CAPTIONS
    | probes.CAPTIONS
    | selection.CAPTIONS
)
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
class Chapter:
    """What the page says of one artifact."""

    anchor: str
    title: str
    finding: str
    artifact: Artifact
    sections: tuple[Section, ...]
    parts: Mapping[str, object]
    """Tables and claims, by their names in the template."""


def report(artifact: Artifact, *others: Artifact) -> Page:
    """Return the page of one or more artifacts: opens in a browser without a network.

    Parts that an artifact does not hold are replaced by a sentence that says so. All text of an
    artifact is escaped, and the page's own policy forbids the browser to load anything.

    Args:
        artifact: a loaded artifact.
        others: further ones; each gets a chapter, in this order.

    Returns:
        The page as text with what it says.
    """
    every = (artifact, *others)
    chapters = [_chapter(each, f"part-{n + 1}" if others else "") for n, each in enumerate(every)]
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("page.html.j2").render(
        title=chapters[0].title,
        chapters=chapters,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own text, not input
    )
    sections = [section for chapter in chapters for section in chapter.sections]
    return Page(
        html=html,
        finding=" ".join(chapter.finding for chapter in chapters),
        shown=tuple(section.key for section in sections if section.figure is not None),
        missing=tuple(section.missing for section in sections if section.missing is not None),
    )


def _chapter(artifact: Artifact, anchor: str) -> Chapter:
    chosen = selection.present(artifact)
    finding = selection.finding(artifact) if chosen else words.finding(artifact)
    if probes.present(artifact):
        finding = probes.finding(artifact)
    if localization.present(artifact):
        finding = localization.finding(artifact)
    return Chapter(
        anchor=anchor,
        title=words.title(artifact),
        finding=finding,
        artifact=artifact,
        sections=tuple(_section(anchor, *drawing) for drawing in _drawings(artifact)),
        parts={
            "directions": tables.directions(artifact),
            "verdicts": tables.verdicts(artifact),
            "places": tables.places(artifact),
            "claims": words.claims(artifact),
            "controls": tables.controls(artifact),
            "models": tables.models(artifact),
            "data": tables.data(artifact),
            "run": tables.run(artifact),
            "method": tables.method(artifact),
        },
    )


_Drawing = tuple[str, str, Callable[[], go.Figure]]


def _drawings(artifact: Artifact) -> Sequence[_Drawing]:
    """Give key, heading and figure of everything that this kind of artifact shows."""
    name = reading.headline(artifact)
    if name is None:
        return ()
    if localization.present(artifact):
        return localization.drawn(artifact)
    if selection.present(artifact):
        return (
            (
                "selection_scores",
                "Which candidate, and why?",
                lambda: selection.scores(artifact),
            ),
            ("selection_effects", "What does it do?", lambda: selection.effects(artifact)),
        )
    if probes.present(artifact):
        return _of_probes(artifact, name)
    return _of_directions(artifact, name)


def _of_directions(artifact: Artifact, name: str) -> Sequence[_Drawing]:
    found = reading.verdict(artifact, name)
    blocks = reading.info(artifact, name).blocks
    near = reading.companions(artifact, name)
    order = (*near, *(other for other in artifact.names if other not in near))
    block = blocks[len(blocks) // 2] if found is None else found.block
    drawn: list[_Drawing] = [
        (
            "separation",
            "Can the groups be told apart?",
            lambda: figures.separation(artifact, order),
        ),
        (
            "projection",
            f"Single prompts along {name}",
            lambda: figures.projection(artifact, name, block),
        ),
        ("stability", "Does the direction come back?", lambda: figures.stability(artifact)),
        ("norms", "How large is it?", lambda: figures.norms(artifact)),
        (
            "cosine_curves",
            "Do the contrasts agree?",
            lambda: figures.cosine_curves(artifact, name),
        ),
        (
            "cosine_map",
            f"All contrasts at block {block}",
            lambda: figures.cosine_map(artifact, name, block),
        ),
    ]
    if decomposition.names(artifact):
        drawn += [
            (
                "singular_values",
                "How many components are real?",
                lambda: decomposition.singular_values(artifact),
            ),
            ("ranks", "Where are they?", lambda: decomposition.ranks(artifact)),
        ]
    return drawn


def _of_probes(artifact: Artifact, name: str) -> Sequence[_Drawing]:
    return (
        ("separation", "Can other sources be read?", lambda: figures.separation(artifact)),
        ("cross_source", "The class, or the source?", lambda: probes.cross_source(artifact, name)),
        ("reliability", "Do the probabilities hold?", lambda: probes.reliability(artifact, name)),
    )


def _section(anchor: str, key: str, heading: str, draw: Callable[[], go.Figure]) -> Section:
    caption = _CAPTIONS[key]
    try:
        figure = draw()
    except MissingPart as missing:
        return Section(key, heading, caption, figure=None, missing=str(missing))
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config=_PLOT_CONFIG,
        div_id="-".join(filter(None, (anchor, "figure", key))),
    )
    # Plotly writes the figure as JSON with <, > and / escaped, and the only words of the artifact
    # in it are names, which hold letters, digits, dots, underscores and hyphens.
    return Section(key, heading, caption, figure=Markup(text), missing=None)  # noqa: S704
