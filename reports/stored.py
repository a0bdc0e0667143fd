"""The chapter of an artifact: which figures and tables each kind has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from artifacts.artifact import Artifact
from reports import (
    decomposition,
    figures,
    localization,
    policy,
    probes,
    reading,
    selection,
    tables,
    words,
)
from reports.chapter import Block, Chapter, Drawing

_CAPTIONS: Mapping[str, str] = (
    words.CAPTIONS
    | decomposition.CAPTIONS
    | localization.CAPTIONS
    | probes.CAPTIONS
    | selection.CAPTIONS
    | policy.CAPTIONS
)
_Drawn = tuple[str, str, Callable[[], go.Figure]]
_NO_DIRECTION = "This artifact holds no direction, so there is no figure to draw."
_NO_DATA = "The artifact names no data."


def chapter(artifact: Artifact) -> Chapter:
    """Return what the page says of an artifact of any kind."""
    lead = _lead(artifact)
    # A policy makes no claim of its own, and a signature none by the direction it is read along.
    claimless = policy.present(artifact) or localization.present(artifact)
    return Chapter(
        title=words.title(artifact, _kind(artifact)),
        finding=_finding(artifact),
        created=artifact.manifest.created,
        source="the artifact with digest",
        digest=artifact.digest,
        claims=() if claimless else words.claims(artifact),
        lead=lead,
        drawings=tuple(Drawing(k, h, _CAPTIONS[k], draw) for k, h, draw in _drawn(artifact)),
        trail=_trail(artifact),
        notes=artifact.manifest.notes,
        warning=None if lead else _NO_DIRECTION,
    )


def _kind(artifact: Artifact) -> str | None:
    if decomposition.names(artifact):
        return "Components of what training added"
    return "Selected direction" if selection.present(artifact) else None


def _finding(artifact: Artifact) -> str:
    if policy.present(artifact):
        return policy.finding(artifact)
    if localization.present(artifact):
        return localization.finding(artifact)
    if probes.present(artifact):
        return probes.finding(artifact)
    if selection.present(artifact):
        return selection.finding(artifact)
    return words.finding(artifact)


def _lead(artifact: Artifact) -> tuple[Block, ...]:
    for kind in (policy, localization, selection):
        if kind.present(artifact):
            return kind.lead(artifact)
    found = tables.directions(artifact)
    if not found.rows:
        return ()
    caption = (
        f"Read at {', '.join(tables.places(artifact))}. Value [interval]; controls as the range of "
        "their band at the same block. Where many blocks or controls reach an AUC of 1, the bands "
        "cannot tell them apart. The block is chosen on the held-out prompts themselves, so the "
        "best AUC is optimistic; look at the curves below for the neighbours."
    )
    blocks = [Block("Directions at their best block", found, caption, wide=True)]
    verdicts = tables.verdicts(artifact)
    if verdicts.rows:
        said = "What the run concluded, with the choice of the block accounted for:"
        blocks.append(Block("", verdicts, said))
    return tuple(blocks)


def _trail(artifact: Artifact) -> tuple[Block, ...]:
    data = tables.data(artifact)
    every = (
        Block("Measures and controls that were run", tables.controls(artifact)),
        Block("Provenance", tables.run(artifact)),
        Block("Models", tables.models(artifact)),
        Block("Data", data, "" if data.rows else _NO_DATA),
        Block("Options of the run", tables.method(artifact)),
    )
    return tuple(block for block in every if block.table.rows or block.caption)


def _drawn(artifact: Artifact) -> Sequence[_Drawn]:
    """Give key, heading and figure of everything that this kind of artifact shows."""
    if policy.present(artifact):
        return policy.drawn(artifact)
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


def _of_directions(artifact: Artifact, name: str) -> Sequence[_Drawn]:
    found = reading.verdict(artifact, name)
    blocks = reading.info(artifact, name).blocks
    near = reading.companions(artifact, name)
    order = (*near, *(other for other in artifact.names if other not in near))
    block = blocks[len(blocks) // 2] if found is None else found.block
    drawn: list[_Drawn] = [
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
    ]
    if len(near) > 1:
        drawn += [
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
    return [*drawn, *_of_components(artifact)]


def _of_components(artifact: Artifact) -> Sequence[_Drawn]:
    drawn: list[_Drawn] = []
    if decomposition.names(artifact):
        drawn += [
            (
                "singular_values",
                "How many components are real?",
                lambda: decomposition.singular_values(artifact),
            ),
            ("ranks", "Where are they?", lambda: decomposition.ranks(artifact)),
        ]
    if decomposition.acted(artifact):
        acts = ("component_effects", "Which of them act?", lambda: decomposition.effects(artifact))
        drawn.append(acts)
    return drawn


def _of_probes(artifact: Artifact, name: str) -> Sequence[_Drawn]:
    return (
        ("separation", "Can other sources be read?", lambda: figures.separation(artifact)),
        ("cross_source", "The class, or the source?", lambda: probes.cross_source(artifact, name)),
        ("reliability", "Do the probabilities hold?", lambda: probes.reliability(artifact, name)),
    )
