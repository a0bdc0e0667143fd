"""``python -m training.reference``: make the reference pair ready, or train it again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import NotBeaten

if TYPE_CHECKING:
    from training.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Make reference:base and reference:aligned ready and check them; --retrain trains anew."""

    retrain: bool = False
    """Repeat the recipe from theodolite's own data and measure the result; the training of the
    shipped adapter alone took 23 minutes on two cores."""
    out: Path = Path("runs/reference")
    """Folder for a retrained adapter, its metrics and its card."""
    also: tuple[Path, ...] = ()
    """Further prompt files to measure plain after --retrain."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the models that are measured after --retrain."""
    steps: int | None = None
    """Optimiser steps of --retrain; by default those of the shipped adapter."""
    seed: int = 0
    """Seed of --retrain."""
    output: OutputFlags = field(default_factory=Output)

    def run(self) -> int:
        """Make ready, or train; print the numbers.

        Raises:
            NotBeaten: the pair is there but falls short of what is asked of it.
        """
        return self._train() if self.retrain else self._ready()

    def _ready(self) -> int:
        from training.ready import make_ready

        start = time.perf_counter()
        ready = make_ready()
        seconds = round(time.perf_counter() - start, 1)
        sanity = {name: dataclasses.asdict(rate) for name, rate in ready.sanity.items()}
        if self.output.json:
            emit_json(
                {
                    "base": str(ready.base),
                    "base_digests": ready.base_digests,
                    "adapter": str(ready.adapter),
                    "sanity": sanity,
                    "metrics": ready.metrics.model_dump(mode="json"),
                    "seconds": seconds,
                }
            )
        elif not self.output.quiet:
            _table("reference pair, as measured when it was made", ready.metrics)
            checks = [(name, str(rate)) for name, rate in ready.sanity.items()]
            emit_table("checked now", ("refusals of", "rate [95% interval]"), checks)
            emit_line(f"ready in {seconds} s: reference:base in {ready.base}")
            emit_line(f"reference:aligned adds {ready.adapter}")
            emit_line("next: python -m directions.extract --out runs/directions.safetensors")
        return 0

    def _train(self) -> int:
        from training.recipe import Recipe
        from training.repeat import repeat

        loud = not (self.output.quiet or self.output.json)
        recipe = Recipe(seed=self.seed)
        if self.steps is not None:
            recipe = dataclasses.replace(recipe, steps=self.steps)
        metrics = repeat(self.out, recipe, dtype=self.dtype, also=self.also, progress=loud)
        shortfalls = metrics.shortfalls()
        if self.output.json:
            found: dict[str, JsonValue] = {"out": str(self.out), "shortfalls": list(shortfalls)}
            emit_json(found | {"metrics": metrics.model_dump(mode="json")})
        elif not self.output.quiet:
            _table("retrained adapter", metrics)
            emit_line(f"written: {self.out} (adapter, metrics.json, CARD.md)")
            emit_line(
                "next: python -m directions.extract --base reference:base "
                f"--aligned reference:base+{self.out} --out runs/directions.safetensors"
            )
        if shortfalls:
            raise NotBeaten(
                f"{self.out}: {'; '.join(shortfalls)}; try another --seed or more --steps"
            )
        return 0


def _table(title: str, metrics: Metrics) -> None:
    """Print the rates of both models and what neutral text costs."""
    from training.card import ratio, summary

    emit_table(title, ("requests", "base refuses", "tuned refuses"), _cells(summary(metrics)))
    emit_line(
        f"perplexity on neutral text, tuned / base: {ratio(metrics.perplexity)}, "
        f"{metrics.perplexity.n_texts} texts, {metrics.perplexity.n_tokens} tokens"
    )


def _cells(rows: Sequence[tuple[str, str, str]]) -> list[Sequence[str]]:
    return [tuple(row) for row in rows]


if __name__ == "__main__":
    raise SystemExit(main(Reference))
