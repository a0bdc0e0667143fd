"""What a policy does to first tokens and to benign answers, without writing an answer.

    KL = mean over prompts of mean_t KL(p_t || q_t),  ratio = exp(mean_t (log p_t - log q_t)(y_t))

with p the unsteered and q the steered model, on the unsteered model's own greedy answers y. Rows
that a policy leaves alone bit for bit cost nothing and are not read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.divergence import kl
from evaluation.intervals import Interval, mean_interval
from evaluation.judges.margin import margins
from evaluation.judges.tokens import RefusalTokens
from evaluation.perplexity import Perplexity, PerplexityRatio, token_losses
from hooks import Encoded, EngineOptions, Model
from hooks.engine import FEWEST, plan_batches
from hooks.kv import KVState
from steering.decoding import continue_greedily
from steering.looking import scans_context, start_scans
from steering.policy import Policy
from steering.serve import coefficients

_ROWS = 8


def touched(model: Model, policy: Policy, encoded: Encoded) -> Bool[np.ndarray, "row"]:
    """Say which rows the policy changes at all: those with a share other than exactly 0."""
    if policy.transition is not None or any(term.gate is None for term in policy.terms):
        return np.full(len(encoded), any(bool(term.vectors.any()) for term in policy.terms))
    shares = coefficients(model, policy, encoded)
    found = np.zeros(len(encoded), dtype=bool)
    for term in policy.terms:
        if term.vectors.any():
            found |= shares[term.name].numpy() != 0
    return found


@contextmanager
def started(model: Model, policy: Policy | None, encoded: Encoded) -> Iterator[KVState]:
    """Read a small batch of prompts under a policy (None: unsteered); continue inside the block.

    The policy must take a single pass.
    """
    if policy is not None and policy.transition is not None:
        with scans_context(model, policy) as (run, branch):
            yield start_scans(run, branch, policy, encoded)[0]
        return
    with model.hooks(edits=() if policy is None else policy.edits()) as run:
        yield run.prefill(encoded)


def batches(model: Model, encoded: Encoded, *, new: int, rows: int) -> list[list[int]]:
    """Cut prompts into batches of like length."""
    return plan_batches(
        [length + new for length in encoded.lengths],
        budget=EngineOptions().budget(model.device),
        max_rows=rows,
        sort=True,
        pass_cost=FEWEST,
    )


def first_margins(
    model: Model, policy: Policy | None, encoded: Encoded, tokens: RefusalTokens
) -> Float[np.ndarray, "row"]:
    """Return the refusal margin of every prompt's first token under a policy.

    margin = log P(refusal tokens) - log(1 - P(refusal tokens))
    """
    if policy is None or policy.transition is None:
        with model.hooks(edits=() if policy is None else policy.edits()) as run:
            return margins(model, encoded, tokens, run=run).numpy()
    inside = torch.tensor(tokens.ids)
    found = np.zeros(len(encoded))
    for rows in batches(model, encoded, new=len(policy.transition.opener), rows=32):
        with started(model, policy, encoded.select(rows)) as state:
            logits = state.logits.double()
        rest = logits.index_fill(-1, inside, -torch.inf)
        found[rows] = (logits[:, inside].logsumexp(-1) - rest.logsumexp(-1)).numpy()
    return found


@dataclass(frozen=True)
class Paths:
    """Greedy answers of the unsteered model to benign prompts, and what it made of them."""

    encoded: Encoded = field(repr=False)
    ids: tuple[tuple[int, ...], ...] = field(repr=False)
    """Answers; those that are empty are left out of every measure."""
    losses: tuple[float, ...] = field(repr=False)
    """Sum of each answer's negative log-likelihood in the unsteered model, in nats."""


def paths(model: Model, encoded: Encoded, *, new_tokens: int) -> Paths:
    """Let the unsteered model answer benign prompts."""
    found: dict[int, list[int]] = {}
    for rows in batches(model, encoded, new=new_tokens, rows=32):
        with started(model, None, encoded.select(rows)) as state:
            found.update(zip(rows, continue_greedily(model, state, new_tokens), strict=True))
    spoken = [row for row in range(len(encoded)) if found[row]]
    part, ids = encoded.select(spoken), tuple(tuple(found[row]) for row in spoken)
    means = clean_losses(model, part, ids)
    sums = [(mean or 0.0) * len(answer) for mean, answer in zip(means, ids, strict=True)]
    return Paths(part, ids, tuple(sums))


