"""Claim: hostile and mistaken files are refused with a message that names what they are.

R3 (other kinds of files), R5 (huge metadata), R6 (confusing JSON), R9 (pickle payloads).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import artifacts
from artifacts import ArtifactError
from artifacts.command import main
from artifacts.show import Show
from tests.artifacts import making
from tests.attacks import make

ROOT = Path(__file__).parents[2]
CORPUS = make.corpus()


def test_the_files_in_the_repository_are_the_ones_that_the_script_writes() -> None:
    assert {path.name for path in make.FOLDER.iterdir()} == set(CORPUS)
    for name, (data, _) in CORPUS.items():
        if name != "object.npy":  # NumPy's header text may change between versions
            assert (make.FOLDER / name).read_bytes() == data, name


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_each_file_is_refused_by_what_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = make.FOLDER / name
    with pytest.raises(ArtifactError, match=f"(?s){CORPUS[name][1]}") as caught:
        artifacts.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value)) < 700
    assert main(Show, [str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / make.CANARY).exists()


@pytest.mark.parametrize("name", ["protocol-0.pkl", "protocol-2.pkl", "protocol-4.pt"])
def test_the_canary_is_alive(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin of the test above: a reader that did unpickle would have left the canary."""
    monkeypatch.chdir(tmp_path)
    with (make.FOLDER / name).open("rb") as stream:
        pickle.load(stream).close()
    assert (tmp_path / make.CANARY).exists()


def test_special_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        artifacts.load(tmp_path / "missing.safetensors")
    with pytest.raises(ArtifactError, match="no such file"):
        artifacts.load(make.FOLDER / "empty.zip" / "inside")
    with pytest.raises(ArtifactError, match="this is a folder"):
        artifacts.load(tmp_path)
    with pytest.raises(ArtifactError, match="not a possible file name"):
        artifacts.load("a\0b")
    with pytest.raises(ArtifactError, match="not a possible file name"):
        artifacts.load(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="not a regular file"):  # and does not wait for a writer
        artifacts.load(tmp_path / "pipe")


_MEASURE = """
import resource, sys, time
sys.path.insert(0, {root!r})
import artifacts
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
artifacts.load(sys.argv[1])
before, start = peak(), time.perf_counter()
try:
    artifacts.load(sys.argv[2])
except artifacts.ArtifactError as error:
    print(time.perf_counter() - start, (peak() - before) * 1024, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_99_megabytes_of_metadata_are_refused_before_they_are_read(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    artifacts.save(making.small(), good)
    text = b'{"__metadata__": {"theodolite": "' + b"x" * 99_000_000 + b'"}}'
    bad.write_bytes(len(text).to_bytes(8, "little") + text)
    code = [sys.executable, "-c", _MEASURE.format(root=str(ROOT)), str(good), str(bad)]
    printed = subprocess.run(code, capture_output=True, text=True, check=True, timeout=120).stdout
    seconds, extra, message = printed.split(" ", 2)
    assert "the header claims 99000036 bytes; at most 8388608 are read" in message
    assert int(extra) < 32e6
    assert float(seconds) < 0.2


def test_a_manifest_above_its_cap_is_refused_on_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(making.raw("x" * (1 << 20) + "x"))
    with pytest.raises(ArtifactError, match="at most 1048576 bytes"):
        artifacts.load(path)
    long = making.manifest(notes=("x" * (1 << 20),))
    with pytest.raises(ArtifactError, match="shorten notes"):
        artifacts.save(artifacts.Artifact(long, making.tensors()), path)
    fits = making.manifest(notes=("x" * (1 << 19),))  # twin: half of the cap goes through
    artifacts.save(artifacts.Artifact(fits, making.tensors()), path)
    assert len(artifacts.load(path).manifest.notes[0]) == 1 << 19
