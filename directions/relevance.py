"""Which prompt tokens, and which earlier components, a component's value is made of (PLRP).

    found = token_relevance(model, encoded, vectors, block=14)      # one forward for all vectors
    found.tokens[row]                                               # [component token]

The rules are in ``directions.lrp``. See ``docs/decisions/021-reading-components.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from artifacts.errors import InputError
from directions.lrp import BIAS, SOFTMAX, AttentionRule, Pass, Tracer
from hooks import Capture, Encoded, Model, Rows
from hooks.encoded import Batch, left_pad
from hooks.engine import plan_batches

SEEDS = 16
"""Components in one backward pass."""
_TOKENS = {"cpu": 512}
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}


@dataclass(frozen=True, eq=False)
class TokenRelevance:
    """Relevance of every prompt token to every component's coordinate at the last token.

        sum_t tokens[row][c, t] + softmax[row, c] + bias[row, c] = value[row, c]

    A relevance is a share of the coordinate under fixed rules of attribution. It does not show what
    the coordinate would be without the token: that is ``directions.masking``.
    """

    tokens: tuple[Float[Tensor, "component _"], ...]
    """In units of the coordinate; one a prompt, as long as the prompt."""
    value: Float[Tensor, "row component"]
    """The coordinate v . x of the unit vectors at the last prompt token."""
    softmax: Float[Tensor, "row component"]
    """What the softmaxes absorb: their value is not a sum over their inputs."""
    bias: Float[Tensor, "row component"]
    """What biases explain."""
    disagreement: float
    """Largest error of the coordinates against the model's own pass, relative to its states."""

    @property
    def gap(self) -> float:
        """Largest error of the account, relative to the larger of value and parts."""
        sums = torch.stack(
            [reduce(part, "component token -> component", "sum") for part in self.tokens]
        )
        parts = torch.stack([sums, self.softmax, self.bias, self.value])
        scale = parts.abs().amax(dim=0).clamp_min(1e-6 * float(self.value.abs().max()) + 1e-30)
        return float(((sums + self.softmax + self.bias - self.value).abs() / scale).max())


def token_relevance(
    model: Model,
    encoded: Encoded,
    vectors: Float[Tensor, "component d"],
    *,
    block: int,
    site: str = "hook_resid_post",
    attention: AttentionRule = "attnlrp",
) -> TokenRelevance:
    """Attribute components at the last prompt token to the prompt's tokens.

        R_t = sum_d e_td  d(v . x_last) / d e_td       e_t: embedding of token t
                                     (PLRP, Pan et al. 2025, section 4; rules of AttnLRP)

    All components share one forward pass; their backward passes run as one batch. The coordinate
    itself is decomposed, so its sign counts; nothing is divided by the largest share.

    Args:
        model: of a family that ``directions.lrp`` knows.
        encoded: prompts without responses.
        vectors: normalised here.
        block: 0-based.
        site: ``hook_resid_pre``, ``hook_resid_mid`` or ``hook_resid_post``.
        attention: ``attnlrp``, or ``values``: attention weights held constant, so that relevance
            flows through values only and all of it reaches the tokens (Ali et al. 2022).

    Raises:
        InputError: another family or site, vectors that do not fit, prompts with responses, or a
            pass that differs from the model's own.
    """
    units = unit_rows(model, vectors)
    require_prompts(encoded)
    place = _Place(model, block, site)
    view = model.hooks().view
    parts: dict[int, _Row] = {}
    with view:
        tracer = Tracer(model)
        for rows in batches(model, encoded):
            batch = left_pad([encoded.ids[row] for row in rows], pad=0, offset=0)
            shared, start = tracer.start(batch, attention)
            start = start.requires_grad_()
            last = place.run(tracer, start, shared)[:, -1]
            found = backward(last, units.to(last.device), start, shared)
            parts |= _by_row(rows, batch, start, last, found, units)
    ordered = [parts[row] for row in range(len(encoded))]
    value = torch.stack([row.value for row in ordered])
    return TokenRelevance(
        tuple(row.tokens for row in ordered),
        value,
        torch.stack([row.leak[:, SOFTMAX] for row in ordered]),
        torch.stack([row.leak[:, BIAS] for row in ordered]),
        _disagreement(model, encoded, place.name, torch.stack([row.state for row in ordered])),
    )


