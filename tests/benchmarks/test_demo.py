"""Claims: a step that does not beat its control is told, not hidden; any other failure stops; steps
run side by side, each after the one that it needs.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.demo import Demo, Step, Story

MODULE = """
import sys, time
from pathlib import Path

code, seconds, *file = sys.argv[1:]
print("half way", file=sys.stderr, end="\\r")
time.sleep(float(seconds))
print("no strength is safe: KL 0.3", file=sys.stderr)
print("a table")
for name in file:
    Path(name).write_text("made")
raise SystemExit(int(code))
"""


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    (tmp_path / "a_step.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Story(tmp_path / "logs")


def step(
    name: str, file: Path, code: int = 0, *, writes: bool = True, seconds: float = 0.0, **more: str
) -> Step:
    written = (str(file),) if writes else ()
    return Step(name, ("a_step", str(code), str(seconds), *written), file, **more)


@pytest.mark.parametrize("code", [0, 4])
def test_a_file_that_was_written_is_a_chapter_whatever_beat_what(
    code: int, tmp_path: Path, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made.json"
    assert story.go([step("a", file, code)]) == 0
    assert file.exists()
    assert story.absent == []
    printed = capsys.readouterr().out
    assert "a table" in printed
    assert ("no strength is safe: KL 0.3" in printed) is (code == 4)


def test_a_step_without_a_result_says_why_and_what_needs_it_is_left_out(
    tmp_path: Path, story: Story
) -> None:
    file, other = tmp_path / "made.json", tmp_path / "b.json"
    file.write_text("of an earlier run")
    last = step("c", tmp_path / "c.json", after="b")
    assert story.go([last, step("b", other, after="a"), step("a", file, 4, writes=False)]) == 0
    assert not file.exists(), "what an earlier run left is no result of this one"
    assert story.absent == [
        "a: nothing was written. no strength is safe: KL 0.3",
        "b: left out, since made.json was not written.",
        "c: left out, since b.json was not written.",
    ]
    assert [name for name, _ in story.spent] == ["a"]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_any_other_exit_code_stops_all(code: int, tmp_path: Path, story: Story) -> None:
    slow = step("slow", tmp_path / "slow", seconds=60)
    start = time.perf_counter()
    later = step("later", tmp_path / "later")
    assert story.go([slow, step("a", tmp_path / "x", code, writes=False), later]) == code
    assert time.perf_counter() - start < 30, "what was under way is ended"
    assert not (tmp_path / "later").exists()


def test_steps_run_side_by_side_but_after_what_they_need(tmp_path: Path, story: Story) -> None:
    names = ("a", "b")
    pair = [step(name, tmp_path / name, seconds=3) for name in names]
    start = time.perf_counter()
    assert story.go([step("c", tmp_path / "c", after="b"), *pair]) == 0
    spent = dict(story.spent)
    assert time.perf_counter() - start < 3 + 3 + float(spent["c"])
    assert [name for name, _ in story.spent][-1] == "c"


def test_the_story_has_every_kind_of_chapter_in_order(tmp_path: Path) -> None:
    steps = list(Demo(out=tmp_path)._steps())
    assert [step.command[0] for step in steps] == [
        "directions.extract",
        "evaluation.run",
        "directions.decompose",
        "directions.select",
        "directions.localize",
        "ablation.run",
        "steering.fit",
        "steering.evaluate",
    ]
    by_name = {step.name: step for step in steps}
    for step in steps:
        assert str(step.file) in step.command
        if step.after is not None:
            assert str(by_name[step.after].file) in step.command
    assert len((tmp_path / "harmful.jsonl").read_text().splitlines()) == 75
