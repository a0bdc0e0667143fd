"""Switching a PEFT adapter on and off, exactly and at full speed.

    LoRA  W_on = W + s B A                                  (Hu et al. 2021, eq. 3)
    DoRA  W_on = m (W + s B A) / |W + s B A|                (Liu et al. 2024, eq. 5; norm by output)

*Merged*: ``W_on`` is computed once and kept beside ``W``; the model gets its own plain layers back
and switching exchanges the two tensors, so the base is bit-equal to itself afterwards and either
side runs at the base's own speed. *Live*: the
adapter's own layers run on top of ``W``; needs no memory, but two thin products a layer (measured
on the reference pair: about 1.5 to 2 times the time of the base). In low precision ``W_on`` is
rounded to the model's dtype once. What cannot be
switched off exactly is refused in :mod:`hooks.adapter_file`.
"""

from __future__ import annotations

from collections import Counter
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
            ModelError: ``merged`` was asked for and there is something that is no matrix to merge.
        """
        self._hf = hf
        wrapped = {name: part for name, part in hf.named_modules() if hasattr(part, "base_layer")}
        self._layers = list(wrapped.values())
        self.mode = self._decide(mode)
        self._inner = [_inner(layer) for layer in self._layers]
        self._base: list[Tensor] = []
        self._sum: list[Tensor] = []
        if self.mode == "live":
            for part in _lora_parameters(hf):
                part.data = part.data.to(hf.dtype)
            return
        self._base = [_weight(layer) for layer in self._layers]
        self._sum = [adapted_weight(layer).to(_weight(layer).dtype) for layer in self._layers]
        for name in wrapped:
            parent, _, own = name.rpartition(".")
            setattr(hf.get_submodule(parent), own, _inner(hf.get_submodule(name)))
        self._layers = []
        # transformers would ask the wrappers that are gone.
        hf._hf_peft_config_loaded = False

    def _decide(self, mode: AdapterMode) -> Literal["merged", "live"]:
        reason = self._not_mergeable()
        if mode == "merged" and reason is not None:
            raise ModelError(f"adapter_mode='merged': {reason}; use 'auto' or 'live'")
        if mode == "live" or reason is not None:
            return "live"
        held = sum(_weight(layer).nbytes for layer in self._layers)
        return "merged" if mode == "merged" or held <= MERGE_LIMIT else "live"

    def _not_mergeable(self) -> str | None:
        """Return why the adapter's change is not one more matrix beside each of the base's."""
        from peft.tuners.lora.layer import Linear
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        for name, part in self._hf.named_modules():
            if isinstance(part, AuxiliaryTrainingWrapper):
                return f"{name} was trained whole (modules_to_save)"
        users = Counter(
            id(part.weight)
            for part in self._hf.modules()
            if isinstance(getattr(part, "weight", None), nn.Parameter)
            and not isinstance(part, BaseTunerLayer)
        )
        for layer in self._layers:
            if not isinstance(layer, Linear):
                return f"{type(layer).__name__} layers are no plain matrix products"
            if users[id(_inner(layer).weight)] > 1:
                return "an adapted matrix is tied to another layer that is not adapted"
        return None

    def set(self, *, on: bool) -> None:
        """Switch; setting twice is the same as once."""
        if self.mode == "live":
            self._set_live(on=on)
            return
        for layer, weight in zip(self._inner, self._sum if on else self._base, strict=True):
            layer.weight.data = weight

    def _set_live(self, *, on: bool) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        # transformers' enable_adapters() leaves layers that were trained whole switched off.
        for part in self._hf.modules():
            if isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper):
                part.enable_adapters(on)
        # peft asks for gradients of what it switches on.
        self._hf.requires_grad_(False)


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


def _inner(layer: nn.Module) -> nn.Module:
    return layer.get_submodule("base_layer")


def _weight(layer: nn.Module) -> Tensor:
    return _matrix(_inner(layer))


def _matrix(module: nn.Module) -> Tensor:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} holds no weight tensor")
    return weight.data


def _lora_parameters(hf: PreTrainedModel) -> list[nn.Parameter]:
    return [part for name, part in hf.named_parameters() if "lora_" in name]
