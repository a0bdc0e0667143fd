"""Selection of a direction against a naive sweep: one candidate and one score at a time."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import hooks
from directions.candidates import Candidates, from_model
from directions.select_options import SelectOptions
from directions.select_scores import EVERYWHERE, Scorer
from directions.select_sweep import Candidate, Sweep, sweep
from directions.selection import refusal_tokens, three_ways
from evaluation.divergence import kl
from evaluation.judges.margin import log_odds
from evaluation.wrappers import encode
from hooks import Encoded

BATCH = 32
_PLAIN = hooks.EngineOptions(
    prefix=False, pack=False, stop=False, batch_rows=BATCH, batch_tokens=1_000_000
)


@dataclass(frozen=True)
class Naive:
    """Every score of every candidate, in the order of blocks and positions."""

    rows: tuple[Candidate, ...]
    stats: Counter[str]

    def best(self, options: SelectOptions) -> Candidate:
        kept = [
            row for row in self.rows if row.induce > options.min_induce and row.kl < options.max_kl
        ]
        return min(kept, key=lambda row: row.bypass)


def naive(
    model: hooks.Model,
    ids: Sequence[int],
    candidates: Candidates,
    harmful: Encoded,
    harmless: Encoded,
) -> Naive:
    """The published loop: whole passes for each candidate and score, batches of 32 as given.

    Kinder than the original: it keeps logits at the last position only, and leaves out the blocks
    beyond the limit.
    """
    stats: Counter[str] = Counter()

    def last(prompts: Encoded, edits: Sequence[hooks.Intervention]) -> Tensor:
        with model.hooks(edits=edits, options=_PLAIN) as run:
            found = run.forward(prompts, logits="last").logits
            stats.update(run.stats.as_dict())
        return found.double()

    clean = last(harmless, [])
    rows = []
    for block in candidates.blocks:
        for position, vector in zip(*candidates.at(block), strict=True):
            v = vector.float()
            induced = last(harmless, [hooks.Add(v, f"blocks.{block}.hook_resid_post")])
            erased = last(harmless, [hooks.Ablate(v, EVERYWHERE)])
            bypassed = last(harmful, [hooks.Ablate(v, EVERYWHERE)])
            rows.append(
                Candidate(
                    position,
                    block,
                    float(vector.norm()),
                    float(log_odds(induced, ids).mean()),
                    float(kl(clean, erased).mean()),
                    len(harmless),
                    float(log_odds(bypassed, ids).mean()),
                )
            )
    return Naive(tuple(rows), stats)


def agreement(ours: Sweep, other: Naive) -> float:
    """The largest difference of a score that both have; a KL given up early is left out."""
    twin = {(row.position, row.block): row for row in other.rows}
    gaps = [0.0]
    for row in ours.rows:
        known = twin.get((row.position, row.block))
        if known is None:
            continue
        pairs = [(row.induce, known.induce), (row.bypass, known.bypass)]
        if row.kl_n == ours.n_harmless:
            pairs.append((row.kl, known.kl))
        gaps += [abs(a - b) for a, b in pairs if a is not None]
    return max(gaps)


def compare(*, prompts: int = 16, rounds: int = 1, dtype: str = "float32") -> dict[str, object]:
    """Time both on the refusal-tuned reference, on the same candidates and validation prompts."""
    model = hooks.load("reference:aligned", dtype=dtype, stream="auto")
    options = SelectOptions()
    data, validation = three_ways(None, None, seed=0)
    tokens = refusal_tokens(model, data.fit)
    candidates = from_model(model, data.fit, options.blocks(model.n_layers))
    harmful, harmless = (
        encode(model, validation.select(label=label, limit=prompts))
        for label in ("harmful", "harmless")
    )
    seconds: dict[str, list[float]] = {"naive": [], "theodolite": []}
    for _ in range(rounds):
        scorer = Scorer(model, tokens.ids)
        start = time.perf_counter()
        ours = sweep(candidates, scorer, harmful, harmless, options)
        middle = time.perf_counter()
        other = naive(model, tokens.ids, candidates, harmful, harmless)
        seconds["theodolite"].append(middle - start)
        seconds["naive"].append(time.perf_counter() - middle)
    return {
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "candidates": len(other.rows),
        "prompts": [len(harmful), len(harmless)],
        "counts": ours.counts,
        "seconds": {name: statistics.median(spent) for name, spent in seconds.items()},
        "blocks_run": _pair(other.stats, scorer.stats, "blocks_run"),
        "token_blocks": _pair(other.stats, scorer.stats, "token_blocks"),
        "largest_difference": agreement(ours, other),
        "same_choice": _place(ours.best) == _place(other.best(options)),
        "chosen": _place(ours.best),
    }


def _place(row: Candidate | None) -> tuple[int, int] | None:
    return None if row is None else (row.position, row.block)


def _pair(other: Counter[str], ours: Counter[str], name: str) -> dict[str, int]:
    return {"naive": other[name], "theodolite": ours[name]}
