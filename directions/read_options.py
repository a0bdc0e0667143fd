"""The options of a reading; nothing here imports torch, so that ``--help`` stays fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from artifacts.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read; ``python -m directions.read`` takes these very fields."""

    block: int | None = None
    """0-based block; by default the best one that the artifact names."""
    component: int | None = None
    """Number of a component, from 1 (C1); by default the direction itself."""
    count: int = 8
    """Prompts and tokens to list at each end."""
    examples: int = 4
    """Prompts whose tokens are listed one by one."""
    relevance: Literal["on", "off"] = "on"
    """Token relevance and masking; off for families whose rules are not written."""
    attention: Literal["attnlrp", "values"] = "attnlrp"
    """Relevance through attention weights and values, or through values alone."""
    prompts: int = 64
    """Held-out harmful prompts whose tokens are masked."""
    masked: int = 3
    """Tokens to mask in each."""
    draws: int = 19
    """Random sets of tokens to compare with; 19 are the fewest that can reach p = 0.05."""
    system: str | None = None
    """System prompt of the extraction, where the artifact does not say."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map."""
    seed: int = 0
    """Seed of controls and intervals."""

    def __post_init__(self) -> None:
        """Refuse values that read nothing.

        Raises:
            InputError: naming the value and what is allowed.
        """
        if self.component is not None and self.component < 1:
            raise InputError(f"component {self.component}: the first one is 1")
        if min(self.count, self.examples + 1, self.masked) < 1:
            raise InputError(
                f"count {self.count}, examples {self.examples}, masked {self.masked}: give at "
                "least 1, 0 and 1"
            )
        if self.prompts < 8 or self.draws < 5:
            raise InputError(f"prompts {self.prompts}, draws {self.draws}: give at least 8 and 5")
