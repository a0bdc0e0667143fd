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
    from directions.effects import ComponentEffect, EffectOptions, Target, component_effects
    from directions.extraction import extract
    from directions.fitters import ContrastFitter, FittedContrast, MeanFitter, StateMeans
    from directions.localization import localize
    from directions.masking import mask_triggers
    from directions.relevance import token_relevance
    from directions.relevance_flow import component_relevance
    from directions.result import DirectionSet, Score
    from directions.select_sweep import NothingPasses
    from directions.selection import Selection, select
    from directions.signature import Component, Share, Signature
    from directions.split import Split

_HOMES = {
    "CONTRASTS": "directions.contrasts",
    "Component": "directions.signature",
    "ComponentEffect": "directions.effects",
    "Contrast": "directions.contrasts",
    "ContrastFitter": "directions.fitters",
    "DecomposeOptions": "directions.decompose_options",
    "Decomposition": "directions.decompose_result",
    "DirectionSet": "directions.result",
    "EffectOptions": "directions.effects",
    "FittedContrast": "directions.fitters",
    "MeanFitter": "directions.fitters",
    "NothingPasses": "directions.select_sweep",
    "Score": "directions.result",
    "Selection": "directions.selection",
    "Share": "directions.signature",
    "Signature": "directions.signature",
    "Split": "directions.split",
    "StateMeans": "directions.fitters",
    "Target": "directions.effects",
    "component_effects": "directions.effects",
    "component_relevance": "directions.relevance_flow",
    "decompose": "directions.decomposition",
    "extract": "directions.extraction",
    "localize": "directions.localization",
    "mask_triggers": "directions.masking",
    "select": "directions.selection",
    "token_relevance": "directions.relevance",
}

__all__ = [
    "CONTRASTS",
    "Component",
    "ComponentEffect",
    "Contrast",
    "ContrastFitter",
    "DecomposeOptions",
    "Decomposition",
    "DirectionSet",
    "EffectOptions",
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
    "Target",
    "component_effects",
    "component_relevance",
    "decompose",
    "extract",
    "localize",
    "mask_triggers",
    "select",
    "token_relevance",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'directions' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
