"""A differentiable forward pass whose gradients times inputs are AttnLRP relevances.

It is written again from the model's own weights, so that the model is neither patched nor hooked;
a caller compares it with the model before use. The rules (Achtibat et al. 2024, section 3):

    linear       R_i = sum_j (W_ji x_i / y_j) R_j             epsilon rule, eps -> 0
    norm         R_i as of x / detach(rms(x))                 identity rule
    activation   R_i = R_j                                    identity rule
    product      half to each factor                          uniform rule
    softmax      R_i = x_i (R_i - s_i sum_j R_j)              Taylor rule

As gradients (x dy/dx R_y / y): statistics detached, activations taken as x detach(f(x) / x),
gradients of products halved, the softmax as it is. Everything but the softmax and biases conserves
relevance; what these two absorb is collected by ``leak``, so the account can be closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from artifacts.errors import InputError
from hooks import Model, output_weights
from hooks.encoded import Batch

AttentionRule = Literal["attnlrp", "values"]
FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
SOFTMAX, BIAS = 0, 1
"""Rows of ``leak``."""


@dataclass(frozen=True, eq=False)
class Pass:
    """What all blocks of one pass share."""

    cos: Float[Tensor, "row token half"]
    sin: Float[Tensor, "row token half"]
    distance: Int[Tensor, "token token"]
    """Query index minus key index."""
    real: Bool[Tensor, "row token"]
    leak: Float[Tensor, "kind row"]
    """Ones; their gradients are the relevance that softmaxes and biases absorb."""
    rule: AttentionRule


def require_family(model: Model) -> None:
    """Refuse a model whose blocks are not written here.

    Raises:
        InputError: names the families that are.
    """
    name = type(model.hf).__name__
    if name not in FAMILIES:
        known = ", ".join(family.removesuffix("ForCausalLM") for family in FAMILIES)
        raise InputError(
            f"relevance: {name} is not among the families whose rules are written ({known}); read "
            "without it (--relevance off)"
        )


class Tracer:
    """The blocks of one model as differentiable functions, in float32."""

    def __init__(self, model: Model) -> None:
        """Read the family; weights are read block by block.

        Raises:
            InputError: a family whose blocks are not written here.
        """
        require_family(model)
        self._hf = model.hf
        self._config = model.hf.config
        self._d_head = model.d_head
        self._rotary = model.layout.rotary()
        self._layers = [model.layout.component(f"blocks.{b}") for b in range(model.n_layers)]
        self._linears: dict[nn.Module, tuple[Tensor, Tensor | None]] = {}
        self._device = model.device

    def start(self, batch: Batch, rule: AttentionRule) -> tuple[Pass, Float[Tensor, "row token d"]]:
        """Return what blocks share, and the embeddings."""
        ids = batch.ids.to(self._device)
        weight = self._hf.get_input_embeddings().weight  # type: ignore[union-attr]
        state = weight.detach()[ids].float()  # type: ignore[index]
        if self._rotary is None:
            raise InputError("relevance: this model has no rotary positions")
        with torch.no_grad():
            cos, sin = self._rotary(state, batch.positions.to(self._device))
        index = torch.arange(ids.shape[1], device=self._device)
        leak = torch.ones(2, len(ids), device=self._device, requires_grad=True)
        real = batch.mask.bool().to(self._device)
        distance = index[:, None] - index[None, :]
        return Pass(cos.float(), sin.float(), distance, real, leak, rule), state

    def block(
        self, number: int, x: Float[Tensor, "row token d"], shared: Pass
    ) -> Float[Tensor, "row token d"]:
        """Return the state after one block."""
        mid = self.middle(number, x, shared)
        layer = self._layers[number]
        normed = rms_norm(mid, layer.get_submodule("post_attention_layernorm"))
        return mid + self._mlp(layer.get_submodule("mlp"), normed, shared)

    def middle(
        self, number: int, x: Float[Tensor, "row token d"], shared: Pass
    ) -> Float[Tensor, "row token d"]:
        """Return the state between attention and MLP of one block."""
        layer = self._layers[number]
        normed = rms_norm(x, layer.get_submodule("input_layernorm"))
        return x + self._attention(layer.get_submodule("self_attn"), normed, shared, number)

    def _mlp(self, mlp: nn.Module, x: Tensor, shared: Pass) -> Tensor:
        gate = self._linear(mlp.get_submodule("gate_proj"), x, shared)
        activation = mlp.get_submodule("act_fn")
        opened = _identity_rule(gate, activation(gate))
        up = self._linear(mlp.get_submodule("up_proj"), x, shared)
        return self._linear(mlp.get_submodule("down_proj"), halve(opened) * halve(up), shared)

    def _attention(self, attn: nn.Module, x: Tensor, shared: Pass, number: int) -> Tensor:
        q, k, v = (
            rearrange(
                self._linear(attn.get_submodule(f"{name}_proj"), x, shared),
                "row token (head d) -> row head token d",
                d=self._d_head,
            )
            for name in ("q", "k", "v")
        )
        if hasattr(attn, "q_norm"):
            q = rms_norm(q, attn.get_submodule("q_norm"))
            k = rms_norm(k, attn.get_submodule("k_norm"))
        q, k = _rotate(q, shared), _rotate(k, shared)
        groups = q.shape[1] // k.shape[1]
        k, v = (
            repeat(part, "row kv token d -> row (kv group) token d", group=groups)
            for part in (k, v)
        )
        mixed = self._mix(q, k, v, self._mask(shared, number), shared)
        flat = rearrange(mixed, "row head token d -> row token (head d)")
        return self._linear(attn.get_submodule("o_proj"), flat, shared)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, shared: Pass) -> Tensor:
        pattern = "row head query d, row head key d -> row head query key"
        logits = einsum(halve(q), halve(k), pattern) * self._d_head**-0.5
        shares = logits.masked_fill(~mask, -torch.inf).softmax(-1)
        out = "row head query key, row head key d -> row head query d"
        if shared.rule == "values":
            return einsum(shares.detach(), v, out)
        own = logits.masked_fill(~mask, 0)
        mean = reduce(shares * own, "row head query key -> row head query 1", "sum")
        # f(x) - sum_i x_i df/dx_i: the part of the softmax that its inputs do not explain.
        absorbed = (shares - shares * (own - mean)).detach()
        leak = rearrange(shared.leak[SOFTMAX] - 1, "row -> row 1 1 1")
        return einsum(halve(shares + leak * absorbed), halve(v), out)

    def _mask(self, shared: Pass, number: int) -> Bool[Tensor, "row 1 query key"]:
        seen = shared.distance >= 0
        window = self._window(number)
        if window is not None:
            seen = seen & (shared.distance < window)
        visible = seen & rearrange(shared.real, "row key -> row 1 1 key")
        # Padding reads itself, so that no row of the softmax is empty.
        return visible | (shared.distance == 0)

    def _window(self, number: int) -> int | None:
        window = getattr(self._config, "sliding_window", None)
        kinds = getattr(self._config, "layer_types", None)
        if window is None or (kinds is not None and kinds[number] != "sliding_attention"):
            return None
        return None if getattr(self._config, "use_sliding_window", True) is False else int(window)

    def _linear(self, module: nn.Module, x: Tensor, shared: Pass) -> Tensor:
        if module not in self._linears:
            weight, bias = output_weights(module, 1)
            self._linears[module] = weight[0].float(), None if bias is None else bias.float()
        weight, bias = self._linears[module]
        out = einsum(x, weight, "row token i, i o -> row token o")
        if bias is None:
            return out
        return out + bias * rearrange(shared.leak[BIAS], "row -> row 1 1")


def halve(x: Tensor) -> Tensor:
    """Return ``x`` itself, with half its gradient."""
    half = x * 0.5
    return half + half.detach()


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Return the norm of ``x`` with its statistic held constant."""
    square = reduce(x.square(), "... d -> ... 1", "mean")
    scale = torch.rsqrt(square + float(norm.variance_epsilon)).detach()  # type: ignore[arg-type]
    return x * scale * norm.get_parameter("weight").detach().float()


def _identity_rule(x: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` as x times a constant, so that all relevance goes to x."""
    return x * torch.where(x == 0, 0, value / x).detach()


def _rotate(x: Tensor, shared: Pass) -> Tensor:
    cos, sin = (
        rearrange(part, "row token d -> row 1 token d") for part in (shared.cos, shared.sin)
    )
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin
