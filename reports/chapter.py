"""What the page says of one file: a finding, claims, figures and tables, in a common order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go

from reports.tables import Table
from reports.words import ClaimText


@dataclass(frozen=True)
class Drawing:
    """A figure that is still to be drawn; it may turn out that the file lacks what it needs."""

    key: str
    heading: str
    caption: str
    draw: Callable[[], go.Figure]


@dataclass(frozen=True)
class Block:
    """A table under a heading, with words before it."""

    heading: str
    table: Table
    caption: str = ""
    wide: bool = False
    """Whether cells stay on one line; the table then scrolls on a narrow screen."""


@dataclass(frozen=True)
class Chapter:
    """What the page says of one file, before anything is drawn."""

    title: str
    finding: str
    """One sentence with the main number, its interval, n and control."""
    created: str
    source: str
    """What kind of file, in words; its digest follows them."""
    digest: str
    claims: tuple[ClaimText, ...]
    lead: tuple[Block, ...]
    """Tables in front of the figures."""
    drawings: tuple[Drawing, ...]
    trail: tuple[Block, ...]
    """Tables behind the figures: controls, provenance, options."""
    notes: tuple[str, ...] = ()
    warning: str | None = None
    """What a reader must know before all else."""
