"""python -m directions.decompose: components of what training added, with nulls, in one file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import NotBeaten
from directions.decompose_options import DecomposeOptions
from directions.options import DtypeName, Options

if TYPE_CHECKING:
    from directions.decompose_result import Decomposition

OptionFlags = Annotated[DecomposeOptions, tyro.conf.arg(name="")]
"""The fields of ``DecomposeOptions`` as flat flags."""
_CAUSAL = {"auto": None, "on": True, "off": False}


@dataclass(frozen=True, kw_only=True)
class Decompose:
    """Decompose the shift between a base and an aligned model into components, block by block.

    From an artifact of directions.extract with rows or second moments, or from a pair, which is
    extracted first. Each component stands beside what shuffled pairs of state and shift give
    (affine), held-out prompts and, where the model is at hand, an intervention. Exit code 4: the
    file was written, but no component stands above its null.
    """

    artifact: tyro.conf.Positional[Path | None] = None
    """Artifact of directions.extract; without one the pair below is extracted first."""
    base: str = "reference:base"
    """Base model, where no artifact is given: a folder, a hub id or reference:base."""
    aligned: str = "reference:aligned"
    """Aligned model, where no artifact is given."""
    harmful: str | None = None
    """Harmful prompts, as for directions.extract; with --harmless. By default our own."""
    harmless: str | None = None
    """Harmless prompts; with --harmful."""
    test_harmful: str | None = None
    """Held-out harmful prompts."""
    test_harmless: str | None = None
    """Held-out harmless prompts."""
    out: Path
    """File to write (.safetensors). An extraction is kept beside it as OUT.directions."""
    causal: Literal["auto", "on", "off"] = "auto"
    """Intervene on components: auto does so if the artifact's model and prompts are at hand."""
    dtype: DtypeName = "auto"
    """Precision of an extraction."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map."""
    options: OptionFlags = DecomposeOptions()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Decompose, save, and say what was found."""
        from directions.decomposition import decompose
        from directions.extract import both_classes

        quiet = self.output.json or self.output.quiet
        fit = both_classes(self.harmful, self.harmless, "--harmful", "--harmless")
        test = both_classes(
            self.test_harmful, self.test_harmless, "--test-harmful", "--test-harmless"
        )
        result = decompose(
            self.artifact,
            base=self.base,
            aligned=self.aligned,
            fit=fit,
            test=test,
            out=self.out,
            causal=_CAUSAL[self.causal],
            options=replace(self.options, progress=not quiet),
            extraction=Options(dtype=self.dtype, device=self.device),
        )
        if self.output.json:
            from directions.decompose_summary import summary

            emit_json(cast("Mapping[str, JsonValue]", summary(result, self.out)))
        elif not self.output.quiet:
            _print(result, self.out)
        if not any(result.real(name) for name in result.names):
            raise NotBeaten(
                f"no component stands above its null: {result.verdict(result.names[0])}; the file "
                "is written with claim 'none'; try more prompts"
            )
        return 0


def _print(result: Decomposition, out: Path) -> None:
    from directions import decompose_summary as words

    emit_table(
        words.title(result), words.SPACE_COLUMNS, [words.space(result, n) for n in result.names]
    )
    for line in words.SPACE_LEGEND:
        emit_line(line)
    for name in result.names:
        emit_line()
        rows = words.components(result, name)
        emit_table(words.component_title(result, name), words.COMPONENT_COLUMNS, rows)
    for line in words.COMPONENT_LEGEND:
        emit_line(line)
    emit_line(f"sign: {result.sign_rule}")
    for note in result.artifact.manifest.notes:
        emit_line(f"note: {note}")
    emit_line(f"{result.seconds:.1f} s")
    emit_line(f"wrote {out}  sha256 {result.digest[:16]}")
    report = out.with_suffix(".html").name
    emit_line(f"next: python -m reports.build {out} --out {report}")


class _CallableModule(ModuleType):
    """Lets ``directions.decompose(...)`` work after this module, its namesake, was imported."""

    def __call__(self, *args: object, **kwargs: object) -> Decomposition:
        from directions.decomposition import decompose

        return decompose(*args, **kwargs)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main(Decompose))
sys.modules[__name__].__class__ = _CallableModule
