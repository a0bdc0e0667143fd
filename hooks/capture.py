"""Captures: what to read, at which tokens, and into which accumulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hooks.accumulate import Accumulator, Rows
from hooks.positions import PositionRule, StepRule, check_rule


@dataclass(frozen=True, eq=False)
class Capture:
    """Read the states of ``sites`` at the tokens that ``at`` and ``steps`` mean."""

    sites: str | Sequence[str] = "blocks.*.hook_resid_post"
    at: PositionRule = "last"
    into: Accumulator = field(default_factory=Rows)
    when: Literal["after", "before"] = "after"
    """After all edits at the site, or before them."""
    steps: StepRule = "both"

    def __post_init__(self) -> None:
        """Refuse rules that do not exist."""
        check_rule(self.at, self.steps)
