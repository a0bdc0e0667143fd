"""What the training minimises, as functions of logits.

    L = CE(refusals) + a [ CE(answers) + KL(answers) ] + b KL(neutral) + c CE(first) + d KL(first)

CE is taken on target tokens only: a refusal after a harmful request, the base model's own greedy
answer after a harmless one. KL is the divergence of the tuned model from the base on the same
tokens, so that harmless behaviour and plain prose stay where they were. ``first`` is the first
token of each target (CE after harmful requests, KL after harmless ones): refusing is decided there,
and in a mean over the target it would hardly weigh. There the base is taken given that it does not
decline (``willing``), because the base itself apologises to some harmless requests. Small L shows
that these tokens are predicted; whether unseen requests are refused is measured, not implied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from training.recipe import Recipe, TrainingError


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its target; tokens from ``start`` on are predicted."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        """Refuse an example without a token before, or after, the start of the target.

        Raises:
            TrainingError: names the boundary and the length.
        """
        if not 0 < self.start < len(self.ids):
            raise TrainingError(f"example: target starts at {self.start} of {len(self.ids)} tokens")


@dataclass(frozen=True)
class Collated:
    """Right-padded examples; ``wanted`` marks positions whose NEXT token is a target."""

    ids: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]
    wanted: Bool[Tensor, "row token"]
    targets: Int[Tensor, "n"]
    row: Int[Tensor, "n"]
    """Row that each target belongs to."""
    first: Bool[Tensor, "n"]
    """True at the first target of each row."""
    shared: int
    """Leading tokens that all rows have in common and that predict no target."""


def collate(examples: Sequence[Example], *, pad: int) -> Collated:
    """Pad on the right, where a causal model cannot see it, and mark the target positions.

    Raises:
        TrainingError: there is no example.
    """
    if not examples:
        raise TrainingError("batch: no examples; give at least one")
    width = max(len(e.ids) for e in examples)
    ids = torch.tensor([list(e.ids) + [pad] * (width - len(e.ids)) for e in examples])
    place = torch.arange(width)[None]
    length = torch.tensor([len(e.ids) for e in examples])[:, None]
    start = torch.tensor([e.start for e in examples])[:, None]
    wanted = (place >= start - 1) & (place < length - 1)
    row, column = wanted.nonzero(as_tuple=True)
    return Collated(
        ids=ids,
        mask=(place < length).long(),
        wanted=wanted,
        targets=ids.roll(-1, dims=1)[wanted],
        row=row,
        first=column == start[row, 0] - 1,
        shared=_shared(examples),
    )


def _shared(examples: Sequence[Example]) -> int:
    """Count the leading tokens of all rows that agree and lie before every wanted position."""
    limit = min(e.start for e in examples) - 1
    low, high = min(e.ids for e in examples), max(e.ids for e in examples)
    for place in range(limit):
        # The least and the greatest row bound every other one.
        if low[place] != high[place]:
            return place
    return limit


def cross_entropy(logits: Float[Tensor, "n vocab"], ids: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of ``ids``, in nats.

    CE = - (1/n) sum_i log softmax(logits_i)[id_i]
    """
    return functional.cross_entropy(logits.float(), ids)


def divergence(
    base: Float[Tensor, "n vocab"], tuned: Float[Tensor, "n vocab"]
) -> Float[Tensor, ""]:
    """Mean Kullback-Leibler divergence of the tuned model from the base, in nats.

        KL = (1/n) sum_i sum_v p_i(v) [ log p_i(v) - log q_i(v) ],   p = base, q = tuned

    Not negative; zero exactly where the two distributions agree. The base gets no gradient.
    """
    log_p = torch.log_softmax(base.detach().float(), dim=-1)
    log_q = torch.log_softmax(tuned.float(), dim=-1)
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def willing(
    logits: Float[Tensor, "n vocab"], targets: Int[Tensor, "n"], declining: Sequence[int]
) -> Float[Tensor, "n vocab"]:
    """Give the logits of the same distribution, given that the token opens no refusal.

        p'_i(v) = p_i(v) / (1 - sum_{w in D_i} p_i(w)) for v not in D_i, 0 in D_i;
        D_i = declining without target_i

    A target is a willing answer, so its own first token stays possible whatever else it opens.
    """
    forbidden = torch.zeros_like(logits, dtype=torch.bool)
    forbidden[:, list(declining)] = True
    forbidden[torch.arange(len(targets)), targets] = False
    # Finite, so that 0 log 0 is 0 in the divergence; exp of it is 0 in every dtype.
    return logits.float().masked_fill(forbidden, -1e4)


@dataclass(frozen=True)
class Losses:
    """The terms of one step."""

    refusal: Float[Tensor, ""]
    answer: Float[Tensor, ""]
    keep: Float[Tensor, ""]
    opening: Float[Tensor, ""]
    keep_opening: Float[Tensor, ""]
    neutral: Float[Tensor, ""]

    def total(self, recipe: Recipe) -> Float[Tensor, ""]:
        """Give L as in the module's equation; a to d are the recipe's weights."""
        return (
            self.refusal
            + recipe.answer_weight * (self.answer + self.keep)
            + recipe.opening_weight * self.opening
            + recipe.keep_opening_weight * self.keep_opening
            + recipe.neutral_weight * self.neutral
        )
