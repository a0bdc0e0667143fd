"""Write an artifact so that the target holds either the old file or the complete new one.

    lock -> temporary sibling -> write -> fsync(file) -> replace -> fsync(folder) -> unlock

The file's mode is 0666 & ~umask, as for any file that a program creates. The same artifact gives
the same bytes in every process: the only metadata entry is canonical JSON, and tensors are stored
in sorted order.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Generator
from pathlib import Path

from safetensors.torch import save as to_safetensors
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.canonical import canonical
from artifacts.digest import content_digest, manifest_json
from artifacts.errors import ArtifactError, SystemFailure
from artifacts.layout import check_layout
from artifacts.locks import locked
from artifacts.manifest import Manifest
from artifacts.read import MAX_METADATA, METADATA_KEY

_CHUNK = 1 << 24
_SUFFIX = ".partial"


def save(artifact: Artifact, path: str | os.PathLike[str]) -> str:
    """Check ``artifact``, write it to ``path`` and return its digest.

    A killed or failed save leaves the old file as it was. Peak memory is about three times the
    size of the tensors, them included. Up to ``locks.WAIT`` seconds are spent waiting for
    another writer.

    Args:
        artifact: what to store; it is not changed, its manifest's ``digest`` is recomputed.
        path: the target file. Its folder must exist; an existing artifact is replaced.

    Returns:
        The content digest, also found in the stored manifest.

    Raises:
        ArtifactError: if the artifact is not valid, or the target is a symbolic link or a folder.
        LockedError: if another process is writing to the same target; names its pid and host.
        SystemFailure: if the file system fails; the message says what stands at ``path`` now.
    """
    manifest, tensors = artifact.manifest, _own_copies(artifact)
    check_layout(manifest, tensors)
    digest = content_digest(manifest, tensors)
    write_file(path, _serialise(manifest, digest, tensors))
    return digest


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` at ``path`` completely or not at all; reports and tables use this as well.

    Args:
        path: the target file. Its folder must exist; an existing file is replaced.
        data: the whole content.

    Raises:
        ArtifactError: if the target is a symbolic link, a folder, or in a folder that is missing.
        LockedError: if another process is writing to the same target; names its pid and host.
        SystemFailure: if the file system fails.
    """
    target = Path(path)
    try:
        _check_target(target)
        with locked(target):
            _remove_orphans(target)
            _write_atomically(target, data)
    except OSError as error:
        raise SystemFailure(
            f"cannot write {target}: {error.strerror or error}; {_hint(error)}"
        ) from error


def _own_copies(artifact: Artifact) -> dict[str, Tensor]:
    # Shared views, other devices and gradients all become plain; what is plain is not copied.
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in artifact.tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.nbytes() != plain.nbytes or storage.data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        own[key] = plain
    return own


def _serialise(manifest: Manifest, digest: str, tensors: dict[str, Tensor]) -> bytes:
    text = canonical({**manifest_json(manifest), "digest": digest})
    if len(text) > MAX_METADATA:
        raise ArtifactError(
            f"the manifest takes {len(text)} bytes; at most {MAX_METADATA} are stored, so shorten "
            "notes or method options"
        )
    return to_safetensors(tensors, metadata={METADATA_KEY: text})


def _check_target(target: Path) -> None:
    if "\0" in str(target):
        raise ArtifactError(f"{str(target)!a} holds a NUL character; choose another file name")
    if target.is_symlink():
        raise ArtifactError(f"{target} is a symbolic link; remove it or write to its destination")
    if target.is_dir():
        raise ArtifactError(f"{target} is a folder; give a file name inside it")
    if not target.parent.is_dir():
        raise ArtifactError(f"folder {target.parent} does not exist; create it first")


def _write_atomically(target: Path, data: bytes) -> None:
    temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}{_SUFFIX}"
    try:
        with _new_file(temporary) as descriptor:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        os.replace(temporary, target)  # noqa: PTH105 - fault tests count this very call
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def _new_file(path: Path) -> Generator[int]:
    # O_EXCL never follows a link; the kernel applies the umask to 0666, so no umask is juggled.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:_CHUNK]) :]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder for fsync
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_orphans(target: Path) -> None:
    # We hold the lock, so a partial file of this target belongs to a writer that was killed.
    prefix = f".{target.name}."
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and path.name.endswith(_SUFFIX):
            path.unlink(missing_ok=True)


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run again; what stood there before is intact"
    return "a file that stands there is complete, old or new; check the disk and run again"
