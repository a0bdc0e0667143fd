"""Assemble the one-file HTML page of an artifact."""

from __future__ import annotations

from collections.abc import Callable
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


def report(artifact: Artifact) -> Page:
    """Return the page of an artifact: opens in a browser without a network.

    Parts that the artifact does not hold are replaced by a sentence that says so. All text of the
    artifact is escaped, and the page's own policy forbids the browser to load anything.

    Args:
        artifact: a loaded artifact.

    Returns:
        The page as text with what it says.
    """
    sections = _sections(artifact)
    chosen = selection.present(artifact)
    finding = selection.finding(artifact) if chosen else words.finding(artifact)
    if probes.present(artifact):
        finding = probes.finding(artifact)
    if localization.present(artifact):
        finding = localization.finding(artifact)
    environment = Environment(
        loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("page.html.j2").render(
        finding=finding,
        manifest=artifact.manifest,
        digest=artifact.digest,
        title=words.title(artifact),
        sections=sections,
        directions=tables.directions(artifact),
        verdicts=tables.verdicts(artifact),
        places=tables.places(artifact),
        claims=words.claims(artifact),
        controls=tables.controls(artifact),
        models=tables.models(artifact),
        data=tables.data(artifact),
        run=tables.run(artifact),
        method=tables.method(artifact),
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own text, not input
    )
    return Page(
        html=html,
        finding=finding,
        shown=tuple(section.key for section in sections if section.figure is not None),
        missing=tuple(section.missing for section in sections if section.missing is not None),
    )


def _sections(artifact: Artifact) -> tuple[Section, ...]:
    name = reading.headline(artifact)
    if name is None:
        return ()
    if localization.present(artifact):
        return tuple(_section(*item) for item in localization.drawn(artifact))
    if selection.present(artifact):
        return (
            _section(
                "selection_scores",
                "Which candidate, and why?",
                lambda: selection.scores(artifact),
            ),
            _section("selection_effects", "What does it do?", lambda: selection.effects(artifact)),
        )
    if probes.present(artifact):
        return _probe_sections(artifact, name)
    found = reading.verdict(artifact, name)
    blocks = reading.info(artifact, name).blocks
    near = reading.companions(artifact, name)
    order = (*near, *(other for other in artifact.names if other not in near))
    block = blocks[len(blocks) // 2] if found is None else found.block
    drawn: list[tuple[str, str, Callable[[], go.Figure]]] = [
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
    return tuple(_section(key, heading, draw) for key, heading, draw in drawn)


def _probe_sections(artifact: Artifact, name: str) -> tuple[Section, ...]:
    return (
        _section("separation", "Can other sources be read?", lambda: figures.separation(artifact)),
        _section(
            "cross_source",
            "The class, or the source?",
            lambda: probes.cross_source(artifact, name),
        ),
        _section(
            "reliability",
            "Do the probabilities hold?",
            lambda: probes.reliability(artifact, name),
        ),
    )


def _section(key: str, heading: str, draw: Callable[[], go.Figure]) -> Section:
    caption = _CAPTIONS[key]
    try:
        figure = draw()
    except MissingPart as missing:
        return Section(key, heading, caption, figure=None, missing=str(missing))
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config=_PLOT_CONFIG, div_id=f"figure-{key}"
    )
    # Plotly writes the figure as JSON with <, > and / escaped, and the only words of the artifact
    # in it are names, which hold letters, digits, dots, underscores and hyphens.
    return Section(key, heading, caption, figure=Markup(text), missing=None)  # noqa: S704
