"""Prompts as token ids, and the base model's own greedy answers: targets for harmless requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.recipe import TrainingError


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
    batch_size: int = 32,
) -> list[list[int]]:
    """Give the model's greedy answer to each prompt, its end token included where it ends.

    Prompts are sorted by length, so that little is padded; answers come in the caller's order.
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
        )[:, width:]
        for i, row in zip(rows, new.tolist(), strict=True):
            # The end token and the pad are one id here: keep the first of them, drop what follows.
            answers[i] = row[: row.index(pad) + 1] if pad in row else row
    return [answers[i] for i in range(len(prompts))]


def inner_model(model: PeftModel) -> PreTrainedModel:
    """Give the transformers model under the adapter; its layers hold the adapter."""
    inner = model.get_base_model()
    if not isinstance(inner, PreTrainedModel):
        raise TrainingError(f"{type(inner).__name__}: not a transformers model under the adapter")
    return inner
