"""The named contrasts: which states are subtracted from which.

Cells: h(m, r) is the state of model m (base b, aligned a) under rendering r (template t, raw r),
at one site and position, for the same prompt.

    shift           mean over prompts of   h(a,t) - h(b,t)
    template_shift                         h(a,t) - h(a,r)
    did                                    (h(a,t) - h(a,r)) - (h(b,t) - h(b,r))
    naive_shift                            h(a,t) - h(b,r)
    refusal         mean harmful h(a,t) - mean harmless h(a,t)
    refusal_base    mean harmful h(b,t) - mean harmless h(b,t)

Means over prompts give both classes the same weight. ``naive_shift`` confounds training with the
chat template (arXiv 2605.24583); it is offered to show by how much, not as a measure of training.
See ``docs/decisions/010-contrasts.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64

from artifacts.errors import InputError

Cells = Mapping[str, Float64[np.ndarray, "n d"]]
"""States by cell name, for the same prompts in the same order."""

ALIGNED, BASE = "aligned.template", "base.template"
ALIGNED_RAW, BASE_RAW = "aligned.raw", "base.raw"


@dataclass(frozen=True)
class Contrast:
    """One way to turn cells into a direction and into two groups to tell apart."""

    name: str
    paired: bool
    """True: both groups hold every prompt. False: the groups are the two classes."""
    plus: Mapping[str, float]
    """Cells and their signs in the group that the direction points to."""
    minus: Mapping[str, float]
    """The same for the other group; for two classes equal to ``plus``."""
    groups: tuple[str, str]
    """Names of the two groups, as in ``projection/{direction}/{group}``."""
    sign_rule: str
    what: str
    """The two groups in words, for the reader of the AUC."""

    @cached_property
    def cells(self) -> frozenset[str]:
        """Cells that this contrast reads."""
        return frozenset({*self.plus, *self.minus})

    @property
    def raw(self) -> bool:
        """Whether prompts without the chat template are needed."""
        return any(cell.endswith(".raw") for cell in self.cells)

    def values(self, cells: Cells) -> Float64[np.ndarray, "n d"]:
        """Return y_i, whose weighted sum over prompts is the direction."""
        if self.paired:
            return _combine(self.plus, cells) - _combine(self.minus, cells)
        return _combine(self.plus, cells)

    def sides(
        self, cells: Cells, harmful: Bool[np.ndarray, "n"]
    ) -> tuple[Float64[np.ndarray, "p d"], Float64[np.ndarray, "q d"]]:
        """Return the states of the two groups, in the order of the prompts."""
        if self.paired:
            return _combine(self.plus, cells), _combine(self.minus, cells)
        states = _combine(self.plus, cells)
        return states[harmful], states[~harmful]


def _combine(signs: Mapping[str, float], cells: Cells) -> Float64[np.ndarray, "n d"]:
    first, *rest = signs.items()
    total = first[1] * cells[first[0]]
    for cell, sign in rest:
        total = total + sign * cells[cell]
    return total


def _classes(name: str, cell: str, model: str) -> Contrast:
    return Contrast(
        name=name,
        paired=False,
        plus={cell: 1.0},
        minus={cell: 1.0},
        groups=("harmful", "harmless"),
        sign_rule="points from the mean of harmless to the mean of harmful prompts",
        what=f"harmful against harmless prompts, states of the {model} model",
    )


CONTRASTS: Mapping[str, Contrast] = {
    contrast.name: contrast
    for contrast in (
        Contrast(
            "shift",
            True,
            {ALIGNED: 1.0},
            {BASE: 1.0},
            ("aligned", "base"),
            "points from base to aligned states of the same tokens",
            "aligned against base states of the same tokens",
        ),
        Contrast(
            "template_shift",
            True,
            {ALIGNED: 1.0},
            {ALIGNED_RAW: 1.0},
            ("template", "raw"),
            "points from raw to templated prompts, both in the aligned model",
            "templated against raw prompts, states of the aligned model",
        ),
        Contrast(
            "did",
            True,
            {ALIGNED: 1.0, ALIGNED_RAW: -1.0},
            {BASE: 1.0, BASE_RAW: -1.0},
            ("aligned", "base"),
            "points from the template's effect in the base to its effect in the aligned model",
            "the template's effect in the aligned against that in the base model",
        ),
        Contrast(
            "naive_shift",
            True,
            {ALIGNED: 1.0},
            {BASE_RAW: 1.0},
            ("aligned", "base"),
            "points from raw prompts in the base to templated prompts in the aligned model",
            "aligned states of templated against base states of raw prompts (confounded)",
        ),
        _classes("refusal", ALIGNED, "aligned"),
        _classes("refusal_base", BASE, "base"),
    )
}


def resolve(names: tuple[str, ...]) -> tuple[Contrast, ...]:
    """Return the contrasts with these names.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    unknown = [name for name in names if name not in CONTRASTS]
    if unknown:
        raise InputError(f"contrast {unknown[0]!r} is unknown; choose from {', '.join(CONTRASTS)}")
    return tuple(CONTRASTS[name] for name in names)


def cells_of(contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """Return the cells to collect: both templated ones always, raw ones where a contrast asks."""
    needed = {ALIGNED, BASE}.union(*(contrast.cells for contrast in contrasts))
    return tuple(cell for cell in (BASE, BASE_RAW, ALIGNED, ALIGNED_RAW) if cell in needed)
