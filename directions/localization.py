"""``directions.localize``: which heads and MLPs write what alignment added along a direction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from artifacts.errors import InputError
from artifacts.manifest import Option
from artifacts.read import load
from artifacts.write import save
from directions import along as directions_along
from directions import localization_package as package
from directions.along import Along
from directions.assemble import harmful_mask
from directions.collect import encode
from directions.contrasts import resolve
from directions.job import load_models
from directions.localize_options import LocalizeOptions
from directions.origin import Plan, measure
from directions.patching import (
    CausalCheck,
    causal_check,
    projection,
    refusal_margin,
    require_heads,
)
from directions.ranks import from_environment
from directions.signature import Signature
from directions.significance import Resamples
from directions.split import Split, split
from directions.target import target
from evaluation.catalogue import shipped
from evaluation.errors import JudgeError
from evaluation.judges.tokens import MIN_PROMPTS, RefusalTokens, find_refusal_tokens
from evaluation.prompts import PromptSet
from hooks import Encoded, Model
from probes.controls import random_units

RANDOM = 32
"""Random directions beside the one asked for."""


def localize(
    base: str | Model = "reference:base",
    aligned: str | Model = "reference:aligned",
    *,
    prompts: PromptSet | None = None,
    along: str | None = None,
    out: str | Path | None = None,
    options: LocalizeOptions | None = None,
) -> Signature:
    """Find the heads and MLPs that write the difference between an aligned model and its base.

        d_ih = (c_h(aligned, x_i) - c_h(base, x_i)) . r / |r|,   c_h = z_h W_O[h]
                                        (Elhage et al. 2021; read at the last prompt token)

    Each head's and MLP's mean d is given with interval, sign-flip p-value and the false discovery
    rate over all of them, and split into origin (its own weights, on the base's inputs) and echo
    (its inputs had changed). The strongest heads are exchanged between the models and held against
    random sets. One part of the prompts fixes direction and refusal tokens and serves the causal
    check, the other is scored. An origin says that a component's weights write along r what they
    did not write before; not that the behaviour needs it, which the causal check speaks to.

    Args:
        base: folder, hub id, ``reference:base``, or a loaded model.
        aligned: the same for the aligned model; ``BASE+ADAPTER`` shares the base's weights.
        prompts: of both classes; None takes theodolite's own.
        along: ``ARTIFACT:NAME``, a direction from a file; None fits ``options.contrast``.
        out: where to save the artifact (``.safetensors``); None keeps it in memory.
        options: everything else.

    Raises:
        InputError: models, prompts, a direction or a head that cannot be used; too few prompts.
        SystemFailure: the file system or memory fails.
    """
    chosen = options or LocalizeOptions()
    start, ranks = time.perf_counter(), from_environment()
    if ranks.world > 1:
        raise InputError("directions.localize runs in one process; start it without torchrun")
    with target(out, ranks) as path:
        pair, notes = load_models(base, aligned, chosen.loading(), ranks)
        require_heads(chosen.chosen(), (pair[1].n_layers, pair[1].n_heads))
        work = _prepare(*pair, prompts, along, chosen, notes)
        found, stats, gap = _measured(work, chosen)
        causal = _check(work, found, chosen)
        method: dict[str, Option] = {"largest_gap": gap, **_tokens_record(work.tokens)}
        facts = _facts(work)
        save(package.artifact(found, work.along, facts, chosen, method, causal), path)
        stored = load(path)
    seconds = time.perf_counter() - start
    return Signature(stored, stored.manifest.digest, seconds, stats, causal)


@dataclass(frozen=True, eq=False)
class _Work:
    """What is settled before the scored prompts are read."""

    base: Model
    aligned: Model
    learned: PromptSet
    scored: PromptSet
    learned_ids: Encoded
    scored_ids: Encoded
    along: Along
    tokens: RefusalTokens | None
    notes: tuple[str, ...]


def _prepare(
    base: Model,
    aligned: Model,
    prompts: PromptSet | None,
    along: str | None,
    options: LocalizeOptions,
    notes: tuple[str, ...],
) -> _Work:
    # Scores need more prompts than a mean does: the larger part, which is the split's fit part.
    data = split(prompts or shipped("test"), seed=options.seed)
    learned, scored = data.test, _over(data.fit, options)
    fixed = None if along is None else directions_along.given(along, base.info(), aligned.info())
    (contrast,) = resolve((options.contrast,))
    every = (*learned.prompts, *scored.prompts)
    raw = fixed is None and contrast.raw
    encoded = encode(base, aligned, every, raw=raw, system=options.system)
    first = {name: rows[: len(learned)] for name, rows in encoded.items()}
    harmful = _harmful(learned)
    if fixed is None:
        fixed = directions_along.fitted(base, aligned, first, harmful, contrast, seed=options.seed)
    tokens, reason = _refusal_tokens(aligned, first["template"], harmful)
    told = (*notes, *_split_notes(data), *_missing(fixed, aligned.n_layers), *reason)
    return _Work(
        base,
        aligned,
        learned,
        scored,
        first["template"],
        encoded["template"][len(learned) : len(every)],
        fixed,
        tokens,
        told,
    )


def _split_notes(data: Split) -> tuple[str, ...]:
    if data.rule != "hash":
        return data.notes
    note = (
        "one source and one category only: the direction and the scores come from a random split "
        "of the same kind of prompts"
    )
    return (note, *((f"{data.dropped} duplicate prompts dropped",) if data.dropped else ()))


def _over(prompts: PromptSet, options: LocalizeOptions) -> PromptSet:
    if options.over == "both":
        return prompts
    return prompts.select(label=options.over)


def _harmful(prompts: PromptSet) -> Bool[np.ndarray, "n"]:
    return harmful_mask([prompt.label for prompt in prompts.prompts])


def _refusal_tokens(
    model: Model, encoded: Encoded, harmful: Bool[np.ndarray, "n"]
) -> tuple[RefusalTokens | None, tuple[str, ...]]:
    """Find the refusal tokens, or say why there are none."""
    groups = [np.flatnonzero(group).tolist() for group in (harmful, ~harmful)]
    if min(len(group) for group in groups) < MIN_PROMPTS:
        return None, (
            f"no refusal tokens: {MIN_PROMPTS} prompts of each class beside the scored ones are "
            "needed; the causal check reads the direction instead",
        )
    try:
        return find_refusal_tokens(model, *(encoded.select(group) for group in groups)), ()
    except JudgeError as error:
        return None, (f"no refusal tokens: {error}; the causal check reads the direction instead",)


def _missing(along: Along, n_layers: int) -> tuple[str, ...]:
    missing = along.missing(n_layers)
    if not missing:
        return ()
    if len(missing) == n_layers:
        return (f"{along.name} is zero within rounding at every block: there is nothing to read",)
    listed = ", ".join(map(str, missing))
    return (f"{along.name} has no row at blocks {listed}, where all scores are zero",)


def _measured(
    work: _Work, options: LocalizeOptions
) -> tuple[package.Tables, Mapping[str, float], float]:
    resamples = Resamples.draw(_harmful(work.scored), repeats=options.bootstraps, seed=options.seed)
    plan = Plan(
        work.along.units(work.aligned.n_layers, work.aligned.d_model),
        torch.from_numpy(random_units(RANDOM, work.aligned.d_model, seed=options.seed)),
        None if work.tokens is None else work.tokens.ids,
        resamples.weights,
    )
    scalars = measure(work.base, work.aligned, work.scored_ids, plan, progress=options.progress)
    found = package.tables(scalars, resamples, alpha=options.alpha, seed=options.seed)
    return found, scalars.stats, scalars.gap


def _check(work: _Work, found: package.Tables, options: LocalizeOptions) -> CausalCheck | None:
    heads = options.chosen() or found.strongest(options.top, options.alpha)
    harmful = np.flatnonzero(_harmful(work.learned)).tolist()
    if not heads or not work.along.blocks:
        return None
    if work.tokens is not None:
        outcome, what = refusal_margin(work.tokens), "log-odds of the refusal tokens"
    else:
        outcome = projection(_final(work))
        what = f"projection on {work.along.name} behind the last block"
    return causal_check(
        work.base,
        work.aligned,
        work.learned_ids.select(harmful),
        heads,
        outcome,
        what=what,
        sets=options.random_sets,
        seed=options.seed,
    )


def _final(work: _Work) -> Float64[Tensor, "d"]:
    rows = work.along.rows
    return rows[-1] / rows[-1].norm()


def _tokens_record(tokens: RefusalTokens | None) -> dict[str, Option]:
    if tokens is None:
        return {}
    return {"refusal_tokens": tokens.texts, "refusal_token_ids": tokens.ids}


def _facts(work: _Work) -> package.Facts:
    return package.Facts(
        work.base.info(),
        work.aligned.info(),
        work.aligned.tokenizer_info(),
        work.aligned.device.type,
        work.learned,
        work.scored,
        work.notes,
    )
