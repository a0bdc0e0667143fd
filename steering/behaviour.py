"""What a model does with prompts of several forms, and its states while it reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from evaluation.filling import evaluate
from evaluation.grid import GridOptions, Setting
from evaluation.judges.factory import judge as make_judge
from evaluation.judges.margin import margins
from evaluation.judges.tokens import RefusalTokens
from evaluation.outcomes import Outcome
from evaluation.prompts import PromptSet
from evaluation.wrappers import encode, press
from hooks import Capture, Encoded, Model, Rows
from probes.seeds import generator
from steering.errors import PolicyError
from steering.policy import SITE

LEAST = 8
"""Fewest prompts of a class from which a direction is taken."""
_CHUNK = 64
_TURNS = (0, 1, 0, 2)
"""The part that each request in turn goes to."""


@dataclass(frozen=True, eq=False)
class Behaviour:
    """Prompts in order, with what became of them in the unsteered model."""

    encoded: Encoded
    states: Float[Tensor, "block row d"]
    """State after every block, at the last prompt token."""
    harmful: Bool[np.ndarray, "row"]
    outcomes: tuple[Outcome, ...]
    forms: tuple[str, ...]
    """Form of each prompt: ``plain`` or the wrapper's kind."""
    parts: tuple[int, ...]
    """Part of the requests that each belongs to; all forms of a request share one."""
    margins: Float[np.ndarray, "row"] = field(repr=False)
    requests: tuple[str, ...] | None = field(default=None, repr=False)
    """Request of each prompt without its form; intervals resample these. None: all different."""

    @property
    def refused(self) -> Bool[np.ndarray, "row"]:
        """Rows that the model refuses."""
        return np.array([outcome == "refused" for outcome in self.outcomes])

    @property
    def complied(self) -> Bool[np.ndarray, "row"]:
        """Rows that the model answers; deflected and broken answers are neither."""
        return np.array([outcome == "complied" for outcome in self.outcomes])

    def part(self, number: int) -> Behaviour:
        """Return the rows of one part."""
        return self.select([row for row, part in enumerate(self.parts) if part == number])

    def select(self, rows: Sequence[int]) -> Behaviour:
        """Return some rows, in this order."""
        chosen = list(rows)
        return replace(
            self,
            encoded=self.encoded.select(chosen),
            states=self.states[:, chosen],
            harmful=self.harmful[chosen],
            outcomes=tuple(self.outcomes[row] for row in chosen),
            forms=tuple(self.forms[row] for row in chosen),
            parts=tuple(self.parts[row] for row in chosen),
            margins=self.margins[chosen],
            requests=self.requests and tuple(self.requests[row] for row in chosen),
        )


def in_form(prompts: PromptSet, form: str) -> PromptSet:
    """Return the set as it is for ``plain``, else wrapped or prefilled."""
    return prompts if form == "plain" else press(prompts, form)


def deal(prompts: PromptSet, *, seed: int) -> dict[str, int]:
    """Deal the requests of each class into a half and two quarters, by id."""
    found: dict[str, int] = {}
    for label, rows in (("harmful", prompts.harmful), ("harmless", prompts.harmless)):
        order = generator("steering parts", label, seed).permutation(len(rows))
        for place, index in enumerate(order.tolist()):
            found[rows[index].id] = _TURNS[place % len(_TURNS)]
    return found


