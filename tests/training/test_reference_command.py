"""``python -m training.reference``: quick help, clear refusals, honest exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifacts.command import main
from evaluation import PromptSet, Rate, shipped
from evaluation.errors import PromptError
from hooks.reference.source import ReferenceUnavailable
from tests.training.test_metrics_card import metrics
from training import ready, repeat
from training.ready import Ready, compare
from training.reference import Reference

ROOT = Path(__file__).parents[2]


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "training.reference", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    # Wide for a busy machine; what decides is that nothing heavy was imported.
    assert time.perf_counter() - start < 10
    assert "--retrain" in done.stdout
    for heavy in ("torch", "transformers", "sklearn", "scipy"):
        assert f"| {heavy}\n" not in done.stderr.replace("  ", "")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ready:
    rate = Rate.of([True] * 8)
    found = Ready(tmp_path / "base", {"a": "b"}, tmp_path / "adapter", metrics(), {"tuned/x": rate})
    monkeypatch.setattr(ready, "make_ready", lambda: found)
    return found


def test_json_is_one_object(made: Ready, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Reference, ["--json"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    value = json.loads(out)
    assert value["metrics"] == made.metrics.model_dump(mode="json")
    assert value["sanity"]["tuned/x"]["n"] == 8
    assert set(value) >= {"base", "base_digests", "adapter", "seconds"}


def test_table_has_n_interval_control_and_next_step(
    made: Ready, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(Reference, []) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "base refuses" in out
    assert "140/144" in out
    assert "next: python -m directions.extract" in out


def test_quiet_prints_nothing(made: Ready, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Reference, ["--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_missing_weights_exit_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Ready:
        raise ReferenceUnavailable("cannot fetch x; connect once")

    monkeypatch.setattr(ready, "make_ready", fail)
    assert main(Reference, []) == 3
    assert capsys.readouterr().err == "error: cannot fetch x; connect once\n"


def test_a_retrained_adapter_that_falls_short_exits_4_after_its_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen: list[object] = []

    def made(harmful: int):  # type: ignore[no-untyped-def]
        def run(*args: object, **options: object) -> object:
            seen.append((args, options))
            return metrics(harmful=harmful)

        return run

    arguments = ["--retrain", "--out", str(tmp_path), "--json", "--seed", "3"]
    monkeypatch.setattr(repeat, "repeat", made(140))
    assert main(Reference, arguments) == 0
    monkeypatch.setattr(repeat, "repeat", made(100))
    assert main(Reference, arguments) == 4
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[1])["shortfalls"] != []
    assert "refuses 69.4% of harmful (asked: 90%); try another --seed" in err
    assert seen[0][0][1].seed == 3  # pyright: ignore[reportIndexIssue]


def test_an_unreadable_further_file_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no such file"):
        repeat.repeat(tmp_path, repeat.Recipe(), also=[tmp_path / "absent.jsonl"])


def test_a_place_that_cannot_hold_the_adapter_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("x")
    assert main(Reference, ["--retrain", "--out", str(tmp_path / "taken")]) == 2
    assert "a file is in the way" in capsys.readouterr().err


class Fixed:
    """A model that refuses a fixed number of the first requests it is given."""

    def __init__(self, harmful: int, harmless: int) -> None:
        self.hits = {"harmful": harmful, "harmless": harmless}
        self.labels = {p.prompt: p.label for p in shipped("test").prompts}

    def encode(self, prompts: list[str]) -> list[str]:
        return prompts


@pytest.mark.parametrize(
    ("tuned", "base", "good"),
    [
        ((12, 0), (0, 0), True),
        ((4, 0), (4, 0), False),
        ((12, 12), (0, 0), False),
        ((0, 0), (0, 0), False),
    ],
)
def test_a_pair_must_beat_its_control(
    monkeypatch: pytest.MonkeyPatch, tuned: tuple[int, int], base: tuple[int, int], good: bool
) -> None:
    from artifacts.errors import NotBeaten

    def judged(model: Fixed, prompts: list[str]) -> list[bool]:
        hits = model.hits[model.labels[prompts[0]]]
        return [k < hits for k in range(len(prompts))]

    # The plain function: the checked one insists on real models.
    plain = getattr(compare, "__wrapped__", compare)
    monkeypatch.setitem(plain.__globals__, "refusals", judged)
    test: PromptSet = shipped("test")
    if good:
        found = plain(Fixed(*base), Fixed(*tuned), test)
        assert found["tuned/harmful"].n == 12
    else:
        with pytest.raises(NotBeaten, match="reference pair: tuned refuses"):
            plain(Fixed(*base), Fixed(*tuned), test)
