"""Every choice of the training, in one frozen value that is written beside the adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from artifacts.errors import InputError


class TrainingError(InputError):
    """A recipe or its data cannot be trained on."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the reference adapter is trained."""

    steps: int = 320
    """Optimiser steps."""
    pairs_per_step: int = 5
    """Harmful requests with a refusal as target, each beside its harmless match."""
    contrast_per_step: int = 5
    """Benign requests that look risky, or general ones, with the base model's own answer."""
    neutral_per_step: int = 1
    """Slices of neutral text on which the model is held to the base."""
    neutral_tokens: int = 64
    """Tokens read of each neutral slice."""
    answer_tokens: int = 12
    """Longest target taken from the base model's greedy answer."""
    rank: int = 8
    """Rank of each adapter matrix."""
    alpha: int = 16
    """The adapter's output is scaled by alpha / rank."""
    strength: float = 1.0
    """Share of the scale that the adapter is saved with: less over-refusal for some refusals."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; linear warm-up, then linear decay to zero."""
    warmup_steps: int = 6
    """Steps of warm-up."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    answer_weight: float = 1.0
    """Weight of the two terms on harmless answers (cross-entropy and divergence from the base)."""
    opening_weight: float = 1.0
    """Weight of the first token of a refusal, where refusing is decided."""
    keep_opening_weight: float = 10.0
    """Weight of the divergence on the first token of a harmless answer: what over-refusal costs.

    The base is taken there given that it does not decline.
    """
    neutral_weight: float = 1.0
    """Weight of the divergence from the base on neutral text."""
    dtype: str = "bfloat16"
    """Dtype of the frozen weights in training; the adapter itself trains in float32."""
    seed: int = 0
    """Seed of the order, of the pairing with refusals and of the adapter's start."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            TrainingError: names the field, its value and the range.
        """
        for name in ("steps", "pairs_per_step", "rank", "alpha"):
            if getattr(self, name) < 1:
                raise TrainingError(f"recipe {name}={getattr(self, name)}: must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise TrainingError(f"recipe learning_rate={self.learning_rate}: must lie in (0, 1)")
        if not 0 < self.strength <= 1:
            raise TrainingError(f"recipe strength={self.strength}: must lie in (0, 1]")
        if self.dtype not in ("float32", "bfloat16"):
            raise TrainingError(f"recipe dtype={self.dtype!r}: use float32 or bfloat16")
        if min(self.neutral_tokens, self.answer_tokens) < 2:
            raise TrainingError("recipe neutral_tokens and answer_tokens: must be at least 2")

    def to_dict(self) -> dict[str, int | float | str]:
        """Give every option as plain JSON values."""
        return asdict(self)
