"""Localisation: all heads in the passes of one extraction, against one forward for each head."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

import hooks
from directions.contributions import Readout, readouts
from directions.origin import Plan, measure
from directions.overwrite import ENGINE
from probes.controls import random_units


def compare(prompts: Sequence[str], *, dtype: str, rounds: int, heads: int = 9) -> dict[str, float]:
    """Time both on the reference pair; of the naive sweep ``heads`` heads, spread over blocks.

    The naive sweep runs each model once for each head, as a tool without a shared registry does:
    capture that head, project it, forget the pass. It gives totals only, no origin.
    """
    base, aligned = hooks.load_pair(
        "reference:base", "reference:aligned", dtype=dtype, stream="auto"
    )
    encoded = aligned.encode(prompts)
    shape = (aligned.n_layers, aligned.n_heads)
    random = torch.from_numpy(random_units(32, aligned.d_model, seed=0))
    along = random[0].expand(shape[0], -1)
    chosen = [divmod(int(i), shape[1]) for i in np.linspace(0, shape[0] * shape[1] - 1, heads)]
    weights = [readouts(model, along[:, None]) for model in (aligned, base)]
    ours, naive, error = [], [], 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        found = measure(base, aligned, encoded, Plan(along, random))
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        values = [_one_head((aligned, base), weights, encoded, head) for head in chosen]
        naive.append((time.perf_counter() - start) / heads)
        for (block, head), value in zip(chosen, values, strict=True):
            gap = np.abs(value - found.heads["total"][:, block, head]).max()
            error = max(error, float(gap))
    every = shape[0] * shape[1]
    return {
        "prompts": len(prompts),
        "heads": every,
        "measured": heads,
        "passes": found.stats["forwards"],
        "seconds": statistics.median(ours),
        "seconds_a_head": statistics.median(naive),
        "speedup": every * statistics.median(naive) / statistics.median(ours),
        "largest_difference": error,
        "rounds": rounds,
    }


def _one_head(
    models: Sequence[hooks.Model],
    weights: Sequence[Sequence[Readout]],
    encoded: hooks.Encoded,
    place: tuple[int, int],
) -> np.ndarray:
    block, head = place
    site = f"blocks.{block}.attn.hook_z"
    options = hooks.EngineOptions(prefix=ENGINE.prefix, stop=False)
    sides = []
    for model, readout in zip(models, weights, strict=True):
        rows = hooks.Rows()
        with model.hooks(capture=hooks.Capture(site, into=rows), options=options) as run:
            run.forward(encoded)
        sides.append(rows[site][:, head].double() @ readout[block].heads[head, :, 0])
    return (sides[0] - sides[1]).numpy()
