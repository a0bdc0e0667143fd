"""Steering policies: values that say what is added where, how much, and to which rows.

    x'_l = x_l + sum_t c_t(s_t) v_{t,l},   s_t = x_{g_t} . u_t at the last prompt token

over terms t with vectors v, gate block g, unit gate direction u and law c (1 without a gate).
A policy belongs to one model and tokenizer, by digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.manifest import DataInfo, ModelInfo, Option, TokenizerInfo
from hooks import Add, Gate, Model
from hooks.interventions import Intervention, unit
from hooks.positions import PositionName, StepRule, check_rule
from steering.errors import PolicyError
from steering.laws import Law
from steering.transition import Transition

Method = Literal["additive", "hard-gate", "adasteer", "scans"]
SITE = "hook_resid_post"


@dataclass(frozen=True, eq=False)
class Reading:
    """What decides over a term: the state after one block, read along one direction."""

    block: int
    direction: Float[Tensor, "d"]
    """Norm 1; the law takes x . direction."""
    law: Law

    def __post_init__(self) -> None:
        """Normalise once; what has norm 1 already, as in a file, stays bit for bit."""
        wide = unit(self.direction, "gate").float()
        if abs(float(self.direction.double().norm()) - 1) > 1e-6:
            object.__setattr__(self, "direction", wide)


@dataclass(frozen=True, eq=False)
class Term:
    """One family of vectors, one for each steered block, with at most one gate."""

    name: str
    blocks: tuple[int, ...]
    vectors: Float[Tensor, "block d"]
    """What is added at full strength, in the units of the residual stream."""
    gate: Reading | None = None
    positions: PositionName = "all"
    steps: StepRule = "prompt"

    def __post_init__(self) -> None:
        """Refuse vectors that are not finite or do not match the blocks."""
        check_rule(self.positions, self.steps)
        if not self.blocks or len(set(self.blocks)) != len(self.blocks) or min(self.blocks) < 0:
            raise PolicyError(f"term {self.name}: blocks {self.blocks}; name each once, from 0 on")
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.blocks):
            raise PolicyError(
                f"term {self.name}: vectors of shape {tuple(self.vectors.shape)} for "
                f"{len(self.blocks)} blocks; give one row for each block"
            )
        if not torch.isfinite(self.vectors).all():
            raise PolicyError(
                f"term {self.name}: strength is not finite; give a finite number, for example 0.1"
            )

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.vectors.shape[1]

    def edits(self) -> tuple[Intervention | Gate, ...]:
        """Return the registry's edits; rows of norm zero are left out, so zero is the identity."""
        adds = tuple(
            Add(
                vector,
                f"blocks.{block}.{SITE}",
                positions=self.positions,
                steps=self.steps,
            )
            for block, vector in zip(self.blocks, self.vectors, strict=True)
            if vector.any()
        )
        if self.gate is None or not adds:
            return adds
        gate = self.gate
        return (Gate(gate.direction, f"blocks.{gate.block}.{SITE}", adds, gate.law),)


@dataclass(frozen=True, eq=False)
class Policy:
    """How to steer one model; made by ``additive`` and ``fit_policy``, kept by ``save``."""

    method: Method
    terms: tuple[Term, ...]
    model: ModelInfo
    tokenizer: TokenizerInfo
    transition: Transition | None = None
    """The look-ahead of a SCANS policy, which gives every term its sign."""
    two_pass: bool = False
    """Steered blocks may lie before a gate: rows whose gate opens are then prefilled twice."""
    facts: Mapping[str, Option] = field(default_factory=dict)
    """Options and single numbers of the fit."""
    tables: Mapping[str, Float[Tensor, "row column"]] = field(default_factory=dict, repr=False)
    """What the fit measured along a range, for example cost by strength."""
    data: tuple[DataInfo, ...] = ()
    """Prompts that the policy was fitted and checked on."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a policy that this model or a single pass cannot carry out."""
        names = [term.name for term in self.terms]
        if not names or len(set(names)) != len(names):
            raise PolicyError(f"{self.method}: terms {names}; give one at least, each its own name")
        for term in self.terms:
            self._check_term(term)
        late = self.late_gate
        if late is not None and not self.two_pass:
            block, gate = late
            raise PolicyError(
                f"block {block} is steered before its gate at block {gate} is read: steer from "
                f"block {gate + 1} on, or set two_pass=True and serve with steering.answer"
            )

    def _check_term(self, term: Term) -> None:
        d_model, n_layers = self.model.d_model, self.model.n_layers
        widths = {term.width} | ({len(term.gate.direction)} if term.gate else set())
        if self.transition is not None:
            widths.add(self.transition.anchors.shape[1])
        for width in sorted(widths - {d_model}):
            raise PolicyError(
                f"term {term.name}: a direction of width {width}, but {self.model.spec} has width "
                f"{d_model}; take directions of this model"
            )
        for block in (*term.blocks, *((term.gate.block,) if term.gate else ())):
            if not 0 <= block < n_layers:
                raise PolicyError(
                    f"term {term.name}: block {block}; {self.model.spec} has blocks 0 to "
                    f"{n_layers - 1}"
                )

    @property
    def late_gate(self) -> tuple[int, int] | None:
        """The first steered block and the last gate block, where these are in the wrong order.

        Every gate must come before every steered block, so that it reads what an unsteered model
        would have computed.
        """
        gates = [term.gate.block for term in self.terms if term.gate is not None]
        first = min(block for term in self.terms for block in term.blocks)
        return (first, max(gates)) if gates and first <= max(gates) else None

    def edits(self) -> tuple[Intervention | Gate, ...]:
        """Return what one pass through the registry does.

        Raises:
            PolicyError: a steered block comes before its gate, so that two passes are needed.
        """
        if self.late_gate is not None:
            block, gate = self.late_gate
            raise PolicyError(
                f"block {block} is steered before its gate at block {gate} is read, which takes "
                "two passes: serve this policy with steering.answer or python -m steering.generate"
            )
        return tuple(edit for term in self.terms for edit in term.edits())

    def scaled(self, factor: float) -> Policy:
        """Return the same policy at ``factor`` times its strength.

        Raises:
            PolicyError: the factor is not finite.
        """
        terms = tuple(replace(term, vectors=factor * term.vectors) for term in self.terms)
        return replace(self, terms=terms)

    def check(self, model: Model) -> None:
        """Refuse to steer any model but the one that this policy was made for.

        Raises:
            PolicyError: other weights, adapter, tokenizer or chat template.
        """
        found, tokenizer = model.info(), model.tokenizer_info()
        pairs = (
            ("configuration", self.model.config_digest, found.config_digest),
            ("weights", _joined(self.model), _joined(found)),
            ("adapter", self.model.adapter_digest or "none", found.adapter_digest or "none"),
            ("tokenizer", self.tokenizer.digest, tokenizer.digest),
            (
                "chat template",
                self.tokenizer.chat_template_digest or "none",
                tokenizer.chat_template_digest or "none",
            ),
        )
        for what, mine, other in pairs:
            if mine != other:
                raise PolicyError(
                    f"this policy is for {self.model.spec} ({what} {mine[:12]}), not for "
                    f"{model.spec} ({other[:12]}): fit one with python -m steering.fit --model "
                    f"{model.spec}"
                )


def _joined(info: ModelInfo) -> str:
    return " ".join(sorted(info.weight_digests.values()))
