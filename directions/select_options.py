"""The options of a selection; nothing here imports torch, so that ``--help`` stays fast."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import tyro

from artifacts.errors import InputError
from directions.options import DtypeName, StreamName

LEAST_CONTROLS = 5


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """How to select; ``python -m directions.select`` takes these very fields."""

    min_induce: float = 0.0
    """Adding the direction must bring the mean refusal metric of harmless prompts above this."""
    max_kl: float = 0.1
    """Ablating it must keep the KL divergence on harmless prompts below this, in nats."""
    max_layer: float = 0.8
    """Only directions that enter the stream in this first share of the blocks."""
    filter: bool = True
    """Leave out harmful prompts that the model answers and harmless ones that it refuses; not in
    the final test."""
    controls: int = 19
    """Random directions of the same norm, at least 5; with 19 the level of a claim is 5%."""
    neutral: int = 24
    """Neutral texts for the perplexity."""
    dtype: DtypeName = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    stream: StreamName = "auto"
    """Residual stream in low precision: float32 where the family can, or the model's own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    seed: int = 0
    """Seed of the split, the controls and the intervals."""
    progress: tyro.conf.Suppress[bool] = False
    """Progress bars on stderr."""

    def __post_init__(self) -> None:
        """Refuse values that choose nothing or measure nothing.

        Raises:
            InputError: naming the value and what is allowed.
        """
        if not math.isfinite(self.min_induce):
            raise InputError(f"min induce {self.min_induce}: give a finite number")
        if not 0 < self.max_kl < math.inf:
            raise InputError(f"max KL {self.max_kl}: give a finite number above 0")
        if not 0 < self.max_layer <= 1:
            raise InputError(f"max layer {self.max_layer}: give a share above 0 and at most 1")
        if self.controls < LEAST_CONTROLS:
            raise InputError(f"{self.controls} controls: at least {LEAST_CONTROLS} are needed")
        if self.neutral < 2:
            raise InputError(f"{self.neutral} neutral texts: at least 2 are needed for an interval")

    def blocks(self, n_layers: int) -> tuple[int, ...]:
        """Return the blocks whose output is early enough.

            b + 1 < max_layer L          (Arditi et al. 2024: l < 0.8 L, with l = b + 1)

        Raises:
            InputError: none is.
        """
        found = tuple(b for b in range(n_layers) if b + 1 < self.max_layer * n_layers)
        if not found:
            raise InputError(
                f"max layer {self.max_layer}: no block of {n_layers} is that early; raise it"
            )
        return found

    def record(self) -> dict[str, str | int | float | bool | None]:
        """Return every option that can change a number, for the manifest."""
        skipped = ("progress", "device", "seed")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
