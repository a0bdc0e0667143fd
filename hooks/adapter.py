"""Switching a PEFT adapter on and off, exactly and at full speed.

    LoRA  W_on = W + s B A                                  (Hu et al. 2021, eq. 3)
    DoRA  W_on = m (W + s B A) / |W + s B A|                (Liu et al. 2024, eq. 5; norm by output)

*Merged*: ``W_on`` is computed once and kept beside ``W``; the model gets its own plain layers back
and switching exchanges the two tensors, so the base is bit-equal to itself afterwards and either
side runs at the base's own speed. Layers that were trained whole are exchanged in the same way.
*Live*: the adapter's own layers run on top of ``W``; needs no memory, but two thin products a layer
(measured on the reference pair: about 1.5 to 2 times the time of the base). In low precision
``W_on`` is rounded to the model's dtype once. What cannot be switched off exactly is refused in
:mod:`hooks.adapter_file`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from hooks.adapter_file import MAGNITUDE
from hooks.errors import ModelError

# peft is imported where it is used: models without an adapter need not wait for it.

AdapterMode = Literal["auto", "merged", "live"]
MERGE_LIMIT = 4 * 2**30
"""Bytes of adapted weights up to which ``auto`` keeps a merged copy beside the base's."""


class AdapterSwitch:
    """Turn the adapter of one model on and off."""

    def __init__(self, hf: PreTrainedModel, mode: AdapterMode = "auto") -> None:
        """Find the adapted layers; merged, ``hf`` loses its wrappers and starts without adapter.

        Raises:
            ModelError: ``merged`` was asked for, and the adapter changes more than tensors.
        """
        self._hf = hf
        self.mode = self._decide(mode)
        if self.mode == "live":
            for part in _lora_parameters(hf):
                part.data = part.data.to(hf.dtype)
        self.factors = _factors(hf)
        """What the adapter adds to each layer, as two thin factors; None where it is more."""
        self._exchanged: list[_Exchanged] = []
        if self.mode == "live":
            return
        for name, part in _wrappers(hf).items():
            self._exchanged += _exchanged(part)
            parent, _, own = name.rpartition(".")
            setattr(hf.get_submodule(parent), own, _inner(part))
        # transformers would ask the wrappers that are gone.
        hf._hf_peft_config_loaded = False

    def _decide(self, mode: AdapterMode) -> Literal["merged", "live"]:
        reason = _not_mergeable(self._hf)
        if mode == "merged" and reason is not None:
            raise ModelError(f"adapter_mode='merged': {reason}; use 'auto' or 'live'")
        if mode == "live" or reason is not None:
            return "live"
        changed = [own for part in _wrappers(self._hf).values() for own in _changed(part)]
        held = sum(own.nbytes for own in changed)
        return "merged" if mode == "merged" or held <= MERGE_LIMIT else "live"

    def set(self, *, on: bool) -> None:
        """Switch; setting twice is the same as once."""
        for each in self._exchanged:
            each.parameter.data = each.on if on else each.off
        if self.mode == "merged":
            return
        # transformers' enable_adapters() leaves layers that were trained whole switched off.
        for part in _wrappers(self._hf).values():
            part.enable_adapters(on)  # type: ignore[operator]
        # peft asks for gradients of what it switches on.
        self._hf.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class _Exchanged:
    """A parameter of the base with its two values."""

    parameter: nn.Parameter
    off: Tensor
    on: Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """``s B A`` of one layer: the adapter's own B (``up``) and A (``down``), no copies."""

    down: Float[Tensor, "r in"]
    up: Float[Tensor, "out r"]
    scale: float = 1.0


