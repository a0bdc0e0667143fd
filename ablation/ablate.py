"""``ablation.run``: remove something from a model inside hook contexts and measure what changes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ablation import choosing
from ablation.bench import Bench, bench_of
from ablation.material import (
    development_prompts,
    open_artifact,
    open_model,
    require_new,
    test_prompts,
)
from ablation.measuring import Arm, answered, measure
from ablation.options import Options
from ablation.reference import Reference
from ablation.result import AblationReport, About, Row
from ablation.verdict import decide
from ablation.ways import Target, Way
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.provenance import timestamp, tool
from directions.result import DirectionSet
from evaluation.judges.agreement import warning
from evaluation.outcomes import Judge
from evaluation.prompts import PromptSet
from hooks import Model
from hooks.interventions import Intervention

BROKEN = 0.1
"""Share of broken answers above which the report says so."""
COSTLY = 1.2
"""Ratio of perplexities above which the report says so."""


@dataclass(frozen=True, eq=False)
class _Job:
    """Everything that is settled before the first measurement."""

    artifact: Artifact
    names: tuple[str, ...]
    options: Options
    bench: Bench
    development: PromptSet
    target: Target
    block: int | None
    way: Way
    mismatch: tuple[str, ...]
    notes: tuple[str, ...]
    own_judge: bool


def run(
    artifact: str | Path | Artifact | DirectionSet,
    *,
    name: str | Sequence[str] = "refusal",
    model: str | Model | None = None,
    prompts: PromptSet | None = None,
    development: PromptSet | None = None,
    judge: Judge | None = None,
    texts: Sequence[str] | None = None,
    journal: Path | None = None,
    options: Options | None = None,
) -> AblationReport:
    """Remove a direction, a subspace, heads or units, and measure refusals, capability and cost.

    Refusal tokens, reference means and, where it is not given, the block are found on development
    prompts; the table is on others. It shows that refusal *needs* what was removed (on these
    prompts, in this model) if the verdict holds; not that nothing else is needed, nor that what was
    removed serves refusal alone: for that, look at the cost. No model is written.

    Args:
        artifact: file, artifact, or the result of an extraction.
        name: direction; for subspaces several, or one with ``options.rank``; for heads and units a
            score of the artifact.
        model: by default the aligned model of the artifact.
        prompts: to measure on, both classes; by default ``options.prompts``.
        development: the other prompts; by default ``options.development``.
        judge: by default ``options.judge``.
        texts: neutral text for the perplexity.
        journal: a file for finished answers' labels; the same call takes up what is in it.
        options: everything else.

    Raises:
        InputError: an unknown name, another model, a wrong width, a part that is not there, a model
            that refuses nothing.
    """
    chosen = options or Options()
    start = time.perf_counter()
    names = (name,) if isinstance(name, str) else tuple(name)
    opened = open_artifact(artifact)
    _require_names(opened, names, chosen)
    used, mismatch = open_model(model, opened, chosen)
    tested, notes = test_prompts(prompts, opened, chosen)
    developed = development_prompts(development, chosen)
    require_new(tested, developed)
    bench = bench_of(used, tested, developed, chosen, judge, texts)
    way = Way(chosen.mode, chosen.alpha)
    picker = choosing.Picker(used, bench.tokens, developed, way)
    target, block = choosing.target(opened, names, chosen, picker)
    job = _Job(
        artifact=opened,
        names=names,
        options=chosen,
        bench=bench,
        development=developed,
        target=target,
        block=block,
        way=way,
        mismatch=mismatch,
        notes=notes,
        own_judge=judge is not None,
    )
    return _measured(job, picker, journal, start)


def _measured(
    job: _Job, picker: choosing.Picker, journal: Path | None, start: float
) -> AblationReport:
    options, bench = job.options, job.bench
    others = choosing.variants(job.target, job.way, bench.model.n_layers) if options.compare else ()
    seen = choosing.look(picker, [(job.target, job.way), *((t, w) for _, t, w in others)])
    arms = [Arm("clean", "clean", "nothing"), _arm("ablated", job.target, job.way, seen, job)]
    # Controls of the ablation are measured in full, those of comparisons by their margin.
    controls = _controls(job.target, job.way, seen, job)
    arms += [
        Arm(f"random {k}", "control", _said_control(job), edits)
        for k, edits in enumerate(controls, start=1)
    ]
    arms += [_arm(label, t, w, seen, job, compared=True) for label, t, w in others]
    rows, grid = measure(arms, bench, journal=journal)
    _require_refusals(rows[0], bench.model)
    opened = {arm.name: answered(grid, arm.name, bench.prompts) for arm in arms}
    verdict = decide(
        opened["clean"],
        opened["ablated"],
        [opened[arm.name] for arm in arms if arm.role == "control"],
        seed=options.seed,
    )
    seconds = round(time.perf_counter() - start, 1)
    return AblationReport(_about(job), rows, verdict, (*job.notes, *_costs(rows)), seconds)


def _arm(
    label: str, target: Target, way: Way, seen: Reference, job: _Job, *, compared: bool = False
) -> Arm:
    edits = target.edits(way, seen, job.bench.model)
    controls = _controls(target, way, seen, job) if compared else ()
    role = "comparison" if compared else "ablation"
    return Arm(label, role, f"{way}, {target.where}", edits, controls)


def _controls(
    target: Target, way: Way, seen: Reference, job: _Job
) -> tuple[tuple[Intervention, ...], ...]:
    options = job.options
    return tuple(
        target.control(k, way, seen, job.bench.model, how=options.control, seed=options.seed)
        for k in range(options.controls)
    )


def _said_control(job: _Job) -> str:
    if job.options.kind in ("heads", "units"):
        return f"as many random {job.options.kind} of the same blocks"
    if job.options.control == "moved" and job.way.mode != "clamp":
        return "states moved as far, along random directions"
    return "random directions removed"


def _require_names(artifact: Artifact, names: tuple[str, ...], options: Options) -> None:
    if not names:
        raise InputError("no name was given; give one with --name")
    if options.kind in ("heads", "units"):
        return
    for name in names:
        artifact.direction(name)
    if len(set(names)) < len(names):
        raise InputError(f"--name {' '.join(names)}: a name occurs twice")


def _require_refusals(clean: Row, model: Model) -> None:
    if clean.harmful.hits == 0:
        raise InputError(
            f"{model.spec} refuses none of {clean.harmful.n} harmful requests, so there is nothing "
            "to remove; take an aligned model, or other --prompts"
        )


def _costs(rows: Sequence[Row]) -> tuple[str, ...]:
    """Say where an effect has a price that changes its reading."""
    found = []
    for row in rows:
        if row.role not in ("ablation", "comparison") or row.change is None:
            continue
        if row.change.perplexity.low > COSTLY:
            found.append(
                f"{row.name}: perplexity on neutral text is {row.change.perplexity.value:.1f} times"
                " that of the clean model, so more than refusal was removed"
            )
        if row.incoherent.value > BROKEN:
            found.append(f"{row.name}: {row.incoherent.value:.0%} of all answers are broken text")
        if row.change.harmless.difference.low > 0:
            found.append(f"{row.name}: harmless requests are refused more often than before")
    return tuple(found)


def _about(job: _Job) -> About:
    bench, options = job.bench, job.options
    digest = job.artifact.manifest.digest or job.artifact.digest
    model = json.dumps(bench.model.info().model_dump(mode="json"), sort_keys=True)
    own = {key: value for key, value in asdict(options).items() if key != "progress"}
    return About(
        name=" + ".join(job.names),
        kind=options.kind,
        mode=options.mode,
        alpha=options.alpha,
        where=job.target.where,
        block=job.block,
        artifact=digest,
        model=bench.model.spec,
        model_digest=hashlib.sha256(model.encode()).hexdigest(),
        mismatch=job.mismatch,
        prompts=bench.prompts.name,
        prompts_digest=bench.prompts.digest,
        n=bench.prompts.counts,
        development=job.development.name,
        development_digest=job.development.digest,
        tokens=bench.tokens.texts,
        judge=bench.judge.name,
        judge_warning=None if job.own_judge else warning(options.judge),
        options=own,
        created=timestamp(),
        version=tool().version,
    )
