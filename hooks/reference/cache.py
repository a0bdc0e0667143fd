"""The converted reference model in the cache: made once, complete or absent, verified on demand."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from artifacts.errors import InputError, LockedError
from hooks.reference.source import (
    GGUF_NAME,
    GGUF_SHA256,
    ReferenceUnavailable,
    fetch,
    locate,
    sha256,
)
from hooks.reference.source import check as check_gguf

logger = logging.getLogger(__name__)

MARKER = "theodolite-reference.json"
# Raised when the conversion changes what it writes, so that older folders are made again.
CONVERSION = 1
LOCK_SECONDS = 900.0


def cache_root() -> Path:
    """Give the folder for what can be made again: ``$THEODOLITE_CACHE`` or the user's cache."""
    override = os.environ.get("THEODOLITE_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("theodolite"))


def path(name: str = "base") -> Path:
    """Give the folder of the converted reference model, made on first use.

    The folder holds float32 safetensors, the tokenizer and its chat template, and is keyed by the
    hash of the GGUF and the version of the conversion. Two processes that ask at once make it once.

    Args:
        name: only ``"base"``; the aligned model is this one with ``adapter_path()``.

    Raises:
        InputError: another name.
        ReferenceUnavailable: the weights cannot be found, fetched, verified or converted.
        LockedError: another process holds the conversion for longer than 15 minutes.
    """
    if name != "base":
        raise InputError(
            f"reference {name!r}: only 'base' has a folder; use 'base' or adapter_path()"
        )
    folder = cache_root() / f"reference-base-{GGUF_SHA256[:16]}-v{CONVERSION}"
    if _complete(folder):
        return folder
    lock = folder.with_suffix(".lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=LOCK_SECONDS):
            if not _complete(folder):
                _make(folder)
    except Timeout as error:
        raise LockedError(
            f"{lock}: held by another process for {LOCK_SECONDS:.0f} s; wait for it or end it"
        ) from error
    except OSError as error:
        raise ReferenceUnavailable(
            f"cannot write the reference cache {folder.parent} ({error.strerror or error}); "
            "set THEODOLITE_CACHE to a writable folder with 1 GB free"
        ) from error
    return folder


def verify(folder: Path) -> dict[str, str]:
    """Check every file of a converted folder against the digests written when it was made.

    Returns:
        File name to SHA-256, for reports.

    Raises:
        ReferenceUnavailable: a file is missing, or its digest differs; says which one.
    """
    marker = _marker(folder)
    if marker is None:
        raise ReferenceUnavailable(
            f"{folder}: no readable {MARKER}; delete the folder and try again"
        )
    for name, digest in marker.items():
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            raise ReferenceUnavailable(
                f"{file}: changed since it was converted; delete {folder} and try again"
            )
    return marker


def _marker(folder: Path) -> dict[str, str] | None:
    """Read the completion marker: file names and digests, or None where it is absent or broken."""
    try:
        loaded = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in loaded["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _complete(folder: Path) -> bool:
    """Say whether the marker, written last, is there with every file it names."""
    marker = _marker(folder)
    return bool(marker) and all((folder / name).is_file() for name in marker)


def _make(folder: Path) -> None:
    """Convert into a sibling folder and rename it: a killed run leaves nothing half-made."""
    from hooks.reference.convert import convert

    for orphan in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(orphan, ignore_errors=True)
    gguf = locate()
    gguf = check_gguf(gguf) if gguf else _fetched(folder.parent / GGUF_SHA256[:16] / GGUF_NAME)
    logger.warning("converting %s to safetensors once (about a minute)", gguf.name)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        convert(gguf, work)
        files = {file.name: sha256(file) for file in sorted(work.iterdir())}
        text = json.dumps(
            {"source": GGUF_SHA256, "conversion": CONVERSION, "files": files}, indent=1
        )
        (work / MARKER).write_text(text + "\n", encoding="utf-8")
        _open_modes(work)
        if folder.exists():
            shutil.rmtree(folder)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _open_modes(folder: Path) -> None:
    """Apply the umask to the folder and its files: mkdtemp and safetensors make 0700 and 0600."""
    mask = os.umask(0o022)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)


def _fetched(target: Path) -> Path:
    """Give the GGUF fetched before if it is still the pinned file, else fetch it."""
    if target.is_file() and sha256(target) == GGUF_SHA256:
        return target
    return fetch(target)
