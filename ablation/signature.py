"""The alignment signature in style: find the style direction, remove it, see what stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import hooks
from ablation.bench import Bench, bench_of
from ablation.material import (
    LABELS,
    development_prompts,
    mismatch,
    open_artifact,
    require_new,
    test_prompts,
)
from ablation.measuring import Arm, measure
from ablation.options import StyleOptions
from ablation.reference import NOTHING, Reference, observe
from ablation.spans import Span
from ablation.style_result import StyleAbout, StyleReport, StyleRow, decide_style
from ablation.style_spans import Pair, pick_style, read_pair, style_spans
from ablation.stylometry import stylometry
from ablation.ways import Way
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.provenance import timestamp, tool
from directions.result import DirectionSet
from evaluation.answering import answer
from evaluation.battery import Battery
from evaluation.capability import Comparison, capability, compare
from evaluation.grid import Grid
from evaluation.outcomes import Judge
from evaluation.prompts import PromptSet
from hooks import Model

if TYPE_CHECKING:
    from hooks.interventions import Intervention

ITEMS = 40
"""Items of each part of the capability battery."""


def ablate_style(
    artifact: str | Path | Artifact | DirectionSet,
    *,
    name: str = "refusal",
    pair: tuple[Model, Model] | None = None,
    prompts: PromptSet | None = None,
    development: PromptSet | None = None,
    judge: Judge | None = None,
    texts: Sequence[str] | None = None,
    battery: Battery | None = None,
    options: StyleOptions | None = None,
) -> StyleReport:
    """Remove what alignment added to the manner of answers, and check that refusal stays.

        s_b = v_b - (v_b . r_b) r_b,  v_b = mean_aligned x - mean_base x   (after Anand et al. 2026)

    x: states behind block b from the last prompt token on, over what each model itself wrote, or at
    the last token of harmless prompts only; r_b: the unit refusal direction there. Removing s_b
    leaves refusal alone as far as r_b carries it, which the report measures and does not take for
    granted. The two means differ in what was written, too, so s_b also holds content and length.

    Args:
        artifact: of ``directions.extract``, with the direction ``name``.
        name: the refusal direction to stay away from.
        pair: base and aligned model; by default those of the artifact.
        prompts: to measure on, both classes; by default ``options.prompts``.
        development: the other prompts; by default ``options.development``.
        judge: by default ``options.judge``.
        texts: neutral text for the perplexity.
        battery: items for the capability.
        options: everything else.

    Raises:
        InputError: an unknown name, other models, a pair that answers alike everywhere.
    """
    chosen = options or StyleOptions()
    start = time.perf_counter()
    opened = open_artifact(artifact)
    refusal = opened.direction(name)
    base, aligned, differs = _pair(pair, opened, chosen)
    tested, notes = test_prompts(prompts, opened, chosen)
    developed = development_prompts(development, chosen)
    require_new(tested, developed)
    bench = bench_of(aligned, tested, developed, chosen, judge, texts)
    both = read_pair(base, aligned, developed, chosen)
    blocks = opened.manifest.directions[name].blocks
    spans = style_spans(opened, both, dict(zip(blocks, refusal, strict=True)), chosen)
    way = Way(chosen.mode, chosen.alpha)
    seen = _reference(both, next(iter(spans.values())), way)
    block = pick_style(spans, both, way, seen) if len(spans) > 1 else next(iter(spans))
    rows, grid = measure(_arms(spans[block], way, seen, bench, chosen), bench)
    cost = _capability(aligned, spans[block].edits(way, seen, aligned), battery)
    styles = _styles(grid, bench, both)
    return StyleReport(
        about=_about(opened, both, bench, chosen, name, block, differs),
        rows=rows,
        styles=styles,
        capability=cost.rows(),
        verdict=decide_style(styles, rows, cost, tolerance=chosen.tolerance, seed=chosen.seed),
        notes=notes,
        seconds=round(time.perf_counter() - start, 1),
    )


def _about(
    artifact: Artifact,
    pair: Pair,
    bench: Bench,
    options: StyleOptions,
    name: str,
    block: int,
    differs: tuple[str, ...],
) -> StyleAbout:
    own = {key: value for key, value in asdict(options).items() if key != "progress"}
    return StyleAbout(
        refusal=name,
        block=block,
        base=pair.base.spec,
        aligned=pair.aligned.spec,
        artifact=artifact.manifest.digest or artifact.digest,
        mismatch=differs,
        prompts=bench.prompts.name,
        prompts_digest=bench.prompts.digest,
        n=bench.prompts.counts,
        judge=bench.judge.name,
        tokens=bench.tokens.texts,
        options=own,
        created=timestamp(),
        version=tool().version,
    )


def _reference(pair: Pair, span: Span, way: Way) -> Reference:
    """Observe the base: the removed coordinate is set to what it is there."""
    if way.mode == "zero":
        return NOTHING
    spoken = [
        (p.prompt, t) for p, t in zip(pair.prompts.prompts, pair.base_texts, strict=True) if t
    ]
    encoded = pair.base.encode([p for p, _ in spoken], responses=[t for _, t in spoken])
    return observe(pair.base, encoded, span.sites(way, pair.base), at=("last", "response"))


def _arms(span: Span, way: Way, seen: Reference, bench: Bench, options: StyleOptions) -> list[Arm]:
    model = bench.model
    arms = [
        Arm("clean", "clean", "nothing"),
        Arm("ablated", "ablation", f"{way}, {span.where}", span.edits(way, seen, model)),
    ]
    for k in range(options.controls):
        edits = span.control(k, way, seen, model, how="moved", seed=options.seed)
        said = "states moved as far, along random directions"
        arms.append(Arm(f"random {k + 1}", "control", said, edits))
    return arms


def _capability(
    model: Model, edits: tuple[Intervention, ...], battery: Battery | None
) -> Comparison:
    items = battery or Battery.shipped(limit=ITEMS)
    before = capability(model, battery=items)
    return compare(before, capability(model, edits=edits, battery=items))


def _styles(grid: Grid, bench: Bench, pair: Pair) -> tuple[StyleRow, ...]:
    """Count marks on the harmless answers of every arm, and on those of the base."""
    asked = bench.prompts.select(label="harmless")
    spoken = answer(pair.base, asked, new_tokens=bench.new_tokens)
    texts = {"base": [a.text for a in spoken.answers]}
    for arm in grid.settings:
        records = grid.select(arm, bench.prompts.name, LABELS[1])
        texts[arm] = [record.text or "" for record in records]
    return tuple(StyleRow(arm, stylometry(said, seed=bench.seed)) for arm, said in texts.items())


def _pair(
    given: tuple[Model, Model] | None, artifact: Artifact, options: StyleOptions
) -> tuple[Model, Model, tuple[str, ...]]:
    manifest = artifact.manifest
    if given is None and (manifest.base is None or manifest.aligned is None):
        raise InputError("the artifact does not name both models; give the pair")
    if given is None and manifest.base is not None and manifest.aligned is not None:
        given = hooks.load_pair(
            manifest.base.spec,
            manifest.aligned.spec,
            dtype=options.dtype,
            device=options.device,
            allow_mismatch=options.allow_mismatch,
            stream=options.stream,
        )
    if given is None:
        raise InputError("no pair")
    found: tuple[str, ...] = ()
    for model, stated in zip(given, (manifest.base, manifest.aligned), strict=True):
        parts = () if stated is None else mismatch(model.info(), [stated])
        found += tuple(f"{model.spec}: {part}" for part in parts)
    if found and not options.allow_mismatch:
        raise InputError(
            f"not the models of the artifact: {'; '.join(found)}; give those, or --allow-mismatch"
        )
    return (*given, found)
