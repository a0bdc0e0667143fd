"""One writer at a time: a lock file beside the target that names its holder's pid and host.

The lock is the operating system's (flock) on ``.NAME.lock`` in the target's folder, so it ends with
the process that holds it, however that process ends. The file is removed on release; one left by a
killed process is harmless and is taken over by the next writer.
"""

from __future__ import annotations

import contextlib
import os
import socket
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
    from filelock import FileLock, Timeout

    path = target.parent / f".{target.name}.lock"
    lock = FileLock(path, timeout=wait, poll_interval=0.01, is_singleton=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(_holder(target, path)) from error
    try:
        path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        # While the lock is held: a waiter on the removed file notices and starts over (filelock
        # checks the link count), so two holders cannot meet.
        with contextlib.suppress(OSError):
            path.unlink()
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
