"""Both sides of a pair in one pass, so that bfloat16 keeps the digits of their difference.

    y_b = W x_b,        y_a = y_b + W (x_a - x_b) + s B A x_a

In exact arithmetic that is W x_b and (W + s B A) x_a. Run apart, two models round both products to
8 bits of the *state*, and where training moved a state little, few digits of the move are left.
Here the difference is a product of its own and is rounded to 8 bits of *itself*; norms, attention,
activations and sums run in float32. The base half of a pass is what bfloat16 layers around a
float32 stream give (:mod:`hooks.precision`), its rounding included: only differences gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooks.adapter import LowRank
from hooks.layout import Layout
from hooks.packed import Times, can_pack, packed, plain
from hooks.precision import attach_float32


@runtime_checkable
class Removable(Protocol):
    """What was attached and can be taken away again."""

    def remove(self) -> None:
        """Leave the model as it was."""
        ...


class JointPass:
    """Hooks that turn a pass over rows [base prompts, the same prompts] into one of both sides.

    The adapter itself stays off: the second half of the rows gets it through the products.
    """

    def __init__(
        self, layout: Layout, dtype: torch.dtype, factors: Mapping[nn.Module, LowRank]
    ) -> None:
        """Nothing is read yet."""
        self._layout = layout
        self._dtype = dtype
        self._factors = factors
        self._built: tuple[list[object], list[JointProduct]] | None = None

    def attach(self) -> Iterator[Removable]:
        """Exchange the products, and hook the stream up to float32, one at a time."""
        yield attach_float32(self._layout)
        encode = _Encoder(self._dtype)
        for product in self._products():
            reader = _Reader(product, encode)
            for index, layer in enumerate(product.layers):
                yield _Exchanged(layer, partial(reader, index))

    def _products(self) -> list[JointProduct]:
        """Return one for layers that read the same states, where weights are packed; kept."""
        layers = _layers(self._layout)
        # Packed weights are copies: other weights, or edited ones, are packed anew.
        seen: list[object] = [(part.weight.data_ptr(), part.weight._version) for part in layers]
        if self._built is None or self._built[0] != seen:
            pack = can_pack([part.weight for part in layers])
            groups = _groups(self._layout, layers) if pack else [[part] for part in layers]
            self._built = (seen, [self._joint(group, pack=pack) for group in groups])
        return self._built[1]

    def _joint(self, layers: Sequence[nn.Linear], *, pack: bool) -> JointProduct:
        return JointProduct(layers, [self._factors.get(part) for part in layers], pack=pack)


class JointProduct:
    """The matrix products of layers that read the same states, for both sides."""

    def __init__(
        self, layers: Sequence[nn.Linear], deltas: Sequence[LowRank | None], *, pack: bool
    ) -> None:
        """Lay the weights beside each other; ``pack`` as :mod:`hooks.packed` says.

        Unpacked, a product has one layer.
        """
        self.layers = tuple(layers)
        weights = [layer.weight for layer in layers]
        self.widths = [len(weight) for weight in weights]
        self._times: Times = packed(weights) if pack else plain(*weights)
        self._delta = _side_by_side(self.widths, deltas)
        self._bias = None
        if any(layer.bias is not None for layer in layers):
            parts = [
                w.new_zeros(len(w)) if o.bias is None else o.bias
                for o, w in zip(layers, weights, strict=True)
            ]
            self._bias = torch.cat(parts).float()

    def __call__(self, low: Float[Tensor, "both token in"]) -> Float[Tensor, "both token out"]:
        """Turn (x_b, x_a - x_b) into (y_b, y_a) of all layers beside each other, in float32."""
        y = self._times(low)
        n = len(low) // 2
        if self._delta is not None:
            thin = plain(self._delta.down)(low)
            # One kernel for product and sum. A view and no reshape: a copy would lose the sum.
            moved = y[n:].view(-1, y.shape[-1])
            moved.addmm_((thin[:n] + thin[n:]).view(-1, thin.shape[-1]), self._delta.up.T)
        out = y.float()
        out[n:] += out[:n]
        return out if self._bias is None else out.add_(self._bias)


def _side_by_side(widths: Sequence[int], deltas: Sequence[LowRank | None]) -> LowRank | None:
    """Return one adapter for all layers: their A below each other, their B on a diagonal."""
    known = [(sum(widths[:i]), delta) for i, delta in enumerate(deltas) if delta is not None]
    if not known:
        return None
    down = torch.cat([delta.down for _, delta in known])
    up = down.new_zeros(sum(widths), len(down))
    column = 0
    for row, delta in known:
        out, rank = delta.up.shape
        up[row : row + out, column : column + rank] = delta.up
        column += rank
    return LowRank(down, up)


class _Reader:
    """Gives each layer its own part of a product that is computed once."""

    def __init__(self, product: JointProduct, encode: Callable[[Tensor], Tensor]) -> None:
        self._product = product
        self._encode = encode
        self._seen: tuple[Tensor, int] | None = None
        self._parts: dict[int, Tensor] = {}

    def __call__(
        self, index: int, x: Float[Tensor, "both token in"]
    ) -> Float[Tensor, "both token out"]:
        if index not in self._parts or not _same(self._seen, x):
            found = self._product(self._encode(x))
            self._parts = dict(enumerate(found.split(self._product.widths, dim=-1)))
            self._seen = (x, x._version)
        # Given away once, so that no states outlive their use.
        part = self._parts.pop(index)
        if not self._parts:
            self._seen = None
        return part


def _same(seen: tuple[Tensor, int] | None, x: Tensor) -> bool:
    """True where ``x`` is the very tensor that was seen, and was not written to since."""
    return seen is not None and seen[0] is x and seen[1] == x._version


class _Encoder:
    """Turn states into (base, aligned - base) in low precision; once for layers that share them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._seen: tuple[Tensor, int] | None = None
        self._low: Tensor | None = None

    def __call__(self, x: Float[Tensor, "both token d"]) -> Float[Tensor, "both token d"]:
        if self._low is not None and _same(self._seen, x):
            return self._low
        base, aligned = x.chunk(2)
        low = torch.empty(x.shape, dtype=self._dtype, device=x.device)
        # Written where they belong: a concatenation took five times as long.
        low[: len(base)].copy_(base)
        torch.sub(aligned, base, out=low[len(base) :])
        self._seen, self._low = (x, x._version), low
        return low


