"""Finished shards as a stream: one site and position at a time, in shard order, float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from safetensors import safe_open

from directions.contrasts import Cells


@dataclass(frozen=True, eq=False)
class Part:
    """Some prompts of one role, at one site and position."""

    index: int
    """Number of this part within its role."""
    rows: slice
    """Where its prompts stand among all prompts of the role."""
    cells: Cells


@dataclass(frozen=True, eq=False)
class Role:
    """The shards of the fit or of the test prompts."""

    paths: tuple[Path, ...]
    rows: tuple[slice, ...]
    harmful: Bool[np.ndarray, "n"]

    @property
    def n(self) -> dict[str, int]:
        """Prompts by class."""
        total = int(self.harmful.sum())
        return {"harmful": total, "harmless": len(self.harmful) - total}

    def read(self, site: str, slot: int, cells: Sequence[str]) -> Iterator[Part]:
        """Yield the states of ``cells`` at one site, shard by shard."""
        for index, (path, rows) in enumerate(zip(self.paths, self.rows, strict=True)):
            found: dict[str, Float64[np.ndarray, "n d"]] = {}
            # pread: mapped pages would count as this process's memory.
            with safe_open(path, framework="numpy", backend="pread") as file:  # type: ignore[call-arg]
                for cell in cells:
                    found[cell] = file.get_tensor(f"{cell}/{site}")[:, slot].astype(np.float64)
            yield Part(index, rows, found)


def shard_rows(n_fit: int, n_test: int, size: int) -> tuple[tuple[range, ...], int]:
    """Cut prompts (fit first) into shards that hold one role each.

    Returns:
        The ranges of prompt numbers, and how many of them are fit shards.
    """
    fit = [range(i, min(i + size, n_fit)) for i in range(0, n_fit, size)]
    end = n_fit + n_test
    test = [range(i, min(i + size, end)) for i in range(n_fit, end, size)]
    return (*fit, *test), len(fit)
