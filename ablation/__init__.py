"""Remove: directions, subspaces, heads and units, with the cost of each removal.

    report = ablation.run("directions.safetensors", name="refusal")
    report.verdict.beats                            # against norm-matched controls
    report.table()                                  # refusals, margin, KL, perplexity, coherence

Nothing here writes a model: a removal lives in a hook context and is gone with it. The same from
the shell: ``python -m ablation.run --help`` and ``python -m ablation.style --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ablation.options import Options

if TYPE_CHECKING:
    from ablation.ablate import run
    from ablation.parts import Parts
    from ablation.result import AblationReport, read_report
    from ablation.signature import StyleReport, ablate_style
    from ablation.spans import Span
    from ablation.stylometry import Stylometry, stylometry
    from ablation.ways import Way

_HOMES = {
    "AblationReport": "ablation.result",
    "Parts": "ablation.parts",
    "Span": "ablation.spans",
    "StyleReport": "ablation.signature",
    "Stylometry": "ablation.stylometry",
    "Way": "ablation.ways",
    "ablate_style": "ablation.signature",
    "read_report": "ablation.result",
    "run": "ablation.ablate",
    "stylometry": "ablation.stylometry",
}

__all__ = [
    "AblationReport",
    "Options",
    "Parts",
    "Span",
    "StyleReport",
    "Stylometry",
    "Way",
    "ablate_style",
    "read_report",
    "run",
    "stylometry",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ablation' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
