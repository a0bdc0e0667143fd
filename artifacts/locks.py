"""One writer at a time: a lock file beside the target that names its holder's pid and host.

The lock file is ``.NAME.lock`` in the target's folder. It is removed on release; one left by a
killed process on the same host is recognised by its pid and taken over.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from artifacts.errors import LockedError

WAIT = 0.8
"""Seconds to wait for another writer before giving up; writers of small files take turns."""


@contextmanager
def locked(target: Path, *, wait: float = WAIT) -> Generator[None]:
    """Hold the lock of ``target`` inside the block.

    Args:
        target: the file or folder that will be written. It need not exist; its folder must.
        wait: seconds to wait for another holder.

    Raises:
        LockedError: if another process still holds the lock after ``wait`` seconds.
        OSError: if the lock file cannot be created.
    """
    from filelock import SoftFileLock, Timeout

    path = target.parent / f".{target.name}.lock"
    lock = SoftFileLock(path, timeout=wait, poll_interval=0.01)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(_holder(target, path)) from error
    try:
        yield
    finally:
        lock.release()


def _holder(target: Path, path: Path) -> str:
    try:
        pid, host = [*path.read_text(encoding="utf-8", errors="replace").split(), "?", "?"][:2]
    except OSError:
        pid, host = "?", "?"
    return (
        f"{target} is being written by process {pid[:20]} on {host[:80]}; wait for it to finish, "
        f"or delete {path} if that process is gone"
    )
