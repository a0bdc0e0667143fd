"""Steering: tokens a second of generate() under a policy beside bare generate(), and a fit's time.

All in one process on one model: the same call of Hugging Face's ``generate()`` with and without
the context, alternating. Vectors and gates are random, since speed does not depend on them; the
gates are open, so every row is steered.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch

import hooks
import steering
from benchmarks.contenders import pad_chats
from steering.policy import Policy, Reading, Term

SIZES = (1, 8)


def policies(model: hooks.Model) -> dict[str, Policy | None]:
    """Bare, additive at one block and at ten, and AdaSteer with two terms on all late blocks."""
    rng = torch.Generator().manual_seed(0)

    def rows(n: int) -> torch.Tensor:
        return 1e-3 * torch.randn(n, model.d_model, generator=rng)

    late = tuple(range(2 * model.n_layers // 3, model.n_layers))
    one, ten = {late[0]: rows(1)[0]}, dict(zip(late, rows(len(late)), strict=True))
    gate = Reading(late[0] - 1, rows(1)[0], steering.Logistic(0.0, 5.0))
    terms = tuple(Term(name, late, rows(len(late)), gate) for name in ("rejection", "harmfulness"))
    info, tokenizer = model.info(), model.tokenizer_info()
    return {
        "bare generate()": None,
        "additive, 1 block": steering.additive(model, one, strength=1.0, kind="absolute"),
        f"additive, {len(late)} blocks": steering.additive(
            model, ten, strength=1.0, kind="absolute"
        ),
        f"AdaSteer, {len(late)} blocks": Policy("adasteer", terms, info, tokenizer),
    }


def compare(
    prompts: Sequence[str], *, dtype: str, new_tokens: int, rounds: int
) -> list[dict[str, str | int | float]]:
    """Time every policy at every batch size; medians, and medians of the ratios by round."""
    model = hooks.load("reference:aligned", dtype=dtype)
    every = policies(model)
    found: list[dict[str, str | int | float]] = []
    for size in SIZES:
        batch = pad_chats(model.tokenizer, prompts[:size], model.device)
        seconds: dict[str, list[float]] = {name: [] for name in every}
        for index in range(rounds + 1):
            names = list(every)
            # Who goes first changes from round to round; the first round warms up.
            for name in names[index % len(names) :] + names[: index % len(names)]:
                spent = _timed(model, every[name], batch, new_tokens)
                if index:
                    seconds[name].append(spent)
        found += [_row(size, new_tokens, name, spent, seconds) for name, spent in seconds.items()]
    return found


def _timed(
    model: hooks.Model, policy: Policy | None, batch: dict[str, torch.Tensor], new_tokens: int
) -> float:
    # A model that was loaded alone rests with its adapter on, so the bare call needs no context.
    context = nullcontext() if policy is None else steering.steer(model, policy)
    with context, torch.no_grad():
        start = time.perf_counter()
        out = model.hf.generate(
            **batch,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
        )
        spent = time.perf_counter() - start
    assert out.shape[1] == batch["input_ids"].shape[1] + new_tokens
    return spent


def _row(
    size: int,
    new_tokens: int,
    name: str,
    spent: Sequence[float],
    seconds: dict[str, list[float]],
) -> dict[str, str | int | float]:
    bare = seconds["bare generate()"]
    ratios = [a / b for a, b in zip(bare, spent, strict=True)]
    return {
        "batch": size,
        "contender": name,
        "tokens_per_second": size * new_tokens / statistics.median(spent),
        "times_bare": statistics.median(ratios),
    }


def tokens_read(prompts: Sequence[str], *, dtype: str, new_tokens: int) -> list[dict[str, object]]:
    """Count tokens that go through the model, by way of serving, without prefix sharing."""
    model = hooks.load("reference:aligned", dtype=dtype)
    options = hooks.EngineOptions(prefix=False, pack=False)
    found: list[dict[str, object]] = []
    for name, policy in policies(model).items():
        if policy is None:
            with model.hooks(options=options) as run:
                run.generate_ids(model.encode(prompts), max_new_tokens=new_tokens)
            tokens = run.stats.tokens_computed
        else:
            given = steering.answer(
                model, policy, prompts, max_new_tokens=new_tokens, options=options
            )
            tokens = given.stats.tokens_computed
        found.append({"contender": name, "tokens": tokens})
    return found


def fit_seconds(*, dtype: str) -> float:
    """Time one AdaSteer fit on the reference pair, loading not counted."""
    model = hooks.load("reference:aligned", dtype=dtype, stream="auto")
    return steering.fit_policy(model).seconds


def measure(prompts: Sequence[str], *, dtype: str, rounds: int) -> dict[str, object]:
    """Measure everything; a fit runs once."""
    return {
        "speed": compare(prompts, dtype=dtype, new_tokens=48, rounds=rounds),
        "tokens": tokens_read(prompts[: max(SIZES)], dtype=dtype, new_tokens=16),
        "fit_seconds": fit_seconds(dtype=dtype),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
    }


def lines(found: Mapping[str, object]) -> list[str]:
    """Write the part of the page."""
    tokens = {row["contender"]: row["tokens"] for row in found["tokens"]}
    rows = [
        f"| {row['contender']} | {row['batch']} | {row['tokens_per_second']:.1f} "
        f"| {row['times_bare']:.3f}x | {tokens[row['contender']]:,} |"
        for row in found["speed"]
    ]
    return [
        f"### Steering: generate() under a policy, {found['dtype']}, {found['threads']} threads",
        "",
        "| policy | batch | tokens a second | vs bare generate() | tokens read for 8 prompts |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "The same call of Hugging Face's generate() with and without the context, alternating; "
        "the ratio is the median over rounds. Tokens read are those of 8 prompts with 16 new "
        "tokens each: no prompt is read twice. "
        f"An AdaSteer fit on the reference pair took {found['fit_seconds']:.0f} s.",
    ]
