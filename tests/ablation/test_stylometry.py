"""Each mark is read where it is and not where it is not."""

from __future__ import annotations

import pytest

from ablation.stylometry import MARKS, marks, stylometry

PLAIN = "Rivers carry water to the sea. The Rhine rises in the Alps."
EXAMPLES = {
    "opener": ["Sure, the Rhine.", "Certainly! It is.", "Here\u2019s one.", "Great."],
    "hedge": ["Rivers may flood.", "It depends on rain.", "They are often deep."],
    "list": ["Rivers:\n- Rhine\n- Po", "1. Rhine\n2. Po", "Two:\n* Rhine\n* Po"],
    "disclaimer": ["As an AI, I swim.", "It\u2019s important to float.", "Please note the depth."],
}
NEGATIVE = {
    "opener": ["Surely rivers flow.", "The sure way is north.", "Assure them.", PLAIN],
    "hedge": ["Maybes are rare words.", "The Mayor swims.", PLAIN],
    "list": ["- Rhine only", "Rhine - Po - Elbe", "It rose 1.5 m", PLAIN],
    "disclaimer": ["Aslan is a lion.", "The important rivers.", PLAIN],
}


@pytest.mark.parametrize("mark", MARKS)
def test_marks_are_found_where_they_are_and_nowhere_else(mark: str) -> None:
    for text in EXAMPLES[mark]:
        assert getattr(marks(text), mark), text
        assert getattr(marks(text.upper()), mark) == getattr(marks(text), mark)
    for text in NEGATIVE[mark]:
        assert not getattr(marks(text), mark), text


def test_a_plain_text_has_no_mark_and_thinking_does_not_count() -> None:
    assert marks(PLAIN).share == 0
    assert marks(f"<think>Sure, as an AI I may.</think>{PLAIN}").share == 0
    assert marks("Sure. As an AI, I may:\n- a\n- b").share == 1
    assert marks("").words == 0


def test_rates_count_answers_and_the_score_is_their_mean_share() -> None:
    found = stylometry(["Sure, it may.", PLAIN, "As an AI, no.", PLAIN])
    assert (found.opener.hits, found.hedge.hits, found.disclaimer.hits) == (1, 1, 1)
    assert found.list.hits == 0
    assert found.each == (0.5, 0.0, 0.25, 0.0)
    assert found.score.value == pytest.approx(sum(found.each) / 4)
    assert found.score.low <= found.score.value <= found.score.high
    assert found.score.n == 4
