"""How far a changed model's predictions are from the clean model's, in nats.

A small divergence says that little changed on these prompts, not that the change is harmless; a
large one does not say whether the changed model is worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from evaluation.errors import JudgeError
from evaluation.intervals import Interval, mean_interval
from evaluation.passes import Edits, no_edits, refuse_per_row
from hooks import Encoded, EngineOptions
from hooks.engine import FEWEST, plan_batches
from hooks.fingerprint import tokenizer_digest
from hooks.forwards import check_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hooks import Model
    from hooks.run import Run

HELD_BYTES = 128 * 2**20
"""Bytes of the clean model's logits that are held at once."""


@dataclass(frozen=True)
class Divergence:
    """KL(clean || changed) at the first answer token and over a continuation, in nats.

        first_i = KL_i1;   continuation_i = mean_{t <= T_i} KL_it;   each: mean over prompts i

    Prompts are the unit that the bootstrap resamples; each prompt is its own control.
    """

    first: Interval
    continuation: Interval
    first_each: tuple[float, ...] = field(repr=False)
    continuation_each: tuple[float, ...] = field(repr=False)
    positions: tuple[int, ...] = field(repr=False)
    """T of each prompt: predictions compared, the first and the end of the answer included."""

    @classmethod
    def of(cls, each: Sequence[Sequence[float]], *, seed: int = 0) -> Divergence:
        """Average the divergences of every prompt's positions.

        Raises:
            JudgeError: fewer than two prompts, or a divergence that is not finite; names it.
        """
        for index, row in enumerate(each):
            if not row or not np.isfinite(row).all():
                raise JudgeError(
                    f"prompt {index}: divergence {list(row)[:4]} is not finite; one of the models "
                    "gives logits that are not finite"
                )
        first = tuple(float(row[0]) for row in each)
        over = tuple(float(np.mean(row)) for row in each)
        return cls(
            mean_interval(first, seed=seed),
            mean_interval(over, seed=seed),
            first,
            over,
            tuple(len(row) for row in each),
        )


def kl(
    clean: Float[Tensor, "row vocab"], changed: Float[Tensor, "row vocab"]
) -> Float64[Tensor, "row"]:
    """Give KL(clean || changed) of each row's logits, in nats, computed in float64.

    sum_v p_v (log p_v - log q_v),   p and q the softmax of clean and changed
    """
    p = torch.log_softmax(clean.double(), dim=-1)
    q = torch.log_softmax(changed.double(), dim=-1)
    # A token without clean probability adds nothing, even where q has none either.
    terms = torch.where(p == -torch.inf, 0.0, p.exp() * (p - q))
    # Never negative; what is below zero is rounding of a sum that is zero.
    return terms.sum(dim=-1).clamp_min(0.0)


def divergence(
    clean: Model,
    prompts: Sequence[str] | Encoded,
    *,
    changed: Model | None = None,
    edits: Edits = (),
    run: Run | None = None,
    continuation: int = 16,
    batch_rows: int | None = None,
    seed: int = 0,
) -> Divergence:
    """Measure how far edits, another model, or an open run take the predictions from ``clean``.

        divergence(model, prompts, edits=[...])            # the same model under edits
        divergence(base, prompts, changed=aligned)         # another model, also of a pair
        divergence(base, prompts, run=run)                 # an open run on OTHER weights

    Both read the same tokens: the prompt, then the clean model's own greedy continuation, token by
    token as in generation, so that edits with step rules act as they do there. Contexts are opened
    here and in turn, batch by batch, and never more than ``HELD_BYTES`` of logits are held.

    Args:
        clean: the model to compare with; it must have no open context that captures or edits.
        prompts: texts for ``clean``'s chat template, or encoded prompts without responses.
        changed: the other model; by default ``clean`` itself.
        edits: for the changed model.
        run: instead of ``changed`` and ``edits``.
        continuation: predictions compared at most; fewer where the clean answer ends, its end
            included.
        batch_rows: prompts in one batch; by default what ``HELD_BYTES`` allow.
        seed: of the bootstrap.

    Raises:
        JudgeError: fewer than two prompts, contradicting arguments, another vocabulary, a clean
            model that is itself under edits, edits with an entry for each row.
    """
    if run is not None and (changed is not None or not no_edits(edits)):
        raise JudgeError("divergence: give either run, or changed and edits")
    other = clean if changed is None else changed
    _same_tokens(clean, other.tokenizer if run is None else run.view.tokenizer)
    opened = partial(other.hooks, edits=edits) if run is None else partial(nullcontext, run)
    encoded = prompts if isinstance(prompts, Encoded) else clean.encode(prompts)
    (found,) = _compared(clean, encoded, [opened], continuation, batch_rows, seed)
    return found


