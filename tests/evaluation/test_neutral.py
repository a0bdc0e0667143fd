"""Neutral slices are the same on every call and share no topic between the splits."""

from __future__ import annotations

import pytest

from evaluation import neutral_text
from evaluation.errors import JudgeError


def test_same_slices_every_time() -> None:
    assert neutral_text("test", n=5) == neutral_text("test", n=5)
    assert neutral_text("test", n=5).digest != neutral_text("test", n=6).digest
    assert neutral_text("test", n=5).texts == neutral_text("test", n=6).texts[:5]


def test_splits_share_no_slice_and_both_are_prose() -> None:
    train, test = neutral_text("train", n=96), neutral_text("test", n=48)
    paragraphs = [
        [p for text in half.texts for p in text.split("\n\n")[:1]] for half in (train, test)
    ]
    assert not set(paragraphs[0]) & set(paragraphs[1])
    assert len(set(test.texts)) == 48
    assert len(set(train.texts)) == 96
    for text in train.texts + test.texts:
        assert 300 <= len(text) <= 800


def test_too_many_slices_and_unknown_split_are_refused() -> None:
    with pytest.raises(JudgeError, match=r"1 to \d+ exist; ask for fewer"):
        neutral_text("test", n=100_000)
    with pytest.raises(JudgeError, match="1 to"):
        neutral_text("test", n=0)
    with pytest.raises(JudgeError, match="use 'train' or 'test'"):
        neutral_text("dev")
