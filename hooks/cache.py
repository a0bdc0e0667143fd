"""Key/value caches: expanding one row to many, and forks that cost no copy.

transformers' dynamic layers never write into a tensor they hold (``update`` concatenates), so a
fork only has to copy the layer objects: the states are shared until one side grows. This holds for
full attention and for sliding windows; layers that write in place are copied. A single pass over a
shared prefix need not grow its cache at all: see :func:`read_only`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from hooks.errors import ModelError

_Layer = TypeVar("_Layer")


def fork_cache(cache: DynamicCache) -> DynamicCache:
    """Return a cache with the same states; growing either leaves the other as it is."""
    twin = copy.copy(cache)
    twin.layers = [_fork_layer(layer) for layer in cache.layers]
    return twin


def _fork_layer(layer: _Layer) -> _Layer:
    if isinstance(layer, DynamicLayer):
        return copy.copy(layer)
    # Recurrent and static layers write in place: a snapshot is the only exact fork.
    return copy.deepcopy(layer)


def expand_cache(cache: DynamicCache, rows: int) -> DynamicCache:
    """Return a one-row cache as seen by ``rows`` rows, without copying the states.

    Raises:
        ModelError: a layer whose states cannot be expanded (recurrent layers).
    """
    twin = fork_cache(cache)
    for layer in twin.layers:
        if not isinstance(layer, DynamicLayer):
            raise ModelError(f"{type(layer).__name__}: a prefix cannot be shared between rows")
        for name in ("keys", "values"):
            state = getattr(layer, name, None)
            if isinstance(state, Tensor) and state.numel():
                setattr(layer, name, state.expand(rows, *state.shape[1:]))
    return twin


def select_cache(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """Return the cache of rows with these numbers, each as often as it is named.

    Raises:
        ModelError: a layer whose states cannot be chosen by row (recurrent layers).
    """
    twin = fork_cache(cache)
    for layer in twin.layers:
        _select(layer, torch.as_tensor(rows))
    return twin


def _select(layer: object, rows: Tensor) -> None:
    if not isinstance(layer, DynamicLayer):
        raise ModelError(f"{type(layer).__name__}: a prefix cannot be shared between rows")
    for name in ("keys", "values"):
        state = getattr(layer, name, None)
        if isinstance(state, Tensor) and state.numel():
            setattr(layer, name, state[rows.to(state.device)])


def read_only(cache: DynamicCache, rows: Sequence[int] | None = None) -> DynamicCache:
    """Return the cache for one pass and no more: what the pass adds is used and not kept.

    A pass whose tokens nothing continues needs each block's keys and values in that block only;
    kept to its end, those of all blocks are most of its memory. For the same reason ``rows``, which
    of the cache's rows each row of the pass continues, are chosen where a block reads them. Sliding
    windows keep what they read, and are chosen at once.
    """
    twin = fork_cache(cache)
    chosen = None if rows is None else torch.as_tensor(rows)
    for layer in twin.layers:
        if type(layer) is DynamicLayer:
            layer.__class__ = _ReadLayer
            layer.rows = chosen  # type: ignore[attr-defined]
        elif chosen is not None:
            _select(layer, chosen)
    return twin


class _ReadLayer(DynamicLayer):
    """Gives attention the states before this pass with those of the pass, and keeps the former."""

    rows: Tensor | None
    """Which of its rows each row of the pass continues; None: its own."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        del args, kwargs
        if not self.is_initialized or self.keys is None or self.values is None:
            return key_states, value_states
        keys, values = self.keys, self.values
        if self.rows is not None:
            rows = self.rows.to(keys.device)
            keys, values = keys[rows], values[rows]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def sliding_window(hf: PreTrainedModel) -> int | None:
    """Return the smallest sliding window of the model's layers, None where there is none."""
    config = hf.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if window is None or (types is not None and "sliding_attention" not in types):
        return None
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return int(window)


def new_cache(hf: PreTrainedModel) -> DynamicCache:
    """Return an empty cache with the layer kinds of the model (full, sliding)."""
    return DynamicCache(config=hf.config)


def shareable(cache: DynamicCache) -> bool:
    """True when every layer can be expanded to several rows."""
    return all(isinstance(layer, DynamicLayer) for layer in cache.layers)