def divergences(
    clean: Model,
    prompts: Sequence[str] | Encoded,
    edits: Sequence[Edits],
    *,
    continuation: int = 16,
    batch_rows: int | None = None,
    seed: int = 0,
) -> tuple[Divergence, ...]:
    """Measure several edits of one model, each as :func:`divergence` does.

    The clean continuation, the same for all of them, is computed once.

    Raises:
        JudgeError: as :func:`divergence`.
    """
    encoded = prompts if isinstance(prompts, Encoded) else clean.encode(prompts)
    opened = [partial(clean.hooks, edits=each) for each in edits]
    return _compared(clean, encoded, opened, continuation, batch_rows, seed)


def _compared(
    clean: Model,
    encoded: Encoded,
    opened: Sequence[Callable[[], AbstractContextManager[Run]]],
    continuation: int,
    batch_rows: int | None,
    seed: int,
) -> tuple[Divergence, ...]:
    """Compare every run that can be opened with the clean model, batch by batch."""
    if continuation < 1:
        raise JudgeError(f"continuation={continuation}: compare 1 prediction at least")
    each: list[dict[int, list[float]]] = [{} for _ in opened]
    for rows in _batches(clean, encoded, continuation, batch_rows):
        part = encoded.select(rows)
        with _clean_run(clean) as plain:
            path = _greedy(plain, part, continuation, _ends(clean))
        for enter, kept in zip(opened, each, strict=True):
            with enter() as run:
                found = _follow(run, part, path)
            for row, values, live in zip(rows, found.tolist(), path.live.tolist(), strict=True):
                kept[row] = [value for value, counts in zip(values, live, strict=True) if counts]
    order = range(len(encoded))
    return tuple(Divergence.of([kept[row] for row in order], seed=seed) for kept in each)


@dataclass(frozen=True)
class _Path:
    """The clean model's continuation of a batch, and what it predicted on the way."""

    logits: tuple[Float[Tensor, "row vocab"], ...]
    ids: tuple[Int[Tensor, "row"], ...]
    live: Bool[Tensor, "row step"]
    """False behind the end of a row's answer."""


def _greedy(run: Run, prompts: Encoded, steps: int, ends: Sequence[int]) -> _Path:
    check_length(run, prompts, new=steps)
    state = run.prefill(prompts)
    going = torch.ones(len(prompts), dtype=torch.bool)
    logits, ids, live = [], [], []
    while True:
        logits.append(state.logits)
        ids.append(state.logits.argmax(dim=-1))
        live.append(going)
        going = going & ~torch.isin(ids[-1], torch.tensor(ends, dtype=torch.long))
        if len(ids) == steps or not going.any():
            return _Path(tuple(logits), tuple(ids), torch.stack(live, dim=1))
        state.append(ids[-1][:, None])


def _follow(run: Run, prompts: Encoded, path: _Path) -> Float64[Tensor, "row step"]:
    """Read the clean continuation and compare each prediction with the clean one."""
    refuse_per_row(run, "divergence")
    state = run.prefill(prompts)
    found = []
    for step, clean in enumerate(path.logits):
        if step:
            state.append(path.ids[step - 1][:, None])
        if state.logits.shape != clean.shape:
            raise JudgeError(
                f"divergence: {clean.shape[1]} logits of the clean model, {state.logits.shape[1]} "
                "of the other; compare models of one vocabulary"
            )
        found.append(kl(clean, state.logits))
    return torch.stack(found, dim=1)


@contextmanager
def _clean_run(clean: Model) -> Iterator[Run]:
    """Open a plain run.

    Raises:
        JudgeError: another open context would edit or capture the clean pass.
    """
    with clean.hooks() as plain:
        if any(context.actions for context in plain.view.registry.contexts):
            raise JudgeError(
                f"{clean.spec}: a hook context on the clean model's weights is open, so its pass "
                "would not be clean; close it and pass edits=..., or load the clean model apart"
            )
        yield plain


def _batches(
    clean: Model, prompts: Encoded, continuation: int, batch_rows: int | None
) -> list[list[int]]:
    if len(prompts) < 2:
        raise JudgeError(f"divergence on {len(prompts)} prompts: give at least 2 for an interval")
    vocabulary = clean.hf.config.get_text_config(decoder=True).vocab_size
    held = max(1, HELD_BYTES // (4 * vocabulary * continuation))
    lengths = [length + continuation for length in prompts.lengths]
    budget = EngineOptions().budget(clean.device)
    return plan_batches(
        lengths, budget=budget, max_rows=batch_rows or held, sort=True, pass_cost=FEWEST
    )


def _ends(model: Model) -> list[int]:
    """Give the tokens that end an answer, by the model's own generation settings first."""
    ends = getattr(model.hf.generation_config, "eos_token_id", None) or model.tokenizer.eos_token_id
    if ends is None:
        return []
    return [int(end) for end in ends] if isinstance(ends, list) else [int(ends)]


def _same_tokens(clean: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer is clean.tokenizer:
        return
    if tokenizer_digest(tokenizer) != tokenizer_digest(clean.tokenizer):
        raise JudgeError(
            f"divergence from {clean.spec}: the other model has another tokenizer, so its "
            "predictions are not about the same tokens"
        )
