"""python -m directions.select: the direction that mediates refusal, chosen by what it does."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import NotBeaten
from directions.select_options import SelectOptions

if TYPE_CHECKING:
    from directions.select_sweep import Candidate, Sweep
    from directions.selection import Selection

OptionFlags = Annotated[SelectOptions, tyro.conf.arg(name="")]
"""The fields of ``SelectOptions`` as flat flags."""

_ROWS = ("bypass", "drop", "induce", "rise", "kl")


@dataclass(frozen=True, kw_only=True)
class Select:
    """Choose, among mean differences at every block and template position, the one that refuses.

    Candidates are filtered by what adding them does to harmless prompts and by the KL divergence
    that ablating them costs; of the rest, the one whose ablation takes most refusal from harmful
    validation prompts is measured on test prompts, beside random directions. With nothing given:
    the refusal-tuned reference and theodolite's own prompts. Exit code 4: no candidate passes, or
    the chosen one does no more than random directions do.
    """

    artifact: Annotated[Path | None, tyro.conf.Positional] = None
    """Candidates: an artifact of directions.extract --positions template; without it they are
    fitted here."""
    model: str | None = None
    """A folder, a hub id, reference:aligned or BASE+ADAPTER; by default that of the artifact."""
    harmful: str | None = None
    """Harmful prompts (.jsonl, .csv, plain text or hub:NAME:SPLIT), with --harmless; they are split
    into prompts to fit, to choose and to test on."""
    harmless: str | None = None
    """Harmless prompts; with --harmful."""
    test_harmful: str | None = None
    """Harmful prompts to test on; then those above are not needed for it."""
    test_harmless: str | None = None
    """Harmless prompts to test on."""
    out: Path
    """File to write (.safetensors)."""
    options: OptionFlags = SelectOptions()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Select, save, and say what was found."""
        from directions.extract import both_classes
        from directions.select_sweep import NothingPasses
        from directions.selection import select

        quiet = self.output.json or self.output.quiet
        try:
            found = select(
                self.model,
                candidates=self.artifact,
                prompts=both_classes(self.harmful, self.harmless, "--harmful", "--harmless"),
                test=both_classes(
                    self.test_harmful, self.test_harmless, "--test-harmful", "--test-harmless"
                ),
                out=self.out,
                options=replace(self.options, progress=not quiet),
            )
        except NothingPasses as nothing:
            if self.output.json:
                emit_json({"selected": None, **_sweep_summary(nothing.sweep)})
            elif not self.output.quiet:
                _print_nothing(nothing.sweep)
            raise
        if self.output.json:
            emit_json(_summary(found, self.out))
        elif not self.output.quiet:
            _print(found, self.out)
        _require_effect(found)
        return 0


def _require_effect(found: Selection) -> None:
    if found.claim != "none":
        return
    drop, rise = found.measure("drop"), found.measure("rise")
    most = [found.measure(f"{name}_random")[2] for name in ("drop", "rise")]
    raise NotBeaten(
        f"the chosen direction does no more than random ones on test prompts: ablation lowers the "
        f"metric by {drop[0]:.2f} [{drop[1]:.2f}, {drop[2]:.2f}], random ones by up to "
        f"{most[0]:.2f}; addition raises it by {rise[0]:.2f} [{rise[1]:.2f}, {rise[2]:.2f}], "
        f"random ones by up to {most[1]:.2f}; the file is written with claim 'none'"
    )


