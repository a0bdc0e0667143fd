"""What each head, each MLP and each bias adds to the stream along given directions.

    attn_out = sum_h z_h W_O[h] + b_O                              (Elhage et al. 2021)
    attn_out = s g * (sum_h z_h W_O[h] + b_O),   s = 1 / rms       behind a post-norm (Gemma 2)

With the rms that was observed the second line is linear too, so contributions always sum to what
the block adds. A frozen rms is a choice: it does not say what the block would add without a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Float64
from torch import Tensor, nn

from artifacts.errors import InputError
from hooks import Model, output_weights

LAST_SITES = ("blocks.*.attn.hook_z", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out")
"""What must be captured at the last token."""


@dataclass(frozen=True, eq=False)
class LinearNorm:
    """A norm with its scale left open: y = s (g * C x) + offset, C centres where it is one."""

    gain: Float64[Tensor, "d"]
    """Up to a factor, which the observed scale takes up."""
    centred: bool
    offset: Float64[Tensor, "d"]

    @classmethod
    def of(cls, norm: nn.Module) -> LinearNorm:
        """Read an RMS norm or a layer norm; call it while no context is open.

        Raises:
            InputError: another kind of norm.
        """
        weight = getattr(norm, "weight", None)
        if not isinstance(weight, Tensor):
            raise InputError(f"{type(norm).__name__}: a norm without a gain cannot be linearised")
        if isinstance(norm, nn.LayerNorm):
            bias = torch.zeros_like(weight) if norm.bias is None else norm.bias
            return cls(weight.detach().double().cpu(), True, bias.detach().double().cpu())
        if "RMSNorm" not in type(norm).__name__:
            raise InputError(f"{type(norm).__name__}: neither an RMS norm nor a layer norm")
        # Families keep the gain as g or as g - 1; what the module does to ones tells which.
        with torch.no_grad():
            gain = norm(torch.ones(1, len(weight), device=weight.device))[0].double().cpu()
        return cls(gain, False, torch.zeros_like(gain))

    def pull(self, directions: Float64[Tensor, "*k d"]) -> Float64[Tensor, "*k d"]:
        """Return r' with (g * C x) . r = x . r'."""
        pulled = directions * self.gain
        return pulled - pulled.mean(-1, keepdim=True) if self.centred else pulled

    def scale(self, x: Float64[Tensor, "n d"], y: Float64[Tensor, "n d"]) -> Float64[Tensor, "n"]:
        """Return the scale that took ``x`` to ``y``, by least squares."""
        inner = (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain
        return ((y - self.offset) * inner).sum(-1) / inner.square().sum(-1)


@dataclass(frozen=True, eq=False)
class Readout:
    """One block's output projection, read along k directions."""

    directions: Float64[Tensor, "k d"]
    heads: Float64[Tensor, "head d_head k"]
    """W_O[h] r, with the gain of a post-norm in it."""
    bias: Float64[Tensor, "k"]
    normed: bool
    """True behind a post-norm, whose scale is then observed."""


@dataclass(frozen=True, eq=False)
class Added:
    """What one block adds along k directions at the last token of n prompts."""

    inner: Float64[Tensor, "n head k"]
    """Each head's part before the post-norm's scale."""
    inner_bias: Float64[Tensor, "k"]
    scale: Float64[Tensor, "n"]
    """1 / rms of a post-norm as observed (with its gain's factor); 1 without one."""
    attention: Float64[Tensor, "n k"]
    """What attention added as a whole."""
    mlp: Float64[Tensor, "n k"]

    @property
    def heads(self) -> Float64[Tensor, "n head k"]:
        """What each head added."""
        return self.inner * self.scale[:, None, None]

    @property
    def bias(self) -> Float64[Tensor, "n k"]:
        """What the bias of the projection added; with ``heads`` it sums to ``attention``."""
        return self.inner_bias * self.scale[:, None]

    def gap(self) -> float:
        """Return the largest error of the sum, relative to the largest thing added."""
        error = (self.heads.sum(1) + self.bias - self.attention).abs().max()
        return float(error / self.attention.abs().max().clamp_min(1e-30))


