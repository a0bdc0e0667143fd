"""Claims: kill -9 at any moment, then the same command, gives the digest of an undisturbed run.

At most one shard is done twice and nothing is left behind; Ctrl-C exits 130 and can be resumed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.directions.conftest import Pair


def _environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SOURCE_DATE_EPOCH": "1767225600",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


def _arguments(pair: Pair) -> list[str]:
    argv = pair.arguments(Path("unused"), "--json", "--shard-size", "4")
    at = argv.index("--out")
    return argv[:at] + argv[at + 2 :]


@pytest.mark.slow
def test_kill_9_at_random_points_then_the_same_command(pair: Pair, tmp_path: Path) -> None:
    kills = int(os.environ.get("THEODOLITE_KILLS", "5"))
    command = [sys.executable, "-m", "tests.directions.kill_server", str(kills), "0"]
    done = subprocess.run(
        [*command, str(tmp_path), *_arguments(pair)],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plain, *killed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(killed) == kills
    for run in killed:
        assert run["digest"] == plain["digest"]
        assert run["left"] == ["x.safetensors"]
        # Whatever had a line was not done again; at most one finished file had no line yet.
        finished_before = run["ledger"] == plain["stats"]["shards"] or run["files"] == 0
        assert run["stats"]["shards_resumed"] == run["ledger"] or finished_before
        assert run["files"] - run["ledger"] <= 1
        assert run["stats"]["tokens_asked"] == plain["stats"]["tokens_asked"]
    assert any(0 < run["ledger"] < plain["stats"]["shards"] for run in killed)


def _interrupted(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Send SIGINT when two shards stand: the first one's line is then in the ledger for sure."""
    process = subprocess.Popen(
        command,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell ignores SIGINT, and so would this child of it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    run = folder / "x.safetensors.run"
    limit = time.monotonic() + 120
    while (
        len(list(run.glob("shard-*"))) < 2 and process.poll() is None and time.monotonic() < limit
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=120)
    return process.returncode, said, wrong


@pytest.mark.slow
def test_ctrl_c_exits_130_and_the_same_command_resumes(pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    command = [sys.executable, "-m", "directions.extract", *_arguments(pair), "--out", str(out)]
    command[command.index("--shard-size") + 1] = "1"
    code, said, wrong = _interrupted(command, tmp_path)
    assert code == 130, wrong[-1000:]
    assert said == ""
    assert "interrupted; run the same command again to resume" in wrong
    again = subprocess.run(command, env=_environment(tmp_path), capture_output=True, text=True)
    assert again.returncode in (0, 4), again.stderr[-1000:]
    assert json.loads(again.stdout)["stats"]["shards_resumed"] > 0
    assert sorted(p.name for p in tmp_path.glob("x.*")) == ["x.safetensors"]
