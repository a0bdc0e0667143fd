"""A float32 residual stream around low-precision layers.

    x_{l+1} = x_l + f_l(cast(norm(x_l)))        x in float32, f_l in bfloat16 or float16

A bfloat16 stream rounds every sum to 8 bits: a write that is small beside the stream (a safety
direction often is) loses most of its digits. Keeping the stream in float32 costs nothing that
matters, because all products stay in the model's own precision. What it does not repair: the
rounding of the weights themselves and of each layer's own output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hooks.errors import ModelError
from hooks.layout import Layout

StreamMode = Literal["model", "float32", "auto"]
_LOW = (torch.bfloat16, torch.float16)


def choose_stream(mode: StreamMode, dtype: torch.dtype, layout: Layout) -> bool:
    """Return whether the stream is to be kept in float32.

    Raises:
        ModelError: it was asked for and this family's layers cannot take it.
    """
    if mode == "model" or dtype not in _LOW:
        return False
    able = _casts(layout, dtype) is not None
    if mode == "float32" and not able:
        raise ModelError(
            "stream='float32' needs an RMS norm before attention and MLP, which this family has "
            "not; use stream='model' or dtype float32"
        )
    return able


def attach_stream(layout: Layout, dtype: torch.dtype) -> list[RemovableHandle]:
    """Hook the embedding up to float32 and every reader of the stream down to ``dtype``."""
    casts = _casts(layout, dtype)
    if casts is None:
        raise ModelError("this family cannot keep a float32 stream")
    return [module.register_forward_hook(hook) for module, hook in casts]


def attach_float32(layout: Layout) -> RemovableHandle:
    """Hook the embedding up to float32; what reads the stream gets it as it is."""
    return layout.component("embed").register_forward_hook(_cast_to(torch.float32))


_Hook = Callable[[nn.Module, object, object], object]


def _casts(layout: Layout, dtype: torch.dtype) -> list[tuple[nn.Module, _Hook]] | None:
    norms = layout.norms()
    rotary = layout.rotary()
    if rotary is None or norms is None:
        return None
    # A layer norm from torch refuses an input of another dtype than its weights.
    if not all("RMSNorm" in type(norm).__name__ for norm in norms):
        return None
    down = _cast_to(dtype)
    embed = layout.component("embed")
    return [(embed, _cast_to(torch.float32)), (rotary, down), *((norm, down) for norm in norms)]


def _cast_to(dtype: torch.dtype) -> _Hook:
    def cast(module: nn.Module, args: object, output: object) -> object:
        del module, args
        if isinstance(output, tuple):
            return tuple(part.to(dtype) if isinstance(part, Tensor) else part for part in output)
        return output.to(dtype) if isinstance(output, Tensor) else output

    return cast
