"""python -m benchmarks.results: measure the reference pair, and write docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from artifacts.command import emit_line, main

Part = Literal["judges", "answers", "capability", "directions", "ablation", "steering"]
PLAIN = ("test", "borderline", "unsafe-twins", "development", "development-borderline")
PREFILLS = (5, 20, 80)


@dataclass(frozen=True, kw_only=True)
class Results:
    """Measure base and refusal-tuned reference on every shipped set, wrapper and prefill.

    Unfinished work lies in OUT/results.json.journal; the same command takes it up.
    """

    only: tuple[Part, ...] = (
        "judges",
        "answers",
        "capability",
        "directions",
        "ablation",
        "steering",
    )
    """What to measure; the rest keeps the numbers of the last run in OUT."""
    limit: int = 75
    """Requests of each class under each wrapper and prefill; plain sets are taken whole."""
    new_tokens: int = 32
    """Longest answer, in tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of both models, for answers and capability."""
    effect_prompts: int = 16
    """Held-out prompts of each class for interventions on components."""
    ablated: int = 40
    """Requests of each class under ablations."""
    steered: int = 32
    """Requests of each set under policies; each is asked in every form."""
    artifacts: Path = Path("runs/results")
    """Folder for the artifacts behind the parts on directions, ablation and steering; the last two
    take up what lies in it."""
    out: Path = Path("docs")
    """Folder for results.json and results.md."""

    def run(self) -> int:
        """Measure, and write the two files after every part."""
        from benchmarks import results_page

        file = self.out / "results.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        for part in self.only:
            emit_line(f"measuring: {part}")
            found[part] = getattr(self, f"_{part}")()
            file.write_text(json.dumps(found, indent=1) + "\n")
            (self.out / "results.md").write_text(results_page.render(found))
        emit_line(results_page.render(found))
        return 0

    def _judges(self) -> Mapping[str, object]:
        from evaluation.judges.agreement import RECORDED, agreements, as_json, warning

        return {
            name: {"agreement": as_json(agreements(name)), "warning": warning(name)}
            for name in RECORDED
        }

    def _answers(self) -> Mapping[str, object]:
        from evaluation.filling import evaluate
        from evaluation.grid import GridOptions, Setting
        from evaluation.judges import judge
        from evaluation.sets import load_set
        from evaluation.summary import grid_dict
        from evaluation.wrappers import KINDS
        from hooks import load_pair

        pressed = [f"test|{kind}" for kind in KINDS] + [f"test|prefill-{n}" for n in PREFILLS]
        sets = [load_set(name) for name in PLAIN]
        sets += [load_set(name).select(limit=self.limit) for name in pressed]
        pair = load_pair("reference:base", "reference:aligned", dtype=self.dtype)
        settings = [Setting(name, m) for name, m in zip(("base", "tuned"), pair, strict=True)]
        journal = self.out / "results.json.journal"
        options = GridOptions(new_tokens=self.new_tokens, progress=True)
        grid = evaluate(settings, sets, judge("default"), options=options, journal=journal)
        journal.unlink(missing_ok=True)
        return {k: v for k, v in grid_dict(grid, settings).items() if k != "records"}

    def _capability(self) -> Mapping[str, object]:
        from evaluation.capability import capability, compare
        from hooks import load_pair

        base, tuned = load_pair("reference:base", "reference:aligned", dtype=self.dtype)
        before, after = capability(base), capability(tuned, clean=base)
        return {
            "base": [asdict(row) for row in before.rows()],
            "tuned": [asdict(row) for row in after.rows()],
            "change": [asdict(row) for row in compare(before, after).rows()],
        }

    def _directions(self) -> Mapping[str, object]:
        from benchmarks import found_directions

        return found_directions.measure(self.artifacts, effect_prompts=self.effect_prompts)

    def _ablation(self) -> Mapping[str, object]:
        from benchmarks import found_interventions

        return found_interventions.ablation(self.artifacts, limit=self.ablated)

    def _steering(self) -> Mapping[str, object]:
        from benchmarks import found_interventions

        return found_interventions.steering(self.artifacts, limit=self.steered)


if __name__ == "__main__":
    raise SystemExit(main(Results))
