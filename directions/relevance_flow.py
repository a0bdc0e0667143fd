"""Which earlier components a component's value is made of (PLRP between blocks).

found = component_relevance(model, encoded, targets, sources, block=14)     # from block 13
found.flow                                                                  # [target source]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from artifacts.errors import InputError
from directions.lrp import BIAS, SOFTMAX, AttentionRule, Tracer
from directions.relevance import backward, batches, require_prompts, unit_rows
from hooks import Encoded, Model
from hooks.encoded import Batch, left_pad


@dataclass(frozen=True, eq=False)
class ComponentFlow:
    """Relevance of earlier components to later ones, mean over prompts.

    value[j] = sum_i flow[j, i] + rest[j] + elsewhere[j] + softmax[j] + bias[j]
    """

    flow: Float[Tensor, "target source"]
    """From each source at the last token, in units of the target's coordinate."""
    rest: Float[Tensor, "target"]
    """From the last token's state outside the span of the sources."""
    elsewhere: Float[Tensor, "target"]
    """From the states at earlier tokens."""
    softmax: Float[Tensor, "target"]
    bias: Float[Tensor, "target"]
    value: Float[Tensor, "target"]
    """Mean coordinate of each target."""
    n: int
    """Prompts."""


def component_relevance(
    model: Model,
    encoded: Encoded,
    targets: Float[Tensor, "target d"],
    sources: Float[Tensor, "source d"],
    *,
    block: int,
    source_block: int | None = None,
    attention: AttentionRule = "attnlrp",
) -> ComponentFlow:
    """Attribute components after one block to components after an earlier one.

        x = V^T z + e (least squares),   R_i = z_i (V g)_i,   R_e = e . g,   g = d(u . y) / dx

    with x the last token's state after ``source_block``, y that after ``block`` (Pan et al. 2025,
    section 4: R(z_i) = sum_j V_ij z_i r_j / x_j, the same since r_j = x_j g_j). Nothing is
    renormalised: what the sources do not explain is reported.

    Args:
        model: of a family that ``directions.lrp`` knows.
        encoded: prompts without responses.
        targets: after ``block``; normalised here.
        sources: after ``source_block``; normalised here.
        block: 0-based.
        source_block: by default the block before.
        attention: as in :func:`token_relevance`.

    Raises:
        InputError: blocks out of order, linearly dependent sources, and as above.
    """
    earlier = block - 1 if source_block is None else source_block
    if not 0 <= earlier < block < model.n_layers:
        raise InputError(
            f"relevance from block {earlier} to block {block}: give an earlier and a later block "
            f"of 0 to {model.n_layers - 1}"
        )
    up, down = unit_rows(model, targets), unit_rows(model, sources)
    if torch.linalg.matrix_rank(down.double(), rtol=1e-6) < len(down):
        raise InputError("relevance: the sources are linearly dependent; drop one of them")
    require_prompts(encoded)
    total: dict[str, Tensor] = {}
    with model.hooks().view:
        tracer = Tracer(model)
        for rows in batches(model, encoded):
            batch = left_pad([encoded.ids[row] for row in rows], pad=0, offset=0)
            for name, part in _flow(tracer, batch, up, down, (earlier, block), attention).items():
                total[name] = total.get(name, 0) + part
    return ComponentFlow(n=len(encoded), **{k: v / len(encoded) for k, v in total.items()})


def _flow(
    tracer: Tracer,
    batch: Batch,
    targets: Tensor,
    sources: Tensor,
    blocks: tuple[int, int],
    attention: AttentionRule,
) -> dict[str, Tensor]:
    """Return sums over the rows of one batch."""
    earlier, block = blocks
    shared, x = tracer.start(batch, attention)
    with torch.no_grad():
        for number in range(earlier + 1):
            x = tracer.block(number, x, shared)
    x = x.requires_grad_()
    y = x
    for number in range(earlier + 1, block + 1):
        y = tracer.block(number, y, shared)
    units = targets.to(x.device)
    grad, leak = backward(y[:, -1], units, x, shared)
    basis = sources.to(x.device).double()
    state, g = x.detach()[:, -1].double(), grad[:, :, -1].double()
    z = torch.linalg.lstsq(basis.T, state.T).solution.T
    rest = state - z @ basis
    own = einsum(z, basis, g, "row i, i d, t row d -> t i")
    before = einsum(x.detach()[:, :-1], grad[:, :, :-1], "row token d, t row token d -> t")
    return {
        "flow": own.cpu(),
        "rest": einsum(rest, g, "row d, t row d -> t").cpu(),
        "elsewhere": before.double().cpu(),
        "softmax": leak[:, SOFTMAX].sum(-1).double().cpu(),
        "bias": leak[:, BIAS].sum(-1).double().cpu(),
        "value": (y.detach()[:, -1] @ units.T).sum(0).double().cpu(),
    }
