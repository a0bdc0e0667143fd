"""Memory for captured states, so that they leave no holes.

A captured state is small and outlives the tensors of its pass. In a piece of memory of its own it
would lie in a hole that one of them left, and no tensor of the next block or pass would fit there
again: memory would grow with the number of prompts (docs/decisions/025).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MANY = 256
"""States that fill a piece of their own."""


class PassStore:
    """One piece of memory for the few states that each site of a kind holds until a pass ends."""

    def __init__(self, sites: int) -> None:
        """``sites`` states are kept in a pass."""
        self._sites = sites
        self._free: list[Tensor] | None = None

    def keep(self, states: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """Copy the states of one site; many, or unlike the pass's first, stay where they are."""
        if len(states) >= _MANY:
            return states
        if self._free is None:
            self._free = [*states.new_empty(self._sites, *states.shape)]
        if not self._free or not _alike(self._free[-1], states):
            return states
        return self._free.pop().copy_(states)

    def clear(self) -> None:
        """A pass begins."""
        self._free = None


class KeptStates:
    """States of one site and their rows; few at a time are copied into storage for many."""

    def __init__(self) -> None:
        """Start empty."""
        self._values: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._free = 0

    def add(self, values: Float[Tensor, "token *feature"], rows: Int[Tensor, "token"]) -> None:
        """Take some states."""
        if len(values) >= _MANY:
            self._values, self._rows = (self._used(parts) for parts in (self._values, self._rows))
            self._values.append(values.float())
            self._rows.append(rows)
            self._free = 0
            return
        while len(values):
            if not self._free:
                self._free = _MANY
                self._values.append(torch.empty(_MANY, *values.shape[1:]))
                self._rows.append(torch.empty(_MANY, dtype=torch.long))
            n, start = min(self._free, len(values)), _MANY - self._free
            self._values[-1][start : start + n] = values[:n]
            self._rows[-1][start : start + n] = rows[:n]
            self._free, values, rows = self._free - n, values[n:], rows[n:]

    def whole(self) -> tuple[Tensor, Tensor]:
        """Return all states and their rows, in the order in which they came."""
        return torch.cat(self._used(self._values)), torch.cat(self._used(self._rows))

    def _used(self, parts: list[Tensor]) -> list[Tensor]:
        """Return the pieces of storage without the room that the last one has left."""
        return [*parts[:-1], *(part[: len(part) - self._free] for part in parts[-1:])]


def _alike(place: Tensor, states: Tensor) -> bool:
    """True where ``states`` fit: a model over several devices has those of its blocks apart."""
    return (place.shape, place.dtype, place.device) == (states.shape, states.dtype, states.device)
