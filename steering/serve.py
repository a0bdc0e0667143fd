"""Serve a policy: under any ``generate()`` call, or batch by batch with the fewest tokens read.

with steering.steer(model, policy):
    model.hf.generate(**inputs, do_sample=True, streamer=streamer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hooks import Add, Capture, Encoded, EngineOptions, Gate, Model, Rows
from hooks.engine import RunStats, halving, plan_batches
from hooks.forwards import check_length
from hooks.interventions import unit
from hooks.kv import KVState
from hooks.run import Run
from steering.decoding import continue_greedily
from steering.errors import PolicyError
from steering.policy import SITE, Policy
from steering.transition import Branch, moves


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
        PolicyError: a policy of another model.
        PositionError: a prompt that the model's context does not hold.
    """
    policy.check(model)
    encoded = prompts if isinstance(prompts, Encoded) else model.encode(prompts)
    serve = _serve_of(policy)
    ids, stats = serve(model, policy, encoded, max_new_tokens, options or EngineOptions())
    texts = [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in ids]
    return Steered(tuple(tuple(row) for row in ids), tuple(texts), stats)


_Serve = Callable[[Model, Policy, Encoded, int, EngineOptions], tuple[list[list[int]], RunStats]]


def _serve_of(policy: Policy) -> _Serve:
    if policy.transition is not None:
        return _batched(_looking_ahead)
    return _once if policy.late_gate is None else _batched(_twice)


def _once(
    model: Model, policy: Policy, encoded: Encoded, new: int, options: EngineOptions
) -> tuple[list[list[int]], RunStats]:
    with model.hooks(edits=policy.edits(), options=options) as run:
        return run.generate_ids(encoded, max_new_tokens=new), run.stats


_Part = Callable[[Model, Policy, Encoded, int, RunStats], list[list[int]]]


def _batched(part: _Part) -> _Serve:
    """Cut prompts into batches for a way of serving that holds its own caches."""

    def serve(
        model: Model, policy: Policy, encoded: Encoded, new: int, options: EngineOptions
    ) -> tuple[list[list[int]], RunStats]:
        stats = RunStats()
        with model.hooks() as run:
            check_length(run, encoded, new=new)
        batches = plan_batches(
            [length + new for length in encoded.lengths],
            budget=options.budget(model.device),
            max_rows=options.batch_rows,
            sort=options.pack,
        )
        found: dict[int, list[int]] = {}
        for rows, ids in halving(
            batches, lambda r: part(model, policy, encoded.select(r), new, stats), stats
        ):
            found.update(zip(rows, ids, strict=True))
        return [found[row] for row in range(len(encoded))], stats

    return serve


def _looking_ahead(
    model: Model, policy: Policy, encoded: Encoded, new: int, stats: RunStats
) -> list[list[int]]:
    with scans_context(model, policy) as (run, branch):
        state = start_scans(run, branch, policy, encoded)
        ids = continue_greedily(model, state, new)
    _add(stats, run.stats)
    return ids


def _twice(
    model: Model, policy: Policy, encoded: Encoded, new: int, stats: RunStats
) -> list[list[int]]:
    states = Rows()
    read = Capture(gate_sites(policy), at="last", steps="prompt", into=states)
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
    return [found[row] for row in range(len(encoded))]


def _rest(model: Model, state: KVState, rows: Sequence[int], new: int) -> list[list[int]]:
    if not rows:
        return []
    whole = len(rows) == len(state.logits)
    return continue_greedily(model, state if whole else state.select(rows), new)


def gate_sites(policy: Policy) -> tuple[str, ...]:
    """Return the sites that the policy's gates read, each once."""
    blocks = sorted({term.gate.block for term in policy.terms if term.gate is not None})
    return tuple(f"blocks.{block}.{SITE}" for block in blocks)


def shares_of(policy: Policy, states: Rows) -> dict[str, Float[Tensor, "row"]]:
    """Return what every gated term's law makes of captured last-token states."""
    found: dict[str, Tensor] = {}
    for term in policy.terms:
        if term.gate is not None:
            rows = states[f"blocks.{term.gate.block}.{SITE}"]
            if not isinstance(rows, Tensor):
                raise PolicyError("several states for one prompt; read the last token only")
            # As the registry's gate does it, so that both ways give the same bits.
            direction = unit(term.gate.direction, "Gate")
            found[term.name] = term.gate.law((rows.float() * direction).sum(-1))
    return found


def given_shares(policy: Policy, shares: dict[str, Float[Tensor, "row"]]) -> tuple[Add, ...]:
    """Return the policy's additions with a fixed share for each row in place of gates."""
    found: list[Add] = []
    for term in policy.terms:
        for edit in replace(term, gate=None).edits():
            if isinstance(edit, Add):
                scale = shares.get(term.name, edit.scale)
                found.append(replace(edit, scale=scale))
    return tuple(found)


def coefficients(
    model: Model, policy: Policy, prompts: Sequence[str] | Encoded
) -> dict[str, Float[Tensor, "row"]]:
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
        return {"scans": policy.transition.sign(policy.transition.score(moved))}
    sites = gate_sites(policy)
    if not sites:
        raise PolicyError(f"{policy.method}: no gate, so every row gets the whole strength")
    states = Rows()
    with model.hooks(capture=Capture(sites, at="last", into=states)) as run:
        run.forward(encoded)
    return shares_of(policy, states)


@contextmanager
def scans_context(model: Model, policy: Policy) -> Iterator[tuple[Run, Branch]]:
    """Open the context of a SCANS policy: additions shut at first, and a branch that is read."""
    if policy.transition is None:
        raise PolicyError(f"{policy.method}: not a SCANS policy")
    branch = Branch(policy.transition.sites)
    adds = tuple(
        replace(edit, steps="generated")
        for term in policy.terms
        for edit in term.edits()
        if isinstance(edit, Add)
    )
    first = policy.terms[0].vectors[0]
    gates = (Gate(torch.ones_like(first), "hook_embed", adds, _shut),) if adds else ()
    with model.hooks(capture=branch.capture, edits=gates) as run:
        yield run, branch


def _shut(score: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Nothing is added before the branch has decided."""
    return torch.zeros_like(score)


def start_scans(run: Run, branch: Branch, policy: Policy, encoded: Encoded) -> KVState:
    """Read prompts, decide by the branch, and read the last prompt token under steering."""
    if policy.transition is None:
        raise PolicyError(f"{policy.method}: not a SCANS policy")
    transition = policy.transition
    state, last, moved = moves(run, branch, encoded, transition.opener)
    if any(term.vectors.any() for term in policy.terms):
        state.hold(transition.sign(transition.score(moved)))
    return state.append(last)


def _add(total: RunStats, part: RunStats) -> None:
    for name, value in vars(part).items():
        setattr(total, name, getattr(total, name) + value)
