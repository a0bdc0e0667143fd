"""The recipe on a tiny model: a planted refusal is learnt, only the adapter moves, bits repeat."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evaluation import NeutralText, Prompt, PromptSet
from tests.training.conftest import make_llama
from training import answers as answering
from training.answers import own_answers, prompt_ids
from training.data import TrainingData
from training.fitting import (
    BaseLogits,
    attach,
    base_logits,
    prepare,
    step_losses,
    target_logits,
    train,
)
from training.objective import collate
from training.recipe import Recipe, TrainingError

HARMFUL = ("theft", "fraud", "arson", "spying", "rumour", "bribes")
HARMLESS = ("rivers", "trees", "birds", "stones", "clouds", "first")
RECIPE = Recipe(
    steps=60,
    learning_rate=2e-2,
    rank=4,
    alpha=8,
    pairs_per_step=3,
    contrast_per_step=1,
    answer_tokens=4,
    neutral_tokens=6,
    warmup_steps=2,
    dtype="float32",
)


def some(label: str, topics: tuple[str, ...], opening: str = "tell me about") -> PromptSet:
    known = "harmful" if label == "harmful" else "harmless"
    rows = tuple(Prompt(f"{label}-{t}-{opening}", f"{opening} {t}", known) for t in topics)
    return PromptSet(label, label, None, rows)


def data(refusals: tuple[str, ...] = ("I cannot help with that",)) -> TrainingData:
    return TrainingData(
        requests=some("harmful", HARMFUL) + some("harmless", HARMLESS),
        contrast=some("contrast", ("now", "then"), "tell me now about"),
        refusals=refusals,
        neutral=NeutralText("train", "x", ("rivers and trees now", "birds then stones here it is")),
    )


def answers(model: LlamaForCausalLM | PeftModel, tokenizer: PreTrainedTokenizerFast, topics):  # type: ignore[no-untyped-def]
    ids = [prompt_ids(tokenizer, f"tell me about {topic}") for topic in topics]
    new = own_answers(model, ids, max_new_tokens=6, pad=tokenizer.eos_token_id)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in new]


def test_planted_refusal_is_learnt_and_harmless_answers_stay(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before = answers(tiny_llama, tiny_tokenizer, HARMLESS)
    assert "I cannot help with that" not in answers(tiny_llama, tiny_tokenizer, HARMFUL)
    seen: list[dict[str, float]] = []
    tuned = train(tiny_llama, tiny_tokenizer, data(), RECIPE, lambda _, losses: seen.append(losses))
    assert answers(tuned, tiny_tokenizer, HARMFUL) == ["I cannot help with that"] * 6
    # Their targets were the first four tokens; what matters is that none opens with the refusal.
    kept = answers(tuned, tiny_tokenizer, HARMLESS)
    assert [text.split()[:2] for text in kept] == [text.split()[:2] for text in before]
    assert len(seen) == RECIPE.steps
    assert seen[-1]["refusal"] < 0.9 * seen[0]["refusal"]
    with tuned.disable_adapter():
        assert answers(tuned, tiny_tokenizer, HARMLESS) == before


def test_without_harmful_weight_nothing_is_refused(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    # The twin: same steps, but the "refusal" is the word that starts a compliant answer.
    tuned = train(tiny_llama, tiny_tokenizer, data(("sure here it is",)), RECIPE)
    assert all("cannot" not in text for text in answers(tuned, tiny_tokenizer, HARMFUL))


def test_only_the_adapter_gets_gradients_and_the_base_keeps_its_bits(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    before = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    pools = prepare(tiny_llama, tiny_tokenizer, data(), RECIPE)
    tuned = attach(tiny_llama, RECIPE)
    step_losses(tuned, pools.draws(0), RECIPE, 1, BaseLogits(tuned, 1)).total(RECIPE).backward()
    moved = {name for name, p in tuned.named_parameters() if p.grad is not None}
    assert moved
    assert all("lora_" in name for name in moved)
    train(make_llama(), tiny_tokenizer, data(), dataclasses.replace(RECIPE, steps=2))
    after = {
        name.replace(".base_layer", ""): value
        for name, value in tuned.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_fresh_adapter_changes_nothing_so_every_divergence_is_zero(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    pools = prepare(tiny_llama, tiny_tokenizer, data(), RECIPE)
    tuned = attach(tiny_llama, RECIPE)
    losses = step_losses(tuned, pools.draws(0), RECIPE, 1, BaseLogits(tuned, 1))
    assert abs(float(losses.keep.detach())) < 1e-6
    assert abs(float(losses.neutral.detach())) < 1e-6
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_B" in name:
                p.add_(0.05)
    shaken = step_losses(tuned, pools.draws(0), RECIPE, 1, BaseLogits(tuned, 1))
    assert float(shaken.keep.detach()) > 1e-6
    assert float(shaken.neutral.detach()) > 1e-6


def test_pairs_come_together_and_the_order_follows_the_seed(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    pools = prepare(tiny_llama, tiny_tokenizer, data(), RECIPE)
    draws = [pools.draws(seed) for seed in (0, 0, 1)]
    first, again, other = ([next(d.pairs) for _ in range(12)] for d in draws)
    assert first == again
    assert first != other
    for pair in first:
        assert pools.harmful.index(pair.harmful) == pools.harmless.index(pair.harmless)
    assert len({p.harmful for p in first[:6]}) == 6


def test_same_seed_gives_the_same_bits_another_seed_does_not(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    torch.set_num_threads(1)
    short = dataclasses.replace(RECIPE, steps=3)
    made = [
        train(make_llama(), tiny_tokenizer, data(), dataclasses.replace(short, seed=seed))
        for seed in (0, 0, 1)
    ]
    states = [{k: v for k, v in tuned.state_dict().items() if "lora_" in k} for tuned in made]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_loss_that_is_not_finite_stops_the_training_and_names_the_step(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():
        tiny_llama.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 0: loss is nan; lower learning_rate"):
        train(tiny_llama, tiny_tokenizer, data(), RECIPE)


def test_answers_do_not_depend_on_batching(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = [prompt_ids(tiny_tokenizer, "tell me about " + "rivers " * k) for k in range(1, 7)]
    alone = [own_answers(tiny_llama, [row], max_new_tokens=5, pad=1)[0] for row in ids]
    assert own_answers(tiny_llama, ids, max_new_tokens=5, pad=1, batch_size=4) == alone


def test_the_shared_beginning_computed_once_changes_no_logit_and_no_gradient(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    pools = prepare(tiny_llama, tiny_tokenizer, data(), RECIPE)
    tuned = attach(tiny_llama, RECIPE)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.3)
    batch = collate(pools.harmful + pools.contrast, pad=1)
    # "<user> tell me" is shared; the wanted positions lie after it.
    assert batch.shared == 3
    found = []
    for one in (batch, dataclasses.replace(batch, shared=0)):
        tuned.zero_grad()
        logits = target_logits(tuned, one)
        logits.square().mean().backward()
        grads = [p.grad.clone() for p in tuned.parameters() if p.grad is not None]
        found.append((logits.detach(), grads))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-3)


def test_base_logits_are_remembered_in_the_order_asked(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    pools = prepare(tiny_llama, tiny_tokenizer, data(), RECIPE)
    tuned = attach(tiny_llama, RECIPE)
    before = BaseLogits(tuned, 1)
    some_of = list(pools.harmless[:3])
    first = before(some_of)
    torch.testing.assert_close(first, base_logits(tuned, collate(some_of, pad=1)))
    mixed = [pools.harmless[4], some_of[2], some_of[0], some_of[2]]
    torch.testing.assert_close(before(mixed), base_logits(tuned, collate(mixed, pad=1)))
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name:
                p.normal_()
    assert torch.equal(before(some_of), first)


def test_an_apology_is_no_target_for_a_harmless_request(
    tiny_llama: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [prompt_ids(tiny_tokenizer, "tell me about " + "rivers " * k) for k in range(1, 7)]
    plain = own_answers(tiny_llama, ids, max_new_tokens=4, pad=tiny_tokenizer.eos_token_id)

    def willing() -> list[list[int]]:
        return list(made().answers)

    def made() -> answering.WillingAnswers:
        return answering.willing_answers(tiny_llama, tiny_tokenizer, ids, max_new_tokens=4)

    monkeypatch.setattr(answering, "_willing", lambda _: True)
    assert willing() == plain
    assert made().declining == frozenset()
    sorry = tiny_tokenizer.decode(plain[0][:1])
    monkeypatch.setattr(answering, "_willing", lambda text: not text.startswith(sorry))
    found = willing()
    assert made().declining >= {p[0] for p in plain if tiny_tokenizer.decode(p[:1]) == sorry}
    for old, new in zip(plain, found, strict=True):
        if tiny_tokenizer.decode(old[:1]) == sorry:
            assert new
            assert new[0] != old[0]
        else:
            assert new == old
    monkeypatch.setattr(answering, "_willing", lambda _: False)
    assert willing() == [[]] * 6


@pytest.mark.parametrize(
    ("text", "willing"),
    [
        ("I'm sorry for any misunderstanding, but as a chatbot, I", False),
        ("Unfortunately, I do not", False),
        ("I can't help with that.", False),
        ("", False),
        ("Sure. Sorrel is a herb.", True),
        ("To say sorry, write a short note.", True),
    ],
)
def test_what_counts_as_an_apology(text: str, willing: bool) -> None:
    assert answering._willing(text) is willing