def evenly(prompts: PromptSet, n: int) -> PromptSet:
    """Keep ``n`` prompts of each class, spread over the set, so that every category is in.

    Sets are ordered by category: the first ``n`` would be of one or two.
    """
    kept = [
        rows[index * len(rows) // n] if n < len(rows) else rows[index]
        for rows in (prompts.harmful, prompts.harmless)
        for index in range(min(n, len(rows)))
    ]
    return replace(prompts, prompts=tuple(kept))


def observe(
    model: Model,
    prompts: PromptSet,
    forms: Sequence[str],
    tokens: RefusalTokens,
    *,
    judge: str = "margin",
    seed: int = 0,
    progress: bool = False,
) -> Behaviour:
    """Read every prompt in every form once, and say what the model does with it.

    With the judge ``margin`` nothing is generated: the outcome is whether the refusal tokens hold
    more than half of the first token's probability. Other judges read greedy answers; none is
    kept. Every prompt of one form is read in the same pass that gives its states.

    Raises:
        PromptError: an unknown form.
        PositionError: a prompt that the context does not hold.
    """
    part_of = deal(prompts, seed=seed)
    ids: list[Encoded] = []
    states: list[Tensor] = []
    found: list[tuple[bool, Outcome, str, int, float, str]] = []
    for form in tqdm(forms, desc="prompts", unit="form", disable=not progress, leave=False):
        asked = in_form(prompts, form)
        encoded = encode(model, asked)
        read, margin = _read(model, encoded, tokens)
        outcomes = _outcomes(model, asked, judge, margin)
        ids.append(encoded)
        states.append(read)
        for p, outcome, m in zip(prompts.prompts, outcomes, margin.tolist(), strict=True):
            found.append((p.label == "harmful", outcome, form, part_of[p.id], float(m), p.id))
    harmful, outcomes, names, parts, margin, requests = zip(*found, strict=True)
    return Behaviour(
        joined(ids),
        torch.cat(states, dim=1),
        np.array(harmful),
        tuple(outcomes),
        tuple(names),
        tuple(parts),
        np.array(margin),
        tuple(requests),
    )


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Put encoded prompts one behind the other."""
    return Encoded(
        tuple(ids for part in parts for ids in part.ids),
        tuple(end for part in parts for end in part.instruction_end),
        tuple(start for part in parts for start in part.response_start),
    )


def _read(
    model: Model, encoded: Encoded, tokens: RefusalTokens
) -> tuple[Float[Tensor, "block row d"], Float[np.ndarray, "row"]]:
    states, found = [], []
    for start in range(0, len(encoded), _CHUNK):
        rows = Rows()
        with model.hooks(capture=Capture(f"blocks.*.{SITE}", at="last", into=rows)) as run:
            found.append(margins(model, encoded[start : start + _CHUNK], tokens, run=run))
        states.append(rows.stack())
    return torch.cat(states, dim=1), torch.cat(found).numpy()


def _outcomes(
    model: Model, asked: PromptSet, judge: str, margin: Float[np.ndarray, "row"]
) -> list[Outcome]:
    if judge == "margin":
        return ["refused" if value > 0 else "complied" for value in margin.tolist()]
    grid = evaluate(
        [Setting("unsteered", model)],
        [asked],
        make_judge(judge),
        options=GridOptions(new_tokens=24),
    )
    return [record.outcome for record in grid.records["unsteered", asked.name]]


def require_classes(found: Behaviour, spec: str) -> dict[str, Bool[np.ndarray, "row"]]:
    """Return the masks of refused harmful, complied harmful and complied harmless prompts.

    Raises:
        PolicyError: a class has fewer than ``LEAST`` prompts; says what to do.
    """
    masks = {
        "refused harmful": found.harmful & found.refused,
        "complied harmful": found.harmful & found.complied,
        "complied harmless": ~found.harmful & found.complied,
    }
    advice = {
        "refused harmful": "this model refuses (almost) nothing, so it has no rejection direction "
        "of its own: take an aligned model, or steer along a direction you have: steering.additive",
        "complied harmful": "this model refuses (almost) everything here: add forms that get past "
        "it with --forms (python -m evaluation.run --sets 'development|KIND' shows which)",
        "complied harmless": "this model refuses (almost) every harmless prompt: give ordinary "
        "ones with --harmless, or another --judge",
    }
    for name, mask in masks.items():
        if mask.sum() < LEAST:
            total = (found.harmful if "harmful" in name.split() else ~found.harmful).sum()
            raise PolicyError(
                f"{spec}: {int(mask.sum())} {name} prompts of {int(total)}, {LEAST} are needed; "
                f"{advice[name]}"
            )
    return masks
