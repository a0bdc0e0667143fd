"""Weights in the order in which the processor's matrix kernels read them.

torch keeps a weight row by row; oneDNN's kernels copy it into blocks of their own in every product.
Copied once and kept, a product of bfloat16 on a CPU takes 1 to 5% less time (docs/decisions/026).
The result is the same matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

PACK_LIMIT = 4 * 2**30
"""Bytes of weights up to which a packed copy is kept beside them."""
_TOKENS = 1024  # what oneDNN is told to expect; products of any other number are right as well

Times = Callable[[Float[Tensor, "*batch in"]], Float[Tensor, "*batch out"]]
"""One matrix product."""


def can_pack(weights: Sequence[Tensor]) -> bool:
    """True where bfloat16 products of this device gain from it and the copy is not too large."""
    # torch's compiler calls these; they are not promised to its users.
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    if any(part.device.type != "cpu" or part.dtype != torch.bfloat16 for part in weights):
        return False
    return (
        sum(part.nbytes for part in weights) <= PACK_LIMIT
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and all(hasattr(torch.ops.mkldnn, name) for name in names)
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def plain(weight: Float[Tensor, "out in"]) -> Times:
    """Return ``x -> x W^T`` with the weight as it is."""
    return partial(functional.linear, weight=weight)


def packed(weights: Sequence[Float[Tensor, "_ in"]]) -> Times:
    """Return ``x -> [x W_1^T, x W_2^T, ...]``, one product; ask :func:`can_pack` first."""
    blocks = torch.ops.mkldnn._reorder_linear_weight(torch.cat(list(weights)), _TOKENS)

    def times(x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return torch.ops.mkldnn._linear_pointwise(x, blocks, None, "none", [], "")

    return times
