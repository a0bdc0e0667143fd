"""``directions.select``: candidates in, the one that mediates refusal out, and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float32
from torch import Tensor

import hooks
from artifacts.artifact import Artifact
from artifacts.errors import InputError, NotBeaten
from artifacts.manifest import Claim
from artifacts.read import load
from artifacts.write import save
from directions import select_package
from directions.candidates import Candidates, from_artifact, from_model
from directions.ranks import Ranks
from directions.select_held_out import held_out
from directions.select_options import SelectOptions
from directions.select_package import NAME, Found
from directions.select_scores import Scorer
from directions.select_sweep import Candidate, Sweep, require_choice, sweep
from directions.split import MIN_PER_SIDE, Split, split
from directions.target import target
from evaluation.catalogue import shipped
from evaluation.errors import JudgeError
from evaluation.judges.margin import margins
from evaluation.judges.tokens import MIN_PROMPTS, RefusalTokens, find_refusal_tokens
from evaluation.prompts import PromptSet, deduplicate
from evaluation.wrappers import encode
from hooks import Model


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen direction with its scores; a view of an artifact.

    directions.select() -> Selection -> .direction   [d_model], not normalised
    """

    artifact: Artifact
    digest: str
    sweep: Sweep
    """Every candidate's scores on validation prompts."""
    tokens: RefusalTokens
    seconds: float
    stats: Mapping[str, float]
    """Counters of the engine over all passes of the sweep and the controls."""

    @property
    def direction(self) -> Float32[Tensor, "d_model"]:
        """The direction as it is added; its unit vector is what is ablated."""
        return self.artifact.direction(NAME)[0]

    @property
    def chosen(self) -> Candidate:
        """The chosen candidate with its scores on validation prompts."""
        found = self.sweep.best
        if found is None:
            raise InputError("nothing was chosen")
        return found

    @property
    def claim(self) -> Claim:
        """What the test prompts support."""
        return self.artifact.manifest.directions[NAME].claim

    def measure(self, name: str) -> tuple[float, float, float]:
        """Return value, low and high of a measure on test prompts.

        Raises:
            InputError: there is no such measure.
        """
        known = self.artifact.manifest.directions[NAME].measures
        if name not in known:
            raise InputError(f"no measure {name!r}; there are {', '.join(known)}")
        value, low, high = self.artifact.tensors[f"measure/{NAME}/{name}"][0].tolist()
        return value, low, high

    def table(self) -> tuple[Candidate, ...]:
        """Return every candidate with its scores and the filter at which it fell."""
        return self.sweep.rows


def select(
    model: str | Model | None = None,
    *,
    candidates: str | Path | Artifact | None = None,
    prompts: PromptSet | None = None,
    test: PromptSet | None = None,
    out: str | Path | None = None,
    options: SelectOptions | None = None,
) -> Selection:
    """Choose the direction whose ablation takes refusal away at the least cost.

        argmin_r bypass(r)  subject to  induce(r) > 0,  KL(r) < 0.1,  block early enough

    (Arditi et al. 2024, section 2.3 and appendix C; ``docs/decisions/018-selection.md`` has the
    departures.) Scores are log-odds of the refusal tokens at the first answer position: what a
    model goes on to say, and whether other directions would do as well, is not measured.

    Args:
        model: folder, hub id or loaded model; by default that of the artifact, or the reference.
        candidates: artifact of ``directions.extract``, best with ``positions="template"``; None
            fits candidates on the fit prompts.
        prompts: prompts of both classes, split into fit, validation and test; None takes ours.
        test: prompts to test on; then ``prompts`` are split in two only.
        out: where to save the artifact (``.safetensors``).
        options: thresholds and everything else.

    Raises:
        NothingPasses: no candidate passes the filters.
        NotBeaten: the model does not tell harmful from harmless prompts by its first token, or
            refuses too few of them.
        InputError: models, prompts or artifacts that cannot be used or do not belong together.
    """
    chosen, start = options or SelectOptions(), time.perf_counter()
    with target(out, Ranks()) as path:
        source = load(Path(candidates)) if isinstance(candidates, str | Path) else candidates
        used = _model(model, source, chosen)
        data, validation = three_ways(prompts, test, seed=chosen.seed)
        notes = [*data.notes, *_unknown_fit(source, data)]
        data, validation = _under(source, data, validation)
        tokens = refusal_tokens(used, data.fit)
        scorer = Scorer(used, tokens.ids)
        validation, more = _answered(used, tokens, validation, "validation", chosen)
        given, fewer = _candidates(used, tokens, source, data.fit, chosen)
        harmful, harmless = (encode(used, _only(validation, label)) for label in _LABELS)
        swept = sweep(given, scorer, harmful, harmless, chosen)
        best = require_choice(swept, chosen)
        on_test = [encode(used, _only(data.test, label)) for label in _LABELS]
        vector = given.vector(best.position, best.block)
        held = held_out(vector, best.block, scorer, on_test[0], on_test[1], chosen)
        parents = () if source is None else (source.digest,)
        found = Found(
            given,
            swept,
            best,
            held,
            tokens,
            data.fit,
            validation,
            data.test,
            parents,
            (*notes, *more, *fewer),
        )
        save(select_package.artifact(found, used, chosen), path)
        stored = load(path)
    spent = time.perf_counter() - start
    stats = {name: float(value) for name, value in scorer.stats.items()}
    return Selection(stored, stored.manifest.digest, swept, tokens, spent, stats)