class _Place:
    """The site at which components are read, as a part of the differentiable pass."""

    def __init__(self, model: Model, block: int, site: str) -> None:
        known = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
        if site not in known:
            raise InputError(f"relevance at {site}: choose from {', '.join(known)}")
        (self.name,) = model.sites(f"blocks.{block}.{site}")
        self.block, self.site = block, site

    def run(self, tracer: Tracer, x: Tensor, shared: Pass) -> Tensor:
        for number in range(self.block):
            x = tracer.block(number, x, shared)
        last: dict[str, Callable[[], Tensor]] = {
            "hook_resid_pre": lambda: x,
            "hook_resid_mid": lambda: tracer.middle(self.block, x, shared),
            "hook_resid_post": lambda: tracer.block(self.block, x, shared),
        }
        return last[self.site]()


@dataclass(frozen=True, eq=False)
class _Row:
    tokens: Tensor
    value: Tensor
    leak: Tensor
    state: Tensor


def _by_row(
    rows: list[int],
    batch: Batch,
    start: Tensor,
    last: Tensor,
    found: tuple[Tensor, Tensor],
    units: Tensor,
) -> dict[int, _Row]:
    grad, leak = found
    relevance = einsum(start.detach(), grad, "row token d, c row token d -> row c token").cpu()
    states = last.detach().cpu()
    return {
        row: _Row(
            relevance[place][:, batch.mask[place].bool()],
            units @ states[place],
            leak[:, :, place].cpu(),
            states[place],
        )
        for place, row in enumerate(rows)
    }


def backward(
    last: Float[Tensor, "row d"], units: Float[Tensor, "c d"], start: Tensor, shared: Pass
) -> tuple[Float[Tensor, "c row token d"], Float[Tensor, "c kind row"]]:
    """Return the gradients of every component, summed over rows, which do not see each other."""
    # Where nothing leaks, autograd would give the unused input a gradient without the batch axis.
    sums = einsum(last, units, "row d, c d -> c") + 0 * shared.leak.sum()
    seeds = torch.eye(len(units), device=last.device)
    found = []
    for part in seeds.split(SEEDS):
        grads = torch.autograd.grad(
            sums,
            (start, shared.leak),
            grad_outputs=part,
            is_grads_batched=True,
            retain_graph=True,
        )
        found.append(grads)
    return torch.cat([grad for grad, _ in found]), torch.cat([leak for _, leak in found])


def batches(model: Model, encoded: Encoded) -> list[list[int]]:
    """Group prompts; a graph over all blocks is kept for each batch, so they are small."""
    budget = _TOKENS.get(model.device.type, 4096)
    return plan_batches(encoded.lengths, budget=budget, max_rows=None, sort=True)


def unit_rows(model: Model, vectors: Tensor) -> Float[Tensor, "c d"]:
    """Return unit vectors, float32.

    Raises:
        InputError: another width than the stream's, none, zero or not finite.
    """
    norms = vectors.double().norm(dim=-1, keepdim=True)
    if vectors.shape[-1] != model.d_model or len(vectors) == 0:
        raise InputError(
            f"relevance of {len(vectors)} vectors of width {vectors.shape[-1]}: the model's stream "
            f"has width {model.d_model}"
        )
    if not torch.isfinite(norms).all() or (norms == 0).any():
        raise InputError("relevance: a vector has norm zero or is not finite")
    return (vectors.double() / norms).float().cpu()


def require_prompts(encoded: Encoded) -> None:
    """Refuse what has no last prompt token to explain.

    Raises:
        InputError: no prompts, or prompts with responses.
    """
    if len(encoded) == 0:
        raise InputError("relevance: no prompts were given")
    if any(start != len(ids) for start, ids in zip(encoded.response_start, encoded, strict=True)):
        raise InputError("relevance: prompts hold responses; encode prompts alone")


def _disagreement(
    model: Model, encoded: Encoded, site: str, states: Float[Tensor, "row d"]
) -> float:
    """Compare with the model's own pass.

    Raises:
        InputError: the error is larger than the model's precision explains.
    """
    rows = Rows()
    with model.hooks(capture=Capture(site, into=rows)) as run:
        run.forward(encoded)
    own = rearrange(rows.stack(), "1 row d -> row d")
    scale = own.norm(dim=-1).clamp_min(1e-30)
    error = float(((states - own).norm(dim=-1) / scale).max())
    bound = _TOLERANCE.get(model.dtype, 1e-1)
    if not error <= bound:
        raise InputError(
            f"relevance: the differentiable pass differs from {model.spec} by {error:.2g} at {site}"
            f" (at most {bound:g}): this variant of the family is not written here"
        )
    return error
