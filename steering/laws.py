"""Laws: how a gate's score becomes the share of a steering vector that a row gets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.errors import PolicyError


@dataclass(frozen=True)
class Logistic:
    """A share that rises from 0 to 1 with the score.

        c(s) = sigma(weight s + bias),   0 where that is below ``floor``

    The clamped linear law of AdaSteer's code (Zhao et al. 2025) is a near-step between two
    constants; this one is what a logistic regression gives. With a ``floor`` most rows that need
    no steering stay as they are bit for bit.
    """

    weight: float
    bias: float
    floor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite and a floor outside [0, 1)."""
        if not (math.isfinite(self.weight) and math.isfinite(self.bias)):
            raise PolicyError(
                f"logistic law: weight {self.weight} and bias {self.bias} must be finite numbers; "
                "fit it again on classes that overlap, or with a smaller C"
            )
        if not 0 <= self.floor < 1:
            raise PolicyError(f"logistic law: floor {self.floor}; give a number from 0 to below 1")

    def __call__(self, score: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the share of each row."""
        share = torch.sigmoid(self.weight * score + self.bias)
        return torch.where(share < self.floor, torch.zeros_like(share), share)


@dataclass(frozen=True)
class Step:
    """All or nothing: 1 where the score exceeds ``threshold``, else ``below``.

    c(s) = 1 if s > threshold else below
    """

    threshold: float
    below: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite."""
        if not (math.isfinite(self.threshold) and math.isfinite(self.below)):
            raise PolicyError(
                f"hard gate: threshold {self.threshold} and below {self.below} must be finite"
            )

    def __call__(self, score: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return the share of each row."""
        return torch.where(score > self.threshold, 1.0, self.below)


Law = Logistic | Step
