"""The sentences of the page: computed from the numbers, with what they do not show."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.artifact import Artifact
from artifacts.manifest import Claim
from reports import reading
from reports.reading import Verdict

CAPTIONS = {
    "separation": "Each panel is one direction, fitted on other prompts than it is tested on. "
    "Blue: area under the ROC curve of held-out projections. Grey: the same for fits with "
    "shuffled labels and for random directions. A direction inside the grey bands is not "
    "evidence. For paired contrasts the groups are two models or two renderings.",
    "projection": "Each mark is one held-out prompt. The block is the one where the held-out "
    "separation is best, so this view is optimistic.",
    "stability": "Cosine between directions fitted on random halves of the prompts. Low values "
    "mean that there are too few prompts, or that the contrast is not one direction.",
    "norms": "Length of the direction as a share of the mean length of the states at that place. "
    "Use it to choose strengths for steering; it says nothing about importance.",
    "cosine_curves": "Angle between contrasts at each block. The grey band is what unrelated "
    "directions give. Contrasts that share states (say, those of the aligned model) are not "
    "independent.",
    "cosine_map": "The same for every pair at one block.",
}
CONTROL_WORDS = {
    "auc_shuffled": "fits with shuffled labels",
    "auc_random": "random directions",
}

_CLAIMS: dict[Claim, tuple[str, str]] = {
    "decodable": (
        "The groups can be told apart along the direction on held-out prompts.",
        "that the model uses the direction: no intervention was run. A direction can be decodable "
        "and idle.",
    ),
    "causally sufficient": (
        "Adding the direction brought the behaviour about.",
        "that the model needs the direction, or that ordinary prompts work through it.",
    ),
    "causally necessary": (
        "Removing the direction took the behaviour away.",
        "that the direction alone brings the behaviour about, nor that nothing else was damaged "
        "beyond what was measured beside it.",
    ),
    "none": ("No statement is made.", "anything yet: the numbers are for inspection."),
}


@dataclass(frozen=True)
class ClaimText:
    """A claim level with the directions that have it."""

    level: str
    names: tuple[str, ...]
    shows: str
    does_not_show: str


def title(artifact: Artifact, kind: str | None = None) -> str:
    """Return the page's title: what was compared. ``kind`` says what it is better than the file."""
    base, aligned = artifact.manifest.base, artifact.manifest.aligned
    kind = kind or artifact.manifest.kind.replace("-", " ").capitalize()
    if base is not None and aligned is not None:
        return f"{kind}: {aligned.spec} against {base.spec}"
    model = aligned or base
    return kind if model is None else f"{kind}: {model.spec}"


def finding(artifact: Artifact) -> str:
    """Return one sentence with the main number, its interval, n and its controls."""
    name = reading.headline(artifact)
    if name is None:
        return "This artifact holds no direction."
    found = reading.verdict(artifact, name)
    if found is None:
        return f"The separation along {name} was not measured on held-out prompts."
    about = reading.info(artifact, name)
    place = f"{about.site}, {about.position} position" if about.position else about.site
    start = (
        f"At block {found.block} ({place}), {name} separates held-out prompts with AUC "
        f"{found.auc.value:.3f} ({found.auc.about.level:.0%} interval {found.auc.low:.3f} to "
        f"{found.auc.high:.3f}, n = {found.auc.about.n})"
    )
    sentence = f"{start}; {_against(found, claimed=about.claim != 'none')}"
    stated = reading.stated(artifact, name)
    return sentence if stated is None else f"{sentence} Over all blocks: {stated.rstrip('.')}."


def claims(artifact: Artifact) -> tuple[ClaimText, ...]:
    """Return every claim level in the artifact with what it shows and what it does not."""
    levels: set[Claim] = {about.claim for about in artifact.manifest.directions.values()}
    return tuple(
        claim_text(
            level,
            *(name for name in artifact.names if artifact.manifest.directions[name].claim == level),
        )
        for level in sorted(levels)
    )


def claim_text(level: Claim, *names: str) -> ClaimText:
    """Return what a claim level shows and does not show, for these names."""
    return ClaimText(level, names, *_CLAIMS[level])


def plain(text: str) -> str:
    """Return a text for a figure, where plotly would take ``<b>`` and its like for markup."""
    return html.escape(text, quote=False)


def listed(names: Sequence[str]) -> str:
    """Return names as a phrase: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _against(found: Verdict, *, claimed: bool) -> str:
    if not found.controls:
        return "no control was run, so this is not evidence yet."
    ranges = " and ".join(
        f"{CONTROL_WORDS[control]} reach {point.low:.3f} to {point.high:.3f}"
        for control, point in found.controls
    )
    if not found.beaten:
        return f"this is not above its controls: {ranges}."
    if not claimed:
        return (
            f"its controls stay below there ({ranges}), but the run, which looked at every block, "
            "makes no claim."
        )
    return f"its controls stay below: {ranges}."
