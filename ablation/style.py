"""python -m ablation.style: remove what alignment added to the manner of answers; keep refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import tyro

from ablation.options import StyleFlags, StyleOptions
from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import NotBeaten

if TYPE_CHECKING:
    from ablation.style_result import StyleReport


@dataclass(frozen=True, kw_only=True)
class Style:
    """Find the style direction of a pair, beside refusal, remove it, and measure what changes.

    Style is the mean difference between aligned and base, less what lies along refusal. Openers,
    hedges, lists and disclaimers are counted on harmless answers, refusals and capability beside
    them. Exit code 4: refusal is not shown to stay, or capability is not, or style does not fall
    beyond random controls.
    """

    artifact: tyro.conf.Positional[Path]
    """Artifact of python -m directions.extract."""
    name: str = "refusal"
    """Refusal direction, which the style is made orthogonal to."""
    out: Path | None = None
    """JSON report to write."""
    options: StyleFlags = StyleOptions()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Measure, write, and say what was found."""
        from ablation.result import check_out, write_report

        check_out(self.out)
        quiet = self.output.json or self.output.quiet
        from ablation.signature import ablate_style

        report = ablate_style(
            self.artifact, name=self.name, options=replace(self.options, progress=not quiet)
        )
        if self.out is not None:
            write_report(self.out, report.to_dict())
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", {"out": str(self.out)} | report.to_dict()))
        elif not self.output.quiet:
            _print(report, self.out)
        if not report.verdict.holds:
            raise NotBeaten(f"style: {report.verdict.reason}")
        return 0


def _print(report: StyleReport, out: Path | None) -> None:
    from ablation.run import emit_rows
    from ablation.stylometry import MARKS

    about = report.about
    emit_rows(
        f"Style beside {about.refusal}, read at block {about.block} from "
        f"{about.options['source']}, set to {about.options['mode']}, in {about.aligned}; "
        f"{about.n['harmful']} + {about.n['harmless']} prompts of {about.prompts}, "
        f"judge {about.judge}, intervals at 95%",
        report.rows,
    )
    emit_table(
        "Marks on harmless answers",
        ("setting", *MARKS, "score [95%]", "words"),
        [
            (
                row.name,
                *(f"{getattr(row.style, mark).value:.0%}" for mark in MARKS),
                f"{row.style.score.value:.2f} [{row.style.score.low:.2f},"
                f"{row.style.score.high:.2f}]",
                f"{row.style.words.value:.0f}",
            )
            for row in report.styles
        ],
    )
    for row in report.capability:
        emit_line(
            f"{row.measure}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}] {row.unit}, n {row.n}"
        )
    verdict = report.verdict
    emit_line(
        f"aligned against base, score {verdict.signature.value:+.2f} "
        f"[{verdict.signature.low:+.2f}, {verdict.signature.high:+.2f}]: what there is to remove"
    )
    for note in (*about.mismatch, *report.notes):
        emit_line(f"note: {note}")
    emit_line(f"{'holds' if verdict.holds else 'fails'}: {verdict.reason}")
    emit_line(f"{report.seconds:.0f} s" + (f"; wrote {out}" if out is not None else ""))
    emit_line("next: python -m ablation.run ARTIFACT --name refusal --compare")


if __name__ == "__main__":
    raise SystemExit(main(Style))
