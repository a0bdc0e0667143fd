"""Arditi et al.'s three scores, for many directions in one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from evaluation.divergence import HELD_BYTES, kl
from evaluation.judges.margin import log_odds
from hooks import Ablate, Add, Capture, Encoded, EngineOptions, Intervention, Model, Rows, Start

EVERYWHERE = ("blocks.*.hook_resid_pre", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out")
"""Where a direction is ablated: all that enters a block and all that a block writes."""

_Take = Callable[[Tensor, slice], Tensor]
"""Logits [prompt, vocab] of one direction and which prompts they are of -> [prompt]."""


@dataclass(frozen=True, eq=False)
class Clean:
    """What the model gives without edits."""

    logits: Float[Tensor, "prompt vocab"]
    """At the last position."""
    states: Mapping[int, Sequence[Float[Tensor, "_ d"]]]
    """By block: the states behind it, every token of each prompt."""


@dataclass(eq=False)
class Scorer:
    """Score directions by the log-odds of the refusal tokens and by KL, without generating.

        m(x) = log P - log(1 - P),  P = sum_{t in R} p_t       (Arditi et al. 2024, appendix B)

    All numbers are those of the last prompt position, computed in float64 from its logits.
    """

    model: Model
    ids: tuple[int, ...]
    """The refusal tokens R."""
    options: EngineOptions = EngineOptions()
    stats: Counter[str] = field(default_factory=Counter)
    """Counters of the engine over all passes so far."""

    def clean(self, prompts: Encoded, blocks: Sequence[int] = ()) -> Clean:
        """Run prompts without edits, and keep the states behind ``blocks``."""
        rows = Rows()
        sites = [f"blocks.{block}.hook_resid_post" for block in blocks]
        capture = [Capture(sites, at="all", into=rows)] if sites else []
        parts = []
        with self.model.hooks(capture=capture, options=self.options) as run:
            parts.append(run.forward(prompts, logits="last").logits)
            self.stats.update(run.stats.as_dict())
        states = {b: _by_prompt(rows[s]) for b, s in zip(blocks, sites, strict=True)}
        return Clean(torch.cat(parts), states)

    def margins(self, logits: Float[Tensor, "prompt vocab"]) -> Float64[Tensor, "prompt"]:
        """Return the refusal metric of every prompt."""
        return log_odds(logits.double(), self.ids)

    def bypass(
        self, prompts: Encoded, vectors: Float[Tensor, "c d"]
    ) -> Float64[Tensor, "c prompt"]:
        """Return the metric while each direction is ablated everywhere."""
        return self._each(prompts, vectors, _ablate, lambda z, _: self.margins(z))

    def divergence(
        self, prompts: Encoded, vectors: Float[Tensor, "c d"], clean: Float[Tensor, "prompt vocab"]
    ) -> Float64[Tensor, "c prompt"]:
        """Return KL(clean || ablated) in nats."""
        return self._each(prompts, vectors, _ablate, lambda z, rows: kl(clean[rows], z))

    def induce(
        self, prompts: Encoded, vectors: Float[Tensor, "c d"], block: int, clean: Clean
    ) -> Float64[Tensor, "c prompt"]:
        """Return the metric while each direction is added behind ``block``, at all positions.

        The pass begins there, from the clean states.
        """
        site = f"blocks.{block}.hook_resid_post"
        return self._each(
            prompts,
            vectors,
            lambda part: Add(part, site),
            lambda z, _: self.margins(z),
            start=(site, clean.states[block]),
        )

    def _each(
        self,
        prompts: Encoded,
        vectors: Float[Tensor, "c d"],
        edit: Callable[[Tensor], Intervention],
        take: _Take,
        *,
        start: tuple[str, Sequence[Float[Tensor, "_ d"]]] | None = None,
    ) -> Float64[Tensor, "c prompt"]:
        """Run all prompts under each direction, as many at once as logits may be held of."""
        vocabulary = int(self.model.hf.config.get_text_config(decoder=True).vocab_size)
        held = max(1, HELD_BYTES // (4 * vocabulary))
        found = torch.empty(len(vectors), len(prompts), dtype=torch.float64)
        for low in range(0, len(prompts), held):
            rows = slice(low, min(low + held, len(prompts)))
            part = prompts[rows]
            begin = None if start is None else Start(start[0], start[1][rows])
            step = max(1, held // len(part))
            for first in range(0, len(vectors), step):
                chosen = vectors[first : first + step].float()
                with self.model.hooks(edits=edit(chosen), options=self.options) as run:
                    out = run.forward(part, logits="last", start=begin, copies=len(chosen))
                    self.stats.update(run.stats.as_dict())
                if not isinstance(out.logits, Tensor):
                    raise TypeError("a run with logits='last' gives one tensor")
                logits = rearrange(out.logits, "(c n) vocab -> c n vocab", c=len(chosen))
                for copy, one in enumerate(logits):
                    found[first + copy, rows] = take(one, rows)
        return found


def _ablate(vectors: Float[Tensor, "c d"]) -> Ablate:
    return Ablate(vectors, EVERYWHERE, by_row=True)


def _by_prompt(values: Tensor | list[Tensor]) -> list[Tensor]:
    """Return [token, d] of each prompt; prompts of one token come without a token axis."""
    if isinstance(values, Tensor) and values.ndim == 2:
        return [rearrange(row, "d -> 1 d") for row in values]
    return list(values)
