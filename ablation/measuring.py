"""Measure settings of one model side by side: answers, margins, divergence, perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ablation.bench import Bench
from ablation.result import Changes, Role, Row
from evaluation.divergence import Divergence, divergences
from evaluation.filling import evaluate
from evaluation.grid import Grid, GridOptions, Setting
from evaluation.intervals import Change, Interval, mean_interval
from evaluation.judges.margin import margins
from evaluation.perplexity import Perplexity, PerplexityRatio, perplexity
from evaluation.prompts import Label, PromptSet
from evaluation.rates import Rate
from hooks.interventions import Intervention

ANSWERED = ("complied", "deflected")
"""Outcomes that are coherent and no refusal."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One setting of the model."""

    name: str
    role: Role
    what: str
    edits: tuple[Intervention, ...] = field(default=(), repr=False)
    controls: tuple[tuple[Intervention, ...], ...] = field(default=(), repr=False)
    """Random controls of which only the margin is measured."""


@dataclass(frozen=True, eq=False)
class _Numbers:
    """What is measured beside the answers."""

    margin: dict[Label, list[float]]
    perplexity: Perplexity
    divergence: Divergence | None


def measure(
    arms: Sequence[Arm], bench: Bench, *, journal: Path | None = None
) -> tuple[tuple[Row, ...], Grid]:
    """Measure every arm on the same prompts; the first one must be the clean model.

    Every change is paired by prompt with the clean model. Answers to harmful prompts are judged
    and let go.

    Raises:
        JudgeError: what the judge, or a measurement on logits that are not finite, refuses.
    """
    settings = [Setting(arm.name, bench.model, arm.edits) for arm in arms]
    options = GridOptions(new_tokens=bench.new_tokens, progress=bench.progress)
    grid = evaluate(
        settings,
        [bench.prompts],
        bench.judge,
        options=options,
        base=bench.base,
        tokens=bench.tokens,
        journal=journal,
    )
    rows: list[Row] = []
    clean: _Numbers | None = None
    far = _divergences(arms, bench)
    for arm in tqdm(arms, desc="cost", disable=not bench.progress, leave=False):
        numbers = _numbers(arm, bench, far.get(arm.name))
        clean = clean or numbers
        rows.append(_row(arm, numbers, clean, grid, bench))
    return tuple(rows), grid


def answered(grid: Grid, arm: str, prompts: PromptSet) -> list[bool]:
    """Say which harmful requests an arm answered coherently and without a refusal."""
    return [r.outcome in ANSWERED for r in grid.select(arm, prompts.name, "harmful")]


def harmful_margins(
    bench: Bench, edits: tuple[Intervention, ...], label: Label = "harmful"
) -> Float[Tensor, "prompt"]:
    """Give the refusal margin of every prompt of a class under edits."""
    with bench.model.hooks(edits=edits) as run:
        return margins(bench.model, bench.prompts.select(label=label), bench.tokens, run=run)


def _divergences(arms: Sequence[Arm], bench: Bench) -> dict[str, Divergence]:
    edited = [arm for arm in arms if arm.edits]
    found = divergences(
        bench.model,
        bench.divergence_prompts,
        [arm.edits for arm in edited],
        seed=bench.seed,
    )
    return {arm.name: far for arm, far in zip(edited, found, strict=True)}


def _numbers(arm: Arm, bench: Bench, far: Divergence | None) -> _Numbers:
    margin: dict[Label, list[float]] = {}
    with bench.model.hooks(edits=arm.edits) as run:
        for label in ("harmful", "harmless"):
            part = bench.prompts.select(label=label)
            margin[label] = margins(bench.model, part, bench.tokens, run=run).tolist()
        text = perplexity(bench.model, bench.texts, run=run, seed=bench.seed)
    return _Numbers(margin, text, far)


def _row(arm: Arm, mine: _Numbers, clean: _Numbers, grid: Grid, bench: Bench) -> Row:
    name, seed = bench.prompts.name, bench.seed
    margin = {label: mean_interval(values, seed=seed) for label, values in mine.margin.items()}
    every = grid.records[arm.name, name]
    text = mine.perplexity
    return Row(
        name=arm.name,
        role=arm.role,
        what=arm.what,
        harmful=grid.rate(arm.name, name, "harmful"),
        answered=Rate.of(answered(grid, arm.name, bench.prompts)),
        harmless=grid.rate(arm.name, name, "harmless"),
        incoherent=Rate.of(record.outcome == "incoherent" for record in every),
        margin_harmful=margin["harmful"],
        margin_harmless=margin["harmless"],
        perplexity=Interval(text.value, text.low, text.high, text.n_texts, text.n_texts),
        kl_first=None if mine.divergence is None else mine.divergence.first,
        kl_continuation=None if mine.divergence is None else mine.divergence.continuation,
        change=None if mine is clean else _changes(arm, mine, clean, grid, bench),
        control_margins=_control_margins(arm, clean, bench),
    )


def _changes(arm: Arm, mine: _Numbers, clean: _Numbers, grid: Grid, bench: Bench) -> Changes:
    first, name, seed = grid.settings[0], bench.prompts.name, bench.seed

    def moved(label: Label) -> Interval:
        pairs = zip(mine.margin[label], clean.margin[label], strict=True)
        return mean_interval([after - before for after, before in pairs], seed=seed)

    before, after = (answered(grid, setting, bench.prompts) for setting in (first, arm.name))
    return Changes(
        harmful=grid.difference(first, arm.name, name, "harmful"),
        answered=Change.of(before, after, seed=seed),
        harmless=grid.difference(first, arm.name, name, "harmless"),
        margin_harmful=moved("harmful"),
        margin_harmless=moved("harmless"),
        perplexity=PerplexityRatio.of(mine.perplexity, clean.perplexity, seed=seed),
    )


def _control_margins(arm: Arm, clean: _Numbers, bench: Bench) -> tuple[float, ...]:
    before = mean_interval(clean.margin["harmful"], seed=bench.seed).value
    return tuple(float(harmful_margins(bench, edits).mean()) - before for edits in arm.controls)
