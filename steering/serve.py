"""Serve a policy: under any ``generate()`` call, or batch by batch with the fewest tokens read.

with steering.steer(model, policy):
    model.hf.generate(**inputs, do_sample=True, streamer=streamer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from hooks import Encoded, EngineOptions, Model
from hooks.engine import FEWEST, RunStats, halving, plan_batches
from hooks.forwards import check_length
from hooks.kv import KVState
from hooks.run import Run
from steering.decoding import continue_greedily
from steering.errors import PolicyError
from steering.looking import scans_context, start_scans
from steering.policy import Policy
from steering.shares import Shares, given_shares, reading, shares_of
from steering.transition import moves

_LOOK = "scans"
"""Name of the sign in the shares of a SCANS policy, which has no gated term."""


@contextmanager
def steer(model: Model, policy: Policy, *, options: EngineOptions | None = None) -> Iterator[Run]:
    """Steer everything that the model does inside the block, ``model.hf.generate`` included.

        with steering.steer(model, policy):
            model.hf.generate(**inputs)

    Batches, sampling and streaming are Hugging Face's own. The first new token is steered, since
    its logits come from the pass over the prompt. A cache is needed: without one prompt and
    generated tokens cannot be told apart.

    Raises:
        PolicyError: a policy of another model, or one that a single pass cannot carry out.
    """
    policy.check(model)
    if policy.transition is not None:
        raise PolicyError(
            "a SCANS policy looks ahead before it steers, which no hook inside generate() can do: "
            "serve it with steering.answer or python -m steering.generate"
        )
    with model.hooks(edits=policy.edits(), options=options) as run:
        yield run


@dataclass(frozen=True)
class Steered:
    """Answers in the order of the prompts, and what they cost."""

    ids: tuple[tuple[int, ...], ...]
    """New token ids, without end tokens."""
    texts: tuple[str, ...]
    stats: RunStats
    shares: Mapping[str, Float[Tensor, "row"]] = field(default_factory=dict)
    """What each prompt got of every gated term, as ``coefficients``; empty without a gate."""


def answer(
    model: Model,
    policy: Policy,
    prompts: Sequence[str] | Encoded,
    *,
    max_new_tokens: int = 48,
    options: EngineOptions | None = None,
) -> Steered:
    """Continue prompts greedily under a policy of any kind.

    One pass over each prompt where every gate comes before every steered block. Otherwise all
    prompts are read once without steering, rows whose gates stay shut go on from there, and only
    the others are read again. A SCANS policy reads each prompt once and one opener more.

    Raises:
        PolicyError: a policy of another model, or no token is asked for.
        PositionError: a prompt that the model's context does not hold.
    """
    policy.check(model)
    if max_new_tokens < 1:
        raise PolicyError(f"max_new_tokens is {max_new_tokens}; ask for 1 at least")
    encoded = prompts if isinstance(prompts, Encoded) else model.encode(prompts)
    serve, stats = _serve_of(policy), RunStats()
    ids, shares = serve(model, policy, encoded, max_new_tokens, options or EngineOptions(), stats)
    texts = [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in ids]
    return Steered(tuple(tuple(row) for row in ids), tuple(texts), stats, shares)


_Answers = tuple[list[list[int]], Shares]
_Serve = Callable[[Model, Policy, Encoded, int, EngineOptions, RunStats], _Answers]


def _serve_of(policy: Policy) -> _Serve:
    if policy.transition is not None:
        return _batched(_looking_ahead)
    return _once if policy.late_gate is None else _batched(_twice)


def _once(
    model: Model,
    policy: Policy,
    encoded: Encoded,
    new: int,
    options: EngineOptions,
    stats: RunStats,
) -> _Answers:
    states, read = reading(policy)
    with model.hooks(capture=read, edits=policy.edits(), options=options) as run:
        ids = run.generate_ids(encoded, max_new_tokens=new)
    _add(stats, run.stats)
    return ids, shares_of(policy, states)


_Part = Callable[[Model, Policy, Encoded, int, RunStats], _Answers]


def _batched(part: _Part) -> _Serve:
    """Cut prompts into batches for a way of serving that holds its own caches."""

    def serve(
        model: Model,
        policy: Policy,
        encoded: Encoded,
        new: int,
        options: EngineOptions,
        stats: RunStats,
    ) -> _Answers:
        with model.hooks() as run:
            check_length(run, encoded, new=new)
        batches = plan_batches(
            [length + new for length in encoded.lengths],
            budget=options.budget(model.device),
            max_rows=options.batch_rows,
            sort=options.pack,
            pass_cost=FEWEST,
        )
        found: dict[int, list[int]] = {}
        shares: Shares = {}
        for rows, (ids, given) in halving(
            batches, lambda r: part(model, policy, encoded.select(r), new, stats), stats
        ):
            found.update(zip(rows, ids, strict=True))
            for name, share in given.items():
                shares.setdefault(name, torch.zeros(len(encoded)))[rows] = share.cpu()
        return [found[row] for row in range(len(encoded))], shares

    return serve


def _looking_ahead(
    model: Model, policy: Policy, encoded: Encoded, new: int, stats: RunStats
) -> _Answers:
    with scans_context(model, policy) as (run, branch):
        state, sign = start_scans(run, branch, policy, encoded)
        ids = continue_greedily(model, state, new)
    _add(stats, run.stats)
    return ids, {_LOOK: sign}


def _twice(model: Model, policy: Policy, encoded: Encoded, new: int, stats: RunStats) -> _Answers:
    states, read = reading(policy)
    with model.hooks(capture=read) as run:
        state = run.prefill(encoded)
        shares = shares_of(policy, states)
        is_open = torch.stack(list(shares.values())).any(dim=0).tolist()
        shut = [row for row, now in enumerate(is_open) if not now]
        found = dict(zip(shut, _rest(model, state, shut, new), strict=True))
    _add(stats, run.stats)
    rows = [row for row, now in enumerate(is_open) if now]
    if rows:
        edits = given_shares(policy, {name: share[rows] for name, share in shares.items()})
        with model.hooks(edits=edits) as again:
            more = again.generate_ids(encoded.select(rows), max_new_tokens=new)
        found.update(zip(rows, more, strict=True))
        _add(stats, again.stats)
    return [found[row] for row in range(len(encoded))], shares


def _rest(model: Model, state: KVState, rows: Sequence[int], new: int) -> list[list[int]]:
    if not rows:
        return []
    whole = len(rows) == len(state.logits)
    return continue_greedily(model, state if whole else state.select(rows), new)


def coefficients(model: Model, policy: Policy, prompts: Sequence[str] | Encoded) -> Shares:
    """Return the share that each prompt gets of every gated term, without generating.

    For a SCANS policy the share is the sign of its one gate.

    Raises:
        PolicyError: a policy of another model, or one without a gate.
    """
    policy.check(model)
    encoded = prompts if isinstance(prompts, Encoded) else model.encode(prompts)
    if policy.transition is not None:
        with scans_context(model, policy) as (run, branch):
            _, _, moved = moves(run, branch, encoded, policy.transition.opener)
        return {_LOOK: policy.transition.sign(policy.transition.score(moved))}
    states, read = reading(policy)
    if not read:
        raise PolicyError(f"{policy.method}: no gate, so every row gets the whole strength")
    with model.hooks(capture=read) as run:
        run.forward(encoded)
    return shares_of(policy, states)


def _add(total: RunStats, part: RunStats) -> None:
    for name, value in vars(part).items():
        setattr(total, name, getattr(total, name) + value)
