"""python -m directions.localize: which heads and MLPs write what alignment added, in one file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import NotBeaten
from directions.extract import both_classes
from directions.localize_options import LocalizeOptions

if TYPE_CHECKING:
    from directions.patching import CausalCheck, Patch
    from directions.signature import Component, Share, Signature
    from evaluation.intervals import Interval

OptionFlags = Annotated[LocalizeOptions, tyro.conf.arg(name="")]
"""The fields of ``LocalizeOptions`` as flat flags."""
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Localize:
    """Locate, per head and MLP, what an aligned model adds along a direction and its base does not.

    With nothing given: the reference pair and theodolite's own prompts. One part of the prompts
    fixes the direction and serves the causal check, the other is scored. Exit code 4: the file was
    written, but no head and no MLP is significant.
    """

    base: str = "reference:base"
    """Base model: a folder, a hub id or reference:base."""
    aligned: str = "reference:aligned"
    """Aligned model: a folder, a hub id, reference:aligned or BASE+ADAPTER."""
    harmful: str | None = None
    """Harmful prompts: .jsonl, .csv, plain text or hub:NAME:SPLIT; with --harmless."""
    harmless: str | None = None
    """Harmless prompts; with --harmful."""
    along: str | None = None
    """Direction to read along, as ARTIFACT:NAME; by default --contrast is fitted."""
    out: Path
    """File to write (.safetensors)."""
    options: OptionFlags = LocalizeOptions()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Localise, save, and say what was found."""
        quiet = self.output.json or self.output.quiet
        options = replace(self.options, progress=not quiet)
        prompts = both_classes(self.harmful, self.harmless, "--harmful", "--harmless")
        from directions.localization import localize

        found = localize(
            self.base,
            self.aligned,
            prompts=prompts,
            along=self.along,
            out=self.out,
            options=options,
        )
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", summary(found, self.out)))
        elif not self.output.quiet:
            _print(found, self.out)
        if not found.significant():
            raise NotBeaten(
                f"none of {len(found.heads)} heads and {len(found.mlps)} MLPs changes beyond sign "
                f"flips at q = {found.alpha:g}; the file is written"
            )
        return 0


def summary(found: Signature, out: str | Path) -> Mapping[str, object]:
    """Return what ``--json`` prints: heads and MLPs, the strongest first."""
    manifest = found.artifact.manifest
    return {
        "out": str(out),
        "digest": found.digest,
        "n": {data.role: dict(data.n) for data in manifest.data},
        "seconds": round(found.seconds, 3),
        "stats": dict(found.stats),
        "base": manifest.base.spec if manifest.base else None,
        "aligned": manifest.aligned.spec if manifest.aligned else None,
        "dtype": manifest.aligned.dtype if manifest.aligned else None,
        "along": manifest.contrast[0]
        if not manifest.directions
        else next(iter(manifest.directions)),
        "over": manifest.method["over"],
        "alpha": found.alpha,
        "unit": manifest.method["unit"],
        "largest_gap": found.gap,
        "heads": [_row(item) for item in found.heads],
        "mlps": [_row(item) for item in found.mlps],
        "causal": None if found.causal is None else _causal(found.causal),
        "notes": list(manifest.notes),
    }


def _row(item: Component) -> dict[str, object]:
    """Flatten the total; origin and echo stay objects beside it."""
    return {
        "block": item.block,
        "head": item.head,
        **asdict(item.total),
        "base": item.base,
        "aligned": item.aligned,
        "random": item.random,
        "refusal": None if item.refusal is None else list(item.refusal),
        "origin": asdict(item.origin),
        "echo": asdict(item.echo),
    }


def _causal(check: CausalCheck) -> dict[str, object]:
    return {
        "heads": [list(head) for head in check.heads],
        "outcome": check.outcome,
        "n": check.n,
        "gap": asdict(check.gap),
        "removed": _patch(check.removed),
        "restored": _patch(check.restored),
    }


def _patch(patch: Patch) -> dict[str, object]:
    return {
        "effect": asdict(patch.effect),
        "random": list(patch.random),
        "excess": asdict(patch.excess),
        "beats": patch.beats,
    }


def _print(found: Signature, out: Path) -> None:
    manifest = found.artifact.manifest
    pair = " and ".join(model.spec for model in (manifest.base, manifest.aligned) if model)
    counts = " + ".join(f"{count} {label}" for label, count in found.n.items())
    name = next(iter(manifest.directions), manifest.contrast[0])
    for kind, items in (("Heads", found.heads), ("MLPs", found.mlps)):
        significant = sum(item.total.significant for item in items)
        origins = sum(item.origin.significant for item in items)
        emit_table(
            f"{kind} of {pair} along {name}: {significant} of {len(items)} significant, "
            f"{origins} as origin (q <= {found.alpha:g}; {counts} scored prompts)",
            ("place", "score [95%]", "q", "origin [95%]", "echo", "random"),
            [_cells(item) for item in items[:_SHOWN]],
        )
    emit_line(
        "score: aligned minus base, mean over prompts in units of the spread pooled over all heads "
        "and MLPs. random: 95% of random directions stay below. origin: own weights on the base's "
        "inputs; echo: the rest. q: sign flips, Benjamini-Hochberg over all heads and MLPs; * q <= "
        f"{found.alpha:g}."
    )
    if found.causal is not None:
        _print_causal(found.causal)
    for note in manifest.notes:
        emit_line(f"note: {note}")
    emit_line(
        f"{int(found.stats['forwards'])} passes, {int(found.stats['tokens_computed']):,} tokens, "
        f"contributions sum to what attention adds within {found.gap:.1g}, {found.seconds:.1f} s"
    )
    emit_line(f"wrote {out}  sha256 {found.digest[:16]}")
    emit_line(f"next: python -m reports.build {out} --out {out.with_suffix('.html').name}")


def _cells(item: Component) -> tuple[str, ...]:
    total, origin, echo = (_interval(part) for part in (item.total, item.origin, item.echo))
    return (item.name, total, f"{item.total.q:.1g}", origin, echo.split()[0], f"{item.random:.2f}")


def _interval(part: Share) -> str:
    mark = "*" if part.significant else ""
    return f"{part.score:+.2f}{mark} {part.low:+.2f} {part.high:+.2f}"


def _print_causal(check: CausalCheck) -> None:
    names = ", ".join(f"{block}.{head}" for block, head in check.heads)
    emit_table(
        f"Causal check of heads {names}: {check.outcome}, {check.n} harmful prompts; aligned "
        f"differs from base by {_three(check.gap)}",
        ("exchange", "effect [95%]", "random sets", "beyond them [95%]", "beats"),
        [
            _patch_cells("base's outputs into aligned", check.removed),
            _patch_cells("aligned's outputs into base", check.restored),
        ],
    )


def _patch_cells(name: str, patch: Patch) -> tuple[str, ...]:
    return (
        name,
        _three(patch.effect),
        f"{min(patch.random):+.2f} to {max(patch.random):+.2f}",
        _three(patch.excess),
        "yes" if patch.beats else "no",
    )


def _three(interval: Interval) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


class _CallableModule(ModuleType):
    """Lets ``directions.localize(...)`` work after this module, its namesake, was imported."""

    def __call__(self, *args: object, **kwargs: object) -> Signature:
        from directions.localization import localize

        return localize(*args, **kwargs)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main(Localize))
sys.modules[__name__].__class__ = _CallableModule
