"""A component in the model's own words: its prompts and its tokens at both ends.

extremes(projections).high                        # prompts with the largest coordinate
lens(model, vector).high                          # tokens whose logits it raises most
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor, nn

from artifacts.errors import InputError
from hooks import Model

COUNT = 10
"""How many prompts or tokens are kept at each end."""


@dataclass(frozen=True)
class PromptEnds:
    """Prompts at both ends of a component, by number; the texts are the caller's.

    The ends of any direction look like something. Read them beside the separation of the component
    and beside the ends of a random direction.
    """

    high: tuple[int, ...]
    """Largest first."""
    high_values: tuple[float, ...]
    low: tuple[int, ...]
    """Smallest first."""
    low_values: tuple[float, ...]


@dataclass(frozen=True)
class LensEnds:
    """Tokens at both ends of a component, by id, as text and with their scores."""

    high: tuple[int, ...]
    """Token ids, most raised first."""
    high_texts: tuple[str, ...]
    high_scores: tuple[float, ...]
    """Standard deviations above the mean of the vocabulary."""
    low: tuple[int, ...]
    """Token ids, most lowered first."""
    low_texts: tuple[str, ...]
    low_scores: tuple[float, ...]


def extremes(projections: Float[Tensor, "prompt"], *, count: int = COUNT) -> PromptEnds:
    """Give the prompts with the largest and with the smallest coordinate; ties by number.

    Raises:
        InputError: no prompts, or a number that is not finite.
    """
    if len(projections) == 0 or not torch.isfinite(projections).all():
        raise InputError(f"{len(projections)} projections: give at least one, all finite")
    wide = projections.double()
    high = wide.argsort(descending=True, stable=True)[:count].tolist()
    low = wide.argsort(stable=True)[:count].tolist()
    return PromptEnds(
        tuple(high),
        tuple(float(wide[i]) for i in high),
        tuple(low),
        tuple(float(wide[i]) for i in low),
    )


def lens(model: Model, vector: Float[Tensor, "d"], *, count: int = COUNT) -> LensEnds:
    """Give the tokens whose logits a component raises and lowers most.

        s = W_U (g * c(v)),   score_t = (s_t - mean(s)) / std(s)

    with W_U the unembedding, g the gain of the final norm, and c the identity for an RMS norm, the
    subtraction of the mean for a layer norm (logit lens, nostalgebraist 2020, centred over the
    vocabulary, since softmax sees differences only). It reads a vector as if it went unchanged to
    the end; it does not show what later blocks make of it. Early blocks often read as noise.

    Raises:
        InputError: another width than the stream's, norm zero, or weights that are no matrix.
    """
    norm = float(vector.double().norm())
    if vector.shape[0] != model.d_model or not 0 < norm < float("inf"):
        raise InputError(
            f"lens of a vector of width {vector.shape[0]} and norm {norm:g}: the model's stream "
            f"has width {model.d_model}"
        )
    scores = lens_scores(model, vector / norm)
    centred = scores - reduce(scores, "vocab -> ", "mean")
    scaled = centred / centred.square().mean().sqrt()
    order = scaled.argsort(descending=True, stable=True)
    high, low = order[:count].tolist(), order.flip(0)[:count].tolist()

    def texts(ids: list[int]) -> tuple[str, ...]:
        return tuple(str(model.tokenizer.decode([i])) for i in ids)

    return LensEnds(
        tuple(high),
        texts(high),
        tuple(float(scaled[i]) for i in high),
        tuple(low),
        texts(low),
        tuple(float(scaled[i]) for i in low),
    )


def lens_scores(model: Model, vector: Float[Tensor, "d"]) -> Float[Tensor, "vocab"]:
    """Give W_U (g * c(v)) in float32: the change of each logit per unit of v at a fixed norm.

    Raises:
        InputError: the unembedding's weights cannot be read as a matrix.
    """
    with model.hooks().view:
        unembed = model.hf.get_output_embeddings()
        weight = getattr(unembed, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise InputError(f"lens: {type(unembed).__name__} has no readable unembedding matrix")
        gain, centres = final_gain(model)
        wide = vector.float().to(weight.device)
        moved = (wide - wide.mean() if centres else wide) * gain.to(weight.device)
        with torch.no_grad():
            return einsum(weight.float(), moved, "vocab d, d -> vocab").cpu()


def final_gain(model: Model) -> tuple[Float[Tensor, "d"], bool]:
    """Return the final norm's gain, and whether it subtracts the mean.

    An RMS norm maps ones to its gain, whether it stores g or, as Gemma does, g - 1.

    Raises:
        InputError: the norm cannot be read.
    """
    norm = model.layout.component("ln_final")
    if hasattr(norm, "original_module"):
        raise InputError(
            f"lens: the final norm of {model.spec} was trained whole and runs inside peft's "
            "wrapper; load the model with adapter_mode='merged'"
        )
    if isinstance(norm, nn.LayerNorm):
        return norm.get_parameter("weight").detach().float(), True
    weight = norm.get_parameter("weight")
    with torch.no_grad():
        return norm(torch.ones(1, model.d_model, device=weight.device))[0].float(), False
