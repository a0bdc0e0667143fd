"""Put one model's head outputs in place of another's, during its passes.

    x' = x + sum_{h in S} (z_h W_O[h] of the other model - z_h W_O[h] of this pass)

x is what the output projection gives. Exchanging z alone would keep this model's W_O, in which
training may have written the very change. Behind a post-norm the norm of x' is taken anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from directions.contributions import LinearNorm, post_norm
from directions.overwrite import ENGINE, PaddedStates
from hooks import Capture, Encoded, Intervention, Model, output_weights
from hooks.errors import EditError


@dataclass(frozen=True, eq=False)
class _Weights:
    """The output projection of one block in one model."""

    heads: Float[Tensor, "head d_head out"]
    bias: Float[Tensor, "out"] | None


@dataclass(frozen=True, eq=False)
class _Read(Intervention):
    """At ``hook_z``: work out the change of the chosen heads' output; changes nothing itself."""

    states: Float[Tensor, "row token width"]
    at: str
    chosen: tuple[int, ...]
    own: _Weights
    other: _Weights
    normed: bool
    ledger: dict[str, Tensor]

    @property
    def patterns(self) -> str:
        """The site to read."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return the other model's z."""
        return {"states": (self.states, 2)}

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Keep the change for :class:`_Write`; return z as it is."""
        states = parts["states"][:, -x.shape[1] :]
        if states.shape[:2] != x.shape[:2] or states.shape[2] != x.shape[2] * x.shape[3]:
            raise EditError(f"{self.at}: states of shape {tuple(states.shape)}, not of this pass")
        given = rearrange(states, "row token (head d) -> row token head d", head=x.shape[2])
        picked = list(self.chosen)
        self.ledger["change"] = _out(given, self.other, picked) - _out(x, self.own, picked)
        if self.normed:
            whole = _out(x, self.own, list(range(x.shape[2])))
            bias = self.own.bias
            self.ledger["whole"] = whole if bias is None else whole + bias.to(x.device, x.dtype)
        return x.clone()


@dataclass(frozen=True, eq=False)
class _Write(Intervention):
    """At ``hook_attn_out``: make the change."""

    at: str
    gain: Float[Tensor, "d"] | None
    ledger: dict[str, Tensor]

    @property
    def patterns(self) -> str:
        """The site to edit."""
        return self.at

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return what attention adds with the other model's heads."""
        del parts
        change = self.ledger.pop("change")
        if self.gain is None:
            return x + change
        before = self.ledger.pop("whole")
        after = before + change
        old, new = (part.square().mean(-1, keepdim=True).sqrt() for part in (before, after))
        # Padding may be zero; nothing reads it.
        tiny = torch.finfo(x.dtype).tiny
        scaled = change * self.gain.to(x.device, x.dtype) / new.clamp_min(tiny)
        return x * (old / new.clamp_min(tiny)) + scaled


@dataclass(frozen=True, eq=False)
class Swaps:
    """Everything that puts heads of ``donor`` into ``model``, for some blocks."""

    model: Model
    donor: Model
    blocks: Sequence[int]
    _own: dict[int, _Weights] = field(init=False)
    _other: dict[int, _Weights] = field(init=False)
    _norms: dict[int, LinearNorm | None] = field(init=False)

    def __post_init__(self) -> None:
        """Read the output projections of both models once."""
        object.__setattr__(self, "_norms", {b: post_norm(self.model, b) for b in self.blocks})
        for name, model in (("_own", self.model), ("_other", self.donor)):
            with model.hooks():
                object.__setattr__(self, name, {b: _weights(model, b) for b in self.blocks})

    def states(self, encoded: Encoded) -> PaddedStates:
        """Return the donor's own z for some prompts."""
        kept = PaddedStates(encoded)
        sites = [f"blocks.{block}.attn.hook_z" for block in self.blocks]
        capture = Capture(sites, at="all", into=kept)
        with self.donor.hooks(capture=capture, options=ENGINE) as run:
            run.forward(encoded)
        return kept

    def edits(
        self, heads: Sequence[tuple[int, int]], states: PaddedStates
    ) -> tuple[Intervention, ...]:
        """Return the edits that exchange ``heads``, for the prompts of ``states``."""
        by_block: dict[int, list[int]] = {}
        for block, head in heads:
            by_block.setdefault(block, []).append(head)
        found: list[Intervention] = []
        for block, chosen in by_block.items():
            site, norm, ledger = f"blocks.{block}.attn.hook_z", self._norms[block], {}
            own, other = self._own[block], self._other[block]
            read = _Read(states[site], site, tuple(chosen), own, other, norm is not None, ledger)
            gain = None if norm is None else norm.gain
            found += [read, _Write(f"blocks.{block}.hook_attn_out", gain, ledger)]
        return tuple(found)


def _weights(model: Model, block: int) -> _Weights:
    weight, bias = output_weights(model.layout.component(f"blocks.{block}.attn.o"), model.n_heads)
    return _Weights(weight.clone(), bias)


def _out(
    z: Float[Tensor, "row token head d"], weights: _Weights, heads: list[int]
) -> Float[Tensor, "row token out"]:
    matrix = weights.heads[heads].to(z.device, z.dtype)
    return einsum(z[:, :, heads], matrix, "row token head d, head d out -> row token out")
