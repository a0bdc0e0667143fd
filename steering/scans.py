"""Fit SCANS: anchors of the branch, one threshold for the model, and its sensitivity curve.

    v_l = mean(h_l | harmful) - mean(h_l | harmless), norm 1       (Cao et al. 2024, eq. 1)

The original sets the threshold for each test set; here one is taken from requests of another
part than the anchors, and none from a test.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from hooks import Model
from probes.separation import auc_estimate
from steering.axes import pooled
from steering.behaviour import Behaviour
from steering.designs import Design, Material
from steering.errors import PolicyError
from steering.looking import scans_context
from steering.measuring import batches
from steering.options import FitOptions
from steering.policy import Policy, Term
from steering.transition import Transition, moves

_CURVE = 41


def scans(model: Model, material: Material, options: FitOptions) -> Design:
    """Design a SCANS policy for a model.

    Steered blocks are the middle third, the cosine is averaged over middle and late blocks, as
    in the paper (blocks 10-19 and 10-31 of 32).
    """
    first, second = material.first, material.second
    read = tuple(range(model.n_layers // 3, model.n_layers))
    blocks = options.blocks or tuple(range(model.n_layers // 3, 2 * model.n_layers // 3))
    opener = opener_ids(model, options.opener)
    apart = pooled(first.states, first.harmful, ~first.harmful)
    norms = first.states.norm(dim=-1).mean(dim=-1)
    rows = torch.stack([apart[b] * (norms[b] / apart[b].norm()) for b in blocks]).float()
    blank = Transition(opener, read, torch.zeros(len(read), model.d_model), 0.0)
    moved = transitions(model, _policy(model, blank, blocks, rows), first)
    anchors = moved[torch.from_numpy(first.harmful)].mean(dim=0)
    unset = Transition(opener, read, anchors, 0.0)
    policy = _policy(model, unset, blocks, rows)
    scores = unset.score(transitions(model, policy, second)).double().numpy()
    threshold = float(np.quantile(scores[~second.harmful], 1 - options.false_open))
    final = Transition(opener, read, anchors, threshold)
    estimate = auc_estimate(scores[second.harmful], scores[~second.harmful])

    def make(strength: float) -> Policy:
        return _policy(model, final, blocks, strength * rows)

    facts = {
        "blocks": blocks,
        "threshold": threshold,
        "gate_auc": float(estimate.value),
        "gate_auc_low": float(estimate.low),
        "gate_auc_high": float(estimate.high),
        "gate_auc_n": estimate.n,
    }
    return Design(make, facts, {"threshold": sensitivity(scores, second.harmful)})


def opener_ids(model: Model, opener: str) -> tuple[int, ...]:
    """Return the opener's tokens.

    Raises:
        PolicyError: it is not one or two tokens long.
    """
    ids = tuple(model.tokenizer(opener, add_special_tokens=False)["input_ids"])
    if not 1 <= len(ids) <= 2:
        raise PolicyError(
            f"opener {opener!r} has {len(ids)} tokens; give one or two, so that the branch is short"
        )
    return ids


def transitions(model: Model, policy: Policy, found: Behaviour) -> Float[Tensor, "row block d"]:
    """Return how the opener moves the state of every prompt."""
    if policy.transition is None:
        raise PolicyError(f"{policy.method}: not a SCANS policy")
    moved: dict[int, Tensor] = {}
    opener = policy.transition.opener
    for rows in batches(model, found.encoded, new=len(opener), rows=32):
        with scans_context(model, policy) as (run, branch):
            _, _, part = moves(run, branch, found.encoded.select(rows), opener)
        moved.update(zip(rows, part, strict=True))
    return torch.stack([moved[row] for row in range(len(found.encoded))])


def sensitivity(
    scores: Float[np.ndarray, "row"], harmful: Bool[np.ndarray, "row"]
) -> Float[Tensor, "cut 3"]:
    """Return threshold, share of harmful and share of harmless prompts above it, by row."""
    cuts = np.linspace(scores.min(), scores.max(), _CURVE)
    over = rearrange(scores, "row -> 1 row") > rearrange(cuts, "cut -> cut 1")
    shares = [over[:, mask].mean(axis=1) for mask in (harmful, ~harmful)]
    return torch.from_numpy(np.stack([cuts, *shares], axis=1)).float()


def _policy(
    model: Model,
    transition: Transition,
    blocks: tuple[int, ...],
    rows: Float[Tensor, "block d"],
) -> Policy:
    term = Term("scans", blocks, rows, steps="both")
    info, tokenizer = model.info(), model.tokenizer_info()
    return Policy("scans", (term,), info, tokenizer, transition=transition)
