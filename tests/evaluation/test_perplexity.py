"""Perplexity agrees with closed forms and with transformers' own loss, and sees a broken model."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evaluation.errors import JudgeError
from evaluation.perplexity import Perplexity, PerplexityRatio, perplexity, token_losses
from hooks import Add, wrap
from tests.training.conftest import WORDS, make_llama
from tests.training.conftest import tiny_tokenizer as tiny_tokenizer

TEXTS = ["rivers trees birds stones", "clouds then here it is now", "please tell me about trees"]


def test_uniform_logits_give_the_vocabulary_size() -> None:
    losses = token_losses(torch.zeros(5, 17), torch.tensor([1, 2, 3, 4, 5]))
    assert losses.shape == (4,)
    assert torch.allclose(losses, torch.full((4,), math.log(17)))


def test_certain_logits_give_perplexity_one() -> None:
    ids = torch.tensor([2, 0, 1])
    logits = torch.full((3, 4), -1e4)
    logits[0, 0] = logits[1, 1] = 0.0
    assert torch.allclose(token_losses(logits, ids), torch.zeros(2))


def test_a_model_without_knowledge_has_the_vocabulary_as_perplexity(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    hf = make_llama()
    with torch.no_grad():
        hf.lm_head.weight.zero_()
    found = perplexity(wrap(hf, tiny_tokenizer), TEXTS)
    assert math.isclose(found.value, len(WORDS), rel_tol=1e-5)
    assert math.isclose(found.low, found.high, rel_tol=1e-5)


def oracle(hf: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            total += float(hf(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return math.exp(total / count)


def test_equals_the_loss_of_transformers_whatever_the_batch(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    hf = make_llama()
    expected = oracle(hf, tiny_tokenizer)
    for batch_size in (1, 2, 8):
        found = perplexity(wrap(hf, tiny_tokenizer), TEXTS, batch_size=batch_size)
        assert math.isclose(found.value, expected, rel_tol=1e-5)
        assert found.low <= found.value <= found.high
        assert (found.n_texts, found.n_tokens) == (3, 3 + 5 + 4)


def test_edits_of_an_open_run_count(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    hf = make_llama()
    model = wrap(hf, tiny_tokenizer)
    plain = perplexity(model, TEXTS)
    push = 20 * hf.lm_head.weight[7].detach() / hf.lm_head.weight[7].norm()
    with model.hooks(edits=Add(push, "blocks.1.hook_resid_post")) as run:
        pushed = perplexity(model, TEXTS, run=run)
    assert max(abs(a - b) for a, b in zip(pushed.nll, plain.nll, strict=True)) > 0.5
    assert perplexity(model, TEXTS) == plain


def test_ratio_is_one_for_itself_and_paired_over_texts() -> None:
    base = Perplexity.of([3.0, 30.0, 4.0], [3, 10, 4])
    same = PerplexityRatio.of(base, base)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    # A constant gap per token has no spread over texts, however different the texts are.
    shifted = Perplexity.of([3.0 + 0.3, 30.0 + 1.0, 4.0 + 0.4], [3, 10, 4])
    ratio = PerplexityRatio.of(shifted, base)
    assert math.isclose(ratio.value, math.exp(0.1), rel_tol=1e-9)
    assert math.isclose(ratio.low, ratio.high, rel_tol=1e-9)
    assert base.high > 1.2 * base.low


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 20)), min_size=2, max_size=6))
def test_value_is_the_token_weighted_mean(parts: list[tuple[float, int]]) -> None:
    nll, tokens = [p[0] for p in parts], [p[1] for p in parts]
    found = Perplexity.of(nll, tokens)
    assert math.isclose(found.value, math.exp(sum(nll) / sum(tokens)), rel_tol=1e-9)


def test_what_cannot_be_measured_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = wrap(make_llama(), tiny_tokenizer)
    with pytest.raises(JudgeError, match="perplexity of 1 texts: give at least 2"):
        perplexity(model, TEXTS[:1])
    with pytest.raises(JudgeError, match="texts 0 to 1: one has under 2 tokens"):
        perplexity(model, ["rivers trees", "birds"])
    with pytest.raises(JudgeError, match="text 1: loss nan over 4 tokens"):
        Perplexity.of([1.0, math.nan], [3, 4])
    with pytest.raises(JudgeError, match="different texts or tokenizers"):
        PerplexityRatio.of(Perplexity.of([1.0, 2.0], [3, 4]), Perplexity.of([1.0, 2.0], [3, 5]))
