"""python -m reports.build ARTIFACT... --out report.html: a page that opens without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from artifacts.command import Output, OutputFlags, emit_json, emit_line, main


@dataclass(frozen=True, kw_only=True)
class Build:
    """Build the HTML report of one or more artifacts."""

    artifacts: tyro.conf.Positional[tuple[Path, ...]]
    """The artifacts (.safetensors); each gets a chapter."""
    out: Path = Path("report.html")
    """Where to write the page."""
    output: OutputFlags = Output()

    def run(self) -> int:
        """Verify the artifacts, write the page, say what it shows.

        Raises:
            InputError: no artifact was named.
        """
        from artifacts.errors import InputError
        from artifacts.read import load
        from artifacts.write import write_file
        from reports.page import report

        if not self.artifacts:
            raise InputError("no artifact was named: python -m reports.build FILE.safetensors")
        loaded = [load(path) for path in self.artifacts]
        page = report(*loaded)
        write_file(self.out, page.html.encode("utf-8"))
        if self.output.json:
            emit_json(
                {
                    "out": str(self.out),
                    "artifacts": [str(path) for path in self.artifacts],
                    "digests": [artifact.manifest.digest for artifact in loaded],
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
