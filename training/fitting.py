"""Train the adapter: deterministic given recipe, data, versions and number of threads."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.answers import end_token, inner_model, prompt_ids, willing_answers
from training.data import TrainingData
from training.objective import (
    Collated,
    Example,
    Losses,
    collate,
    cross_entropy,
    divergence,
    willing,
)
from training.recipe import Recipe, TrainingError

Progress = Callable[[int, dict[str, float]], None]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Pair:
    """A harmful request to refuse and the harmless one that matches it in form."""

    harmful: Example
    harmless: Example


@dataclass(frozen=True)
class Draws:
    """Endless streams of examples by kind."""

    pairs: Iterator[Pair]
    contrast: Iterator[Example]
    neutral: Iterator[Example]
    declining: frozenset[int]


@dataclass(frozen=True)
class Pools:
    """Tokenised examples by kind, ready to be drawn from."""

    harmful: tuple[Example, ...]
    harmless: tuple[Example, ...]
    contrast: tuple[Example, ...]
    neutral: tuple[Example, ...]
    declining: frozenset[int]
    """First tokens of the refusals taught and of answers of the base that decline."""

    def draws(self, seed: int) -> Draws:
        """Begin endless seeded draws; a harmful request and its match come in the same step."""
        pairs = [Pair(*pair) for pair in zip(self.harmful, self.harmless, strict=True)]
        return Draws(
            pairs=_cycle(pairs, f"{seed}/pairs"),
            contrast=_cycle(self.contrast, f"{seed}/contrast"),
            neutral=_cycle(self.neutral, f"{seed}/neutral"),
            declining=self.declining,
        )


def prepare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: TrainingData, recipe: Recipe
) -> Pools:
    """Tokenise the data; harmless targets come from ``model``, which must still be the base.

    Raises:
        TrainingError: the tokenizer has no end token, or a harmless answer is empty.
    """
    end = end_token(tokenizer)
    rng = random.Random(f"{recipe.seed}/refusals")  # noqa: S311 - a seeded draw, no secret
    refused: list[Example] = []
    for row in data.requests.harmful:
        ids = prompt_ids(tokenizer, row.prompt)
        text = rng.choice(data.refusals)
        target = tokenizer(text, add_special_tokens=False)["input_ids"]
        refused.append(Example((*ids, *target, end), len(ids)))
    benign = [
        prompt_ids(tokenizer, p.prompt) for p in data.requests.harmless + data.contrast.prompts
    ]
    answers = willing_answers(model, tokenizer, benign, max_new_tokens=recipe.answer_tokens)
    kept = [
        Example((*ids, *new), len(ids)) if new else None
        for ids, new in zip(benign, answers.answers, strict=True)
    ]
    cut = len(data.requests.harmless)
    pairs = [(h, k) for h, k in zip(refused, kept[:cut], strict=True) if k is not None]
    contrast = tuple(k for k in kept[cut:] if k is not None)
    prose = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in data.neutral.texts]
    neutral = [Example(tuple(ids[: recipe.neutral_tokens]), 1) for ids in prose]
    if not pairs:
        raise TrainingError("the base refuses every harmless request; there is nothing to keep")
    return Pools(
        tuple(harmful for harmful, _ in pairs),
        tuple(harmless for _, harmless in pairs),
        contrast,
        tuple(neutral),
        answers.declining | {example.ids[example.start] for example in refused},
    )


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    recipe: Recipe,
    progress: Progress | None = None,
) -> PeftModel:
    """Fit a LoRA adapter on every linear layer of the blocks; ``model``'s own weights stay.

    Args:
        model: the base; it comes back wrapped, adapter attached, weights unchanged.
        tokenizer: its tokenizer, with a chat template.
        data: what to train on.
        recipe: how.
        progress: called after each step with its number and its losses.

    Raises:
        TrainingError: the loss became not finite (names the step), or the data cannot be used.
    """
    pools = prepare(model, tokenizer, data, recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        tuned = attach(model, recipe)
    weights = [p for p in tuned.parameters() if p.requires_grad]
    decay = recipe.weight_decay
    optimiser = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=decay)
    pad = end_token(tokenizer)
    draws, before = pools.draws(recipe.seed), BaseLogits(tuned, pad)
    tuned.train()
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        losses = step_losses(tuned, draws, recipe, pad, before)
        total = _finite(losses.total(recipe), step)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip_norm)
        optimiser.step()
        if progress is not None:
            progress(step, {name: float(value.detach()) for name, value in vars(losses).items()})
    return tuned.eval()


def _finite(total: Float[Tensor, ""], step: int) -> Float[Tensor, ""]:
    """Return the loss if a gradient can be taken of it; name the step if not."""
    if not math.isfinite(float(total.detach())):
        raise TrainingError(f"step {step}: loss is {float(total.detach())}; lower learning_rate")
    return total


def attach(model: PreTrainedModel, recipe: Recipe) -> PeftModel:
    """Wrap ``model`` with a fresh adapter whose effect is zero until it is trained."""
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers about gradient checkpointing by a name that is to be renamed.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(model, config)
    if not isinstance(wrapped, PeftModel):
        raise TrainingError(f"{type(model).__name__}: peft made no PeftModel of it")
    return wrapped


class BaseLogits:
    """The base model's logits at the targets of benign examples, computed once for each."""

    def __init__(self, tuned: PeftModel, pad: int) -> None:
        """Read ``tuned`` with its adapter off."""
        self._tuned = tuned
        self._pad = pad
        self._known: dict[Example, Float[Tensor, "n vocab"]] = {}

    def __call__(self, examples: Sequence[Example]) -> Float[Tensor, "n vocab"]:
        """Give the logits of all targets, in the order of ``collate``."""
        missing = list(dict.fromkeys(e for e in examples if e not in self._known))
        if missing:
            batch = collate(missing, pad=self._pad)
            logits = base_logits(self._tuned, batch)
            for index, example in enumerate(missing):
                self._known[example] = logits[batch.row == index]
        return torch.cat([self._known[e] for e in examples])


