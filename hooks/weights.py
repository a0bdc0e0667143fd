"""One set of weights and the views on it: without and with an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooks.adapter import AdapterSwitch, LowRank
from hooks.errors import ContextError, SiteError
from hooks.hardware import HeapBound
from hooks.joint import JointPass, why_not_joint
from hooks.layout import Layout
from hooks.precision import StreamMode, choose_stream
from hooks.registry import Registry
from hooks.sites import Site

Side = bool | Literal["both"]
"""The adapter off, on, or off for one half of the rows and on for the other."""


class Weights:
    """A Hugging Face model, its layout and its one registry."""

    def __init__(
        self,
        hf: PreTrainedModel,
        *,
        adapter: AdapterSwitch | None = None,
        stream: StreamMode = "model",
    ) -> None:
        """Read the layout; ``adapter`` switches what was loaded onto the model."""
        self.hf = hf
        self.layout = Layout(hf)
        float32 = choose_stream(stream, hf.dtype, self.layout)
        self.registry = Registry(hf, self.layout, float32_stream=float32)
        self.adapter = adapter
        self.resting = False
        """Whether the adapter is on while no context is open."""
        self.adapter_on: Side | None = None
        self.users = 0
        self.heap = HeapBound()

    @cached_property
    def joint(self) -> JointPass:
        """Both sides of the pair in one pass; ask :attr:`why_not_joint` first."""
        return JointPass(self.layout, self.hf.dtype, self._factors or {})

    @cached_property
    def why_not_joint(self) -> str | None:
        """Why both sides cannot be read in one pass; None where they can."""
        if self._factors is None:
            return "the two sides do not differ by a plain LoRA adapter alone"
        return why_not_joint(self.hf, self.layout)

    @property
    def _factors(self) -> dict[nn.Module, LowRank] | None:
        return None if self.adapter is None else self.adapter.factors


class View:
    """The model as one side of a pair sees it, the adapter off or on; or both sides at once."""

    def __init__(
        self, weights: Weights, tokenizer: PreTrainedTokenizerBase, *, adapter: Side | None
    ) -> None:
        """``adapter`` is None where the weights have none to switch."""
        self.weights = weights
        self.tokenizer = tokenizer
        self.adapter: Side | None = adapter
        self.refuse: Callable[[Site], str | None] = lambda _: None
        """Gives the reason why a site failed the model's check, if it did."""

    @property
    def hf(self) -> PreTrainedModel:
        """The Hugging Face model itself."""
        return self.weights.hf

    @property
    def layout(self) -> Layout:
        """Where each site lies."""
        return self.weights.layout

    @property
    def registry(self) -> Registry:
        """The registry that all views of these weights share."""
        return self.weights.registry

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.hf.get_input_embeddings().weight.device  # type: ignore[union-attr, return-value]

    def require(self, sites: Sequence[Site]) -> None:
        """Refuse sites that failed the model's check.

        Raises:
            SiteError: with the measured error.
        """
        for site in sites:
            reason = self.refuse(site)
            if reason is not None:
                raise SiteError(f"{site.name} is not served: {reason}")

    def enter(self) -> None:
        """Switch the adapter for a context.

        Raises:
            ContextError: a context on the other view is open.
        """
        weights = self.weights
        if weights.users and weights.adapter_on != self.adapter:
            raise ContextError(
                "the other model of this pair has an open context, and both share one set of "
                "weights; close it first or load the two models apart"
            )
        if weights.adapter is not None and self.adapter is not None and not weights.users:
            # The joint pass adds what the adapter changes by itself.
            weights.adapter.set(on=self.adapter is True)
            weights.registry.joint = weights.joint if self.adapter == "both" else None
        weights.adapter_on = self.adapter
        weights.users += 1

    def __enter__(self) -> View:
        """Switch the adapter, as :meth:`enter`."""
        self.enter()
        return self

    def __exit__(self, *error: object) -> None:
        """Give the adapter back, as :meth:`leave`."""
        self.leave()

    def leave(self) -> None:
        """Give the adapter back; after the last context it is as it was before the first."""
        weights = self.weights
        weights.users -= 1
        if weights.users == 0:
            weights.registry.joint = None
            self.rest(on=weights.resting)

    def rest(self, *, on: bool) -> None:
        """Switch the adapter for the time in which no context is open."""
        self.weights.resting, self.weights.adapter_on = on, None
        if self.weights.adapter is not None:
            self.weights.adapter.set(on=on)
