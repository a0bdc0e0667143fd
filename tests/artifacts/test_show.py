"""Claim: the command says what is in a file, in one table or one JSON object, and exits by rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import artifacts
from artifacts import InputError, LockedError, NotBeaten
from artifacts.command import Output, OutputFlags, emit_json, main
from artifacts.show import Show
from tests.artifacts import making

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    artifacts.save(making.small(), path)
    return path


def test_show_prints_what_a_person_wants_to_know(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(Show, [str(file)]) == 0
    printed = capsys.readouterr().out
    norms = making.small().direction("refusal").norm(dim=-1)
    auc = making.tensors()["measure/refusal/auc"]
    best = int(auc[:, 0].argmax())
    value, low, high = auc[best].tolist()
    for text in [
        f"{making.small().digest} (verified)",
        "toy+adapter (4 blocks, 2 heads, d_model 6, float32, sdpa)",
        "t.jsonl: 16 harmful",
        "hook_resid_post @ last",
        "0, 1, 3",
        f"{norms.min():.3g} - {norms.max():.3g} (raw)",
        "decodable",
        f"{value:.3f} [{low:.2f}, {high:.2f}]",
        "area under the ROC curve",
        f"next: python -m reports.build {file} --out report.html",
    ]:
        assert text in printed, text


def test_families_of_tensors_have_their_sizes_the_largest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "a.safetensors"
    rows = {"rows/harmful/base": torch.ones(3, 20_000, 6), "mean/harmful/base": torch.ones(3, 6)}
    tensors = making.tensors() | rows
    artifacts.save(artifacts.Artifact(making.manifest(), tensors), path)
    assert main(Show, [str(path)]) == 0
    small = sum(tensors[key].nbytes for key in ("projection/refusal/harmful",))
    printed = capsys.readouterr().out
    assert "rows 1.4 MB, " in printed
    assert f"projection {small} B" in printed
    assert 3 * 20_000 * 6 * 4 == 1_440_000
    assert printed.index("rows 1.4 MB") < printed.index("direction 72 B") < printed.index("measure")


def test_json_is_the_manifest_and_nothing_else(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(Show, [str(file), "--json"]) == 0
    printed = capsys.readouterr()
    assert artifacts.Manifest.model_validate_json(printed.out) == artifacts.load(file).manifest
    assert printed.err == ""
    assert main(Show, [str(file), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_markup_in_a_manifest_is_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "a.safetensors"
    manifest = making.manifest(device="[red]cpu[/red] [link=file:///x]y[/link] [/]")
    artifacts.save(artifacts.Artifact(manifest, making.tensors()), path)
    assert main(Show, [str(path)]) == 0
    assert "[red]cpu[/red] [link=file:///x]y[/link] [/]" in capsys.readouterr().out


@dataclass(frozen=True, kw_only=True)
class Failing:
    """Raise what the test asks for."""

    output: OutputFlags = Output()
    error: ClassVar[BaseException] = RuntimeError()

    def run(self) -> int | None:
        """Raise."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad\nvalue"), 2, "error: bad value\n"),
        (LockedError("held"), 3, "error: held\n"),
        (OSError(28, "No space left on device"), 3, "error: [Errno 28] No space left on device\n"),
        (NotBeaten("equal"), 4, "error: equal\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; run the same command again to resume\n"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Failing, "error", error)
    assert main(Failing, []) == code
    assert capsys.readouterr() == ("", line)
    assert main(Failing, ["--debug"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith(line)


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "error", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(Failing, [])


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(Show, ["a", "--jsno"])
    assert caught.value.code == 2
    assert "--jsno" in capsys.readouterr().err


def test_json_output_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        emit_json({"x": float("nan")})
    emit_json({"x": 1.5})
    assert json.loads(capsys.readouterr().out) == {"x": 1.5}


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "artifacts.show", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        seconds.append(time.perf_counter() - start)
    assert "python -m artifacts.show" in done.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "tyro" in imported  # twin: the list of imports is a real one
    assert not imported & {"torch", "sklearn", "transformers", "safetensors", "numpy"}
    assert min(seconds) < 1


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_a_closed_pipe_is_not_an_error(file: Path) -> None:
    code = f"{sys.executable} -m artifacts.show {file} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bad_file_is_one_line_and_exit_2(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    assert main(Show, [str(file), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {file}: ")
