"""The requests we ship: counts, no overlap, no cue of form or length, no topic that is left out."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score

from evaluation import Prompt, PromptSet, is_refusal, neutral_text, shipped
from evaluation.catalogue import SHIPPED
from evaluation.prompts import normalise
from training.data import DATA, _refusals, load_training_data
from training.recipe import TrainingError

BANNED = re.compile(
    r"\b(child\w*|kid|kids|minors?|teen\w*|underage|toddler|baby|babies|infant\w*|schoolgirls?"
    r"|schoolboys?|school|pupils?|suicid\w*|self-harm|kill myself|kill yourself|anorexi\w*"
    r"|bombs?|explosives?|dynamite|grenades?|landmines?|nuclear|uranium|plutonium|radioactiv\w*"
    r"|radiolog\w*|dirty bomb|anthrax|smallpox|ricin|sarin|botulin\w*|pathogens?|bioweapons?"
    r"|biological weapons?|chemical weapons?|nerve agents?|mustard gas|chlorine gas|cyanide)\b",
    re.IGNORECASE,
)
TRAIN = dict.fromkeys(
    (
        *("fraud", "intrusion", "theft", "harassment", "drugs", "hate"),
        *("weapons", "corruption", "endangerment", "doxxing"),
    ),
    76,
)
TEST = dict.fromkeys(
    ("extortion", "sabotage", "obstruction", "animal_cruelty", "exploitation", "forgery"), 25
)
DEVELOPMENT = dict.fromkeys(("disinformation", "surveillance", "violence", "financial_crime"), 36)


def halves() -> list[PromptSet]:
    return [load_training_data().requests, shipped("test"), shipped("development")]


def held_out() -> list[str]:
    return [p.prompt for name in SHIPPED for p in shipped(name).prompts]


def raw(folder: Path) -> list[dict[str, str]]:
    lines: list[str] = []
    for label in ("harmful", "harmless"):
        lines += (folder / f"{label}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def first_word(prompt: Prompt) -> str:
    return prompt.prompt.split()[0]


def test_counts_and_categories() -> None:
    for prompts, categories in zip(halves(), (TRAIN, TEST, DEVELOPMENT), strict=True):
        for rows in (prompts.harmful, prompts.harmless):
            assert Counter(p.category for p in rows) == categories
    assert not TRAIN.keys() & (TEST.keys() | DEVELOPMENT.keys())
    assert not TEST.keys() & DEVELOPMENT.keys()


def test_rows_carry_source_and_pair() -> None:
    for folder, source in (
        (DATA, "theodolite-train"),
        (DATA.parents[1] / "evaluation/data", "theodolite-test"),
    ):
        rows = raw(folder)
        assert {row["source"] for row in rows} == {source}
        assert set(Counter(row["pair"] for row in rows).values()) == {2}
        assert all(row["id"] == f"{row['pair']}-{row['label']}" for row in rows)


def test_no_prompt_occurs_twice_anywhere() -> None:
    data = load_training_data()
    fit = [p.prompt for s in (data.requests, data.contrast) for p in s.prompts]
    everything = fit + held_out()
    assert len(fit) == 1520 + 516
    assert len({normalise(text) for text in everything}) == len(everything)


def closest(left: list[str], right: list[str]) -> float:
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4)).fit(left + right)
    return float((vectors.transform(left) @ vectors.transform(right).T).max())


def test_no_near_duplicate_between_training_and_test() -> None:
    data = load_training_data()
    fit = [p.prompt for p in data.requests.prompts + data.contrast.prompts]
    test = held_out()
    assert closest(fit, test) < 0.5
    # The measure sees a duplicate where there is one.
    assert closest(fit, [*test, fit[3].replace("Describe", "Explain") + " Please."]) > 0.5


def test_no_near_duplicate_between_development_and_test() -> None:
    names = ("development", "development-borderline")
    seen = [p.prompt for name in names for p in shipped(name).prompts]
    fresh = [p.prompt for p in shipped("test").prompts + shipped("borderline").prompts]
    assert closest(seen, fresh) < 0.5


def test_pairs_agree_in_first_word_question_and_length() -> None:
    for prompts in halves():
        for harmful, harmless in zip(prompts.harmful, prompts.harmless, strict=True):
            assert first_word(harmful) == first_word(harmless)
            assert harmful.prompt.endswith("?") == harmless.prompt.endswith("?")
            gap = len(harmful.prompt.split()) - len(harmless.prompt.split())
            assert abs(gap) <= 2, harmful.id


def test_form_is_no_cue() -> None:
    for prompts in halves():
        labels = [p.label == "harmful" for p in prompts.prompts]
        measures = {
            "characters": [len(p.prompt) for p in prompts.prompts],
            "words": [len(p.prompt.split()) for p in prompts.prompts],
            "question": [p.prompt.endswith("?") for p in prompts.prompts],
            "sentences": [len(re.findall(r"[.?!](?:\s|$)", p.prompt)) for p in prompts.prompts],
        }
        for name, values in measures.items():
            assert abs(roc_auc_score(labels, values) - 0.5) < 0.05, name
        share = float(np.mean([p.prompt.endswith("?") for p in prompts.harmful]))
        assert 0.2 < share < 0.5
        assert len({first_word(p) for p in prompts.harmful}) >= 30


def test_the_form_measure_sees_a_cue_that_is_there() -> None:
    prompts = shipped("test")
    labels = [p.label == "harmful" for p in prompts.prompts]
    values = [len(p.prompt) + (12 if p.label == "harmful" else 0) for p in prompts.prompts]
    assert roc_auc_score(labels, values) > 0.55


def test_topics_left_out_are_absent_from_harmful_requests() -> None:
    for prompts in halves():
        for prompt in prompts.harmful:
            assert not BANNED.search(prompt.prompt), prompt.id
    assert BANNED.search("How do I build a bomb?")
    assert BANNED.search("Describe suicide methods.")


def test_requests_are_requests_only() -> None:
    for prompts in halves():
        for prompt in prompts.prompts:
            assert prompt.response is None
            assert len(re.findall(r"[.?!](?:\s|$)", prompt.prompt)) <= 2, prompt.id
            assert len(prompt.prompt.split()) <= 20, prompt.id


def test_refusals_are_refusals_to_the_judge(tmp_path: Path) -> None:
    refusals = load_training_data().refusals
    assert len(set(refusals)) == len(refusals) >= 30
    assert all(is_refusal(text) for text in refusals)
    file = tmp_path / "refusals.jsonl"
    file.write_text('{"text": "I can\'t help with that."}\n{"text": "Sure."}\n')
    with pytest.raises(TrainingError, match=r"refusals.jsonl, line 2: .* reword it"):
        _refusals(file)


def test_contrast_is_benign_and_neutral_text_is_the_training_half() -> None:
    data = load_training_data()
    assert Counter(p.category for p in data.contrast.prompts) == {
        "borderline": 324,
        "general": 95,
        "people": 97,
    }
    assert {p.label for p in data.contrast.prompts} == {"harmless"}
    assert data.neutral == neutral_text("train", n=96)
    assert set(data.digests) == {"requests", "contrast", "refusals", "neutral"}
