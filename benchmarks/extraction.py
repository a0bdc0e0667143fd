"""Paired extraction: seconds of each contender, in one process, alternating, median of rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import bootstrap
from torch import Tensor

import hooks
from benchmarks import contenders, machine


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender over all rounds, and the directions it gave."""

    name: str
    dtype: str
    seconds: tuple[float, ...]
    shift: Tensor
    refusal: Tensor
    ambient: Tensor

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def compare(
    prompts: Sequence[str], n_harmful: int, *, dtype: str, rounds: int
) -> tuple[list[Timing], dict[str, float]]:
    """Time every contender on the reference pair; the first ``n_harmful`` prompts are harmful."""
    base, aligned = hooks.load_pair(
        "reference:base", "reference:aligned", dtype=dtype, stream="auto"
    )
    pairs = _contenders(base, aligned)
    for run in pairs.values():
        run(prompts[: contenders.BATCH])
    seconds: dict[str, list[float]] = {name: [] for name in pairs}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for _ in range(rounds):
        for name, run in pairs.items():
            start = time.perf_counter()
            found[name] = run(prompts)
            seconds[name].append(time.perf_counter() - start)
    timings = [_timing(name, dtype, seconds[name], *found[name], n_harmful) for name in pairs]
    return timings, _limits(base, aligned, prompts, statistics.median(seconds["theodolite"]))


def _contenders(base: hooks.Model, aligned: hooks.Model) -> dict[str, contenders.Pairs]:
    folder = str(hooks.reference.path("base"))
    tokenizer = base.tokenizer
    plain = [contenders.plain_loop(contenders.twin(m), tokenizer) for m in (base, aligned)]
    lens = [
        contenders.transformer_lens(contenders.twin(m), tokenizer, folder) for m in (base, aligned)
    ]
    own = contenders.theodolite(base), contenders.theodolite(aligned)
    joint = {"theodolite, both sides in one pass": contenders.theodolite_joint(base, aligned)}
    return {
        "plain loop": contenders.one_by_one(*plain),
        "TransformerLens": contenders.one_by_one(*lens),
        "theodolite": contenders.one_by_one(*own),
        **(joint if hooks.why_not_joint(base, aligned) is None else {}),
    }


def _timing(
    name: str, dtype: str, seconds: Sequence[float], base: Tensor, aligned: Tensor, n: int
) -> Timing:
    wide = (base.double(), aligned.double())
    shift = (wide[1] - wide[0]).mean(1)
    refusal = wide[1][:, :n].mean(1) - wide[1][:, n:].mean(1)
    return Timing(name, dtype, tuple(seconds), shift, refusal, wide[1].norm(dim=-1).mean(1))


def _limits(
    base: hooks.Model, aligned: hooks.Model, prompts: Sequence[str], seconds: float
) -> dict[str, float]:
    """Share of the machine's matmul limit that useful and computed tokens reach."""
    body = contenders.twin(base).base_model
    flops = machine.flops_per_token(body)
    limit = machine.matmul_limit(body, tokens=1024, dtype=base.dtype)
    with aligned.hooks(capture=hooks.Capture()) as run:
        run.forward(aligned.encode(prompts))
    done = 2 * flops / seconds
    return {
        "matmul_limit_gflops": limit / 1e9,
        "tokens_asked": 2 * run.stats.tokens_asked,
        "tokens_computed": 2 * run.stats.tokens_computed,
        "share_useful": done * run.stats.tokens_asked / limit,
        "share_computed": done * run.stats.tokens_computed / limit,
    }


def overhead(*, dtype: str, rounds: int, rows: int = 32, width: int = 24) -> dict[str, float]:
    """Time a bare body pass and the same pass with a capture at every block, one after the other.

    A pair of passes gives a ratio; reported is the median ratio with its bootstrap interval. Who
    goes first changes from pair to pair.
    """
    model = hooks.load("reference:base", dtype=dtype)
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40000, (rows, width), generator=rng)
    encoded = hooks.Encoded.from_ids(ids.tolist())
    options = hooks.EngineOptions(prefix=False, stop=False, batch_tokens=rows * width)
    mask = torch.ones_like(ids)
    places = torch.arange(width).expand(rows, width)

    def bare() -> None:
        with torch.no_grad():
            model.hf.base_model(
                input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False
            )

    def captured() -> None:
        with model.hooks(capture=hooks.Capture(), options=options) as run:
            run.forward(encoded)

    work = {"bare": bare, "captured": captured}
    spent: dict[str, list[float]] = {name: [] for name in work}
    for index in range(rounds + 2):
        for name in sorted(work, reverse=bool(index % 2)):
            start = time.perf_counter()
            work[name]()
            if index > 1:
                spent[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(spent["bare"], spent["captured"], strict=True)]
    found = bootstrap((ratios,), statistics.median, vectorized=False, method="percentile", rng=0)
    return {
        **{name: statistics.median(values) for name, values in spent.items()},
        "overhead": statistics.median(ratios) - 1,
        "low": found.confidence_interval.low - 1,
        "high": found.confidence_interval.high - 1,
        "rounds": rounds,
    }