class _Exchanged:
    """A layer whose own forward is out of use until it is removed."""

    def __init__(self, layer: nn.Linear, forward: Callable[[Tensor], Tensor]) -> None:
        self._layer = layer
        layer.forward = forward  # type: ignore[method-assign, assignment]

    def remove(self) -> None:
        # The class's own forward shows again.
        del self._layer.forward


def why_not_joint(hf: PreTrainedModel, layout: Layout) -> str | None:
    """Return why a joint pass cannot serve these weights, None where it can."""
    if hf.dtype != torch.bfloat16:
        return f"it is for bfloat16, the weights are {str(hf.dtype).removeprefix('torch.')}"
    if any("forward" in vars(part) for part in hf.modules()):
        return "its layers are called in a way of their own (spread over devices?)"
    products, embed = set(_layers(layout)), layout.component("embed")
    for name, part in hf.base_model.named_modules():
        own = part._parameters and "lora_" not in name
        # Only these read float32 states with low-precision weights.
        if own and not (part in products or part is embed or "RMSNorm" in type(part).__name__):
            return (
                f"{name} ({type(part).__name__}) is neither a plain matrix product nor an RMS norm"
            )
    return None


def _groups(layout: Layout, layers: Sequence[nn.Linear]) -> list[list[nn.Linear]]:
    """Put layers together that read the same states; every layer is in one group."""
    groups: dict[nn.Linear, list[nn.Linear]] = {layer: [layer] for layer in layers}
    for block in range(layout.n_layers):
        for names in layout.same_input(block):
            together = [layer for layer in layers if layer in names]
            groups.update(dict.fromkeys(together, together))
    return list({id(group): group for group in groups.values()}.values())


def _layers(layout: Layout) -> list[nn.Linear]:
    blocks = (layout.component(f"blocks.{block}") for block in range(layout.n_layers))
    return [
        part
        for block in blocks
        for name, part in block.named_modules()
        if type(part) is nn.Linear and "lora_" not in name
    ]
