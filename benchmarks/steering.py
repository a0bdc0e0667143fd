"""Steering: tokens a second of generate() under a policy beside bare generate(), and a fit's time.

All in one process on one model: the same call of Hugging Face's ``generate()`` with and without
the context, alternating, with as many new tokens for every row. Vectors and gates are random,
since speed does not depend on them; the gates are open, so every row is steered. Two controls: the
bare call timed a second time says what the clock alone does, and a context without edits tells
what steering costs from what the registry saves or costs by being there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from scipy.stats import bootstrap

import hooks
import steering
from benchmarks.contenders import pad_chats
from steering.policy import Policy, Reading, Term
from steering.transition import Transition

MODEL = "reference:aligned"
SIZES = (1, 8)
NEW, COUNTED = 48, 16
"""New tokens of a timed call, and of one whose tokens are counted."""
ROUNDS = 3
"""Rounds for each that is asked for: a ratio of a few percent needs more than a median does."""
BARE = "bare generate()"
AIM = 0.97


def policies(model: hooks.Model) -> dict[str, Policy]:
    """Additive at one block and at ten, and AdaSteer with two terms on all late blocks."""
    rng = torch.Generator().manual_seed(0)

    def rows(n: int) -> torch.Tensor:
        return 1e-3 * torch.randn(n, model.d_model, generator=rng)

    late = tuple(range(2 * model.n_layers // 3, model.n_layers))
    one, ten = {late[0]: rows(1)[0]}, dict(zip(late, rows(len(late)), strict=True))
    gate = Reading(late[0] - 1, rows(1)[0], steering.Logistic(0.0, 5.0))
    terms = tuple(Term(name, late, rows(len(late)), gate) for name in ("rejection", "harmfulness"))
    return {
        "additive, 1 block": steering.additive(model, one, strength=1.0, kind="absolute"),
        f"additive, {len(late)} blocks": steering.additive(
            model, ten, strength=1.0, kind="absolute"
        ),
        f"AdaSteer, {len(late)} blocks": Policy(
            "adasteer", terms, model.info(), model.tokenizer_info()
        ),
    }


def compare(
    prompts: Sequence[str], *, dtype: str, new_tokens: int, rounds: int, spec: str = MODEL
) -> list[dict[str, str | int | float]]:
    """Time every contender at every batch size; medians, and paired ratios with their interval."""
    model = hooks.load(spec, dtype=dtype)
    every: dict[str, Policy | str] = {
        BARE: "bare",
        f"{BARE}, again": "bare",
        "hook context without edits": "empty",
        **policies(model),
    }
    found: list[dict[str, str | int | float]] = []
    for size in SIZES:
        batch = pad_chats(model.tokenizer, prompts[:size], model.device)
        seconds: dict[str, list[float]] = {name: [] for name in every}
        entered: dict[str, list[float]] = {name: [] for name in every}
        for index in range(rounds + 1):
            names = list(every)
            # Who goes first changes from round to round; the first round warms up.
            for name in names[index % len(names) :] + names[: index % len(names)]:
                opened, spent = _timed(model, every[name], batch, new_tokens)
                if index:
                    seconds[name].append(spent)
                    entered[name].append(opened)
        found += [_row(size, new_tokens, name, seconds, entered) for name in every]
    return found


def _timed(
    model: hooks.Model, how: Policy | str, batch: dict[str, torch.Tensor], new_tokens: int
) -> tuple[float, float]:
    """Return the seconds until the context is open, and those of the call in it."""
    start = time.perf_counter()
    with _context(model, how), torch.no_grad():
        opened = time.perf_counter()
        out = model.hf.generate(
            **batch,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
        )
        ended = time.perf_counter()
    assert out.shape[1] == batch["input_ids"].shape[1] + new_tokens
    return opened - start, ended - opened


def _context(model: hooks.Model, how: Policy | str) -> AbstractContextManager[object]:
    # A model that was loaded alone rests with its adapter on, so the bare call needs no context.
    if isinstance(how, Policy):
        return steering.steer(model, how)
    return nullcontext() if how == "bare" else model.hooks()


def _row(
    size: int,
    new_tokens: int,
    name: str,
    seconds: dict[str, list[float]],
    entered: dict[str, list[float]],
) -> dict[str, str | int | float]:
    spent = seconds[name]
    ratios = [a / b for a, b in zip(seconds[BARE], spent, strict=True)]
    empty = seconds["hook context without edits"]
    low = high = 1.0
    if name != BARE:
        drawn = bootstrap(
            (ratios,), statistics.median, vectorized=False, method="percentile", rng=0
        )
        low, high = drawn.confidence_interval
    return {
        "batch": size,
        "contender": name,
        "tokens_per_second": size * new_tokens / statistics.median(spent),
        "times_bare": statistics.median(ratios),
        "low": float(low),
        "high": float(high),
        "times_empty": statistics.median(a / b for a, b in zip(empty, spent, strict=True)),
        "opening_ms": 1e3 * statistics.median(entered[name]),
        "rounds": len(spent),
    }


def serving(model: hooks.Model) -> dict[str, Policy]:
    """The policies, and what needs more than one pass over a prompt: a late gate, a look-ahead."""
    every = policies(model)
    (ada,) = (policy for policy in every.values() if policy.method == "adasteer")
    term = ada.terms[0]
    assert term.gate is not None
    for name, bias in (("open", 5.0), ("shut", -50.0)):
        late = Reading(model.n_layers - 1, term.gate.direction, steering.Logistic(0.0, bias))
        moved = Term("rejection", term.blocks, term.vectors, late)
        every[f"AdaSteer, gate behind the steered blocks, {name}"] = Policy(
            "adasteer", (moved,), ada.model, ada.tokenizer, two_pass=True
        )
    middle = term.blocks[:4]
    look = Transition((1, 2), middle, term.vectors[:4], 0.0)
    ahead = Term("scans", middle, term.vectors[:4], steps="both")
    every["SCANS, opener of 2 tokens"] = Policy(
        "scans", (ahead,), ada.model, ada.tokenizer, transition=look
    )
    return every


def tokens_read(
    prompts: Sequence[str], *, dtype: str, new_tokens: int, spec: str = MODEL
) -> list[dict[str, object]]:
    """Count tokens that go through the body, whoever starts the pass, without prefix sharing."""
    model = hooks.load(spec, dtype=dtype)
    options = hooks.EngineOptions(prefix=False, pack=False)
    encoded = model.encode(prompts)
    found: list[dict[str, object]] = []
    with counted(model) as seen, model.hooks(options=options) as run:
        run.generate_ids(encoded, max_new_tokens=new_tokens)
    found.append({"contender": "no policy", "tokens": sum(seen)})
    for name, policy in serving(model).items():
        with counted(model) as seen:
            steering.answer(model, policy, encoded, max_new_tokens=new_tokens, options=options)
        found.append({"contender": name, "tokens": sum(seen)})
    return found


@contextmanager
def counted(model: hooks.Model) -> Iterator[list[int]]:
    """Collect the tokens that each pass puts through the body, whoever starts it."""
    model.check()  # reads prompts of its own, once
    seen: list[int] = []

    def count(_: object, __: object, inputs: Mapping[str, torch.Tensor]) -> None:
        seen.append(inputs["input_ids"].numel())

    hook = model.hf.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def fit_seconds(*, dtype: str) -> float:
    """Time one AdaSteer fit on the reference pair, loading not counted."""
    model = hooks.load(MODEL, dtype=dtype, stream="auto")
    return steering.fit_policy(model).seconds


def measure(prompts: Sequence[str], *, dtype: str, rounds: int) -> dict[str, object]:
    """Measure everything; a fit runs once."""
    return {
        "speed": compare(prompts, dtype=dtype, new_tokens=NEW, rounds=ROUNDS * rounds),
        "tokens": tokens_read(prompts[: max(SIZES)], dtype=dtype, new_tokens=COUNTED),
        "fit_seconds": fit_seconds(dtype=dtype),
        "threads": torch.get_num_threads(),
        "dtype": dtype,
    }


def lines(found: Mapping[str, object]) -> list[str]:
    """Write the part of the page."""
    speed = [
        f"| {row['contender']} | {row['batch']} | {row['tokens_per_second']:.1f} "
        f"| {row['times_bare']:.3f}x [{row['low']:.3f}, {row['high']:.3f}] "
        f"| {row['times_empty']:.3f}x | {row['opening_ms']:.0f} |"
        for row in found["speed"]
    ]
    first = found["tokens"][0]["tokens"]
    tokens = [
        f"| {row['contender']} | {row['tokens']:,} | {row['tokens'] - first:+,} |"
        for row in found["tokens"]
    ]
    rounds = found["speed"][0]["rounds"]
    return [
        f"### Steering: generate() under a policy, {found['dtype']}, {found['threads']} threads",
        "",
        "| policy | batch | tokens a second | vs bare generate() [95%] "
        "| vs a context without edits | ms to open it |",
        "|---|---|---|---|---|---|",
        *speed,
        "",
        f"The same call of Hugging Face's generate(), {NEW} new tokens for every row, with and "
        f"without the context, alternating over {rounds} rounds; ratios are medians of pairs. The "
        "bare call timed again is the control of the clock. In a batch the context saves time, "
        "since it gathers the states before the unembedding, which torch otherwise copies for "
        "every row of a prompt pass; the ratio to a context without edits leaves that out. "
        f"{_verdict(found['speed'])}",
        "",
        f"| tokens through the model: {max(SIZES)} prompts, {COUNTED} new tokens each | tokens "
        "| more than without a policy |",
        "|---|---|---|",
        *tokens,
        "",
        "A gate before the steered blocks needs no token more. Behind them, prompts are read again "
        "only where it opens. A look-ahead costs its opener and the last prompt token. "
        f"An AdaSteer fit on the reference pair took {found['fit_seconds']:.0f} s.",
    ]


def _verdict(rows: Sequence[Mapping[str, object]]) -> str:
    """Say whether every policy reaches the aim, against bare and against an empty context."""
    steered = [row for row in rows if str(row["contender"]).startswith(("additive", "AdaSteer"))]
    least = min(min(row["times_bare"], row["times_empty"]) for row in steered)
    return f"Least of both ratios over all policies and batches: {least:.3f} (aim: {AIM} at least)."