@dataclass(frozen=True, eq=False)
class Change:
    """By how much two runs over the same prompts differ in what a block adds.

        s' x' - s x = (s + s')/2 * (x' - x)  +  (x + x')/2 * (s' - s)

    The first term is linear in the heads and split over them. The second is the post-norm's change
    of scale, which no single head owns: without it apart, one changed head would make all others of
    its block look changed. It is zero without a post-norm.
    """

    heads: Float64[Tensor, "n head k"]
    bias: Float64[Tensor, "n k"]
    rescaling: Float64[Tensor, "n k"]
    mlp: Float64[Tensor, "n k"]

    @classmethod
    def between(cls, before: Added, after: Added) -> Change:
        """Return after minus before; all parts of attention sum to its change."""
        middle = (before.scale + after.scale)[:, None] / 2
        shift = (after.scale - before.scale)[:, None] / 2
        whole = [part.inner.sum(1) + part.inner_bias for part in (before, after)]
        return cls(
            (after.inner - before.inner) * middle[..., None],
            (after.inner_bias - before.inner_bias) * middle,
            (whole[0] + whole[1]) * shift,
            after.mlp - before.mlp,
        )


def readouts(model: Model, directions: Float64[Tensor, "block k d"]) -> tuple[Readout, ...]:
    """Read the output projections of all blocks along directions, a set for each block.

    Raises:
        InputError: directions of another width or number of blocks, or a post-norm or projection
            that cannot be read.
    """
    if (directions.shape[0], directions.shape[2]) != (model.n_layers, model.d_model):
        raise InputError(
            f"directions of shape {tuple(directions.shape)}: {model.spec} has {model.n_layers} "
            f"blocks of width {model.d_model}; nothing is broadcast"
        )
    norms = [post_norm(model, block) for block in range(model.n_layers)]
    with model.hooks():
        return tuple(
            _readout(model, block, directions[block], norm) for block, norm in enumerate(norms)
        )


def added(
    readout: Readout,
    z: Float[Tensor, "n head d_head"],
    attn_out: Float[Tensor, "n d"],
    mlp_out: Float[Tensor, "n d"],
) -> Added:
    """Split what one block added at the last token.

    Behind a post-norm the scale comes from all k directions together, so k should be 8 or more.
    """
    inner = einsum(z.double(), readout.heads, "n head d, head d k -> n head k")
    whole = attn_out.double() @ readout.directions.T
    scale = torch.ones(len(z), dtype=torch.float64)
    if readout.normed:
        total = inner.sum(1) + readout.bias
        scale = (whole * total).sum(-1) / total.square().sum(-1).clamp_min(1e-300)
    return Added(inner, readout.bias, scale, whole, mlp_out.double() @ readout.directions.T)


def refusal_logit(model: Model, ids: tuple[int, ...]) -> tuple[LinearNorm, Float64[Tensor, "d"]]:
    """Return the final norm and the direction of the refusal tokens' logit behind it.

        u = mean_{t in R} W_U[t] - mean_t W_U[t]

    A write c before the final norm changes the refusal tokens' mean logit, against the mean over
    the vocabulary and with the norm's scale s held, by s (c . pull(u)). A soft cap on the logits
    is left out.
    """
    norm = LinearNorm.of(model.layout.component("ln_final"))
    with model.hooks():
        weight = getattr(model.layout.component("unembed"), "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise InputError(f"{model.spec}: its unembedding cannot be read as a matrix")
        chosen = weight.detach()[list(ids)].double().mean(0).cpu()
        # Of a large vocabulary a float64 copy would be large too.
        return norm, chosen - weight.detach().mean(0, dtype=torch.float32).double().cpu()


def post_norm(model: Model, block: int) -> LinearNorm | None:
    """Return the norm behind a block's attention, None where there is none."""
    module = model.layout.tap_of("hook_attn_out", block).module
    return LinearNorm.of(module) if "Norm" in type(module).__name__ else None


def _readout(
    model: Model, block: int, directions: Float64[Tensor, "k d"], norm: LinearNorm | None
) -> Readout:
    module = model.layout.component(f"blocks.{block}.attn.o")
    weight, bias = output_weights(module, model.n_heads)
    pulled = directions if norm is None else norm.pull(directions)
    if norm is not None and bool(norm.offset.any()):
        raise InputError(f"block {block}: a post-norm with a bias cannot be split over heads")
    on_device = rearrange(pulled, "k d -> d k").to(weight.device)
    heads = einsum(weight.double(), on_device, "head d out, out k -> head d k").cpu()
    along = torch.zeros(len(directions), dtype=torch.float64)
    if bias is not None:
        along = pulled @ bias.double().cpu()
    return Readout(directions, heads, along, norm is not None)
