"""The states that probes read: one pass of the model, one array a site and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from artifacts.errors import InputError
from hooks import Capture, Encoded, Model, Rows
from probes.errors import NonFiniteError
from probes.options import Options
from probes.rows import Row


@dataclass(frozen=True, eq=False)
class Place:
    """States of every row at one site kind and position, by block."""

    site: str
    position: str
    """``last``, or ``template[-k]`` counted from the end of the prompt."""
    suffix: str
    """Empty for the first place; else part of names."""
    blocks: tuple[int, ...]
    states: Float32[np.ndarray, "block n d"]

    def name(self, probe: str) -> str:
        """Return the name of a probe at this place."""
        return f"{probe}.{self.suffix}" if self.suffix else probe


def read_states(
    model: Model, rows: Sequence[Row], options: Options
) -> tuple[tuple[Place, ...], Int[np.ndarray, "n"]]:
    """Run the prompts once; return the places and the length of each prompt in tokens.

    Raises:
        SiteError: a site that this family does not give.
        TokenizerError: there is no chat template.
        InputError: a prompt is longer than the context, or the template has no tokens to read.
        NonFiniteError: a state is not finite; names the prompt and the block.
    """
    encoded = model.encode([row.prompt for row in rows], system=options.system)
    limit = model.context_length
    for row, length in zip(rows, encoded.lengths, strict=True):
        if limit is not None and length > limit:
            raise InputError(f"{row.place}: {length} tokens, the model reads {limit}; shorten it")
    patterns = [f"blocks.*.{site}" for site in options.sites]
    sites = model.sites(patterns)
    taken = Rows()
    with model.hooks(capture=Capture(sites, at=options.positions, into=taken)) as run:
        run.forward(encoded)
    places = tuple(_places(taken, options, model.n_layers, encoded))
    for place in places:
        check_states(place, rows)
    return places, np.array(encoded.lengths)


def check_states(place: Place, rows: Sequence[Row]) -> None:
    """Refuse states that are not finite.

    Raises:
        NonFiniteError: names the first prompt and block, and how many values are bad.
    """
    bad = ~np.isfinite(place.states)
    if bad.any():
        block, row = (int(index) for index in np.argwhere(bad.any(-1))[0])
        raise NonFiniteError(
            f"{rows[row].place}: {int(bad.sum())} state values are not finite, first at block "
            f"{place.blocks[block]} of {place.site}; try --dtype float32"
        )


def _places(taken: Rows, options: Options, n_layers: int, encoded: Encoded) -> list[Place]:
    slots = 1 if options.positions == "last" else encoded.template_length
    if slots == 0:
        raise InputError("positions template: the chat template ends with the instruction")
    found = []
    for index, site in enumerate(options.sites):
        names = [f"blocks.{block}.{site}" for block in range(n_layers)]
        for slot in range(slots):
            parts = [site] if index or slot else []
            parts += [f"p-{slot + 1}"] if slot else []
            states = torch.stack([_slot(taken[name], slot) for name in names])
            found.append(
                Place(
                    site,
                    "last" if slot == 0 else f"template[-{slot + 1}]",
                    ".".join(parts),
                    tuple(range(n_layers)),
                    states.numpy(),
                )
            )
    return found


def _slot(values: Tensor | list[Tensor], slot: int) -> Float32[Tensor, "n d"]:
    if isinstance(values, Tensor):
        return values if values.ndim == 2 else values[:, -1 - slot]
    # Prompts may end in different numbers of template tokens; the shared ones are the last.
    return torch.stack([part[-1 - slot] for part in values])