def _print(found: Selection, out: Path) -> None:
    manifest, best = found.artifact.manifest, found.chosen
    n = next(iter(data.n for data in manifest.data if data.role == "test"))
    emit_table(
        f"Chosen in {manifest.aligned.spec if manifest.aligned else 'the model'}: position "
        f"{best.position}, block {best.block}; measured on {n['harmful']} harmful and "
        f"{n['harmless']} harmless test prompts",
        ("score", "clean", "direction [95%]", f"{found_controls(found)} random: mean, range"),
        [_row(found, name) for name in _ROWS],
    )
    emit_line(
        "bypass, drop: refusal log-odds of harmful prompts under ablation, and how far that is "
        "below the clean ones. induce, rise: harmless prompts under addition. kl: nats."
    )
    for edit in ("ablated", "added"):
        value, low, high = found.measure(f"perplexity_{edit}")
        emit_line(f"perplexity of neutral text, {edit}: {value:.3f} [{low:.3f}, {high:.3f}] times")
    tokens = ", ".join(repr(text) for text in found.tokens.texts)
    emit_line(f"refusal tokens, found on the fit prompts: {tokens}")
    emit_line(f"candidates: {_counts(found.sweep)}; {_validation(found.sweep, best)}")
    emit_line(f"claim: {found.claim}{_both_claims(found)}")
    for note in manifest.notes:
        emit_line(f"note: {note}")
    emit_line(f"{int(found.stats['token_blocks']):,} token-blocks, {found.seconds:.1f} s")
    emit_line(f"wrote {out}  sha256 {found.digest[:16]}")
    emit_line(f"next: python -m reports.build {out} --out {out.with_suffix('.html').name}")


def found_controls(found: Selection) -> int:
    """Return the number of random directions."""
    return found.artifact.manifest.directions["selected"].measures["drop_random"].n


def _row(found: Selection, name: str) -> tuple[str, ...]:
    clean = {"bypass": "clean_harmful", "induce": "clean_harmless"}.get(name)
    value, low, high = found.measure(name)
    mean, least, most = found.measure(f"{name}_random")
    return (
        name,
        "" if clean is None else f"{found.measure(clean)[0]:.2f}",
        f"{value:.2f} [{low:.2f}, {high:.2f}]",
        f"{mean:.2f}, {least:.2f} to {most:.2f}",
    )


def _both_claims(found: Selection) -> str:
    method = found.artifact.manifest.method
    return " (and sufficient)" if method["necessary"] and method["sufficient"] else ""


def _counts(found: Sweep) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(found.counts.items(), key=lambda x: -x[1]))


def _validation(found: Sweep, best: Candidate) -> str:
    return (
        f"on {found.n_harmful} harmful and {found.n_harmless} harmless validation prompts the "
        f"chosen one has bypass {best.bypass:.2f}, induce {best.induce:.2f}, KL {best.kl:.3f}"
    )


def _print_nothing(found: Sweep) -> None:
    rows = [
        (
            str(row.position),
            str(row.block),
            "-" if row.induce is None else f"{row.induce:.2f}",
            "-" if row.kl is None else f"{'>= ' * (row.kl_n < found.n_harmless)}{row.kl:.3g}",
            row.fell,
        )
        for row in found.nearest(5)
    ]
    emit_line(f"No candidate passes. Of {len(found.rows)} fell: {_counts(found)}.")
    emit_table("The nearest", ("position", "block", "induce", "KL", "fell at"), rows)


def _sweep_summary(found: Sweep) -> dict[str, JsonValue]:
    return {
        "candidates": len(found.rows),
        "counts": found.counts,
        "n_validation": {"harmful": found.n_harmful, "harmless": found.n_harmless},
        "nearest": [dict(vars(row)) for row in found.nearest(5)],
    }


def _summary(found: Selection, out: Path) -> dict[str, JsonValue]:
    manifest = found.artifact.manifest
    info = manifest.directions["selected"]
    return {
        "out": str(out),
        "digest": found.digest,
        "model": manifest.aligned.spec if manifest.aligned else None,
        "selected": dict(vars(found.chosen)),
        **_sweep_summary(found.sweep),
        "claim": found.claim,
        "necessary": bool(manifest.method["necessary"]),
        "sufficient": bool(manifest.method["sufficient"]),
        "measures": {
            name: {
                **dict(zip(("value", "low", "high"), found.measure(name), strict=True)),
                "n": m.n,
            }
            for name, m in info.measures.items()
        },
        "refusal_tokens": list(found.tokens.texts),
        "n": [{"role": data.role, **data.n} for data in manifest.data],
        "stats": dict(found.stats),
        "seconds": round(found.seconds, 3),
        "notes": list(manifest.notes),
    }


class _CallableModule(ModuleType):
    """Lets ``directions.select(...)`` work after this module, its namesake, was imported."""

    def __call__(self, *args: object, **kwargs: object) -> Selection:
        from directions.selection import select

        return select(*args, **kwargs)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main(Select))
sys.modules[__name__].__class__ = _CallableModule
