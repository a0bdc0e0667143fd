"""Both sides of a pair in one pass, so that bfloat16 keeps the digits of their difference.

    y_b = W x_b,        y_a = y_b + W (x_a - x_b) + s B A x_a

In exact arithmetic that is W x_b and (W + s B A) x_a. Run apart, two models round both products to
8 bits of the *state*, and where training moved a state little, few digits of the move are left.
Here the difference is a product of its own and is rounded to 8 bits of *itself*; norms, attention,
activations and sums run in float32. The base half of a pass is what bfloat16 layers around a
float32 stream give (:mod:`hooks.precision`), its rounding included: only differences gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from hooks.adapter import LowRank
from hooks.layout import Layout
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
        """Find every matrix product of the blocks."""
        self._layout = layout
        self._dtype = dtype
        self._factors = factors
        self._products = _products(layout)

    def attach(self) -> Iterator[Removable]:
        """Exchange the products, and hook the stream up to float32, one at a time."""
        yield attach_float32(self._layout)
        encode = _Encoder(self._dtype)
        for layer in self._products:
            forward = partial(joint_product, layer, self._factors.get(layer), encode)
            yield _Exchanged(layer, forward)


def joint_product(
    layer: nn.Linear,
    delta: LowRank | None,
    encode: Callable[[Tensor], Tensor],
    x: Float[Tensor, "both token in"],
) -> Float[Tensor, "both token out"]:
    """Return the products of both sides, float32, the base's rows first."""
    low = encode(x)
    y = functional.linear(low, layer.weight)
    n = len(x) // 2
    if delta is not None:
        thin = functional.linear(low, delta.down)
        # One kernel for product and sum. A view and no reshape: a copy would lose the sum.
        moved = y[n:].view(-1, y.shape[-1])
        moved.addmm_((thin[:n] + thin[n:]).view(-1, thin.shape[-1]), delta.up.T)
    out = y.float()
    out[n:] += out[:n]
    return out if layer.bias is None else out.add_(layer.bias)


class _Encoder:
    """Turn states into (base, aligned - base) in low precision; once for layers that share them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, x: Float[Tensor, "both token d"]) -> Float[Tensor, "both token d"]:
        if self._last is not None:
            seen, version, low = self._last
            if seen is x and x._version == version:
                return low
        base, aligned = x.chunk(2)
        low = torch.empty(x.shape, dtype=self._dtype, device=x.device)
        # Written where they belong: a concatenation took five times as long.
        low[: len(base)].copy_(base)
        torch.sub(aligned, base, out=low[len(base) :])
        self._last = (x, x._version, low)
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
    products, embed = set(_products(layout)), layout.component("embed")
    for name, part in hf.base_model.named_modules():
        own = part._parameters and "lora_" not in name
        # Only these read float32 states with low-precision weights.
        if own and not (part in products or part is embed or "RMSNorm" in type(part).__name__):
            return (
                f"{name} ({type(part).__name__}) is neither a plain matrix product nor an RMS norm"
            )
    return None


def _products(layout: Layout) -> list[nn.Linear]:
    blocks = (layout.component(f"blocks.{block}") for block in range(layout.n_layers))
    return [
        part
        for block in blocks
        for name, part in block.named_modules()
        if type(part) is nn.Linear and "lora_" not in name
    ]