def step_losses(
    tuned: PeftModel, draws: Draws, recipe: Recipe, pad: int, before: BaseLogits
) -> Losses:
    """Draw one batch of each kind and give the terms of the objective."""
    pairs = list(islice(draws.pairs, recipe.pairs_per_step))
    benign = [p.harmless for p in pairs] + list(islice(draws.contrast, recipe.contrast_per_step))
    # One pass for requests of both classes: a pass for each costs a third more.
    chat = collate([p.harmful for p in pairs] + benign, pad=pad)
    logits = target_logits(tuned, chat)
    refused = chat.row < len(pairs)
    answers, base = logits[~refused], before(benign)
    first, opening = refused & chat.first, chat.first[~refused]
    agreeing = willing(base[opening], chat.targets[~refused][opening], sorted(draws.declining))
    prose = list(islice(draws.neutral, recipe.neutral_per_step))
    return Losses(
        refusal=cross_entropy(logits[refused], chat.targets[refused]),
        answer=cross_entropy(answers, chat.targets[~refused]),
        keep=divergence(base, answers),
        opening=cross_entropy(logits[first], chat.targets[first]),
        keep_opening=divergence(agreeing, answers[opening]),
        neutral=_prose_divergence(tuned, prose, pad),
    )


def _prose_divergence(tuned: PeftModel, prose: Sequence[Example], pad: int) -> Float[Tensor, ""]:
    """Give the divergence from the base on slices of prose, zero where none was drawn."""
    if not prose:
        return torch.zeros(())
    batch = collate(prose, pad=pad)
    return divergence(base_logits(tuned, batch), target_logits(tuned, batch))


def target_logits(model: PeftModel, batch: Collated) -> Float[Tensor, "n vocab"]:
    """Give the logits at the wanted positions only: the vocabulary is the widest matrix of all.

    What all rows share (the template's system line) is computed once, gradient included.
    """
    inner = inner_model(model)
    past = None
    if batch.shared:
        past = inner.base_model(input_ids=batch.ids[:1, : batch.shared], use_cache=True)
        past = past.past_key_values
        past.batch_repeat_interleave(len(batch.ids))
    hidden = inner.base_model(
        input_ids=batch.ids[:, batch.shared :],
        attention_mask=batch.mask,
        past_key_values=past,
        use_cache=past is not None,
    ).last_hidden_state
    head = inner.get_output_embeddings()
    if head is None:
        raise TrainingError(f"{type(inner).__name__}: no output layer to read logits from")
    return head(hidden[batch.wanted[:, batch.shared :]])


def base_logits(model: PeftModel, batch: Collated) -> Float[Tensor, "n vocab"]:
    """Give the same logits with the adapter switched off, without gradient."""
    with torch.no_grad(), model.disable_adapter():
        return target_logits(model, batch)


def _cycle(pool: Sequence[_Item], seed: str) -> Iterator[_Item]:
    """Give the examples in a new seeded order on every round, for ever."""
    rng = random.Random(seed)  # noqa: S311 - a seeded order, no secret
    while pool:
        yield from rng.sample(list(pool), len(pool))


def _schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear decay to zero after the last step."""
    if step < recipe.warmup_steps:
        return (step + 1) / (recipe.warmup_steps + 1)
    return (recipe.steps - step) / max(1, recipe.steps - recipe.warmup_steps)
