"""Where each site lies in an untouched Hugging Face model, by TransformerLens' own map.

TransformerLens' architecture adapter translates a canonical path such as ``blocks.3.attn.o``
to a module of the model as transformers built it, so nothing is wrapped or rewired.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import nn
from transformers import PreTrainedModel

from hooks.errors import ModelError, SiteError
from hooks.sites import Site, site

Side = Literal["in", "out"]
_SAME_INPUT = {"attn": ("q", "k", "v"), "mlp": ("gate", "in")}


@runtime_checkable
class ComponentMap(Protocol):
    """What is used of TransformerLens' architecture adapter."""

    @property
    def component_mapping(self) -> Mapping[str, object] | None:
        """Components of the model by name."""
        ...

    def get_component(self, model: nn.Module, path: str) -> nn.Module:
        """Return the module at a canonical path."""
        ...


@dataclass(frozen=True, eq=False)
class Tap:
    """The side of the module whose tensor is the site."""

    site: Site
    module: nn.Module
    side: Side
    width: int
    heads: int | None = None
    """Number of heads when the last axis is to be read as (head, d_head)."""

    @property
    def key(self) -> tuple[int, Side]:
        """What identifies the torch hook that serves this tap."""
        return (id(self.module), self.side)


def adapter_for(hf: PreTrainedModel) -> ComponentMap:
    """Build TransformerLens' adapter for the architecture of ``hf``.

    Raises:
        ModelError: TransformerLens does not know the architecture.
    """
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf

    name = type(hf).__name__
    try:
        config = build_bridge_config_from_hf(hf.config, name, name, hf.dtype)
        return ArchitectureAdapterFactory.select_architecture_adapter(config)
    except ValueError as error:
        raise ModelError(
            f"{name}: TransformerLens has no adapter for this architecture, so its sites have no "
            "names; see transformer_lens.supported_models"
        ) from error


