"""Find: directions in which an aligned model differs from its base.

    result = directions.extract()                   # the reference pair, our own prompts
    result.direction("refusal")                     # [rows, d_model]; result.blocks(...)
    result.score("refusal")                         # best block, held-out AUC, controls

The same from the shell: ``python -m directions.extract --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from directions.localize_options import LocalizeOptions
from directions.options import Options
from directions.select_options import SelectOptions

if TYPE_CHECKING:
    from directions.contrasts import CONTRASTS, Contrast
    from directions.decompose_options import DecomposeOptions
    from directions.decompose_result import Decomposition
    from directions.decomposition import decompose
    from directions.extraction import extract
    from directions.fitters import ContrastFitter, FittedContrast, MeanFitter, StateMeans
    from directions.localization import localize
    from directions.result import DirectionSet, Score
    from directions.select_sweep import NothingPasses
    from directions.selection import Selection, select
    from directions.signature import Component, Share, Signature
    from directions.split import Split

_HOMES = {
    "CONTRASTS": "directions.contrasts",
    "Component": "directions.signature",
    "Contrast": "directions.contrasts",
    "ContrastFitter": "directions.fitters",
    "DecomposeOptions": "directions.decompose_options",
    "Decomposition": "directions.decompose_result",
    "DirectionSet": "directions.result",
    "FittedContrast": "directions.fitters",
    "MeanFitter": "directions.fitters",
    "NothingPasses": "directions.select_sweep",
    "Score": "directions.result",
    "Selection": "directions.selection",
    "Share": "directions.signature",
    "Signature": "directions.signature",
    "Split": "directions.split",
    "StateMeans": "directions.fitters",
    "decompose": "directions.decomposition",
    "extract": "directions.extraction",
    "localize": "directions.localization",
    "select": "directions.selection",
}

__all__ = [
    "CONTRASTS",
    "Component",
    "Contrast",
    "ContrastFitter",
    "DecomposeOptions",
    "Decomposition",
    "DirectionSet",
    "FittedContrast",
    "LocalizeOptions",
    "MeanFitter",
    "NothingPasses",
    "Options",
    "Score",
    "SelectOptions",
    "Selection",
    "Share",
    "Signature",
    "Split",
    "StateMeans",
    "decompose",
    "extract",
    "localize",
    "select",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'directions' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