@dataclass(frozen=True)
class Utility:
    """The cost of a policy on benign answers of the unsteered model."""

    divergence: Interval
    """Mean KL from the unsteered model, nats a token."""
    perplexity: PerplexityRatio
    """Steered over unsteered, on the unsteered model's answers."""
    touched: int
    """Prompts that the policy changed at all."""

    def within(self, max_kl: float, max_perplexity: float) -> bool:
        """Say whether both costs are at most these."""
        return self.divergence.value <= max_kl and self.perplexity.value <= max_perplexity


def utility(
    model: Model,
    policy: Policy,
    answers: Paths,
    *,
    hit: Bool[np.ndarray, "row"] | None = None,
    seed: int = 0,
) -> Utility:
    """Measure what a policy costs on benign answers; ``hit`` is ``touched`` where it is known.

    Greedy answers are those that the unsteered model finds most likely, so their perplexity
    overstates what steering costs; it does not say whether a steered answer is worse.

    Raises:
        JudgeError: fewer than two answers.
    """
    changes = touched(model, policy, answers.encoded) if hit is None else hit
    chosen = np.flatnonzero(changes).tolist()
    # Rows that are left alone cost nothing; their own loss still counts in the ratio.
    apart = np.zeros(len(answers.encoded))
    losses = np.array([answers.losses, answers.losses])
    touched_part = answers.encoded.select(chosen)
    longest = max(map(len, answers.ids), default=1)
    for places in batches(model, touched_part, new=longest, rows=_ROWS) if chosen else ():
        rows = [chosen[place] for place in places]
        part, ids = answers.encoded.select(rows), [answers.ids[row] for row in rows]
        clean, changed = (_logits(model, p, part, ids) for p in (None, policy))
        for place, row in enumerate(rows):
            apart[row] = float(kl(clean[place], changed[place]).mean())
            losses[:, row] = _loss(clean[place], ids[place]), _loss(changed[place], ids[place])
    lengths = [len(row) for row in answers.ids]
    before, after = (Perplexity.of(row.tolist(), lengths, seed=seed) for row in losses)
    return Utility(
        mean_interval(apart.tolist(), seed=seed),
        PerplexityRatio.of(after, before, seed=seed),
        len(chosen),
    )


def clean_losses(
    model: Model, encoded: Encoded, ids: Sequence[Sequence[int]]
) -> list[float | None]:
    """Return the mean loss of each answer under the unsteered model, nats a token; None if empty.

    Unlike ``evaluation.answering.answer_nll`` it takes tokens, so a prefill stays in its place.
    """
    found: list[float | None] = [None] * len(ids)
    spoken = [row for row, answer in enumerate(ids) if answer]
    if not spoken:
        return found
    part = encoded.select(spoken)
    for places in batches(model, part, new=max(map(len, ids)), rows=_ROWS):
        rows = [spoken[place] for place in places]
        logits = _logits(model, None, part.select(places), [ids[row] for row in rows])
        for row, own in zip(rows, logits, strict=True):
            found[row] = _loss(own, ids[row]) / len(ids[row])
    return found


def _logits(
    model: Model, policy: Policy | None, part: Encoded, ids: Sequence[Sequence[int]]
) -> list[Float[Tensor, "token vocab"]]:
    """Return the logits that predict each token of each answer, answers read in one pass."""
    longest = max(len(row) for row in ids)
    # What stands behind the end of a shorter answer is read by nobody.
    wide = torch.tensor([[*row, *([0] * (longest - len(row)))] for row in ids])
    with started(model, policy, part) as state:
        first = state.logits[:, None]
        whole = torch.cat([first, state.score(wide[:, :-1])], dim=1) if longest > 1 else first
    return [whole[place, : len(row)] for place, row in enumerate(ids)]


def _loss(logits: Float[Tensor, "token vocab"], ids: Sequence[int]) -> float:
    """Return the sum of negative log-likelihoods of an answer, in nats."""
    # token_losses predicts every id but the first from the logits before it.
    padded = torch.cat([logits, logits[-1:]])
    return float(token_losses(padded, torch.tensor([0, *ids])).double().sum())
