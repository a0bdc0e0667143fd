"""python -m benchmarks.demo: the whole story on the reference pair, with the time of each step."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from artifacts.command import emit_line, emit_table, main
from artifacts.errors import NotBeaten


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Extract, judge, decompose, select and localise on the reference pair, and build the report.

    Sizes are small, for a look within minutes; docs/results.md has the full ones.
    """

    out: Path = Path("runs/demo")
    """Folder for the artifacts and report.html."""

    def run(self) -> int:
        """Run the commands as a user would; a result that loses to its control is no failure."""
        self.out.mkdir(parents=True, exist_ok=True)
        spent = []
        for name, command in self._steps():
            emit_line(f"\n$ python -m {' '.join(command)}")
            start = time.perf_counter()
            code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
            spent.append((name, f"{time.perf_counter() - start:.1f}"))
            if code not in (0, NotBeaten.exit_code):
                emit_line(f"stopped: {name} ended with exit code {code}")
                return code
        emit_table("Time of each step", ("step", "seconds"), spent)
        emit_line(f"open {self.out / 'report.html'} in a browser")
        emit_line(f"next: python -m artifacts.show {self._file('directions')}")
        emit_line("next: python -m directions.extract --help   (your own pair and prompts)")
        return 0

    def _file(self, name: str) -> Path:
        return self.out / f"{name}.safetensors"

    def _steps(self) -> Iterator[tuple[str, list[str]]]:
        directions = str(self._file("directions"))
        yield "reference pair", ["training.reference"]
        yield "extraction", ["directions.extract", "--moments", "rows", "--out", directions]
        answers = ["--limit", "16", "--new-tokens", "24", "--out", str(self.out / "answers.json")]
        yield "answers", ["evaluation.run", *answers]
        effects = ["--effect-prompts", "8"]
        found = [directions]
        for name, step, command in (
            (
                "components",
                "decomposition",
                ["directions.decompose", directions, "--contrast", "shift", *effects],
            ),
            ("selected", "selection", ["directions.select"]),
            ("signature", "localisation", ["directions.localize", "--random-sets", "5"]),
        ):
            # What an earlier run left is no result of this one.
            self._file(name).unlink(missing_ok=True)
            yield step, [*command, "--out", str(self._file(name))]
            if self._file(name).exists():
                found.append(str(self._file(name)))
        yield "report", ["reports.build", *found, "--out", str(self.out / "report.html")]


if __name__ == "__main__":
    raise SystemExit(main(Demo))
