"""Trigger tokens as a measurement: how much refusal hangs on the tokens found relevant.

    content = content_tokens(model, encoded)
    effect = mask_triggers(model, encoded, relevance, content, refusal_tokens)

Tokens are replaced, so the prompt keeps its length and its template. Nothing is rewritten and
nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.errors import InputError
from evaluation.intervals import Interval, mean_interval
from evaluation.judges.margin import margins
from hooks import Encoded, Model
from hooks.chat import template_head
from probes.seeds import derive, generator

if TYPE_CHECKING:
    from evaluation.judges.tokens import RefusalTokens

LEAST = 8
"""Fewest prompts."""
_NEUTRAL = " something"


@dataclass(frozen=True)
class MaskingEffect:
    """Change of the refusal margin when tokens are masked, by relevance and at random.

    It shows what this model does with this replacement, not what the tokens mean.
    """

    top: Interval
    """Mean change when the most relevant content tokens are masked, nats of log-odds."""
    random: Interval
    """Mean change when as many content tokens drawn at random are masked, mean over the draws."""
    difference: Interval
    """Top minus random, paired by prompt."""
    draws: tuple[float, ...]
    """Mean change of each draw."""
    p: float
    """Share of draws, the top itself counted, that move refusal as far in either direction."""
    count: int
    """Tokens masked a prompt, at most half of its content."""
    masked: tuple[tuple[int, ...], ...]
    """Places of the masked tokens of each prompt, the most relevant first."""

    @property
    def beats(self) -> bool:
        """Whether the paired difference excludes 0 and every draw (or 95% of them) moves less."""
        excludes = self.difference.low > 0 or self.difference.high < 0
        return excludes and self.p <= max(0.05, 1 / (len(self.draws) + 1))


def content_tokens(
    model: Model, encoded: Encoded, *, system: str | None = None
) -> tuple[tuple[int, ...], ...]:
    """Give the places of the instruction's tokens that hold a letter or a digit.

    The template's own tokens, a system prompt, and bare punctuation are never among them.

    Args:
        model: whose template the prompts were encoded with.
        encoded: prompts encoded with that template and this system prompt.
        system: the system prompt used.

    Raises:
        InputError: a prompt begins otherwise than the template does.
    """
    head = template_head(model.tokenizer, system=system)
    start = len(head)
    places = []
    for row, ids in enumerate(encoded):
        if ids[:start] != head:
            raise InputError(
                f"masking: prompt {row} does not begin as the chat template does; encode it with "
                "the same template and system prompt"
            )
        span = range(start, encoded.instruction_end[row])
        texts = {place: str(model.tokenizer.decode([ids[place]])) for place in span}
        places.append(tuple(p for p in span if any(c.isalnum() for c in texts[p])))
    return tuple(places)


def neutral_token(model: Model) -> int:
    """Give the token that stands in for a masked one: " something", or what comes nearest to it.

    A tokenizer that has no single token for the word gives that of its first piece.
    """
    ids = model.tokenizer(_NEUTRAL, add_special_tokens=False)["input_ids"]
    return int(ids[0])  # type: ignore[index]


def mask_triggers(
    model: Model,
    encoded: Encoded,
    relevance: Sequence[Float[Tensor, "_"]],
    content: Sequence[Sequence[int]],
    tokens: RefusalTokens,
    *,
    count: int = 3,
    draws: int = 19,
    neutral: int | None = None,
    seed: int = 0,
) -> MaskingEffect:
    """Mask the most relevant content tokens and compare with content tokens drawn at random.

        top_i - (1/D) sum_d random_id,   margin change of prompt i, bootstrap over prompts

    After the trigger tokens of Pan et al. 2025, section 5, of which this is the measuring half.
    Random sets are drawn from all content tokens, the top ones included, so under the null that
    relevance is arbitrary all sets are exchangeable; the comparison is conservative.

    Args:
        model: the model whose refusal is measured.
        encoded: prompts, all of one class.
        relevance: of every token of each prompt; the largest are masked.
        content: places that may be masked; see :func:`content_tokens`.
        tokens: refusal tokens of this tokenizer.
        count: tokens to mask, less where a prompt has fewer than twice as many.
        draws: random sets a prompt; 19 are the fewest that can reach p = 0.05.
        neutral: replacement; by default :func:`neutral_token`.
        seed: of draws and intervals.

    Raises:
        InputError: fewer than 8 prompts, relevances of other lengths, a prompt with fewer than two
            content tokens, fewer than 5 draws.
        JudgeError: refusal tokens of another tokenizer.
    """
    _check(encoded, relevance, content, count, draws)
    mask = neutral_token(model) if neutral is None else neutral
    top = tuple(
        tuple(sorted(places, key=lambda place: -float(part[place]))[: _number(places, count)])
        for part, places in zip(relevance, content, strict=True)
    )
    rng = generator("masking", seed)
    plain = margins(model, encoded, tokens)
    changes = margins(model, masked(encoded, top, mask), tokens) - plain
    random = torch.stack(
        [
            margins(model, masked(encoded, _draw(content, count, rng), mask), tokens) - plain
            for _ in range(draws)
        ]
    )
    means = random.mean(-1)
    further = int((means.abs() >= changes.mean().abs()).sum())
    at = derive("masking", seed) % 2**32

    def interval(values: Float[Tensor, "n"]) -> Interval:
        return mean_interval(values.tolist(), seed=at)

    return MaskingEffect(
        top=interval(changes),
        random=interval(random.mean(0)),
        difference=interval(changes - random.mean(0)),
        draws=tuple(means.tolist()),
        p=(1 + further) / (draws + 1),
        count=count,
        masked=top,
    )


def masked(encoded: Encoded, places: Sequence[Sequence[int]], token: int) -> Encoded:
    """Return prompts in which the tokens at these places are replaced by ``token``."""
    rows = []
    for ids, chosen in zip(encoded, places, strict=True):
        gone = set(chosen)
        rows.append(tuple(token if place in gone else own for place, own in enumerate(ids)))
    return replace(encoded, ids=tuple(rows))


def _number(places: Sequence[int], count: int) -> int:
    return min(count, len(places) // 2)


def _draw(
    content: Sequence[Sequence[int]], count: int, rng: np.random.Generator
) -> list[list[int]]:
    return [
        rng.choice(np.asarray(places), size=_number(places, count), replace=False).tolist()
        for places in content
    ]


def _check(
    encoded: Encoded,
    relevance: Sequence[Tensor],
    content: Sequence[Sequence[int]],
    count: int,
    draws: int,
) -> None:
    if len(encoded) < LEAST:
        raise InputError(f"masking {len(encoded)} prompts: give at least {LEAST}")
    if count < 1 or draws < 5:
        raise InputError(f"masking {count} tokens in {draws} draws: give at least 1 and 5")
    if not len(encoded) == len(relevance) == len(content):
        raise InputError(
            f"masking: {len(encoded)} prompts, {len(relevance)} relevances, {len(content)} lists "
            "of content tokens; give one of each a prompt"
        )
    for row, (ids, part, places) in enumerate(zip(encoded, relevance, content, strict=True)):
        if len(part) != len(ids) or not torch.isfinite(part).all():
            raise InputError(f"masking: prompt {row} has {len(ids)} tokens, {len(part)} relevances")
        if len(places) < 2:
            raise InputError(f"masking: prompt {row} has {len(places)} content tokens; 2 at least")
