"""Masking touches content alone, and relevance is credited only where it beats chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from artifacts.errors import InputError
from directions.masking import content_tokens, mask_triggers, masked, neutral_token
from evaluation.errors import JudgeError
from evaluation.judges import margins
from tests.directions.reading import HARMFUL, model, refusal_tokens

PROMPTS = [f"{text} - ok?" for text in HARMFUL]


def rows(system: str | None = None):
    return model().encode(PROMPTS, system=system)


def oracle(encoded, content, tokens, mask: int) -> list[torch.Tensor]:
    """Return the fall of the margin when each content token alone is masked: true relevance."""
    plain = margins(model(), encoded, tokens)
    found = [torch.full((len(ids),), -np.inf) for ids in encoded]
    for step in range(max(map(len, content))):
        here = [[places[step]] if step < len(places) else [] for places in content]
        change = margins(model(), masked(encoded, here, mask), tokens) - plain
        for row, places in enumerate(here):
            for place in places:
                found[row][place] = -change[row]
    return [part.nan_to_num(neginf=-100) for part in found]


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_template_tokens_and_punctuation_are_never_content(system: str | None) -> None:
    encoded = rows(system)
    for ids, places, text in zip(
        encoded, content_tokens(model(), encoded, system=system), PROMPTS, strict=True
    ):
        found = "".join(model().tokenizer.decode([ids[place]]) for place in places)
        assert found == "".join(c for c in text if c.isalnum())
    with pytest.raises(InputError, match="does not begin as the chat template"):
        content_tokens(model(), encoded, system="Another one.")


def test_masking_replaces_these_tokens_and_no_others() -> None:
    encoded = rows()
    changed = masked(encoded, [[3, 5]] * len(encoded), 99)
    for before, after in zip(encoded, changed, strict=True):
        differs = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert differs == [3, 5] and after[3] == after[5] == 99
    assert changed.instruction_end == encoded.instruction_end
    assert masked(encoded, [[]] * len(encoded), 99).ids == encoded.ids


def test_true_relevance_beats_random_tokens_and_arbitrary_relevance_does_not() -> None:
    used, encoded, tokens = model(), rows(), refusal_tokens(model())
    content = content_tokens(used, encoded)
    mask = neutral_token(used)
    real = oracle(encoded, content, tokens, mask)
    found = mask_triggers(used, encoded, real, content, tokens, count=4)
    assert found.beats and found.top.high < 0
    assert found.p == pytest.approx(0.05)
    assert found.difference.value == pytest.approx(found.top.value - found.random.value, abs=1e-9)
    assert found.random.value == pytest.approx(float(np.mean(found.draws)), abs=1e-9)
    assert found.top.n == len(PROMPTS)
    for chosen, places in zip(found.masked, content, strict=True):
        assert len(chosen) == 4 and set(chosen) <= set(places)
    hits = 0
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        arbitrary = [torch.rand(len(ids), generator=rng) for ids in encoded]
        hits += mask_triggers(
            used, encoded, arbitrary, content, tokens, count=4, seed=seed, draws=5
        ).beats
    # Five draws: a sixth by the draws alone, and the interval must exclude 0 as well.
    assert hits <= 7


def test_the_largest_relevance_is_masked_whatever_lies_outside_the_content() -> None:
    used, encoded, tokens = model(), rows(), refusal_tokens(model())
    content = content_tokens(used, encoded)
    relevance = [torch.arange(len(ids), dtype=torch.float32) for ids in encoded]
    found = mask_triggers(used, encoded, relevance, content, tokens, count=2, draws=5)
    assert all(
        chosen == (places[-1], places[-2])
        for chosen, places in zip(found.masked, content, strict=True)
    )
    few = [places[:3] for places in content]
    found = mask_triggers(used, encoded, relevance, few, tokens, count=3, draws=5)
    assert all(len(chosen) == 1 for chosen in found.masked)  # at most half of what there is


def test_a_replacement_by_itself_changes_nothing() -> None:
    used, tokens = model(), refusal_tokens(model())
    encoded = used.encode(["aaaaaaaa"] * 8)
    content = content_tokens(used, encoded)
    relevance = [torch.ones(len(ids)) for ids in encoded]
    own = encoded.ids[0][content[0][0]]
    found = mask_triggers(used, encoded, relevance, content, tokens, neutral=own, draws=5)
    assert found.top.value == 0 and found.difference.value == 0
    assert not found.beats


def test_bad_input_is_refused() -> None:
    used, encoded, tokens = model(), rows(), refusal_tokens(model())
    content = content_tokens(used, encoded)
    relevance = [torch.ones(len(ids)) for ids in encoded]

    def run(**more: object) -> None:
        given = {"encoded": encoded, "relevance": relevance, "content": content, "tokens": tokens}
        mask_triggers(used, **(given | more))

    with pytest.raises(InputError, match="7 prompts: give at least 8"):
        run(encoded=encoded[:7])
    with pytest.raises(InputError, match="9 relevances"):
        run(relevance=relevance[:9])
    with pytest.raises(InputError, match="prompt 0 has"):
        run(relevance=[part[1:] for part in relevance])
    with pytest.raises(InputError, match="prompt 2 has 1 content"):
        run(content=[*content[:2], content[2][:1], *content[3:]])
    with pytest.raises(InputError, match="in 4 draws"):
        run(draws=4)
    with pytest.raises(JudgeError, match="another tokenizer"):
        run(tokens=replace(tokens, tokenizer="other"))
