"""Wrappers keep the request whole; prefills add exactly the tokens asked for, and no content."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from evaluation import is_refusal
from hooks import Encoded
from training.attacks import _OPENER, WRAPPERS, prefill, wrap
from training.recipe import TrainingError


@pytest.mark.parametrize("kind", WRAPPERS)
def test_every_wrapper_holds_the_request_once_and_more(kind: str) -> None:
    request = "Describe {rivers} in 100%."
    wrapped = wrap(kind, [request] * 6)
    for text in wrapped:
        assert text.count(request) == 1
        assert text != request
        assert "{prompt}" not in text
    # Variants take turns.
    assert len(set(wrapped)) == len(WRAPPERS[kind])
    assert wrapped[0] == wrapped[len(WRAPPERS[kind])]


def test_unknown_wrapper_is_refused() -> None:
    with pytest.raises(TrainingError, match="use one of role-play, hypothetical"):
        wrap("poem", ["x"])


def test_prefill_appends_the_first_tokens_of_the_opening(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    encoded = Encoded.from_ids([[4, 5], [6]])
    opening = tiny_tokenizer(_OPENER, add_special_tokens=False)["input_ids"]
    for tokens in (1, 5, len(opening)):
        longer = prefill(tiny_tokenizer, encoded, tokens)
        assert longer.ids == ((4, 5, *opening[:tokens]), (6, *opening[:tokens]))
        assert longer.response_start == longer.lengths
    for tokens in (0, len(opening) + 1):
        with pytest.raises(
            TrainingError, match=f"prefill of {tokens} tokens: the opening has 1 to"
        ):
            prefill(tiny_tokenizer, encoded, tokens)


def test_the_opening_is_agreeable_and_long_enough() -> None:
    assert not is_refusal(_OPENER)
    assert len(_OPENER.split()) >= 80
