"""Read and verify an artifact without trusting a byte of it.

Order of the checks: kind of file, size of the header, strict JSON, one metadata key, canonical
manifest, pydantic, dtype and shape of every tensor, digest, layout and finiteness. No code of the
file runs, no memory map is used (a file that shrinks while it is read cannot kill the process).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn, Protocol, cast, runtime_checkable

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.canonical import Json, canonical, parse
from artifacts.digest import digest_of
from artifacts.errors import ArtifactError, SystemFailure
from artifacts.foreign import recognise
from artifacts.layout import check_entry, check_layout
from artifacts.manifest import Manifest

METADATA_KEY = "theodolite"
MAX_HEADER = 8 << 20
"""Largest safetensors header that is read, bytes."""
MAX_METADATA = 1 << 20
"""Longest manifest text that is read or written, bytes."""
FORMAT = 1


@runtime_checkable
class _Entry(Protocol):
    """What safetensors knows of a tensor before its bytes are read."""

    def get_dtype(self) -> str: ...
    def get_shape(self) -> Sequence[int]: ...


@runtime_checkable
class _Stream(Protocol):
    """The part of ``safe_open`` that is used; the library ships no types for it."""

    def metadata(self) -> Mapping[str, str] | None: ...
    def keys(self) -> Sequence[str]: ...
    def get_slice(self, name: str) -> _Entry: ...
    def get_tensor(self, name: str) -> Tensor: ...


_opened = cast("Callable[..., AbstractContextManager[_Stream]]", safe_open)


def load(path: str | os.PathLike[str]) -> Artifact:
    """Read an artifact, verify its digest and return it with its tensors on the CPU.

    Args:
        path: the file.

    Returns:
        The artifact; ``manifest.digest`` is the verified digest.

    Raises:
        ArtifactError: if the file is missing, of another kind, damaged, changed after it was
            saved, of an unknown format version, or holds values that an artifact must not hold.
        SystemFailure: if the file system fails while reading.

    Does not show who wrote the file, nor that its numbers are right.
    """
    file = Path(path)
    try:
        _stored_manifest(_read_header(file).get("__metadata__"))
        stored, tensors = _read_content(file)
    except OSError as error:
        raise SystemFailure(f"cannot read {file}: {error.strerror or error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    return _verified(stored, tensors, file)


def verify(path: str | os.PathLike[str]) -> str:
    """Check everything that ``load`` checks and return the verified digest.

    Raises:
        ArtifactError: as ``load``.
        SystemFailure: as ``load``.
    """
    return load(path).manifest.digest


def _verified(stored: dict[str, Json], tensors: dict[str, Tensor], file: Path) -> Artifact:
    try:
        digest = digest_of(stored, tensors)
        if digest != stored["digest"]:
            raise ArtifactError(
                "the content does not match its digest; the file was changed or damaged after it "
                "was saved, so fetch or compute it again"
            )
        manifest = Manifest.model_validate_json(canonical(stored))
        check_layout(manifest, tensors)
    except ValidationError as error:
        raise ArtifactError(f"{file}: {_first_problem(error)}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    return Artifact(manifest=manifest, tensors=tensors)


def _read_header(file: Path) -> dict[str, Json]:
    head, size = _read_start(file)
    length = int.from_bytes(head[:8], "little")
    foreign = recognise(head)
    if len(head) < 9 or length > size - 8 or head[8:9] != b"{":
        if foreign is not None:
            _refuse(f"this is {foreign}")
        if len(head) >= 9 and head[8:9] == b"{" and length > MAX_HEADER:
            _refuse(f"the header claims {length} bytes; at most {MAX_HEADER} are read")
        if len(head) >= 9 and head[8:9] == b"{":
            _refuse(f"cut short: the header needs {length} bytes, the file has {size}")
        _refuse("not a safetensors file, and of no kind that is recognised")
    if length > MAX_HEADER:
        _refuse(f"the header claims {length} bytes; at most {MAX_HEADER} are read")
    with file.open("rb") as stream:
        stream.seek(8)
        text = stream.read(length)
    try:
        return parse(text.decode("utf-8"), what="header")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"the header is not UTF-8 (byte {error.start})") from error


def _read_start(file: Path) -> tuple[bytes, int]:
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError("no such file; check the path") from error
    except ValueError as error:  # a NUL character in the path
        raise ArtifactError(f"not a possible file name: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ArtifactError(f"not a possible file name: {error.strerror}") from error
        raise
    if stat.S_ISDIR(status.st_mode):
        _refuse("this is a folder; give the .safetensors file inside it")
    if not stat.S_ISREG(status.st_mode):  # a pipe or device could block or never end
        _refuse("this is not a regular file")
    with file.open("rb") as stream:
        return stream.read(512), status.st_size


def _stored_manifest(metadata: Json) -> dict[str, Json]:
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        others = sorted(metadata)[:5] if isinstance(metadata, dict) else []
        _refuse(
            "a safetensors file without a theodolite manifest, perhaps model weights or another "
            f"tool's file (metadata keys: {', '.join(f'{key[:40]!a}' for key in others) or 'none'})"
        )
    if len(metadata) != 1:
        _refuse(f"{len(metadata)} metadata keys; an artifact has only {METADATA_KEY!r}")
    text = metadata[METADATA_KEY]
    if not isinstance(text, str) or len(text) > MAX_METADATA:
        _refuse(f"the manifest is not a text of at most {MAX_METADATA} bytes")
    stored = parse(text, what="manifest")
    version = stored.get("format")
    if version != FORMAT or isinstance(version, bool | float):
        _refuse(f"format {str(version)[:40]}; this version of theodolite reads format {FORMAT}")
    if canonical(stored) != text:
        _refuse("the manifest is not in canonical form; it was edited by hand")
    if not isinstance(stored.get("digest"), str):
        _refuse("the manifest has no digest")
    return stored


def _read_content(file: Path) -> tuple[dict[str, Json], dict[str, Tensor]]:
    # Manifest and tensors come from one open file: a writer may replace the file at any moment.
    try:
        # pread, not mmap: a mapped file that shrinks kills the process with SIGBUS.
        with _opened(os.fspath(file), framework="pt", backend="pread") as stream:
            stored = _stored_manifest(dict(stream.metadata() or {}))
            keys = list(stream.keys())
            for key in keys:
                entry = stream.get_slice(key)
                check_entry(key, str(entry.get_dtype()), tuple(entry.get_shape()))
            return stored, {key: stream.get_tensor(key) for key in keys}
    except (SafetensorError, ValueError, RuntimeError, EOFError) as error:
        raise ArtifactError(f"damaged safetensors file: {str(error)[:200]}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "manifest"
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    return f"manifest field {place[:200]}: {problem['msg'][:200]}{tail}"


def _refuse(message: str) -> NoReturn:
    raise ArtifactError(message)
