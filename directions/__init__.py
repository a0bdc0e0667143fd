"""Find: directions in which an aligned model differs from its base.

    result = directions.extract()                   # the reference pair, our own prompts
    result.direction("refusal")                     # [rows, d_model]; result.blocks(...)
    result.score("refusal")                         # best block, held-out AUC, controls

The same from the shell: ``python -m directions.extract --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from directions.options import Options
from directions.select_options import SelectOptions

if TYPE_CHECKING:
    from directions.contrasts import CONTRASTS, Contrast
    from directions.extraction import extract
    from directions.fitters import ContrastFitter, FittedContrast, MeanFitter, StateMeans
    from directions.result import DirectionSet, Score
    from directions.select_sweep import NothingPasses
    from directions.selection import Selection, select
    from directions.split import Split

_HOMES = {
    "CONTRASTS": "directions.contrasts",
    "Contrast": "directions.contrasts",
    "ContrastFitter": "directions.fitters",
    "DirectionSet": "directions.result",
    "FittedContrast": "directions.fitters",
    "MeanFitter": "directions.fitters",
    "NothingPasses": "directions.select_sweep",
    "Score": "directions.result",
    "Selection": "directions.selection",
    "Split": "directions.split",
    "StateMeans": "directions.fitters",
    "extract": "directions.extraction",
    "select": "directions.selection",
}

__all__ = [
    "CONTRASTS",
    "Contrast",
    "ContrastFitter",
    "DirectionSet",
    "FittedContrast",
    "MeanFitter",
    "NothingPasses",
    "Options",
    "Score",
    "SelectOptions",
    "Selection",
    "Split",
    "StateMeans",
    "extract",
    "select",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'directions' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
