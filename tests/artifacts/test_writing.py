"""Claim: whatever fails while saving, the target holds the old artifact or the new one, complete.

R8 (symbolic links), R12 (the n-th system call fails), R13 (several writers), and ``kill -9``.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import artifacts
from artifacts import Artifact, ArtifactError, InputError, LockedError, SystemFailure
from artifacts.locks import locked
from tests.artifacts import making

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX file semantics")


class Faults:
    """Make the n-th call of one of os.open, os.write, os.fsync, os.replace raise an OSError."""

    def __init__(self, nth: int, code: int) -> None:
        self.nth, self.code, self.calls = nth, code, 0
        self.names: list[str] = []

    def wrap(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            self.calls += 1
            self.names.append(name)
            if self.calls == self.nth:
                raise OSError(self.code, os.strerror(self.code))
            return call(*args, **kwargs)

        return wrapped


@contextmanager
def faulty(nth: int, code: int) -> Iterator[Faults]:
    faults = Faults(nth, code)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "write", "fsync", "replace"):
            patch.setattr(os, name, faults.wrap(name, getattr(os, name)))
        yield faults


@posix
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("existing", [True, False])
def test_the_nth_failing_call_never_leaves_a_torn_file(
    tmp_path: Path, code: int, existing: bool
) -> None:
    path, old, new = tmp_path / "a.safetensors", making.small(0), making.small(1)
    failed_at: list[str] = []
    for nth in range(1, 60):
        path.unlink(missing_ok=True)
        if existing:
            artifacts.save(old, path)
        with faulty(nth, code) as faults:
            try:
                artifacts.save(new, path)
            except SystemFailure as error:
                assert error.exit_code == 3
                assert str(path) in str(error)
                failed_at.append(faults.names[-1])
            else:
                assert faults.calls < nth, "an error was swallowed"
                break
        if path.exists():
            assert artifacts.verify(path) in {old.digest if existing else "", new.digest}
        else:
            assert not existing
        assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial"))
    else:
        pytest.fail("never clean")
    assert artifacts.verify(path) == new.digest
    assert set(failed_at) == {"open", "write", "fsync", "replace"}  # every kind was reached


@posix
def test_data_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path,
) -> None:
    with faulty(0, errno.EIO) as faults:  # counts only
        artifacts.save(making.small(), tmp_path / "a.safetensors")
    assert faults.names[-5:] == ["write", "fsync", "replace", "open", "fsync"]


@posix
def test_a_file_system_without_space_left_is_exit_3_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    artifacts.save(making.small(), path)
    with faulty(3, errno.ENOSPC), pytest.raises(SystemFailure, match="free some space"):
        artifacts.save(making.small(1), path)
    assert artifacts.verify(path) == making.small().digest


@posix
def test_symbolic_links_at_the_target_are_refused_and_untouched(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "a.safetensors"
    victim.write_text("precious")
    link.symlink_to(victim)
    with pytest.raises(ArtifactError, match="symbolic link"):
        artifacts.save(making.small(), link)
    assert link.is_symlink()
    assert victim.read_text() == "precious"
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="symbolic link"):
        artifacts.save(making.small(), link)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="symbolic link"):
        artifacts.safe_join(tmp_path, "a.safetensors")
    link.unlink()
    artifacts.save(making.small(), link)  # twin: without the link it is written


@posix
def test_a_link_that_appears_after_the_check_is_replaced_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.safetensors"
    victim.write_text("precious")
    path.symlink_to(victim)
    monkeypatch.setattr("artifacts.write._check_target", str)
    artifacts.save(making.small(), path)
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_impossible_targets_are_the_users_input(tmp_path: Path) -> None:
    for target, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "a.safetensors", "does not exist; create it"),
        (f"{tmp_path}/a\0b", "NUL character"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            artifacts.save(making.small(), target)
    with pytest.raises(SystemFailure, match="cannot write"):
        artifacts.save(making.small(), tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_artifact_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    digest = artifacts.save(making.small(), path)
    bad = making.tensors() | {"ambient_norm": torch.full((3,), float("nan"))}
    with pytest.raises(ArtifactError):
        artifacts.save(Artifact(making.manifest(), bad), path)
    assert artifacts.verify(path) == digest


_HOLD = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from artifacts.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_fails_within_a_second_and_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    code = [sys.executable, "-c", _HOLD.format(root=str(ROOT)), str(path)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        start = time.perf_counter()
        with pytest.raises(LockedError, match=rf"process {holder.pid} on \S+; wait") as caught:
            artifacts.save(making.small(), path)
        assert time.perf_counter() - start < 1
        assert caught.value.exit_code == 3
        assert not path.exists()
        holder.kill()
    artifacts.save(making.small(), path)  # the lock of a dead process is taken over
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_lock_is_free_again_after_an_error_inside(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with pytest.raises(RuntimeError), locked(target):
        raise RuntimeError
    with locked(target, wait=0.0):
        pass
    assert list(tmp_path.iterdir()) == []


# One process pays for importing torch; its forks are the writers.
_SAVE_OFTEN = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
import artifacts
from tests.artifacts import making

path, choices = sys.argv[1], [making.small(seed) for seed in range(3)]

def start(times, *seeds):
    child = os.fork()
    if child:
        return child
    for turn in range(times):
        for attempt in range(20):
            try:
                artifacts.save(choices[seeds[turn % len(seeds)]], path)
                break
            except artifacts.LockedError:  # the documented answer: try again
                if attempt == 19:
                    os._exit(1)
    os._exit(0)
"""

_TAKE_TURNS = """
print("ready", flush=True)
sys.stdin.readline()
children = [start(60, seed) for seed in range(3)]
statuses = [os.waitpid(child, 0)[1] for child in children]
sys.exit(statuses != [0, 0, 0])
"""

_KILL = """
for delay in sys.argv[2:]:
    child = start(10**9, 0, 1)
    time.sleep(float(delay))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WTERMSIG(status) == signal.SIGKILL else status, flush=True)
    sys.stdin.readline()
"""


def _savers(script: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SAVE_OFTEN.format(root=str(ROOT)) + script, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def _go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


@posix
def test_three_writers_take_turns_and_a_reader_sees_only_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    valid = {making.small(seed).digest for seed in range(3)}
    artifacts.save(making.small(0), path)
    seen: dict[str, int] = {}
    with _savers(_TAKE_TURNS, str(path)) as child:
        assert _said(child) == "ready"
        _go(child)
        while child.poll() is None:
            digest = artifacts.verify(path)  # 0 read errors: this raises on a torn file
            seen[digest] = seen.get(digest, 0) + 1
        assert child.returncode == 0
    assert set(seen) <= valid
    assert len(seen) > 1, "the reader never saw a change"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


@posix
def test_kill_9_while_saving_leaves_a_whole_file_and_no_orphan_after_the_next_save(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.safetensors"
    valid = {making.small(seed).digest for seed in (0, 1)}
    artifacts.save(making.small(0), path)
    points = random.Random(5)
    delays = [f"{0.03 + points.random() / 10:.4f}" for _ in range(8)]
    with _savers(_KILL, str(path), *delays) as child:
        for _ in delays:
            assert _said(child) == "killed"
            assert artifacts.verify(path) in valid
            _go(child)
    artifacts.save(making.small(0), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_next_save_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    (tmp_path / ".a.safetensors.0123456789abcdef.partial").write_bytes(b"half")
    other = tmp_path / ".b.safetensors.0123456789abcdef.partial"
    other.write_bytes(b"half of another file, perhaps being written now")
    artifacts.save(making.small(), path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [other.name, "a.safetensors"]
