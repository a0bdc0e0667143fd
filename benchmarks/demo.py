"""python -m benchmarks.demo: the whole story on the reference pair, with the time of each step."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.command import emit_line, emit_table, main
from artifacts.errors import NotBeaten

LANES = 2
"""Steps that run side by side, with the cores dealt among them: faster than one after the other on
all cores."""
_FIRST = ("extraction", "steering", "pressure", "selection", "ablation", "localisation")
"""What starts first where it can: what others need, and what takes long."""
_BREAK = re.compile(r"[\r\n]+")


@dataclass(frozen=True)
class Step:
    """A command as a user would type it, and the file that it writes."""

    name: str
    command: tuple[str, ...]
    file: Path | None = None
    after: str | None = None
    """The step whose file it needs."""


@dataclass
class Running:
    """A step under way; what it says goes to files."""

    step: Step
    process: subprocess.Popen[bytes]
    start: float
    logs: Path

    @classmethod
    def begin(cls, step: Step, logs: Path, threads: int) -> Running:
        """Start a step."""
        emit_line(f"started: {step.name}")
        # What an earlier run left is no result of this one.
        if step.file is not None:
            step.file.unlink(missing_ok=True)
        words = [sys.executable, "-m", *step.command]
        own = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        said = [(logs / f"{step.name}.{kind}").open("wb") for kind in ("out", "err")]
        process = subprocess.Popen(words, stdout=said[0], stderr=said[1], env=own)
        for file in said:
            file.close()
        return cls(step, process, time.perf_counter(), logs)

    def said(self, kind: str) -> str:
        """Return what it printed: ``out`` or ``err``."""
        file = self.logs / f"{self.step.name}.{kind}"
        return file.read_text(encoding="utf-8", errors="replace")

    def last_words(self) -> str:
        """Return its last line on stderr: the error, if it ended with one."""
        lines = [line.strip() for line in _BREAK.split(self.said("err")) if line.strip()]
        return lines[-1] if lines else ""


@dataclass
class Story:
    """What has been run so far."""

    logs: Path
    lanes: int = LANES
    done: dict[str, Step] = field(default_factory=dict)
    """Steps that have ended, by name."""
    absent: list[str] = field(default_factory=list)
    """Why a chapter is not in the report."""
    spent: list[tuple[str, str]] = field(default_factory=list)

    def go(self, steps: Sequence[Step]) -> int:
        """Run steps side by side, each after the one that it needs.

        A result that does not beat its control (exit code 4) is no failure; any other exit code
        stops all and is returned.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        waiting, running = list(steps), list[Running]()
        threads = max(1, _cores() // min(self.lanes, len(waiting)))
        try:
            while waiting or running:
                for step in [one for one in waiting if self._can(one)]:
                    if len(running) < self.lanes:
                        waiting.remove(step)
                        running += self._begin(step, threads)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    if code := self._end(one):
                        return code
                time.sleep(0.05)
        finally:
            for one in running:
                one.process.terminate()
                one.process.wait()
        return 0

    def _can(self, step: Step) -> bool:
        return step.after is None or step.after in self.done

    def _begin(self, step: Step, threads: int) -> list[Running]:
        needed = self.done[step.after].file if step.after in self.done else None
        if needed is None or needed.exists():
            return [Running.begin(step, self.logs, threads)]
        self.done[step.name] = step
        self.absent.append(f"{step.name}: left out, since {needed.name} was not written.")
        return []

    def _end(self, one: Running) -> int:
        step, code = one.step, one.process.returncode
        self.spent.append((step.name, f"{time.perf_counter() - one.start:.1f}"))
        emit_line(f"\n$ python -m {shlex.join(step.command)}\n{one.said('out').rstrip()}")
        if code:
            emit_line(one.last_words())
        if code not in (0, NotBeaten.exit_code):
            emit_line(f"stopped: {step.name} ended with exit code {code}; see {self.logs}")
            return code
        self.done[step.name] = step
        if step.file is not None and not step.file.exists():
            self.absent.append(f"{step.name}: nothing was written. {one.last_words()}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Extract, judge, decompose, select, localise, ablate and steer on the reference pair.

    Sizes are small, for a look within minutes; docs/results.md has the full ones. A result that
    does not beat its control is a finding, and the report says so.
    """

    out: Path = Path("runs/demo")
    """Folder for the artifacts and report.html."""
    lanes: int = LANES
    """Steps that run side by side."""

    def run(self) -> int:
        """Run the commands, and build one report of what they wrote."""
        self.out.mkdir(parents=True, exist_ok=True)
        start, page = time.perf_counter(), self.out / "report.html"
        page.unlink(missing_ok=True)
        story = Story(self.out / "logs", max(1, self.lanes))
        if code := story.go([Step("reference", ("training.reference",))]):
            return code
        steps = list(self._steps())
        order = [*_FIRST, *(step.name for step in steps)]
        if code := story.go(sorted(steps, key=lambda step: order.index(step.name))):
            return code
        files = [str(step.file) for step in steps if step.file and step.file.exists()]
        said = ("--absent", *story.absent) if story.absent else ()
        build = Step("report", ("reports.build", *files, *said, "--out", str(page)), page)
        if code := story.go([build]):
            return code
        seconds = f"{time.perf_counter() - start:.1f}"
        emit_table("Time of each step", ("step", "seconds"), [*story.spent, ("all", seconds)])
        emit_line(f"open {page} in a browser")
        emit_line(f"next: python -m artifacts.show {self._file('directions')}")
        emit_line("next: python -m directions.extract --help   (your own pair and prompts)")
        return 0

    def _file(self, name: str) -> Path:
        return self.out / f"{name}.safetensors"

    def _steps(self) -> Iterator[Step]:
        """Give the steps in the order of the report's chapters."""
        found, policy, few = self._file("directions"), self._file("policy"), self._requests()
        yield _writes("extraction", found, "directions.extract --moments rows")
        answer = "evaluation.run --limit 12 --new-tokens 16"
        yield _writes("answers", self.out / "answers.json", answer)
        parts = "--contrast shift --effect-prompts 8"
        yield _writes(
            "decomposition",
            self._file("components"),
            f"directions.decompose {{needed}} {parts}",
            after=("extraction", found),
        )
        # Fewer prompts make a direction noisier, and what its ablation costs larger.
        choose = "directions.select {few} --max-kl 0.2"
        yield _writes("selection", self._file("selected"), choose, few=few)
        locate = "directions.localize {few} --random-sets 5"
        yield _writes("localisation", self._file("signature"), locate, few=few)
        # The block that a run without --block picks on development requests.
        remove = (
            "ablation.run {needed} --name refusal --block 27 --limit 12 --new-tokens 16 --neutral 8"
        )
        file = self.out / "ablation.json"
        yield _writes("ablation", file, remove, after=("extraction", found))
        yield _writes("steering", policy, "steering.fit --method adasteer --limit 30")
        # A form that gets past the model often and that the fit has not seen, and benign requests
        # that look risky.
        press = (
            "steering.evaluate {needed} --limit 12 --new-tokens 16 --forms table-filling "
            "--benign borderline"
        )
        yield _writes("pressure", self.out / "frontier.json", press, after=("steering", policy))

    def _requests(self) -> str:
        """Write every second request of the test set to files, and name them for a command."""
        from evaluation.catalogue import shipped

        every, options = shipped("test"), ""
        for label, rows in (("harmful", every.harmful), ("harmless", every.harmless)):
            file = self.out / f"{label}.jsonl"
            kept = [{"id": p.id, "prompt": p.prompt, "category": p.category} for p in rows[::2]]
            file.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")
            options += f" --{label} {shlex.quote(str(file))}"
        return options


def _writes(
    name: str, file: Path, command: str, *, after: tuple[str, Path] | None = None, few: str = ""
) -> Step:
    """Make a step of a command line in which {needed} and {few} stand for files."""
    needed = "" if after is None else shlex.quote(str(after[1]))
    words = shlex.split(command.format(needed=needed, few=few))
    return Step(name, (*words, "--out", str(file)), file, None if after is None else after[0])


def _cores() -> int:
    able = getattr(os, "sched_getaffinity", None)
    return len(able(0)) if able is not None else os.cpu_count() or 1


if __name__ == "__main__":
    raise SystemExit(main(Demo))
