"""Both sides of a pair in one pass, so that bfloat16 keeps the digits of their difference.

    y_b = W x_b,        y_a = y_b + W (x_a - x_b) + s B A x_a

In exact arithmetic that is W x_b and (W + s B A) x_a. Run apart, two models round both products to
8 bits of the *state*, and where training moved a state little, few digits of the move are left.
Here the difference is a product of its own and is rounded to 8 bits of *itself*; norms, attention,
activations and sums run in float32. The base half of a pass is what bfloat16 layers around a
float32 stream give (:mod:`hooks.precision`), its rounding included: only differences gain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from hooks.adapter import LowRank
from hooks.engine import is_out_of_memory
from hooks.layout import Layout
from hooks.packed import Times, can_pack, packed, plain
from hooks.precision import attach_float32

_log = logging.getLogger("theodolite.joint")


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
        self._built: _Built | None = None

    def attach(self) -> Iterator[Removable]:
        """Exchange the products, and hook the stream up to float32, one at a time."""
        yield attach_float32(self._layout)
        encode = _Encoder(self._dtype)
        for product in self._products():
            reader = _Reader(product, encode)
            for index, layer in enumerate(product.layers):
                yield _Exchanged(layer, partial(reader, index))

    def _products(self) -> tuple[JointProduct, ...]:
        """Return the products of all layers; made once, and again where a tensor was edited."""
        layers = _layers(self._layout)
        held = [own.detach() for layer in layers for own in self._tensors(layer)]
        seen = [(own.data_ptr(), _version(own)) for own in held]
        if self._built is None or self._built.seen != seen:
            self._built = None  # never two copies of the weights at once
            self._built = _Built(self._make(layers), seen, held)
        return self._built.products

    def _tensors(self, layer: nn.Linear) -> list[Tensor]:
        """Return what a product of ``layer`` is made of."""
        delta = self._factors.get(layer)
        own = [layer.weight, *([] if layer.bias is None else [layer.bias])]
        return own if delta is None else [*own, delta.down, delta.up]

    def _make(self, layers: Sequence[nn.Linear]) -> tuple[JointProduct, ...]:
        if can_pack([layer.weight for layer in layers]):
            try:
                groups = _groups(self._layout, layers)
                return tuple(self._joint(group, pack=True) for group in groups)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                _log.warning("no memory for packed weights: the pass reads them as they are")
        return tuple(self._joint([layer], pack=False) for layer in layers)

    def _joint(self, layers: Sequence[nn.Linear], *, pack: bool) -> JointProduct:
        return JointProduct(layers, [self._factors.get(layer) for layer in layers], pack=pack)


@dataclass(frozen=True, eq=False)
class _Built:
    """Products, and the tensors that they were made of."""

    products: tuple[JointProduct, ...]
    seen: list[tuple[int, int]]
    """Address and version of each tensor."""
    held: list[Tensor]
    """Aliases of them: as long as these live, no other tensor can have the same address."""


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
        self._biases = [None if layer.bias is None else layer.bias.float() for layer in layers]
        dtype = weights[0].dtype
        known = [delta for delta in deltas if delta is not None]
        # One product with every A; each B adds to the columns of its own layer.
        down = torch.cat([delta.down.to(dtype) for delta in known]) if known else None
        self._down = None if down is None else packed([_whole_tiles(down)]) if pack else plain(down)
        self._ups = [
            None if delta is None else (delta.scale * delta.up.float()).to(dtype)
            for delta in deltas
        ]

    def __call__(self, low: Float[Tensor, "both token in"]) -> tuple[Tensor, ...]:
        """Turn (x_b, x_a - x_b) into (y_b, y_a - y_b), in low precision, layer by layer."""
        y = self._times(low)
        if self._down is not None:
            thin = self._down(low)
            n = len(low) // 2
            # Views and no reshapes: a copy would lose the sum.
            self._add((thin[:n] + thin[n:]).flatten(0, 1), y[n:].view(-1, y.shape[-1]))
        return y.split(self.widths, dim=-1)

    def both(
        self, index: int, y: Float[Tensor, "both token out"]
    ) -> Float[Tensor, "both token out"]:
        """Turn (y_b, y_a - y_b) of one layer into (y_b, y_a) in float32, its bias with them."""
        out = y.float()
        n = len(out) // 2
        out[n:] += out[:n]
        bias = self._biases[index]
        return out if bias is None else out.add_(bias)

    def _add(self, thin: Float[Tensor, "row r"], moved: Float[Tensor, "row out"]) -> None:
        """Add s B A x_a to what the difference moved, layer by layer."""
        column = 0
        for part, up in zip(moved.split(self.widths, dim=-1), self._ups, strict=True):
            if up is not None:
                rank = up.shape[1]
                part.addmm_(thin[:, column : column + rank], up.T)
                column += rank


def _whole_tiles(down: Float[Tensor, "r in"]) -> Float[Tensor, "padded in"]:
    """Add rows of zeros up to a multiple of 16, which the kernels' tiles are wide."""
    return functional.pad(down, (0, 0, 0, -len(down) % 16))


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
            self._parts = dict(enumerate(self._product(self._encode(x))))
            self._seen = (x, _version(x))
        # Widened where it is asked for and given away once: no states outlive their use.
        part = self._product.both(index, self._parts.pop(index))
        if not self._parts:
            self._seen = None
        return part


def _same(seen: tuple[Tensor, int] | None, x: Tensor) -> bool:
    """True where ``x`` is the very tensor that was seen, and was not written to since."""
    return seen is not None and seen[0] is x and seen[1] == _version(x)


def _version(x: Tensor) -> int:
    """Return how often ``x`` was written to; 0 under inference mode, where torch does not count."""
    return 0 if x.is_inference() else x._version


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
        self._seen, self._low = (x, _version(x)), low
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
        for readers in layout.same_input(block):
            together = [layer for layer in layers if layer in readers]
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
