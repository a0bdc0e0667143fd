"""A beginning that all prompts share, computed once (or once for each copy of the prompts)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from hooks.cache import (
    expand_cache,
    new_cache,
    read_only,
    shareable,
    sliding_window,
)
from hooks.encoded import Batch, Encoded, left_pad
from hooks.engine import is_out_of_memory, usable_prefix
from hooks.passing import one_pass
from hooks.positions import Frame
from hooks.sites import Site
from hooks.start import Begin

if TYPE_CHECKING:
    from hooks.run import Run


class Prefix:
    """A shared beginning: its length, and its keys and values, one row for each copy."""

    def __init__(
        self, length: int = 0, cache: DynamicCache | None = None, *, copies: int = 1
    ) -> None:
        self.length = length
        self.cache = cache
        self.copies = copies

    def rows(self, copy: Sequence[int]) -> DynamicCache | None:
        """Return the cache as seen by one pass over rows that belong to these copies."""
        if self.cache is None:
            return None
        if self.copies == 1:
            return read_only(expand_cache(self.cache, len(copy)))
        return read_only(self.cache, copy)


def shared_prefix(
    run: Run,
    encoded: Encoded,
    stop: Site | None = None,
    *,
    new: int = 0,
    start: Begin | None = None,
    copies: int | None = None,
) -> Prefix:
    """Compute what all prompts begin with, once; empty where it must not or cannot be shared.

    ``new`` tokens are to follow each prompt. With ``copies`` it is computed for each of them, under
    its own edits; with ``start`` from the states given.
    """
    name = "shares_prefix" if copies is None else "shares_prefix_by_copy"
    shared = all(getattr(context, name, False) for context in run.view.registry.contexts)
    if not run.options.prefix or not shared:
        return Prefix()
    length = usable_prefix(encoded)
    window = sliding_window(run.view.hf)
    # Padding between prefix and prompt would count as distance inside a sliding window.
    if length == 0 or (window is not None and max(encoded.lengths) + new + length >= window):
        return Prefix()
    cache = new_cache(run.view.hf)
    if not shareable(cache) or not _reaches_keys(run, stop, start):
        return Prefix()
    batch = left_pad([encoded.ids[0][:length]] * (copies or 1), pad=0, offset=0)
    frame = _prefix_frame(run, batch, copies)
    state = None
    if start is not None:
        rows = [0] * (copies or 1)
        states = start.padded(rows, slice(length), length, run.view.device)
        state = (start.block, states)
    try:
        one_pass(run, batch, cache, stop, lambda *_: frame, state=state)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # Without it each batch reads its own beginning, and may still be halved.
        return Prefix()
    if start is not None:
        _fill(cache, start.block)
    run.stats.tokens_computed += batch.ids.numel()
    return Prefix(length, cache, copies=copies or 1)


def _reaches_keys(run: Run, stop: Site | None, start: Begin | None) -> bool:
    """False where no attention lies between start and stop, so that no keys would exist."""
    first = 0 if start is None else start.block + 1
    return first < run.view.layout.n_layers and (stop is None or stop.order > (first, 2))


def _fill(cache: DynamicCache, block: int) -> None:
    """Give the blocks that are skipped keys of the right length; nothing ever reads them."""
    # The model takes the length of what was read from its first layers.
    layer = cache.layers[block + 1]
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if isinstance(keys, torch.Tensor) and isinstance(values, torch.Tensor):
        for index in range(block + 1):
            cache.update(torch.zeros_like(keys), torch.zeros_like(values), index)


def _prefix_frame(run: Run, batch: Batch, copies: int | None) -> Frame:
    ids = batch.ids.to(run.view.device)
    mask = batch.mask.bool().to(run.view.device)
    copy = None if copies is None else torch.arange(copies, device=run.view.device)
    return Frame(ids, mask, prompt_tokens=ids.shape[1], prefix=True, copy=copy, copies=copies)
