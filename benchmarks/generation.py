"""Generation: answers a second of a plain batched generate() and of theodolite, alternating."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

import hooks
from benchmarks.contenders import BATCH, pad_chats, twin

Answers = Callable[[Sequence[str]], list[list[int]]]


def plain_generate(
    hf: torch.nn.Module, tokenizer: object, new_tokens: int, *, rows: int = BATCH
) -> Answers:
    """The usual script: left-padded batches in the given order, greedy."""

    def run(prompts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = []
        for start in range(0, len(prompts), rows):
            batch = pad_chats(tokenizer, prompts[start : start + rows], hf.device)
            with torch.no_grad():
                out = hf.generate(
                    **batch,
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            width = batch["input_ids"].shape[1]
            found += [_cut(row, tokenizer.eos_token_id) for row in out[:, width:].tolist()]
        return found

    return run


def ours(model: hooks.Model, new_tokens: int, *, savings: bool) -> Answers:
    """theodolite as it comes; without ``savings`` in the very batches of the plain script."""
    options = hooks.EngineOptions()
    if not savings:
        options = hooks.EngineOptions(
            prefix=False, pack=False, batch_rows=BATCH, batch_tokens=1_000_000
        )

    def run(prompts: Sequence[str]) -> list[list[int]]:
        with model.hooks(options=options) as context:
            return context.generate_ids(model.encode(prompts), max_new_tokens=new_tokens)

    return run


def _cut(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def compare(
    prompts: Sequence[str], *, dtype: str, new_tokens: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Time all contenders on the refusal-tuned reference; returns medians, ratios, agreement."""
    model = hooks.load("reference:aligned", dtype=dtype)
    copied = twin(model)
    contenders = {
        "plain generate()": plain_generate(copied, model.tokenizer, new_tokens),
        "plain generate(), all in one batch": plain_generate(
            copied, model.tokenizer, new_tokens, rows=len(prompts)
        ),
        "theodolite, savings off": ours(model, new_tokens, savings=False),
        "theodolite": ours(model, new_tokens, savings=True),
    }
    for run in contenders.values():
        run(prompts[:BATCH])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, list[list[int]]] = {}
    for index in range(rounds):
        names = list(contenders)
        # Who goes first changes from round to round.
        for name in names[index % len(names) :] + names[: index % len(names)]:
            start = time.perf_counter()
            answers[name] = contenders[name](prompts)
            seconds[name].append(time.perf_counter() - start)
    reference = statistics.median(seconds["plain generate()"])
    same = answers["plain generate()"]
    return {
        name: {
            "seconds": statistics.median(spent),
            "answers_per_second": len(prompts) / statistics.median(spent),
            "times_plain": reference / statistics.median(spent),
            "same_answers": sum(a == b for a, b in zip(answers[name], same, strict=True))
            / len(prompts),
        }
        for name, spent in seconds.items()
    }
