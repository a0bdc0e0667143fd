"""python -m reports.build FILE... --out report.html: a page that opens without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from artifacts.command import Output, OutputFlags, emit_json, emit_line, main


@dataclass(frozen=True, kw_only=True)
class Build:
    """Build one HTML report of artifacts, policies, judged answers, ablations and evaluations."""

    artifacts: tyro.conf.Positional[tuple[Path, ...]]
    """Files, a chapter each: artifacts and steering policies (.safetensors), and what
    evaluation.run, ablation.run, ablation.style and steering.evaluate wrote (.json)."""
    absent: tuple[str, ...] = ()
    """Sentences on what is not in the report, and why; they stand on top of the page."""
    out: Path = Path("report.html")
    """Where to write the page."""
    output: OutputFlags = Output()

    def run(self) -> int:
        """Verify the files, write the page, say what it shows.

        Raises:
            InputError: no file was named, or one that no report can show.
        """
        from artifacts.errors import InputError
        from artifacts.write import write_file
        from reports.page import report
        from reports.sources import read

        if not self.artifacts:
            raise InputError("no file was named: python -m reports.build FILE.safetensors")
        loaded = [read(path) for path in self.artifacts]
        page = report(*loaded, absent=self.absent)
        write_file(self.out, page.html.encode("utf-8"))
        if self.output.json:
            emit_json(
                {
                    "out": str(self.out),
                    "artifacts": [str(path) for path in self.artifacts],
                    "digests": [source.digest for source in loaded],
                    "finding": page.finding,
                    "figures": page.shown,
                    "missing": page.missing,
                }
            )
        elif not self.output.quiet:
            emit_line(page.finding)
            for missing in page.missing:
                emit_line(f"not shown: {missing}")
            emit_line(f"wrote {self.out} ({len(page.shown)} figures)")
            emit_line(f"next: open {self.out} in a browser")
        return 0


if __name__ == "__main__":
    raise SystemExit(main(Build))
