"""Claim: a file that was cut or changed anywhere is never loaded as something else.

R1 (every prefix), R2 (3,000 mutations), R14 (a file that shrinks under its reader).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import artifacts
from artifacts import ArtifactError
from tests.artifacts import making

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "a.safetensors"
    artifacts.save(making.small(), path)
    assert 2_000 <= path.stat().st_size <= 4_000
    return path


def test_no_prefix_of_a_file_loads(file: Path, tmp_path: Path) -> None:
    data, cut = file.read_bytes(), tmp_path / "cut.safetensors"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            artifacts.load(cut)
    cut.write_bytes(data)  # twin: the whole file does load
    assert making.same(artifacts.load(cut), artifacts.load(file))


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, float, float, bytes]:
    kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "swap", "copy", "digit"]))
    unit = st.floats(0, 1, exclude_max=True)
    return kind, draw(unit), draw(unit), draw(st.binary(min_size=1, max_size=9))


def mutate(data: bytes, kind: str, at: float, to: float, extra: bytes) -> bytes:
    i, j = int(at * len(data)), int(to * len(data))
    low, high = min(i, j), max(i, j) + 1
    if kind == "flip":
        return data[:i] + bytes([data[i] ^ (1 << extra[0] % 8)]) + data[i + 1 :]
    if kind == "set":
        return data[:i] + extra + data[i + len(extra) :]
    if kind == "cut":
        return data[:low] + data[low + len(extra) :]
    if kind == "insert":
        return data[:i] + extra + data[i:]
    if kind == "swap":
        changed = bytearray(data)
        changed[i], changed[j] = changed[j], changed[i]
        return bytes(changed)
    if kind == "copy":
        return data[:low] + data[low:high] + data[low:high] + data[high:]
    digits = [k for k, byte in enumerate(data) if 48 <= byte <= 57]  # numbers in the header
    k = digits[int(at * len(digits))]
    return data[:k] + bytes([48 + extra[0] % 10]) + data[k + 1 :]


def test_no_mutation_is_accepted_with_other_content(file: Path, tmp_path: Path) -> None:
    original, data = artifacts.load(file), file.read_bytes()
    changed, tried = tmp_path / "changed.safetensors", {"refused": 0, "same content": 0}

    @settings(
        max_examples=3_000,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutation=mutations())
    def check(mutation: tuple[str, float, float, bytes]) -> None:
        changed.write_bytes(mutate(data, *mutation))
        try:
            found = artifacts.load(changed)
        except ArtifactError:  # any other exception fails the test
            tried["refused"] += 1
        else:
            assert making.same(found, original)
            tried["same content"] += 1

    check()
    assert tried["refused"] > 2_000, tried  # the mutations are real ones


_SHRINK = """
import os, sys
sys.path.insert(0, {root!r})
import torch
import artifacts
from artifacts import read
from tests.artifacts import making

big = making.tensors() | {{"second/base_base": torch.ones(3, 200, 200)}}
opened = read.safe_open

def outcome(name):
    path = os.path.join(sys.argv[1], name)
    artifacts.save(artifacts.Artifact(making.manifest(), big), path)

    def shrinking(file, *, framework, backend):
        assert backend == "pread"
        stream = opened(file, framework=framework, backend=name)
        os.truncate(file, 4096)
        return stream

    read._opened = shrinking
    child = os.fork()  # a signal must end the child only
    if child == 0:
        try:
            artifacts.load(path)
        except artifacts.ArtifactError as error:
            os._exit(7 if "damaged safetensors file" in str(error) else 8)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(outcome("pread"), outcome("mmap"))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals and truncation of open files")
def test_a_file_that_shrinks_under_the_reader_is_an_error_not_a_signal(tmp_path: Path) -> None:
    code = [sys.executable, "-c", _SHRINK.format(root=str(ROOT)), str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120, check=True)
    ours, mapped = map(int, done.stdout.split())
    assert ours == 7  # a typed error
    assert mapped in (-signal.SIGBUS, -signal.SIGSEGV)  # twin: the default reader is killed