_LABELS = ("harmful", "harmless")


def three_ways(
    prompts: PromptSet | None, test: PromptSet | None, *, seed: int
) -> tuple[Split, PromptSet]:
    """Return fit and test prompts, and validation prompts apart from both.

    The fit prompts are those of an extraction with the same prompts and seed. What it holds out is
    split again, the larger part for the test.

    Raises:
        InputError: a class is too small.
    """
    pool = prompts or shipped("test")
    first = split(pool, seed=seed)
    if test is None:
        second = split(first.test, seed=seed)
        return replace(first, test=second.fit), second.test
    _, apart, dropped = deduplicate(pool, test)
    apart_counts = apart.counts
    if min(apart_counts.values()) < MIN_PER_SIDE:
        raise InputError(
            f"{test.name}: {apart_counts['harmful']} harmful and {apart_counts['harmless']} "
            f"harmless prompts to test on, after {dropped} duplicates were dropped; at least "
            f"{MIN_PER_SIDE} of each are needed"
        )
    return replace(first, test=apart), first.test


def refusal_tokens(model: Model, fit: PromptSet) -> RefusalTokens:
    """Find the refusal tokens on the fit prompts.

    Raises:
        InputError: too few prompts.
        NotBeaten: no token separates the classes.
    """
    if min(fit.counts.values()) < MIN_PROMPTS:
        raise InputError(
            f"{fit.name}: {fit.counts} prompts to fit on; {MIN_PROMPTS} of each needed"
        )
    try:
        return find_refusal_tokens(model, _only(fit, "harmful"), _only(fit, "harmless"))
    except JudgeError as error:
        raise NotBeaten(str(error)) from error


def _model(model: str | Model | None, source: Artifact | None, options: SelectOptions) -> Model:
    """Load the model; with an artifact, refuse another one than it was made from."""
    known = None if source is None else source.manifest.aligned
    spec = model or (known.spec if known is not None else "reference:aligned")
    used = spec
    if isinstance(used, str):
        used = hooks.load(used, dtype=options.dtype, device=options.device, stream=options.stream)
    if known is not None:
        mine = used.info()
        for what in ("config_digest", "weight_digests", "adapter_digest"):
            if getattr(mine, what) != getattr(known, what):
                raise InputError(
                    f"{used.spec}: its {what} is not that of {known.spec}, whose states the "
                    "artifact's directions were taken from; give that model, or no artifact"
                )
    return used


def _unknown_fit(source: Artifact | None, data: Split) -> tuple[str, ...]:
    if source is None:
        return ()
    if any(
        entry.role == "fit" and entry.digest == data.fit.digest for entry in source.manifest.data
    ):
        return ()
    sources = ", ".join(entry.source for entry in source.manifest.data if entry.role == "fit")
    return (
        f"the candidates were fitted on other prompts ({sources}); that none of them is among the "
        "validation or test prompts cannot be told from digests",
    )


def _under(source: Artifact | None, data: Split, validation: PromptSet) -> tuple[Split, PromptSet]:
    """Put the system prompt, under which an artifact's states were taken, before all prompts."""
    system = None if source is None else source.manifest.method.get("system")
    if not isinstance(system, str):
        return data, validation

    def put(part: PromptSet) -> PromptSet:
        return replace(part, prompts=tuple(replace(p, system=system) for p in part.prompts))

    return replace(data, fit=put(data.fit), test=put(data.test)), put(validation)


def _candidates(
    model: Model,
    tokens: RefusalTokens,
    source: Artifact | None,
    fit: PromptSet,
    options: SelectOptions,
) -> tuple[Candidates, tuple[str, ...]]:
    blocks = options.blocks(model.n_layers)
    if source is not None:
        return from_artifact(source, blocks), ()
    kept, notes = _answered(model, tokens, fit, "fit", options)
    return from_model(model, kept, blocks), notes


def _answered(
    model: Model, tokens: RefusalTokens, prompts: PromptSet, role: str, options: SelectOptions
) -> tuple[PromptSet, tuple[str, ...]]:
    """Keep harmful prompts that are refused and harmless ones that are not (metric above 0).

    Raises:
        NotBeaten: too few are left.
    """
    if not options.filter:
        return prompts, ()
    rows = zip(prompts.prompts, margins(model, prompts, tokens).tolist(), strict=True)
    kept = replace(prompts, prompts=tuple(p for p, m in rows if (m > 0) == (p.label == "harmful")))
    before, after = prompts.counts, kept.counts
    if min(after.values()) < MIN_PER_SIDE:
        raise NotBeaten(
            f"{model.spec} refuses {after['harmful']} of {before['harmful']} harmful {role} "
            f"prompts and answers {after['harmless']} of {before['harmless']} harmless ones by its "
            f"first token; {MIN_PER_SIDE} of each are needed: take a model that refuses, or "
            "--no-filter"
        )
    if before == after:
        return kept, ()
    return kept, (
        f"{role}: {before['harmful'] - after['harmful']} of {before['harmful']} harmful prompts "
        f"are answered and {before['harmless'] - after['harmless']} of {before['harmless']} "
        "harmless ones refused by their first token; left out",
    )


def _only(prompts: PromptSet, label: str) -> PromptSet:
    return prompts.select(label="harmful" if label == "harmful" else "harmless")
