"""Additive steering: one vector a block, at an absolute or a relative strength, for every row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hooks import Capture, Encoded, Model, Rows
from hooks.positions import PositionName, StepRule
from steering.errors import PolicyError
from steering.policy import SITE, Policy, Term

StrengthKind = Literal["relative", "absolute"]


def additive(
    model: Model,
    vectors: Mapping[int, Float[Tensor, "d"]],
    *,
    strength: float,
    kind: StrengthKind = "relative",
    ambient: Mapping[int, float] | None = None,
    positions: PositionName = "all",
    steps: StepRule = "both",
) -> Policy:
    """Make the policy that adds one vector at each block, whatever the prompt.

        x'_l = x_l + a_l v_l,   a_l = strength                         (absolute)
                                a_l = strength n_l / |v_l|             (relative)

    so that a relative strength is ||a v|| in units of the ambient norm n_l, the mean norm of the
    states there. 0.1 and 0.1 at two models are then comparable, 3.5 and 3.5 are not.

    Args:
        model: the model to steer.
        vectors: a vector for each steered block.
        strength: negative strengths push the other way; 0 changes nothing, bit for bit.
        kind: ``relative`` or ``absolute``.
        ambient: ambient norms by block, for ``relative``; see ``ambient_norms``.
        positions: which tokens; see :mod:`hooks.positions`.
        steps: ``prompt``, ``generated`` or ``both``.

    Raises:
        PolicyError: a strength that is not finite, a direction of another width, a block that this
            model has not, or a block without ambient norm.
    """
    if not math.isfinite(strength):
        raise PolicyError(f"strength {strength}: give a finite number, for example 0.1")
    if not vectors:
        raise PolicyError("no block to steer; give a vector for one block at least")
    scales = _scales(vectors, strength, kind, ambient)
    blocks = tuple(sorted(vectors))
    rows = torch.stack([scales[block] * vectors[block].float() for block in blocks])
    term = Term("add", blocks, rows, positions=positions, steps=steps)
    facts = {"strength": float(strength), "strength_kind": kind}
    return Policy("additive", (term,), model.info(), model.tokenizer_info(), facts=facts)


def _scales(
    vectors: Mapping[int, Tensor],
    strength: float,
    kind: StrengthKind,
    ambient: Mapping[int, float] | None,
) -> dict[int, float]:
    if kind == "absolute":
        return {block: strength for block in vectors}
    missing = sorted(set(vectors) - set(ambient or ()))
    if ambient is None or missing:
        raise PolicyError(
            f"relative strength without the ambient norm of block {missing[0]}: measure it with "
            "steering.ambient_norms, or give kind='absolute'"
        )
    norms = {block: float(vector.float().norm()) for block, vector in vectors.items()}
    for block, norm in norms.items():
        if not math.isfinite(norm) or norm == 0:
            raise PolicyError(f"the vector of block {block} has norm {norm}; leave that block out")
    return {block: strength * ambient[block] / norms[block] for block in vectors}


def ambient_norms(
    model: Model, prompts: Sequence[str] | Encoded, blocks: Sequence[int]
) -> dict[int, float]:
    """Measure the mean norm of the state after each block, at the last prompt token."""
    sites = [f"blocks.{block}.{SITE}" for block in blocks]
    states = Rows()
    encoded = prompts if isinstance(prompts, Encoded) else model.encode(prompts)
    with model.hooks(capture=Capture(sites, at="last", into=states)) as run:
        run.forward(encoded)
    norms = states.stack().double().norm(dim=-1).mean(dim=-1)
    return dict(zip(sorted(blocks), norms.tolist(), strict=True))
