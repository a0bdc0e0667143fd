"""``torchrun``: which process am I, and how do the processes wait for one another.

Shards are dealt to ranks by number; rank 0 alone locks, assembles and prints. Without torchrun
there is one rank and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from artifacts.errors import SystemFailure

_PATIENCE = timedelta(days=7)
"""A rank may wait for the slowest shard of another; torchrun ends all ranks when one dies."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process locks, assembles and prints."""
        return self.rank == 0

    def mine(self, shard: int) -> bool:
        """Whether this process computes ``shard``."""
        return shard % self.world == self.rank

    def device(self, asked: str) -> str:
        """Return the device of this process: with CUDA and ``auto``, one device a rank."""
        if asked != "auto" or self.world == 1:
            return asked
        import torch

        return f"cuda:{self.local}" if torch.cuda.is_available() else "cpu"

    def agree(self, ok: bool) -> None:
        """Wait for all ranks; refuse to go on if one of them could not do its part.

        Raises:
            SystemFailure: on the ranks that could, when another could not.
        """
        if self.world == 1:
            return
        import torch
        import torch.distributed as dist

        state = torch.tensor(int(ok))
        dist.all_reduce(state, op=dist.ReduceOp.MIN)
        if ok and not bool(state):
            raise SystemFailure("another rank stopped; its message says why")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something on every rank and go on only if it worked on all of them.

        Raises:
            SystemFailure: on the ranks where it worked, when it failed on another.
        """
        try:
            yield
        except Exception:
            self.agree(False)
            raise
        self.agree(True)


def from_environment() -> Ranks:
    """Return what torchrun says of this process; usable before and after the group exists."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, world, local = (
        int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True)
    )
    return Ranks(rank, world, local)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the process group that torchrun describes; leave it on exit."""
    ranks = from_environment()
    if ranks.world == 1:
        yield ranks
        return
    import torch.distributed as dist

    # gloo, also with CUDA: only one integer travels, the states go through the run folder.
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
