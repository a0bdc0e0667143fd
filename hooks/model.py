"""A loaded model: an untouched Hugging Face model with names for its sites and one registry."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from artifacts.manifest import ModelInfo, TokenizerInfo
from hooks import chat, fingerprint
from hooks.adapter import AdapterSwitch
from hooks.capture import Capture
from hooks.check import CheckReport, run_check
from hooks.encoded import Encoded
from hooks.engine import EngineOptions
from hooks.errors import ContextError, ModelError
from hooks.gates import Gate
from hooks.interventions import Intervention
from hooks.layout import Layout, input_width
from hooks.precision import StreamMode
from hooks.run import Run
from hooks.sites import SITE_KINDS, Site, expand_all
from hooks.source import Source
from hooks.weights import View, Weights


class Model:
    """One model, or one side of a pair that shares its weights.

    ``model.hf`` is the Hugging Face model itself, never wrapped or patched: its attention stays
    sdpa or flash, its ``generate()`` stays its own, and outside a hook context it has the hooks
    that it came with.
    """

    def __init__(self, view: View, source: Source) -> None:
        """Use :func:`hooks.load`, :func:`hooks.load_pair` or :func:`hooks.wrap`."""
        self._view = view
        self._source = source
        view.refuse = self._refusal

    @property
    def hf(self) -> PreTrainedModel:
        """The Hugging Face model; for one side of a pair, use it inside ``model.hooks()``."""
        return self._view.hf

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._view.tokenizer

    @property
    def layout(self) -> Layout:
        """Where each site lies."""
        return self._view.layout

    @property
    def spec(self) -> str:
        """What the user asked for."""
        return self._source.spec

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.layout.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.layout.d_model

    @property
    def n_heads(self) -> int:
        """Number of attention (query) heads a block."""
        return self.layout.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Number of key/value heads a block."""
        return self.layout.n_kv_heads

    @cached_property
    def d_head(self) -> int:
        """Width of one head."""
        explicit = getattr(self.hf.config.get_text_config(decoder=True), "head_dim", None)
        return int(explicit or self.d_model // self.n_heads)

    @cached_property
    def d_mlp(self) -> int | None:
        """Hidden width of the MLP; None for a mixture of experts."""
        if "mlp.hook_post" in self.layout.refused:
            return None
        return input_width(self.layout.component("blocks.0.mlp.out"))

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._view.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.hf.dtype

    @property
    def stream_dtype(self) -> torch.dtype:
        """Type in which the residual stream is kept inside a hook context."""
        return torch.float32 if self._view.registry.float32_stream else self.dtype

    @property
    def context_length(self) -> int | None:
        """Longest prompt in tokens, None where the family states none."""
        return self.layout.context_length

    @property
    def shares_weights(self) -> bool:
        """True for one side of a pair that shares one copy of the weights."""
        return self._view.adapter is not None

    def sites(self, patterns: str | Iterable[str]) -> tuple[str, ...]:
        """Return the names of the sites that ``patterns`` mean in this model.

        Raises:
            SiteError: a pattern that names nothing, or a site that is not served.
        """
        found = expand_all(patterns, self.n_layers)
        for site in found:
            self.layout.tap(site)
        self._view.require(found)
        return tuple(site.name for site in found)

    def encode(
        self,
        prompts: Sequence[str],
        *,
        template: bool = True,
        system: str | None = None,
        responses: Sequence[str] | None = None,
    ) -> Encoded:
        """Turn prompts into token ids; see :func:`hooks.chat.encode`."""
        if isinstance(prompts, str):
            raise ModelError("encode takes a list of prompts; wrap a single one in [...]")
        return chat.encode(
            self.tokenizer, prompts, template=template, system=system, responses=responses
        )

    def hooks(
        self,
        *,
        capture: Capture | Sequence[Capture] = (),
        edits: Intervention | Gate | Sequence[Intervention | Gate] = (),
        options: EngineOptions | None = None,
    ) -> Run:
        """Open a context in which ``capture`` reads and ``edits`` write.

            with model.hooks(capture=Capture("blocks.*.hook_resid_post", into=rows)) as run:
                run.forward(model.encode(prompts))

        Edits act in the order given, then captures read (unless one asks for the state before
        edits); contexts nest, outer edits first. Nothing of it stays after the block.

        Raises:
            SiteError: a site that does not exist, is not served, or failed its check.
            EditError: an edit that does not fit its site.
        """
        captures = [capture] if isinstance(capture, Capture) else list(capture)
        changes = [edits] if isinstance(edits, Intervention | Gate) else list(edits)
        return Run(self._view, captures, changes, options or EngineOptions())

    @cached_property
    def _checked(self) -> CheckReport:
        return run_check(self._view, self._source)

    def check(self) -> CheckReport:
        """Measure that every site is what its name says; once per architecture, then cached."""
        return self._checked

    def _refusal(self, site: Site) -> str | None:
        return self._checked.refusals.get(site.kind)

    def served(self) -> tuple[str, ...]:
        """Return the site kinds that this model gives."""
        out = []
        for kind in SITE_KINDS:
            if kind not in self.layout.refused and kind not in self._checked.refusals:
                out.append(kind)
        return tuple(out)

    def info(self) -> ModelInfo:
        """Return what an artifact records of this model."""
        config = self.hf.config
        return ModelInfo(
            spec=self.spec,
            revision=self._source.revision,
            config_digest=fingerprint.config_digest(config),
            weight_digests=self._source.weight_digests(self.hf),
            adapter_digest=self._source.adapter_digest,
            dtype=str(self.dtype).removeprefix("torch."),
            attention=str(getattr(config, "_attn_implementation", "unknown")),
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            d_model=self.d_model,
            d_head=self.d_head,
            d_mlp=self.d_mlp,
        )

    def tokenizer_info(self) -> TokenizerInfo:
        """Return what an artifact records of the tokenizer."""
        return TokenizerInfo(
            digest=fingerprint.tokenizer_digest(self.tokenizer),
            chat_template_digest=fingerprint.template_digest(self.tokenizer),
        )

    def bridge(self) -> object:
        """Boot TransformerLens' ``TransformerBridge`` on a copy of this model.

        For what only the bridge has (attention patterns, patching tools). Booting rewires the
        model that it is given and forces eager attention, so it gets a copy of its own.

        Raises:
            ModelError: TransformerLens cannot boot this architecture.
            ContextError: a hook context is open, whose hooks would be copied too.
        """
        from transformer_lens.model_bridge import TransformerBridge

        if self._view.registry.contexts:
            raise ContextError("bridge() copies the model: call it outside hook contexts")
        with self._view:
            twin = merged_copy(self.hf, adapter=self._view.adapter is True)
        try:
            return TransformerBridge.boot_transformers(
                self._source.name, hf_model=twin, tokenizer=self.tokenizer, dtype=self.dtype
            )
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"{self.spec}: TransformerLens cannot boot it: {error}") from error


def merged_copy(hf: PreTrainedModel, *, adapter: bool | None) -> PreTrainedModel:
    """Return a copy of ``hf`` as plain layers, the adapter's change added if it is on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    twin = copy.deepcopy(hf)
    for name, module in list(twin.named_modules()):
        if not isinstance(module, BaseTunerLayer):
            continue
        if adapter and not module.disable_adapters:  # a merged view has the sum in its weights
            module.merge()
        parent = twin.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    return twin


def expand(pattern: str | Iterable[str], model: Model) -> tuple[str, ...]:
    """Return the names of the sites of ``model`` that ``pattern`` means."""
    return model.sites(pattern)


def view_of(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    adapter: AdapterSwitch | None = None,
    stream: StreamMode = "model",
) -> tuple[View, View | None]:
    """Return the view without and, where an adapter was loaded, the view with it."""
    weights = Weights(hf, adapter=adapter, stream=stream)
    if adapter is None:
        return View(weights, tokenizer, adapter=None), None
    return View(weights, tokenizer, adapter=False), View(weights, tokenizer, adapter=True)
