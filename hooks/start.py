"""Passes that begin in the middle of the model, from states that an earlier pass left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hooks.errors import PositionError, SiteError
from hooks.sites import Site, expand_all

if TYPE_CHECKING:
    from hooks.encoded import Encoded
    from hooks.layout import Layout
    from hooks.run import Run


@dataclass(frozen=True, eq=False)
class Start:
    """Begin behind a block, with the states that it gave; what comes before is not computed.

        x_b = states,   x_l = block_l(x_{l-1})  for l > b

    Edits at ``at`` itself act on the states. The result is that of a whole pass whose edits lie at
    ``at`` or later, to rounding, provided the states came from a pass without those edits.
    """

    at: str
    """``blocks.B.hook_resid_post``."""
    states: Sequence[Float[Tensor, "_ d"]]
    """[token, d_model] of each prompt, all its tokens, in the caller's order."""


@dataclass(frozen=True, eq=False)
class Begin:
    """A :class:`Start` that was held against the run and its prompts."""

    site: Site
    block: int
    states: Sequence[Float[Tensor, "_ d"]]
    dtype: torch.dtype
    """Of the residual stream."""

    def padded(
        self, prompts: Sequence[int], cut: slice, width: int, device: torch.device
    ) -> Float[Tensor, "row token d"]:
        """Return the states of some prompts' tokens ``cut``, left-padded with zeros."""
        parts = [self.states[prompt][cut] for prompt in prompts]
        out = torch.zeros(len(parts), width, parts[0].shape[-1], dtype=self.dtype, device=device)
        for row, part in enumerate(parts):
            out[row, width - len(part) :] = part.to(device, self.dtype)
        return out


def begin(run: Run, start: Start, encoded: Encoded, stop: Site | None) -> Begin:
    """Check a start.

    Raises:
        SiteError: not the output of a block, or something open acts before it or ends there.
        PositionError: the states are not those of these prompts.
    """
    layout = run.view.layout
    found = expand_all(start.at, layout.n_layers)
    if len(found) != 1 or found[0].kind != "hook_resid_post" or found[0].block is None:
        raise SiteError(f"start at {start.at!r}: give one block's output, blocks.B.hook_resid_post")
    site = found[0]
    actions = [action for context in run.view.registry.contexts for action in context.actions]
    early = sorted({action.tap.site for action in actions if action.tap.site < site})
    if early:
        raise SiteError(f"{early[0].name} lies before the start at {site.name}: it would never act")
    if stop is not None and stop < site:
        raise SiteError(f"the stop at {stop.name} lies before the start at {site.name}")
    if len(start.states) != len(encoded):
        raise PositionError(f"start: states of {len(start.states)} prompts for {len(encoded)}")
    for row, (states, length) in enumerate(zip(start.states, encoded.lengths, strict=True)):
        if tuple(states.shape) != (length, layout.d_model):
            raise PositionError(
                f"start: row {row} has states of shape {tuple(states.shape)}; its prompt needs "
                f"{(length, layout.d_model)}, one for each token"
            )
    registry = run.view.registry
    dtype = torch.float32 if registry.float32_stream else run.view.hf.dtype
    return Begin(site, found[0].block, start.states, dtype)


@contextmanager
def skipped(layout: Layout, block: int, state: Tensor) -> Iterator[None]:
    """Let blocks 0 to ``block`` return ``state`` without computing, inside the block.

    A hook cannot keep a module from computing; an attribute of the instance can, for the time of
    one pass. Weights and classes stay as they are, and whatever stood there before comes back.
    """

    def given(*args: object, **kwargs: object) -> Tensor:
        del args, kwargs
        return state

    modules = [layout.component(f"blocks.{index}") for index in range(block + 1)]
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = given
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own
