"""How something is removed, and what a thing that can be removed must say of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ablation.options import Control, Mode

if TYPE_CHECKING:
    from ablation.reference import Reference
    from hooks import Model
    from hooks.interventions import Intervention


@dataclass(frozen=True)
class Way:
    """Zero, mean or clamp, and the share that is removed."""

    mode: Mode = "mean"
    alpha: float = 1.0

    def __str__(self) -> str:
        return self.mode if self.alpha == 1 else f"{self.mode}, share {self.alpha:g}"


@runtime_checkable
class Target(Protocol):
    """What is removed: a span of directions, or a set of heads or units."""

    @property
    def where(self) -> str:
        """Where it is removed, in words."""
        ...

    def sites(self, way: Way, model: Model) -> tuple[str, ...]:
        """Give the sites that are edited, and whose reference is needed."""
        ...

    def edits(self, way: Way, seen: Reference, model: Model) -> tuple[Intervention, ...]:
        """Give the interventions that remove it."""
        ...

    def control(
        self, index: int, way: Way, seen: Reference, model: Model, *, how: Control, seed: int
    ) -> tuple[Intervention, ...]:
        """Give the interventions of its index-th random control."""
        ...
