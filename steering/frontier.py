"""Defence under pressure against benign use: every method on one frontier.

    defence = refused harmful answers / harmful,   compliance = answered benign / benign

pooled over forms, with intervals that resample requests (all forms of a request together).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool
from tqdm.auto import tqdm

from evaluation.intervals import Interval, mean_interval
from evaluation.outcomes import Judge
from evaluation.prompts import PromptSet
from evaluation.rates import Rate
from hooks import Model
from steering.advantage import Advantage, Outcomes, advantages
from steering.answers import Asked, Runner
from steering.errors import PolicyError
from steering.laws import Logistic, Step
from steering.measuring import Paths, Utility, paths, touched, utility
from steering.policy import Policy, Reading

FIXED = (0.1, 0.2, 0.3, 0.45, 0.7, 1.0)
"""Strengths of the ungated baseline, in units of the policy's."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A named policy; None is the unsteered model."""

    name: str
    family: str
    """Points of one family are joined in the figure."""
    policy: Policy | None = field(repr=False)
    strength: float


@dataclass(frozen=True, eq=False)
class PointResult:
    """One contender on all prompts."""

    contender: Contender
    refused: Bool[np.ndarray, "row"] = field(repr=False)
    complied: Bool[np.ndarray, "row"] = field(repr=False)
    incoherent: Bool[np.ndarray, "row"] = field(repr=False)
    defence: Interval
    compliance: Interval
    cost: Utility | None
    """On benign answers; None for the unsteered model."""
    touched: int
    """Prompts that the policy changed at all."""
    tokens: int
    """Tokens that went through the model; answers of prompts left alone are the unsteered ones."""


@dataclass(frozen=True, eq=False)
class Frontier:
    """All contenders on the same prompts."""

    spec: str
    judge: str
    harmful: Bool[np.ndarray, "row"] = field(repr=False)
    requests: tuple[str, ...] = field(repr=False)
    """Request of each row, without its form."""
    groups: tuple[str, ...] = field(repr=False)
    """Set and form of each row."""
    points: tuple[PointResult, ...]
    advantages: tuple[Advantage, ...]

    @property
    def group_names(self) -> tuple[str, ...]:
        """Every set and form once, in order."""
        return tuple(dict.fromkeys(self.groups))

    def rate(self, point: PointResult, group: str) -> Rate:
        """Give the refused share of a harmful group, the answered share of a benign one."""
        rows = np.array([name == group for name in self.groups])
        wanted = point.refused if self.harmful[rows].all() else point.complied
        return Rate.of(wanted[rows].tolist())


def contenders(policies: Mapping[str, Policy]) -> tuple[Contender, ...]:
    """Put the baselines of the first gated policy beside all policies.

    Fixed strengths add the same rejection vectors to every prompt; the hard gate adds them whole
    where the policy's own gate is more than half open.

    Raises:
        PolicyError: no policy, or none with a logistic gate to make baselines of.
    """
    found = [Contender("unsteered", "unsteered", None, 0.0)]
    if not policies:
        raise PolicyError("no policy to evaluate; fit one with python -m steering.fit")
    gated = [p for p in policies.values() if p.terms[0].gate is not None]
    if gated:
        found += _baselines(gated[0])
    for name, policy in policies.items():
        found.append(Contender(name, name, policy, float(_strength(policy))))
    return tuple(found)


def _baselines(policy: Policy) -> list[Contender]:
    term, whole = policy.terms[0], float(_strength(policy))
    found = []
    for factor in FIXED:
        bare = replace(term, gate=None, vectors=factor * term.vectors)
        fixed = replace(policy, method="additive", terms=(bare,))
        found.append(Contender(f"fixed {factor * whole:.3g}", "fixed", fixed, factor * whole))
    gate = term.gate
    if gate is not None and isinstance(gate.law, Logistic):
        cut = Step(-gate.law.bias / gate.law.weight)
        hard = replace(term, gate=Reading(gate.block, gate.direction, cut))
        stepped = replace(policy, method="hard-gate", terms=(hard,))
        found.append(Contender("hard gate", "hard gate", stepped, whole))
    return found


def _strength(policy: Policy) -> float:
    value = policy.facts.get("strength", 1.0)
    return float(value) if isinstance(value, int | float) else 1.0


def measure_frontier(
    model: Model,
    policies: Mapping[str, Policy],
    harmful: PromptSet,
    benign: Sequence[PromptSet],
    judge: Judge,
    *,
    forms: Sequence[str] = ("plain",),
    new_tokens: int = 24,
    most_paths: int = 48,
    seed: int = 0,
    progress: bool = False,
) -> Frontier:
    """Let every contender answer every prompt in every form, and judge the answers.

    Prompts that a policy leaves alone bit for bit keep the unsteered answer. No answer is kept.

    Raises:
        PolicyError: a policy of another model, or none.
        JudgeError: the judge needs what is not given (``margin`` reads no answers).
    """
    asked = Asked.of((harmful, *benign), forms)
    truth = np.array([p.label == "harmful" for p in asked.rows])
    if truth.all() or not truth.any():
        raise PolicyError("evaluation needs harmful and benign prompts; give both")
    run = Runner(model, asked, judge, new_tokens)
    clean = run.outcomes(None)
    rows = [int(r) for r in np.flatnonzero(~truth & (clean[0] == "complied"))]
    rows = rows[:: max(1, len(rows) // most_paths)][:most_paths]
    answers = paths(model, run.encoded.select(rows), new_tokens=16)
    points = []
    every = contenders(policies)
    for contender in tqdm(every, desc="policies", disable=not progress, leave=False):
        points.append(_point(run, contender, clean, truth, answers, seed))
    found = tuple(points)
    better = advantages([_outcomes(p) for p in found], truth, asked.requests, seed=seed)
    return Frontier(model.spec, judge.name, truth, asked.requests, asked.groups, found, better)


def _outcomes(point: PointResult) -> Outcomes:
    fixed = point.contender.family in ("unsteered", "fixed")
    return Outcomes(point.contender.name, fixed, point.refused, point.complied)


def _point(
    run: Runner,
    contender: Contender,
    clean: tuple[np.ndarray, int],
    truth: Bool[np.ndarray, "row"],
    answers: Paths,
    seed: int,
) -> PointResult:
    policy = contender.policy
    outcomes, tokens = clean
    hit = np.zeros(len(truth), dtype=bool)
    if policy is not None:
        hit = touched(run.model, policy, run.encoded)
        outcomes, tokens = run.outcomes(policy, hit, clean)
    refused, complied = outcomes == "refused", outcomes == "complied"
    requests = np.array(run.asked.requests)

    def share(wanted: np.ndarray, mask: np.ndarray) -> Interval:
        return mean_interval(
            wanted[mask].astype(float).tolist(),
            clusters=requests[mask].tolist(),
            bounds=(0.0, 1.0),
            seed=seed,
        )

    return PointResult(
        contender,
        refused,
        complied,
        outcomes == "incoherent",
        share(refused, truth),
        share(complied, ~truth),
        None if policy is None else utility(run.model, policy, answers, seed=seed),
        int(hit.sum()),
        tokens,
    )
