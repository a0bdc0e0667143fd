"""The forward engine: only useful work, each saving switchable, results in the caller's order.

A prefix that all prompts share is computed once and its keys and values reused; prompts are sorted
by length and cut into batches of least cost within a token budget; logits only where asked; the
pass stops at the deepest site asked for; out of memory halves the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooks.encoded import Encoded
from hooks.errors import OutOfMemoryError

LogitsRule = Literal["last", "response", "all"]
PASS_COST = 64
"""What a pass costs beside its tokens, in tokens: reading the weights, calling the layers."""
FEWEST = 10**6
"""Where every batch is a loop of many passes (generation), fewer batches come first."""
_log = logging.getLogger("theodolite.engine")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Switches of the engine; each leaves the results as they are."""

    prefix: bool = True
    """Compute a prefix that all prompts share once."""
    pack: bool = True
    """Sort prompts by length, and cut batches where padding and passes together cost least."""
    stop: bool = True
    """End the pass at the deepest site asked for."""
    batch_tokens: int | None = None
    """Padded tokens in one batch; by default 1,536 on a CPU (8,192 in generation, where every token
    reads all weights) and 16,384 on an accelerator."""
    batch_rows: int | None = None
    """Rows in one batch; by default as many as the tokens allow."""
    progress: bool = False
    """Show a progress bar on stderr."""

    def budget(self, device: torch.device, *, generating: bool = False) -> int:
        """Return the padded tokens of one batch."""
        on_cpu = 8192 if generating else 1536
        return self.batch_tokens or (on_cpu if device.type == "cpu" else 16384)


@dataclass
class RunStats:
    """What the passes of one context cost."""

    tokens_asked: int = 0
    """Tokens of the prompts that were given."""
    tokens_computed: int = 0
    """Tokens that went through the model, padding and prefix included."""
    blocks_run: int = 0
    """Blocks executed, summed over passes."""
    token_blocks: int = 0
    """Tokens that went through each block executed, summed: the work itself."""
    forwards: int = 0
    halvings: int = 0
    """How often a batch was halved because memory ran out."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        """Return the counters by name."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class RunOutput:
    """Logits of a run, in the caller's order."""

    logits: Float[Tensor, "row vocab"] | list[Float[Tensor, "_ vocab"]] | None = field(default=None)
    """[row, vocab] for ``last``; a list of [token, vocab] for ``response`` and ``all``."""


def plan_batches(
    lengths: Sequence[int],
    *,
    budget: int,
    max_rows: int | None,
    sort: bool,
    pass_cost: int = PASS_COST,
) -> list[list[int]]:
    """Group row numbers so that rows times longest row stays within ``budget`` tokens.

    Sorted by length, longest first, batches are cut where the padded tokens of all batches plus
    ``pass_cost`` for each are fewest; unsorted, where the budget is full.
    """
    limit = len(lengths) if max_rows is None else max_rows
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row] if sort else row)
    widths = np.array([lengths[row] for row in order])
    cuts = _cheapest(widths, budget, limit, pass_cost) if sort else _full(widths, budget, limit)
    return [order[start:end] for start, end in pairwise([*cuts, len(order)])]


def _cheapest(widths: Int[np.ndarray, "row"], budget: int, limit: int, pass_cost: int) -> list[int]:
    """Return where batches of falling widths begin, at least cost (dynamic programming)."""
    n = len(widths)
    cost, begin = np.zeros(n + 1), np.zeros(n + 1, dtype=int)
    first = 0
    for end in range(1, n + 1):
        # A longer row in front only makes a batch larger, so what is full stays full.
        while end - first > 1 and (widths[first] * (end - first) > budget or end - first > limit):
            first += 1
        starts = np.arange(first, end)
        costs = cost[first:end] + widths[first:end] * (end - starts) + pass_cost
        best = int(costs.argmin())
        cost[end], begin[end] = costs[best], first + best
    cuts, end = [], n
    while end > 0:
        end = int(begin[end])
        cuts.append(end)
    return cuts[::-1]


def _full(widths: Int[np.ndarray, "row"], budget: int, limit: int) -> list[int]:
    cuts: list[int] = []
    widest = 0
    for row, width in enumerate(widths.tolist()):
        widest = max(widest, width)
        held = row - cuts[-1] if cuts else 0
        if not cuts or held == limit or widest * (held + 1) > budget:
            cuts.append(row)
            widest = width
    return cuts


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an allocation failure from other errors, on GPU and CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "out of memory" in text
    )


def halving(
    batches: Sequence[list[int]],
    work: Callable[[list[int]], _Result],
    stats: RunStats,
) -> Iterator[tuple[list[int], _Result]]:
    """Run ``work`` on each batch; when memory runs out, on its halves.

    Raises:
        OutOfMemoryError: a single row does not fit.
    """
    stack = list(reversed(batches))
    while stack:
        batch = stack.pop()
        try:
            result = work(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemoryError(
                    f"out of memory with one prompt (row {batch[0]}) in the batch: use a smaller "
                    "dtype, a shorter prompt, or device_map='auto'"
                ) from error
            stats.halvings += 1
            middle = len(batch) // 2
            _log.warning("out of memory: batch of %d rows halved to %d", len(batch), middle)
            stack += [batch[middle:], batch[:middle]]
            continue
        yield batch, result


def usable_prefix(encoded: Encoded, *, least: int = 4) -> int:
    """Return how many leading tokens may be computed once for all rows.

    It ends before the instruction does, so every token that a position rule other than ``all``
    can mean stays in the rows' own passes.
    """
    if len(encoded) < 2:
        return 0
    shared = min(encoded.common_prefix(), min(encoded.instruction_end) - 1)
    return shared if shared >= least else 0
