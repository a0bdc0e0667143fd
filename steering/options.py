"""The options of a fit; nothing here imports torch, so that ``--help`` stays fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from steering.errors import PolicyError

FitMethod = Literal["adasteer", "scans", "hard-gate", "additive"]
HarmDirection = Literal["parallel", "orthogonal"]
GateReading = Literal["lda", "mean"]
FORMS = ("plain", "code-completion", "text-continuation", "prefill-5")
"""Forms of the fit prompts: as they are, wrapped, and with an opening that is put in the mouth."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to fit a policy; ``python -m steering.fit`` takes these very fields."""

    method: FitMethod = "adasteer"
    """adasteer, scans, or the baselines hard-gate and additive."""
    hd: HarmDirection = "parallel"
    """Harmfulness direction: its projection on the rejection direction, as in AdaSteer's released
    vectors, or the part orthogonal to it."""
    reading: GateReading = "lda"
    """How the gate reads its two axes: lda (whitened by the covariance within classes) or mean
    (along the differences of means, as in AdaSteer)."""
    shrinkage: float = 0.3
    """Share of the identity in that covariance; prompts of one request are alike, so that more is
    needed than independent rows would need."""
    judge: str = "margin"
    """Who says what the model refuses: margin (first token, no generation), or default, prefix,
    embedding, combined, which read greedy answers."""
    forms: tuple[str, ...] = FORMS
    """plain, kinds of wrappers, prefill-N; see python -m evaluation.sources."""
    limit: int = 96
    """Requests of each class, spread over the set; each is read in every form."""
    gate_block: int | None = None
    """Block that the gate reads; by default the earliest that tells harmful prompts apart as well
    as any, within one standard error."""
    blocks: tuple[int, ...] | None = None
    """Blocks to steer; by default all behind the gate."""
    strengths: tuple[float, ...] = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08)
    """Relative strengths that are tried, in units of the ambient norm, weakest first."""
    max_kl: float = 0.1
    """Largest mean divergence from the unsteered model on benign answers, nats a token."""
    max_perplexity: float = 1.1
    """Largest ratio of perplexities, steered to unsteered, on benign answers."""
    max_benign_lost: float = 0.02
    """Largest share of benign prompts that steering may turn into refusals."""
    false_open: float = 0.02
    """Share of held-out benign prompts for which the gate may be more than half open."""
    opener: str = "Sure"
    """SCANS: what the branch appends."""
    answer_tokens: int = 16
    """Tokens of the benign answers on which cost is measured."""
    seed: int = 0
    """Seed of the split of requests."""

    def __post_init__(self) -> None:
        """Refuse numbers that no fit can use.

        Raises:
            PolicyError: naming the option and its value.
        """
        for name in ("max_kl", "max_perplexity", "max_benign_lost", "false_open"):
            if not math.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise PolicyError(f"{name}={getattr(self, name)}: give a number from 0 on")
        if not 0 < self.shrinkage <= 1:
            raise PolicyError(f"shrinkage={self.shrinkage}: give a share above 0, up to 1")
        if (
            not self.strengths
            or any(not math.isfinite(s) or s <= 0 for s in self.strengths)
            or list(self.strengths) != sorted(self.strengths)
        ):
            raise PolicyError(
                f"strengths {self.strengths}: give finite numbers above 0, weakest first"
            )
        if self.limit < 24:
            raise PolicyError(
                f"limit={self.limit}: the fit deals the requests in three; give at least 24"
            )
        if self.answer_tokens < 2 or not self.forms or not self.opener.strip():
            raise PolicyError("give 2 answer tokens, one form and an opener at least")

    def record(self) -> dict[str, str | int | float | None | tuple[str, ...] | tuple[float, ...]]:
        """Return every option that can change a number, for the manifest."""
        return {f"option.{k}": v for k, v in vars(self).items() if v is not None}
