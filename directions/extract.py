"""python -m directions.extract: directions of a base/aligned pair, with controls, in one file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import InputError, NotBeaten
from directions.options import Options

if TYPE_CHECKING:
    from directions.result import DirectionSet
    from evaluation.prompts import PromptSet


OptionFlags = Annotated[Options, tyro.conf.arg(name="")]
"""The fields of ``Options`` as flat flags."""


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Extract directions from what a base and an aligned model make of the same prompts.

    With nothing given: the reference pair and theodolite's own prompts. An interrupted run goes on
    where it stopped when the same command is given again. Exit code 4: the file was written, but
    held-out prompts are not separated by the refusal direction better than by its controls.
    """

    base: str = "reference:base"
    """Base model: a folder, a hub id or reference:base."""
    aligned: str = "reference:aligned"
    """Aligned model: a folder, a hub id, reference:aligned or BASE+ADAPTER."""
    harmful: str | None = None
    """Harmful prompts: .jsonl, .csv, plain text or hub:NAME:SPLIT; with --harmless."""
    harmless: str | None = None
    """Harmless prompts; with --harmful."""
    test_harmful: str | None = None
    """Held-out harmful prompts; without them the prompts above are split."""
    test_harmless: str | None = None
    """Held-out harmless prompts."""
    out: Path
    """File to write (.safetensors). A folder OUT.run beside it holds unfinished work."""
    options: OptionFlags = Options()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Extract, save, and say what was found."""
        quiet = self.output.json or self.output.quiet
        options = replace(self.options, progress=not quiet)
        fit, test = self._prompts()
        from directions.extraction import extract
        from directions.ranks import from_environment
        from directions.summary import summary

        result = extract(self.base, self.aligned, fit=fit, test=test, out=self.out, options=options)
        if not from_environment().first:
            return 0
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", summary(result, self.out)))
        elif not self.output.quiet:
            _print(result, self.out)
        _require_refusal(result, options)
        return 0

    def _prompts(self) -> tuple[PromptSet | None, PromptSet | None]:
        fit = both_classes(self.harmful, self.harmless, "--harmful", "--harmless")
        test = both_classes(
            self.test_harmful, self.test_harmless, "--test-harmful", "--test-harmless"
        )
        return fit, test


def both_classes(
    harmful: str | None, harmless: str | None, first: str, second: str
) -> PromptSet | None:
    """Read two prompt files, one for each class; None where neither is given.

    Raises:
        InputError: one of them is missing; ``first`` and ``second`` name their options.
        PromptError: a file that cannot be used.
    """
    if harmful is None and harmless is None:
        return None
    if harmful is None or harmless is None:
        here, gone = (first, second) if harmless is None else (second, first)
        raise InputError(f"{here} is given without {gone}; a direction needs both classes")
    from directions.split import join
    from evaluation.prompts import read

    return join(read(harmful, label="harmful"), read(harmless, label="harmless"))


def _require_refusal(result: DirectionSet, options: Options) -> None:
    if "refusal" not in options.resolved_contrasts():
        return
    if "refusal" not in result.names:
        raise NotBeaten("refusal: harmful and harmless prompts have equal mean states everywhere")
    if not result.beats_control("refusal"):
        raise NotBeaten(
            f"refusal does not beat its control on held-out prompts: {result.verdict('refusal')}; "
            "the file is written with claim 'none'; try more prompts"
        )


def _print(result: DirectionSet, out: Path) -> None:
    manifest = result.artifact.manifest
    fit, test = (data.n for data in manifest.data)
    pair = " and ".join(model.spec for model in (manifest.base, manifest.aligned) if model)
    emit_table(
        f"Directions of {pair}: fitted on {_count(fit)}, measured on {_count(test)} held-out "
        f"prompts (split by {manifest.method['split']})",
        ("direction", "block", "AUC [95%]", "controls", "halves", "beats"),
        [_row(result, name) for name in result.names],
    )
    emit_line(
        "block: that of the largest held-out AUC. controls: upper ends of the 95% bands of "
        "shuffled labels and of random directions. halves: cosine of fits on random "
        "halves. beats: separates better than both controls."
    )
    for note in manifest.notes:
        emit_line(f"note: {note}")
    shards = int(result.stats["shards"])
    emit_line(
        f"{int(result.stats['tokens_computed']):,} tokens, {shards} shards "
        f"({int(result.stats['shards_resumed'])} from before), {result.seconds:.1f} s"
    )
    emit_line(f"wrote {out}  sha256 {result.digest[:16]}")
    report = out.with_suffix(".html").name
    emit_line(f"next: python -m reports.build {out} --out {report}")


def _row(result: DirectionSet, name: str) -> tuple[str, ...]:
    score = result.score(name)
    return (
        name,
        str(score.block),
        f"{score.auc:.2f} {score.low:.2f}-{score.high:.2f}",
        f"{score.auc_shuffled[2]:.2f} {score.auc_random[2]:.2f}",
        f"{score.split_half_cosine[0]:.2f}",
        "yes" if result.beats_control(name) else "no",
    )


def _count(n: Mapping[str, int]) -> str:
    return " + ".join(f"{count} {label}" for label, count in n.items())


class _CallableModule(ModuleType):
    """Lets ``directions.extract(...)`` work after this module, its namesake, was imported."""

    def __call__(self, *args: object, **kwargs: object) -> DirectionSet:
        from directions.extraction import extract

        return extract(*args, **kwargs)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main(Extract))
sys.modules[__name__].__class__ = _CallableModule
