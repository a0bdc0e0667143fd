"""What every setting of one model is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablation.material import evenly, texts_of
from ablation.options import Common
from artifacts.errors import InputError
from evaluation.errors import JudgeError
from evaluation.judges import RefusalTokens, find_refusal_tokens
from evaluation.judges import judge as judge_of
from evaluation.neutral import neutral_text
from evaluation.outcomes import Judge
from evaluation.prompts import PromptSet
from hooks import Model

TOKENS = 64
"""Development prompts of each class behind the refusal tokens."""
DIVERGENCE = 16
"""Harmless requests for the divergence."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What every setting of one model is measured on."""

    model: Model
    prompts: PromptSet
    """Both classes."""
    tokens: RefusalTokens
    judge: Judge
    texts: tuple[str, ...]
    """Neutral text for the perplexity."""
    divergence_prompts: tuple[str, ...]
    """Harmless requests for the divergence."""
    new_tokens: int = 32
    seed: int = 0
    progress: bool = False
    base: Model | None = None
    """Under which answers must be likely to be coherent; by default the model without edits."""


def bench_of(
    model: Model,
    tested: PromptSet,
    developed: PromptSet,
    options: Common,
    judge: Judge | None,
    texts: Sequence[str] | None,
) -> Bench:
    """Find the refusal tokens on development prompts and gather what arms are measured on.

    Raises:
        InputError: no token separates the classes, so the model does not refuse.
    """
    try:
        known = evenly(developed, TOKENS)
        tokens = find_refusal_tokens(
            model, known.select(label="harmful"), known.select(label="harmless")
        )
    except JudgeError as error:
        raise InputError(
            f"{model.spec} does not open harmful and harmless requests in different ways, so there "
            f"is no refusal to ablate ({error})"
        ) from error
    return Bench(
        model=model,
        prompts=tested,
        tokens=tokens,
        judge=judge or judge_of(options.judge),
        texts=tuple(texts) if texts is not None else neutral_text("test", n=options.neutral).texts,
        divergence_prompts=texts_of(tested, "harmless", DIVERGENCE),
        new_tokens=options.new_tokens,
        seed=options.seed,
        progress=options.progress,
    )
