"""States of one model put in place of another's, by prompt and token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from hooks import Encoded, EngineOptions, Intervention
from hooks.engine import plan_batches
from hooks.errors import EditError

HELD_BYTES = 256 * 2**20
"""Most memory for the base's states of one group of prompts."""
# The same batches on every side and no shared prefix: equal weights then give equal bits.
ENGINE = EngineOptions(prefix=False)


@dataclass(frozen=True, eq=False)
class Overwrite(Intervention):
    """Put given states in place of the model's own.

    x' = states
    """

    states: Float[Tensor, "row token width"]
    """By the caller's row, padded on the left; heads side by side where the site has heads."""
    at: str

    @property
    def patterns(self) -> str:
        """The site to edit."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return the states."""
        return {"states": (self.states, 2)}

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return the states of the tokens of this pass.

        Raises:
            EditError: they are those of other prompts or of another site.
        """
        states = parts["states"][:, -x.shape[1] :]
        if states.numel() != x.numel():
            raise EditError(
                f"Overwrite at {self.at}: states of shape {tuple(states.shape)} for "
                f"{tuple(x.shape)}"
            )
        if x.ndim == 4:
            states = rearrange(states, "row token (head d) -> row token head d", head=x.shape[2])
        return states.to(x.dtype)


class PaddedStates:
    """Keep the states of all tokens, [row, token, width], padded on the left with zeros."""

    def __init__(self, encoded: Encoded) -> None:
        """Start empty, for these prompts."""
        self._lengths = torch.tensor(encoded.lengths)
        self._kept: dict[str, Tensor] = {}

    def update(
        self,
        site: str,
        values: Float[Tensor, "token *feature"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Put the states of one site in their places."""
        flat = values.flatten(1)
        width = int(self._lengths.max())
        shape = (len(self._lengths), width, flat.shape[1])
        grid = self._kept.setdefault(site, torch.zeros(shape, dtype=flat.dtype))
        grid[rows, width - self._lengths[rows] + slots] = flat

    def __getitem__(self, site: str) -> Float[Tensor, "row token width"]:
        """Return the states of one site."""
        return self._kept[site]


def groups_of(encoded: Encoded, bytes_per_token: int) -> Iterator[list[int]]:
    """Cut prompts into groups whose states fit into memory, those of like length together."""
    budget = max(1, HELD_BYTES // bytes_per_token)
    yield from plan_batches(encoded.lengths, budget=budget, max_rows=64, sort=True)
