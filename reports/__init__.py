"""Show what an artifact holds: plotly figures, and one HTML page that opens without a network.

    from reports import figures
    figures.separation(artifact)                     # a plotly figure, for a notebook
    page = reports.report(artifact)                  # page.html is the whole page as text
    page = reports.report(artifact, reports.read("ablation.json"))  # a chapter for each file

Nothing is estimated here: every number drawn or written is one that the artifact holds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports import figures
    from reports.page import Page, report
    from reports.sources import Record, read

_HOMES = {
    "Page": "reports.page",
    "Record": "reports.sources",
    "read": "reports.sources",
    "report": "reports.page",
}

__all__ = ["Page", "Record", "figures", "read", "report"]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` stays fast."""
    if name == "figures":
        return importlib.import_module("reports.figures")
    if name not in _HOMES:
        raise AttributeError(f"module 'reports' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
