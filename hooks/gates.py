"""Gates: a score read at one block sets the strength of edits at later blocks of the same pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hooks.errors import EditError
from hooks.interventions import Intervention, unit


@dataclass(frozen=True)
class Threshold:
    """Strength 1 where the score exceeds ``value``, else 0 (a hard gate)."""

    value: float

    def __call__(self, score: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the strength of each row."""
        return (score > self.value).float()


@dataclass(frozen=True)
class Affine:
    """Strength ``weight * score + bias``, kept within ``low`` and ``high``."""

    weight: float
    bias: float
    low: float = 0.0
    high: float = 1.0

    def __call__(self, score: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the strength of each row."""
        return (self.weight * score + self.bias).clamp(self.low, self.high)


Strength = Threshold | Affine | Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Gate:
    """Read a score at one block and set the strength of edits at later places of the same pass.

        s = strength(x . u),  x the last prompt token's state at ``at``

    The decision is made once for each prompt, in the pass that reads its last token, and held
    while the answer is generated.
    """

    direction: Float[Tensor, "d"]
    at: str
    edits: tuple[Intervention, ...]
    strength: Strength

    def __post_init__(self) -> None:
        """Refuse a gate that guards nothing."""
        if not self.edits:
            raise EditError("Gate: no edits to guard")
        object.__setattr__(self, "direction", unit(self.direction, "Gate"))
