"""Fit a policy: labels, directions, gate, coefficients, strength, check.

    fitted = steering.fit_policy(hooks.load("reference:aligned"))
    steering.save(fitted.policy, "policy.safetensors")

Requests are dealt into a half and two quarters. Axes and vectors come from the half, the gate's
coefficients and the strength from a quarter, and the other quarter checks the result, so that no
request does two jobs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from artifacts.manifest import DataInfo
from evaluation.catalogue import shipped
from evaluation.judges.tokens import RefusalTokens, find_refusal_tokens
from evaluation.prompts import PromptSet
from hooks import Model
from steering.behaviour import Behaviour, deal, evenly, observe, require_classes
from steering.designs import Design, Material, design_of
from steering.guard import Verdict, benign_rows, check, require
from steering.measuring import paths
from steering.options import FitOptions
from steering.policy import Policy
from steering.sweep import Point, as_table, choose, sweep

_TOKEN_PROMPTS = 48


@dataclass(frozen=True, eq=False)
class Fitted:
    """A policy that passed its check, and how it came about."""

    policy: Policy
    verdict: Verdict
    classes: Mapping[str, int]
    """Fit prompts by class: refused harmful, complied harmful, complied harmless."""
    points: tuple[Point, ...]
    """The safe range, strength by strength."""
    chosen: Point
    tokens: RefusalTokens = field(repr=False)
    seconds: float
    notes: tuple[str, ...]


def default_prompts(limit: int) -> PromptSet:
    """Give development requests: harmful, ordinary harmless, and harmless that look risky."""
    plain, risky = shipped("development"), shipped("development-borderline")
    few = evenly(risky, limit // 3).prompts
    rows = (
        *evenly(plain.select(label="harmful"), limit).prompts,
        *evenly(plain.select(label="harmless"), limit - len(few)).prompts,
        *few,
    )
    return replace(plain, prompts=rows, name="development, with borderline")


def fit_policy(
    model: Model,
    prompts: PromptSet | None = None,
    *,
    options: FitOptions | None = None,
    force: bool = False,
    progress: bool = False,
) -> Fitted:
    """Fit a policy to a model's own behaviour.

    Args:
        model: the model to steer.
        prompts: harmful and harmless requests; by default theodolite's development sets. Test on
            others.
        options: how.
        force: keep a policy that fails its check; its notes then say why it failed.
        progress: bars on stderr.

    Raises:
        PolicyError: a class of behaviour is missing, options that do not fit the model.
        NotBeaten: no strength is safe and helps, or the policy fails its check.
        JudgeError: no token tells the classes apart.
    """
    options, start = options or FitOptions(), time.perf_counter()
    asked = evenly(prompts or default_prompts(options.limit), options.limit)
    tokens = refusal_tokens(model, asked)
    found = observe(
        model,
        asked,
        options.forms,
        tokens,
        judge=options.judge,
        seed=options.seed,
        progress=progress,
    )
    masks = require_classes(found.part(0), model.spec)
    second = found.part(1)
    design = design_of(model, Material(found.part(0), second, masks), options)
    harmful = int(second.harmful.sum())
    sizes = {"range.n_harmful": harmful, "range.n_benign": len(second.harmful) - harmful}
    design = replace(design, facts={**design.facts, **sizes})
    points, chosen = _strength(model, design, second, tokens, options)
    policy = design.make(chosen.strength)
    verdict = check(model, policy, found.part(2), tokens, options, seed=options.seed)
    notes = (*design.notes, *require(verdict, force=force))
    whole = _documented(policy, design, verdict, points, chosen, asked, options, notes)
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    seconds = time.perf_counter() - start
    return Fitted(whole, verdict, counts, points, chosen, tokens, seconds, notes)


def refusal_tokens(model: Model, asked: PromptSet) -> RefusalTokens:
    """Find the model's refusal tokens on some of the requests, as they are."""
    few = evenly(asked, _TOKEN_PROMPTS)
    return find_refusal_tokens(model, few.select(label="harmful"), few.select(label="harmless"))


def _strength(
    model: Model, design: Design, found: Behaviour, tokens: RefusalTokens, options: FitOptions
) -> tuple[tuple[Point, ...], Point]:
    rows = benign_rows(found, found.margins > 0)
    answers = paths(model, found.select(rows).encoded, new_tokens=options.answer_tokens)
    points = sweep(model, design.make, found, answers, tokens, options)
    before = float(np.mean(found.margins[found.harmful] > 0))
    return points, choose(points, before=before, what=options.method)


def _documented(
    policy: Policy,
    design: Design,
    verdict: Verdict,
    points: tuple[Point, ...],
    chosen: Point,
    asked: PromptSet,
    options: FitOptions,
    notes: tuple[str, ...],
) -> Policy:
    checked = {id_ for id_, part in deal(asked, seed=options.seed).items() if part == 2}
    share = {label: 0 for label in asked.counts}
    for prompt in asked.prompts:
        share[prompt.label] += prompt.id in checked
    fit = {label: n - share[label] for label, n in asked.counts.items()}
    facts = {
        **options.record(),
        **design.facts,
        **verdict.facts(),
        "strength": chosen.strength,
        "safe_strength": max(point.strength for point in points if point.safe),
        "split": "a half and two quarters of the requests, by seed",
    }
    data = (
        DataInfo(source=asked.source, digest=asked.digest, n=fit, role="fit"),
        DataInfo(source=asked.source, digest=asked.digest, n=share, role="test"),
    )
    tables = {**design.tables, "range": as_table(points)}
    return replace(policy, facts=facts, tables=tables, data=data, notes=notes)
