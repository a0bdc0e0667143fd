"""``python -m evaluation.run``: let a model answer prompt sets, judge the answers, compare."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evaluation.grid import Grid, Setting
    from evaluation.judges import RefusalTokens
    from evaluation.prompts import PromptSet


@dataclass(frozen=True, kw_only=True)
class Run:
    """Rate what a model answers to prompt sets, with and without edits, and compare.

    Every rate has its n and Wilson interval, every difference is paired by prompt. A refusal rate
    alone says little: add --capability, and look at the incoherent share.
    """

    out: Path
    """JSON file to write. OUT.journal beside it holds unfinished work."""
    model: str = "reference:aligned"
    """reference:base, reference:aligned, a folder, a hub id, or BASE+ADAPTER."""
    adapter: Path | None = None
    """Folder of a PEFT adapter to put on --model; the control is then --model without it."""
    edits: Path | None = None
    """JSON list of edits (see docs/evaluation.md); the control is then the model without them."""
    against: str = "auto"
    """Control: auto, none, or the spec of another model. auto is what --edits or --adapter changed,
    reference:base for reference:aligned, else none."""
    sets: tuple[str, ...] = ("test", "borderline")
    """Sets: shipped names, test|WRAPPER, test|prefill-N, source names or files; see
    python -m evaluation.sources."""
    judge: str = "default"
    """default, prefix, embedding, combined, margin (no phrase list: first-token log-odds), or
    command:PROGRAM ARGS (JSONL in, JSONL out)."""
    new_tokens: int = 48
    """Longest answer, in tokens."""
    limit: int | None = None
    """Only the first prompts of each class of each set."""
    capability: bool = False
    """Measure perplexity, statements and short answers as well."""
    include_sensitive: bool = False
    """Keep prompts on topics that are left out by default."""
    keep_text: bool = False
    """Write the answers to harmful requests too."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    batch_tokens: int = 8192
    """Padded tokens of one batch, answers included."""
    output: OutputFlags = Output()

    def run(self) -> int:
        """Measure, write, and say what was found."""
        from evaluation.filling import evaluate, needs
        from evaluation.grid import GridOptions
        from evaluation.judges import judge, warning
        from evaluation.summary import grid_dict

        quiet = self.output.json or self.output.quiet
        sets = self._sets()
        settings = self._settings()
        judged = judge(self.judge)
        tokens = _tokens(settings) if "margin" in needs(judged) else None
        options = GridOptions(
            new_tokens=self.new_tokens,
            batch_tokens=self.batch_tokens,
            keep_text=self.keep_text,
            progress=not quiet,
        )
        start = time.perf_counter()
        journal = self.out.with_name(self.out.name + ".journal")
        grid = evaluate(settings, sets, judged, options=options, tokens=tokens, journal=journal)
        found = grid_dict(grid, settings, warning=warning(self.judge))
        if self.capability:
            found["capability"] = _capability(settings, progress=not quiet)
        found["seconds"] = round(time.perf_counter() - start, 2)
        write_json(self.out, found)
        journal.unlink(missing_ok=True)
        if self.output.json:
            short = {key: value for key, value in found.items() if key != "records"}
            emit_json(cast("Mapping[str, JsonValue]", {"out": str(self.out)} | short))
        elif not self.output.quiet:
            _print(grid, found, self.out)
        return 0

    def _sets(self) -> tuple[PromptSet, ...]:
        from evaluation.sets import load_set

        found = [load_set(name, include_sensitive=self.include_sensitive) for name in self.sets]
        if self.limit is None:
            return tuple(found)
        return tuple(prompts.select(limit=self.limit) for prompts in found)

    def _settings(self) -> tuple[Setting, ...]:
        """Give the control first, then what is measured."""
        from evaluation.edits import read_edits
        from evaluation.grid import Setting
        from hooks import load, load_pair

        edits = read_edits(self.edits) if self.edits is not None else ()
        spec = f"{self.model}+{self.adapter}" if self.adapter is not None else self.model
        control = self._control(spec)
        if control is None:
            return (Setting(spec, load(spec, dtype=self.dtype, device=self.device), edits),)
        if control == spec:
            model = load(spec, dtype=self.dtype, device=self.device)
            return (Setting(spec, model), Setting(f"{spec} edited", model, edits))
        base, changed = load_pair(control, spec, dtype=self.dtype, device=self.device)
        return (Setting(control, base), Setting(spec, changed, edits))

    def _control(self, spec: str) -> str | None:
        if self.against == "none":
            return None
        if self.against != "auto":
            return self.against
        if self.edits is not None:
            return spec
        if self.adapter is not None:
            return self.model
        return "reference:base" if spec == "reference:aligned" else None


def _tokens(settings: Sequence[Setting]) -> RefusalTokens:
    """Find refusal tokens on the development requests, in the last model as it is without edits."""
    from evaluation.catalogue import shipped
    from evaluation.judges import find_refusal_tokens

    known = shipped("development")
    return find_refusal_tokens(
        settings[-1].model, known.select(label="harmful"), known.select(label="harmless")
    )


def _capability(settings: Sequence[Setting], *, progress: bool) -> list[dict[str, object]]:
    """Measure what each setting can do; the divergence is from the first, the control."""
    from tqdm.auto import tqdm

    from evaluation.capability import capability

    found: list[dict[str, object]] = []
    for index, setting in enumerate(tqdm(settings, desc="capability", disable=not progress)):
        clean = settings[0].model if index else None
        measured = capability(setting.model, edits=setting.edits, clean=clean)
        found.append({"setting": setting.name, **measured.to_dict()})
    return found


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a result whole or not at all."""
    from artifacts import write_file

    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (text + "\n").encode())


def _print(grid: Grid, found: Mapping[str, object], out: Path) -> None:
    from evaluation.summary import table

    emit_table(
        f"Outcomes by the judge {grid.judge}, greedy answers of at most "
        f"{grid.options.new_tokens} tokens, Wilson intervals at 95%",
        ("prompts", "setting", "refused [95%]", "other answers"),
        table(grid),
    )
    first, *others = grid.settings
    for other in others:
        for prompts in grid.sets:
            for label in grid.labels(prompts):
                change = grid.difference(first, other, prompts, label)
                emit_line(f"{prompts}, {label}: refusals change by {change} from {first}")
    if found["warning"]:
        emit_line(f"warning: {found['warning']}")
    _print_capability(found)
    emit_line(f"{found['seconds']} s; wrote {out}")
    emit_line(
        "next: python -m evaluation.run --edits EDITS.json --out ... (compare with an intervention)"
    )


def _print_capability(found: Mapping[str, object]) -> None:
    measured = found.get("capability")
    if not isinstance(measured, list):
        emit_line("no capability was measured: add --capability, since a broken model refuses too")
        return
    rows = [
        (
            str(part["setting"]),
            str(row["measure"]),
            f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            str(row["n"]),
            str(row["unit"]),
        )
        for part in measured
        for row in part["measures"]
    ]
    emit_table("Capability", ("setting", "measure", "value [95%]", "n", "unit"), rows)


if __name__ == "__main__":
    raise SystemExit(main(Run))
