"""Which tokens of the present forward pass a capture or an edit means.

Position rules: ``last`` (last prompt token; while generating, the token at hand), ``template``
(the template's tokens after the instruction, slots counted from the end), ``after_instruction``,
``response``, ``all``, or a callable on token ids and mask. Step rules: ``prompt``, ``generated``,
``both``; a generated token is one that the model itself wrote, so the first of them is seen by
the model only in the second pass of ``generate()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooks.errors import PositionError

PositionCallable = Callable[[Int[Tensor, "row token"], Bool[Tensor, "row token"]], Tensor]
"""Takes token ids and mask, returns a boolean [row, token] of the chosen tokens."""
PositionName = Literal["last", "template", "after_instruction", "response", "all"]
PositionRule = PositionName | PositionCallable
StepRule = Literal["prompt", "generated", "both"]


Picked = tuple[Int[Tensor, "token"], Int[Tensor, "token"], Int[Tensor, "token"]]
"""Row, token and slot numbers."""


def check_rule(rule: object, steps: object) -> None:
    """Refuse a rule that does not exist.

    Raises:
        PositionError: naming the choices.
    """
    if not callable(rule) and rule not in get_args(PositionName):
        raise PositionError(
            f"{rule!r} is not a position rule; choose from {', '.join(get_args(PositionName))} "
            "or give a callable on token ids and mask"
        )
    if steps not in get_args(StepRule):
        raise PositionError(f"{steps!r} is not a step rule; choose prompt, generated or both")


def require_fits(real: Bool[Tensor, "row token"], limit: int | None) -> None:
    """Refuse a pass over more real tokens than the model's context holds.

    Raises:
        PositionError: naming the longest row.
    """
    if limit is None or real.shape[1] <= limit:
        return
    lengths = real.sum(dim=1)
    row = int(lengths.argmax())
    if int(lengths[row]) > limit:
        raise PositionError(
            f"row {row} has {int(lengths[row])} tokens, the model's context holds {limit}: shorten "
            "it"
        )


@dataclass(eq=False)
class Frame:
    """What the registry knows about one forward pass of the model body."""

    ids: Int[Tensor, "row token"] | None
    """Token ids of this pass; None when the caller passed embeddings."""
    mask: Bool[Tensor, "row token"]
    """Real tokens of this pass."""
    prompt_tokens: int
    """How many leading tokens of this pass belong to the prompt; the rest were generated."""
    instruction_end: Int[Tensor, "row"] | None = None
    """Index in this pass of the first token after the instruction, from :class:`Encoded`."""
    response_start: Int[Tensor, "row"] | None = None
    template_length: int = 0
    rows: Int[Tensor, "row"] | None = None
    """The caller's row numbers; None outside the engine."""
    total: int | None = None
    """How many rows the caller gave in all; None outside the engine."""
    copy: Int[Tensor, "row"] | None = None
    """Which copy of the prompts each row belongs to; None where they were not copied."""
    copies: int | None = None
    """How many copies of the prompts there are; per-row data then has one entry for each."""
    prefix: bool = False
    """True while the engine computes the prefix that all rows share."""
    repeated: int = 0
    """Leading tokens that an earlier pass has read too (generation without a cache)."""
    _memo: dict[object, Bool[Tensor, "row token"]] = field(default_factory=dict)
    _picked: dict[object, Picked | None] = field(default_factory=dict)
    _tails: dict[int, Frame] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.mask.shape[0]

    @property
    def index(self) -> Int[Tensor, "1 token"]:
        """Token index of this pass."""
        return torch.arange(self.mask.shape[1], device=self.mask.device)[None]

    def chosen(self, rule: PositionRule, steps: StepRule) -> Bool[Tensor, "row token"]:
        """Return the real tokens that ``rule`` and ``steps`` mean in this pass."""
        key = (rule, steps)
        if key not in self._memo:
            wanted = self._by_rule(rule) & self.mask
            if steps != "both":
                is_prompt = self.index < self.prompt_tokens
                wanted = wanted & (is_prompt if steps == "prompt" else ~is_prompt)
            self._memo[key] = wanted
        return self._memo[key]

    def tail(self, width: int) -> Frame:
        """Return the frame of the last ``width`` tokens (where logits are not kept for all)."""
        cut = self.mask.shape[1] - width
        if cut == 0:
            return self
        if width not in self._tails:
            ends, starts = self.instruction_end, self.response_start
            self._tails[width] = replace(
                self,
                ids=None if self.ids is None else self.ids[:, cut:],
                mask=self.mask[:, cut:],
                prompt_tokens=max(self.prompt_tokens - cut, 0),
                instruction_end=None if ends is None else ends - cut,
                response_start=None if starts is None else starts - cut,
                repeated=max(self.repeated - cut, 0),
                _memo={},
                _picked={},
                _tails={},
            )
        return self._tails[width]

    def pick(self, rule: PositionRule, steps: StepRule) -> Picked | None:
        """Return row, token and slot numbers of the chosen tokens; None when there are none.

        Computed once a pass, whatever the number of sites. Slots count a row's chosen tokens.
        """
        key = (rule, steps)
        if key not in self._picked:
            wanted = self.chosen(rule, steps) & (self.index >= self.repeated)
            rows, tokens = wanted.nonzero(as_tuple=True)
            slots = (wanted.cumsum(dim=1) - 1)[rows, tokens]
            self._picked[key] = (rows, tokens, slots) if len(rows) else None
        return self._picked[key]

    def takes_all(self, rule: PositionRule, steps: StepRule) -> bool:
        """True when every token of this pass is meant, so that no mask is needed.

        Padding may be edited too then: nothing attends to it and no capture reads it.
        """
        if rule != "all":
            return False
        if steps == "both":
            return True
        prompt, width = self.prompt_tokens, self.mask.shape[1]
        return prompt >= width if steps == "prompt" else prompt == 0

    def _by_rule(self, rule: PositionRule) -> Bool[Tensor, "row token"]:
        if callable(rule):
            return self._by_callable(rule)
        if rule == "all":
            return self.mask
        if self.prefix:
            # Every other rule means tokens behind the prefix; the engine keeps it that short.
            return torch.zeros_like(self.mask)
        generated = self.index >= self.prompt_tokens
        if rule == "last":
            return self._last() | (generated & self.mask)
        if self.prompt_tokens == 0:
            return self.mask if rule != "template" else torch.zeros_like(self.mask)
        return self._by_boundary(rule) | (generated & self.mask if rule != "template" else False)

    def _last(self) -> Bool[Tensor, "row token"]:
        if self.prompt_tokens == 0:
            return torch.zeros_like(self.mask)
        if self.response_start is not None:
            return self.index == (self.response_start - 1)[:, None]
        within = self.mask & (self.index < self.prompt_tokens)
        final = (within * (self.index + 1)).argmax(dim=1)
        return self.index == final[:, None]

    def _by_boundary(self, rule: PositionName) -> Bool[Tensor, "row token"]:
        if self.instruction_end is None or self.response_start is None:
            raise PositionError(
                f"position rule {rule!r} needs the prompt's boundaries: run prompts through "
                "run.forward(model.encode(...)) or run.generate(...)"
            )
        start = self.response_start[:, None]
        if rule == "template":
            if self.template_length == 0:
                raise PositionError("position rule 'template': these prompts have no template tail")
            return (self.index < start) & (self.index >= start - self.template_length)
        if rule == "after_instruction":
            return self.index >= self.instruction_end[:, None]
        return self.index >= start

    def _by_callable(self, rule: PositionCallable) -> Bool[Tensor, "row token"]:
        if self.ids is None:
            raise PositionError("a callable position rule needs token ids, not embeddings")
        wanted = rule(self.ids, self.mask)
        if wanted.shape != self.mask.shape or wanted.dtype != torch.bool:
            raise PositionError(
                f"the position callable returned {wanted.dtype} {tuple(wanted.shape)}; "
                f"expected torch.bool {tuple(self.mask.shape)}"
            )
        return wanted
