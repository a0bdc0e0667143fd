"""python -m probes.fit: linear probes for harmful requests, judged across sources, in one file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import NotBeaten
from probes.options import Options

if TYPE_CHECKING:
    from probes.result import ProbeSet

OptionFlags = Annotated[Options, tyro.conf.arg(name="")]
"""The fields of ``Options`` as flat flags."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fit probes that read from a model's states whether a request is harmful.

    Every source of prompts is held out once. With nothing given: the reference model and
    theodolite's own prompts in three sources. A probe that reads its own source but not another one
    gets a warning. Exit code 4: the file was written, but no probe beats its controls and no such
    warning says why.
    """

    model: str = "reference:aligned"
    """A folder, a hub id, reference:base, reference:aligned or BASE+ADAPTER."""
    prompts: tuple[str, ...] = ()
    """JSONL files with prompt, label (harmful, harmless), source and optionally pair a line.
    NAME=FILE gives all rows of a file the source NAME."""
    compare: Path | None = None
    """Artifact of directions.extract: cosine of each probe with its directions."""
    out: Path
    """File to write (.safetensors)."""
    options: OptionFlags = Options()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Fit, save, and say what was found."""
        from artifacts.names import check_target
        from artifacts.read import load
        from probes.fitting import fit
        from probes.rows import read_rows
        from probes.summary import summary, weakest

        quiet = self.output.json or self.output.quiet
        check_target(self.out)
        other = None if self.compare is None else load(self.compare)
        rows = [row for spec in self.prompts for row in read_rows(spec)] if self.prompts else None
        options = replace(self.options, progress=not quiet)
        found = fit(self.model, rows, out=self.out, options=options)
        cosines = {} if other is None else found.cosines(other)
        if self.output.json:
            said = {**summary(found, self.out), "cosines": cosines}
            emit_json(cast("Mapping[str, JsonValue]", said))
        elif not self.output.quiet:
            _print(found, self.out, cosines)
        reason = weakest(found)
        if reason is not None:
            raise NotBeaten(reason)
        return 0


def _print(found: ProbeSet, out: Path, cosines: Mapping[str, Mapping[str, float]]) -> None:
    from probes.summary import BLOCK_COLUMNS, COLUMNS, block_rows, matrix_rows, rows

    manifest = found.artifact.manifest
    model = manifest.aligned.spec if manifest.aligned else "?"
    n = found.artifact.manifest.directions[found.names[0]].n
    emit_table(
        f"Probes of {model} on {n['harmful']} harmful + {n['harmless']} harmless prompts in "
        f"{len(found.sources)} sources ({manifest.method['split']})",
        COLUMNS,
        rows(found),
    )
    emit_line(
        "AUC: on sources that neither the probe nor its block saw. controls: upper ends of the "
        "95% bands of shuffled labels, random directions and random features; length alone. "
        "within: on other folds of a source, and after LEACE of what the other sources know. "
        "ECE: calibration error (that of perfect probabilities)."
    )
    for name in found.names:
        title = f"{name} by block: AUC [95%]; controls: upper ends of the bands"
        emit_table(title, BLOCK_COLUMNS, block_rows(found, name))
    for name in found.names:
        emit_table(
            f"{name} at block {found.best_block(name)}: AUC [95%], fitted on (row), tested on "
            "(column); diagonal: other folds of the same source",
            ("fitted on", *found.sources),
            matrix_rows(found, name),
        )
    for name, values in cosines.items():
        said = ", ".join(f"{rival} {value:+.2f}" for rival, value in values.items()) or "none there"
        emit_line(f"cosine of {name} at block {found.best_block(name)}: {said}")
    for warning in found.warnings:
        emit_line(f"WARNING: {warning}")
    emit_line(f"{found.seconds:.1f} s; wrote {out}  sha256 {found.digest[:16]}")
    emit_line(f"next: python -m reports.build {out} --out {out.with_suffix('.html').name}")


class _CallableModule(ModuleType):
    """Lets ``probes.fit(...)`` work after this module, its namesake, was imported."""

    def __call__(self, *args: object, **kwargs: object) -> ProbeSet:
        from probes.fitting import fit

        return fit(*args, **kwargs)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main(Fit))
sys.modules[__name__].__class__ = _CallableModule
