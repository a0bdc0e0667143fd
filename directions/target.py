"""The file to write: checked before any work, locked while the work lasts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifacts.errors import InputError
from artifacts.locks import locked
from artifacts.names import check_target
from directions.ranks import Ranks


@contextmanager
def target(out: str | Path | None, ranks: Ranks) -> Iterator[Path]:
    """Give the path to write to, checked before any work; a temporary one for ``None``.

    Raises:
        InputError: a name that cannot be written to, or None under torchrun.
    """
    if out is None:
        if ranks.world > 1:
            raise InputError("torchrun needs a file that all ranks can reach; give --out")
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "directions.safetensors"
        return
    yield check_target(Path(out))


@contextmanager
def lock(path: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the run folder of ``path`` inside the block; rank 0 does it for all ranks.

    Raises:
        LockedError: another process holds it; the message names its pid and host.
    """
    if not ranks.first:
        with ranks.together():
            pass
        yield
        return
    held = locked(run_folder(path))
    with ranks.together():
        held.__enter__()
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def run_folder(path: Path) -> Path:
    """Return the folder of unfinished work beside the file to write."""
    return path.with_name(f"{path.name}.run")
