"""Prompts as token ids, and the base model's own greedy answers: targets for harmless requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.refusal import is_refusal
from training.recipe import TrainingError

_APOLOGIES = ("i'm sorry", "i am sorry", "sorry", "i apolog", "my apolog", "unfortunately")
_JUDGED_TOKENS = 24


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Render the chat template once and tokenise it without adding special tokens again."""
    chat = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the token that ends an answer; it also fills padded places, which masks hide.

    Raises:
        TrainingError: the tokenizer has none.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise TrainingError("tokenizer: no end token; training needs one to end a refusal")
    return end


@torch.no_grad()
def own_answers(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    pad: int,
    not_first: Sequence[int] = (),
    batch_size: int = 32,
) -> list[list[int]]:
    """Give the model's greedy answer to each prompt, its end token included where it ends.

    Prompts are sorted by length, so that little is padded; answers come in the caller's order. None
    begins with a token of ``not_first``.
    """
    answers: dict[int, list[int]] = {}
    owner = inner_model(model) if isinstance(model, PeftModel) else model
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(prompts[i]) for i in rows)
        gaps = [width - len(prompts[i]) for i in rows]
        ids = torch.tensor([[pad] * g + list(prompts[i]) for g, i in zip(gaps, rows, strict=True)])
        mask = (torch.arange(width)[None] >= torch.tensor(gaps)[:, None]).long()
        new = owner.generate(  # pyright: ignore[reportCallIssue] - a mixin that torch's stubs hide
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            begin_suppress_tokens=list(not_first) or None,
        )[:, width:]
        for i, row in zip(rows, new.tolist(), strict=True):
            # The end token and the pad are one id here: keep the first of them, drop what follows.
            answers[i] = row[: row.index(pad) + 1] if pad in row else row
    return [answers[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class WillingAnswers:
    """Answers that do not decline, and how those began that did."""

    answers: tuple[list[int], ...]
    """In the order of the prompts; an empty list where every try declined."""
    declining: frozenset[int]
    """First tokens of the answers that declined."""


def willing_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    tries: int = 4,
) -> WillingAnswers:
    """Give the model's own answers to harmless prompts, none of which opens with an apology.

    The base says "I'm sorry for any misunderstanding, but as a chatbot" to one harmless request in
    twenty. As a target that would teach refusing, so such an answer is made again without the first
    tokens of those that failed. One that fails to the end is cut to nothing (an empty list).
    """
    pad, banned = end_token(tokenizer), set[int]()
    found: list[list[int]] = [[] for _ in prompts]
    todo = list(range(len(prompts)))
    for _ in range(tries):
        rows = [prompts[i] for i in todo]
        # Longer than the targets, because an apology shows what it is for in its second half.
        new = own_answers(
            model, rows, max_new_tokens=_JUDGED_TOKENS, pad=pad, not_first=sorted(banned)
        )
        good = [_willing(str(tokenizer.decode(ids, skip_special_tokens=True))) for ids in new]
        for i, ids, fine in zip(todo, new, good, strict=True):
            if fine:
                found[i] = ids[:max_new_tokens]
        banned |= {ids[0] for ids, fine in zip(new, good, strict=True) if not fine}
        todo = [i for i, fine in zip(todo, good, strict=True) if not fine]
        if not todo:
            break
    return WillingAnswers(tuple(found), frozenset(banned))


def _willing(text: str) -> bool:
    opening = text.strip().casefold().replace("\u2019", "'")
    return bool(opening) and not opening.startswith(_APOLOGIES) and not is_refusal(text)


def inner_model(model: PeftModel) -> PreTrainedModel:
    """Give the transformers model under the adapter; its layers hold the adapter."""
    inner = model.get_base_model()
    if not isinstance(inner, PreTrainedModel):
        raise TrainingError(f"{type(inner).__name__}: not a transformers model under the adapter")
    return inner