class Layout:
    """The taps of one model, and the reason for each kind that its family cannot give."""

    def __init__(self, hf: PreTrainedModel) -> None:
        """Read the map; the model is not touched."""
        from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

        self._hf = hf
        self._adapter = adapter_for(hf)
        block = (self._adapter.component_mapping or {}).get("blocks")
        if not isinstance(block, GeneralizedComponent):
            raise ModelError(f"{type(hf).__name__}: TransformerLens' map names no blocks")
        self._parts = block.submodules
        self._aliases = dict(block.hook_aliases)
        config = hf.config.get_text_config(decoder=True)
        self.n_layers = int(config.num_hidden_layers)
        self.d_model = int(config.hidden_size)
        self.n_heads = int(config.num_attention_heads)
        self.n_kv_heads = int(getattr(config, "num_key_value_heads", None) or self.n_heads)
        self.context_length = int(getattr(config, "max_position_embeddings", 0)) or None
        self.refused = self._refusals()
        self._taps: dict[Site, Tap] = {}

    @property
    def parallel(self) -> bool:
        """True where attention and MLP both read the block's input (no ``resid_mid``)."""
        return "hook_resid_mid" in self.refused and "hook_resid_mid" not in self._aliases

    def _refusals(self) -> dict[str, str]:
        attn, mlp = self._parts.get("attn"), self._parts.get("mlp")
        reasons: dict[str, str] = {}
        if "ln1" not in self._parts:
            reasons["ln1.hook_out"] = "this family has no norm before attention"
        if attn is None or "o" not in attn.submodules:
            reasons["attn.hook_z"] = "this family's attention has no separate output projection"
        if "hook_resid_mid" not in self._aliases:
            reasons["hook_resid_mid"] = "attention and MLP run in parallel: no state between them"
        if mlp is None or "out" not in mlp.submodules:
            reasons["mlp.hook_post"] = "the MLP is a mixture of experts or has no single projection"
        for kind in ("hook_attn_out", "hook_mlp_out"):
            if kind not in self._aliases:
                reasons[kind] = "the sublayer's output is rescaled before it enters the stream"
        return reasons

    def component(self, path: str) -> nn.Module:
        """Return the model's own module at a canonical path such as ``blocks.3.attn.o``."""
        found = self._adapter.get_component(self._hf, path)
        if not isinstance(found, nn.Module):
            raise ModelError(f"{path}: not a module of {type(self._hf).__name__}")
        return found

    def same_input(self, block: int) -> list[list[nn.Module]]:
        """Return the layers of a block that read one tensor, where the model has them apart."""
        found: list[list[nn.Module]] = []
        for part, names in _SAME_INPUT.items():
            # Fused, without a gate, or with one tensor for keys and values: each layer for itself.
            with suppress(AttributeError, ValueError, ModelError):
                paths = (f"blocks.{block}.{part}.{name}" for name in names)
                found.append([inner_layer(self.component(path)) for path in paths])
        return found

    def norms(self) -> list[nn.Module] | None:
        """Return every norm that reads the stream; None where a sublayer reads it unnormed."""
        if "ln1" not in self._parts or not ("ln2" in self._parts or self.parallel):
            return None
        names = [name for name in ("ln1", "ln2") if name in self._parts]
        inner = [f"blocks.{block}.{name}" for block in range(self.n_layers) for name in names]
        return [self.component(path) for path in [*inner, "ln_final"]]

    def rotary(self) -> nn.Module | None:
        """Return the module that makes the rotary angles, None without one."""
        if "rotary_emb" not in (self._adapter.component_mapping or {}):
            return None
        return self.component("rotary_emb")

    def tap(self, item: Site) -> Tap:
        """Return where ``item`` is read and written.

        Raises:
            SiteError: the family cannot give this kind.
        """
        if item.kind in self.refused:
            raise SiteError(
                f"{item.name}: not served for {type(self._hf).__name__}: {self.refused[item.kind]}"
            )
        if item not in self._taps:
            self._taps[item] = self._find(item)
        return self._taps[item]

    def _find(self, item: Site) -> Tap:
        if item.block is None:
            path = item.kind.removeprefix("hook_").removesuffix(".hook_out")
            width = self.d_model if path != "unembed" else int(self._hf.config.vocab_size)
            return Tap(item, self.component(path), "out", width)
        path, side = self._path(item.kind)
        module = self.component(".".join(filter(None, (f"blocks.{item.block}", path))))
        if item.kind == "attn.hook_z":
            return Tap(item, module, side, input_width(module) // self.n_heads, self.n_heads)
        width = input_width(module) if item.kind == "mlp.hook_post" else self.d_model
        return Tap(item, module, side, width)

    def _path(self, kind: str) -> tuple[str, Side]:
        fixed: dict[str, tuple[str, Side]] = {
            "hook_resid_pre": ("", "in"),
            "hook_resid_post": ("", "out"),
            "ln1.hook_out": ("ln1", "out"),
            "attn.hook_z": ("attn.o", "in"),
            "mlp.hook_post": ("mlp.out", "in"),
        }
        if kind in fixed:
            return fixed[kind]
        # Post-norm families: TransformerLens points these at what enters the stream.
        alias = self._aliases[kind]
        path, _, end = (alias if isinstance(alias, str) else alias[0]).rpartition(".")
        return path, "in" if end == "hook_in" else "out"

    def tap_of(self, kind: str, block: int) -> Tap:
        """Return the tap of ``kind`` at ``block``."""
        return self.tap(site(kind, block, self.n_layers))


def inner_layer(module: nn.Module) -> nn.Module:
    """Return the layer that an adapter was put around, or the module itself."""
    return module.get_submodule("base_layer") if hasattr(module, "base_layer") else module


def input_width(module: nn.Module) -> int:
    """Return the input width of a linear map (nn.Linear, GPT-2's Conv1D, or LoRA around one)."""
    inner = inner_layer(module)
    width = getattr(inner, "in_features", None)
    # transformers' Conv1D keeps its weight as [in, out].
    return int(inner.get_parameter("weight").shape[0] if width is None else width)