def _factors(hf: PreTrainedModel) -> dict[nn.Module, LowRank] | None:
    """Return the factors by the base's own layer; None where something is not a plain LoRA."""
    found: dict[nn.Module, LowRank] = {}
    for part in _wrappers(hf).values():
        names = list(getattr(part, "lora_A", ()))
        plain = type(_inner(part)) is nn.Linear and not hasattr(part, "original_module")
        if not plain or len(names) != 1 or names[0] in getattr(part, MAGNITUDE, {}):
            return None
        (name,) = names
        down, up = (
            part.get_submodule(f"{which}.{name}").get_parameter("weight").detach()
            for which in ("lora_A", "lora_B")
        )
        scale = float(part.scaling[name])  # type: ignore[index, operator, arg-type]
        found[_inner(part)] = LowRank(down, up, scale)
    return found


def _wrappers(hf: PreTrainedModel) -> dict[str, nn.Module]:
    """Return what peft put around layers: adapted ones, and those that were trained whole."""
    kinds = ("base_layer", "original_module")
    return {
        name: part
        for name, part in hf.named_modules()
        if any(own in kinds for own, _ in part.named_children())
    }


def _inner(wrapper: nn.Module) -> nn.Module:
    """Return the base's own layer inside a wrapper."""
    children = dict(wrapper.named_children())
    return children["base_layer" if "base_layer" in children else "original_module"]


def _changed(wrapper: nn.Module) -> list[nn.Parameter]:
    """Return the base's parameters that the adapter has another value for."""
    inner = _inner(wrapper)
    whole = hasattr(wrapper, "original_module")
    return list(inner.parameters()) if whole else [inner.get_parameter("weight")]


def _exchanged(wrapper: nn.Module) -> list[_Exchanged]:
    if hasattr(wrapper, "original_module"):
        (saved,) = wrapper.get_submodule("modules_to_save").children()
        values = [part.data for part in saved.parameters()]
    else:
        values = [adapted_weight(wrapper)]
    return [
        _Exchanged(own, own.data, value.to(own.dtype))
        for own, value in zip(_changed(wrapper), values, strict=True)
    ]


def _not_mergeable(hf: PreTrainedModel) -> str | None:
    """Return why the adapter is not one more value for each parameter that it changes."""
    from peft.tuners.lora.layer import Linear

    users = Counter(id(part) for module in hf.modules() for part in module._parameters.values())
    for name, part in _wrappers(hf).items():
        whole = hasattr(part, "original_module")
        if not whole and not isinstance(part, Linear):
            return f"{name}: {type(part).__name__} layers are no plain matrix products"
        if whole and any(True for _ in part.buffers()):
            return f"{name} was trained whole and has buffers"
        if any(users[id(own)] > 1 for own in _changed(part)):
            return f"{name} is tied to another layer, which the adapter does not change"
    return None


@torch.no_grad()
def adapted_weight(layer: nn.Module) -> Float[Tensor, "a b"]:
    """Return the weight of a layer with its adapter on, float32, in the layer's own orientation.

    A layer without an adapter, or with it switched off, gives its own weight.

    Raises:
        TypeError: the layer holds no weight tensor.
    """
    if not hasattr(layer, "base_layer"):
        return _matrix(layer).float()
    total = _weight(layer).float()
    if getattr(layer, "disable_adapters", True):
        return total
    by_output = (lambda x: x.T) if getattr(layer, "fan_in_fan_out", False) else (lambda x: x)
    for name in layer.active_adapters:  # type: ignore[union-attr]
        total = total + layer.get_delta_weight(name).float()  # type: ignore[operator]
        magnitude = getattr(layer, MAGNITUDE, {})
        if name in magnitude:
            rows = by_output(total)
            length = magnitude[name].weight.detach().float() / rows.norm(dim=1)
            total = by_output(rows * length[:, None])
    return total


def _weight(layer: nn.Module) -> Tensor:
    return _matrix(_inner(layer))


def _matrix(module: nn.Module) -> Tensor:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} holds no weight tensor")
    return weight.data


def _lora_parameters(hf: PreTrainedModel) -> list[nn.Parameter]:
    return [part for name, part in hf.named_parameters() if "lora_" in name]
