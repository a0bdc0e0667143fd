"""python -m benchmarks.demo: the main job on the reference pair, with the time of each step."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from artifacts.command import emit_line, emit_table, main


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Make the reference pair ready, extract its directions, build the report."""

    out: Path = Path("runs/demo")
    """Folder for directions.safetensors and report.html."""

    def run(self) -> int:
        """Run the three commands as a user would."""
        self.out.mkdir(parents=True, exist_ok=True)
        artifact, report = self.out / "directions.safetensors", self.out / "report.html"
        steps = (
            ("reference pair", ["training.reference"]),
            ("extraction", ["directions.extract", "--out", str(artifact)]),
            ("report", ["reports.build", str(artifact), "--out", str(report)]),
        )
        spent = []
        for name, command in steps:
            emit_line(f"\n$ python -m {' '.join(command)}")
            start = time.perf_counter()
            code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
            spent.append((name, f"{time.perf_counter() - start:.1f}"))
            if code != 0:
                emit_line(f"stopped: {name} ended with exit code {code}")
                return code
        emit_table("Time of each step", ("step", "seconds"), spent)
        emit_line(f"open {report} in a browser")
        emit_line(f"next: python -m artifacts.show {artifact}")
        emit_line("next: python -m directions.extract --help   (your own pair and prompts)")
        return 0


if __name__ == "__main__":
    raise SystemExit(main(Demo))
