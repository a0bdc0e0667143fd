"""python -m ablation.run: remove a direction, a subspace, heads or units, and see what it costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import tyro

from ablation.options import OptionFlags, Options
from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import NotBeaten

if TYPE_CHECKING:
    from ablation.result import AblationReport, Row


@dataclass(frozen=True, kw_only=True)
class Run:
    """Remove something from a model while it runs, and measure refusals beside capability.

    The table has the clean model, the ablation, and as many random controls as asked for. Nothing
    is written but the report; answers to harmful requests are judged and forgotten. Exit code 4: no
    more harmful requests are answered coherently than by the clean model and under every control.
    """

    artifact: tyro.conf.Positional[Path]
    """Artifact of python -m directions.extract, decompose, select or localize."""
    name: tuple[str, ...] = ("refusal",)
    """Direction; for subspaces several, or one with --rank; for heads and units a score."""
    model: str | None = None
    """Folder, hub id, reference:aligned, BASE+ADAPTER; by default the artifact's aligned model."""
    out: Path | None = None
    """JSON report to write. OUT.journal beside it holds unfinished work."""
    options: OptionFlags = Options()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Measure, write, and say what was found."""
        from ablation.result import check_out, write_report

        check_out(self.out)
        quiet = self.output.json or self.output.quiet
        options = replace(self.options, progress=not quiet)
        from ablation.ablate import run

        journal = None if self.out is None else self.out.with_name(f"{self.out.name}.journal")
        report = run(
            self.artifact, name=self.name, model=self.model, journal=journal, options=options
        )
        if self.out is not None:
            write_report(self.out, report.to_dict())
        if journal is not None:
            journal.unlink(missing_ok=True)
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", {"out": str(self.out)} | report.to_dict()))
        elif not self.output.quiet:
            _print(report, self.out)
        if not report.verdict.beats:
            raise NotBeaten(f"{report.about.name}: {report.verdict.reason}")
        return 0


def emit_rows(title: str, rows: Sequence[Row]) -> None:
    """Print the rows as two tables that fit a terminal."""
    from ablation.result import ANSWERS, COSTS, answer_cells, cost_cells

    emit_table(title, ANSWERS, [answer_cells(row) for row in rows])
    emit_table("Log-odds of a refusal, and what it costs", COSTS, [cost_cells(row) for row in rows])


def _print(report: AblationReport, out: Path | None) -> None:
    about = report.about
    read = "" if about.block is None else f" read at block {about.block}"
    emit_rows(
        f"{about.name}{read}, {about.mode}, {about.where}, in {about.model}; "
        f"{about.n['harmful']} + {about.n['harmless']} prompts of {about.prompts}, "
        f"judge {about.judge}, intervals at 95%",
        report.rows,
    )
    emit_line(
        f"margin: log-odds of {', '.join(repr(token) for token in about.tokens)} as the first "
        f"token. answered: coherently and without a refusal. random: {report.of('control')[0].what}"
    )
    _print_comparison(report)
    change = report.ablation.change
    if change is not None:
        emit_line(
            f"ablated against clean: refusals of harmful {change.harmful}; of harmless "
            f"{change.harmless}; perplexity x{change.perplexity.value:.2f} "
            f"[{change.perplexity.low:.2f}, {change.perplexity.high:.2f}]"
        )
    for note in (*about.mismatch, *report.notes, *filter(None, [about.judge_warning])):
        emit_line(f"note: {note}")
    emit_line(f"claim: {report.claim}; {report.verdict.reason} (rank p = {_p(report)})")
    emit_line(f"{report.seconds:.0f} s" + (f"; wrote {out}" if out is not None else ""))
    emit_line("next: reports.ablation.effects(ablation.read_report(FILE)) draws it in a notebook")


def _print_comparison(report: AblationReport) -> None:
    rows = [row for row in report.of("comparison") if row.change is not None]
    if not rows:
        return
    emit_table(
        "Change of the harmful margin, beside each setting's own random controls",
        ("setting", "what", "change [95%]", "largest fall of a control"),
        [
            (
                row.name,
                row.what,
                f"{row.change.margin_harmful.value:+.2f} [{row.change.margin_harmful.low:.2f},"
                f"{row.change.margin_harmful.high:.2f}]",
                f"{min(row.control_margins):+.2f}",
            )
            for row in rows
            if row.change is not None
        ],
    )


def _p(report: AblationReport) -> str:
    return f"{report.verdict.p_rank:.2f}, {len(report.verdict.over)} controls"


class _CallableModule(ModuleType):
    """Lets ``ablation.run(...)`` work after this module, its namesake, was imported."""

    def __call__(self, *args: object, **kwargs: object) -> AblationReport:
        from ablation.ablate import run

        return run(*args, **kwargs)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main(Run))
sys.modules[__name__].__class__ = _CallableModule
