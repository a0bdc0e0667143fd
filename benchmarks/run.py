"""python -m benchmarks.run: measure, and write docs/benchmarks.json and docs/benchmarks.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from artifacts.command import emit_line, main

Part = Literal[
    "extraction", "overhead", "generation", "memory", "selection", "localization", "steering"
]
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure speed and memory side by side with peers, on the reference pair.

    Timings need an otherwise idle machine. Parts that are not asked for keep the numbers that
    this machine gave with these versions; those of other machines stay beside them.
    """

    only: tuple[Part, ...] = (
        "extraction",
        "overhead",
        "generation",
        "memory",
        "selection",
        "localization",
        "steering",
    )
    """What to measure."""
    rounds: int = 5
    """Rounds of each contender; the median is reported."""
    prompts: int = 256
    """Chat prompts of the extraction, half of them harmful."""
    answers: int = 64
    """Prompts of each generation run."""
    chosen_on: int = 16
    """Validation prompts of each class in the selection."""
    localized_on: int = 32
    """Prompts of the localisation, half of them harmful."""
    few: int = 100
    """Prompts of the small memory run."""
    many: int = 10_000
    """Prompts of the large memory run."""
    out: Path = Path("docs")
    """Folder for benchmarks.json and benchmarks.md."""

    def run(self) -> int:
        """Measure, and write the two files after every part."""
        from benchmarks import machine, page

        file = self.out / "benchmarks.json"
        records = json.loads(file.read_text())["machines"] if file.exists() else []
        for part in self.only:
            emit_line(f"measuring: {part}")
            records = page.renew(records, machine.describe(), getattr(self, f"_{part}")())
            text = json.dumps({"machines": records}, indent=1) + "\n"
            file.write_text(text)
            records = json.loads(text)["machines"]
            (self.out / "benchmarks.md").write_text(page.render(records))
        emit_line(page.render(records))
        return 0

    def _extraction(self) -> dict[str, object]:
        from benchmarks import extraction, page
        from evaluation.catalogue import shipped

        known = shipped("test").select(limit=self.prompts // 2)
        prompts = [prompt.prompt for prompt in (*known.harmful, *known.harmless)]
        timings, limits = [], {}
        for dtype in DTYPES:
            more, limits[dtype] = extraction.compare(
                prompts, len(known.harmful), dtype=dtype, rounds=self.rounds
            )
            timings += more
        return {"prompts": len(prompts), "notes": [], **page.summary(timings, limits)}

    def _overhead(self) -> dict[str, object]:
        from benchmarks import extraction

        return {"overhead": {d: extraction.overhead(dtype=d, rounds=31) for d in DTYPES}}

    def _generation(self) -> dict[str, object]:
        from benchmarks import generation
        from evaluation.catalogue import shipped

        found = {}
        for name in ("test", "borderline"):
            asked = [prompt.prompt for prompt in shipped(name).prompts][: self.answers]
            found[f"{name}, {len(asked)}"] = generation.compare(
                asked, dtype="bfloat16", new_tokens=48, rounds=self.rounds
            )
        return {"generation": found}

    def _memory(self) -> dict[str, object]:
        from benchmarks import memory

        sizes = (self.few, self.many)
        return {"memory": [memory.peak_megabytes(n, dtype="auto") for n in sizes]}

    def _selection(self) -> dict[str, object]:
        from benchmarks import selection

        # A naive sweep takes minutes, and its time hardly varies: one round.
        return {"selection": selection.compare(prompts=self.chosen_on)}

    def _localization(self) -> dict[str, object]:
        from benchmarks import localization
        from evaluation.catalogue import shipped

        known = shipped("test").select(limit=self.localized_on // 2)
        asked = [prompt.prompt for prompt in known.prompts]
        return {
            "localization": {
                dtype: localization.compare(asked, dtype=dtype, rounds=self.rounds)
                for dtype in DTYPES
            }
        }

    def _steering(self) -> dict[str, object]:
        from benchmarks import steering
        from evaluation.catalogue import shipped

        asked = [prompt.prompt for prompt in shipped("test").harmless][: self.answers]
        return {"steering": steering.measure(asked, dtype="bfloat16", rounds=self.rounds)}


if __name__ == "__main__":
    raise SystemExit(main(Bench))
