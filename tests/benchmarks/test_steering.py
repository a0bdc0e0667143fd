"""The steering benchmark pairs what it compares, and counts tokens as the passes have them."""

from __future__ import annotations

import pytest

from benchmarks import steering
from tests.tiny import save

PROMPTS = [f"Name river {index} of the {'very ' * (index % 3)}long list." for index in range(8)]
NEW = 4


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp("tiny")))


def test_every_contender_is_timed_in_every_round_at_both_sizes(spec: str) -> None:
    found = steering.compare(PROMPTS, dtype="float32", new_tokens=NEW, rounds=3, spec=spec)
    names = [str(row["contender"]) for row in found if row["batch"] == 1]
    assert names[:3] == [steering.BARE, f"{steering.BARE}, again", "hook context without edits"]
    assert {"additive, 1 block", "additive, 2 blocks", "AdaSteer, 2 blocks"} == set(names[3:])
    assert [row["contender"] for row in found if row["batch"] == 8] == names
    for row in found:
        assert row["rounds"] == 3
        assert row["low"] <= row["times_bare"] <= row["high"]
        assert row["tokens_per_second"] > 0
    bare = next(row for row in found if row["contender"] == steering.BARE)
    assert bare["times_bare"] == bare["low"] == bare["high"] == 1


def test_a_ratio_is_the_median_of_pairs() -> None:
    seconds = {
        steering.BARE: [1.0, 2.0, 4.0],
        "hook context without edits": [2.0, 2.0, 2.0],
        "x": [2.0, 2.0, 2.0],
    }
    opened = {name: [0.002, 0.004, 0.003] for name in seconds}
    row = steering._row(8, 10, "x", seconds, opened)
    assert row["times_bare"] == 1.0  # 0.5, 1, 2; the ratio of medians would be the same
    assert row["times_empty"] == 1.0
    assert row["tokens_per_second"] == 40.0
    assert row["opening_ms"] == pytest.approx(3.0)
    seconds["x"] = [4.0, 2.0, 1.0]
    assert steering._row(8, 10, "x", seconds, opened)["times_bare"] == 1.0  # 0.25, 1, 4


def test_no_prompt_is_read_twice_unless_a_late_gate_opens(spec: str) -> None:
    found = steering.tokens_read(PROMPTS, dtype="float32", new_tokens=NEW, spec=spec)
    tokens = {str(row["contender"]): int(row["tokens"]) for row in found}
    bare = tokens.pop("no policy")
    late = "AdaSteer, gate behind the steered blocks"
    opened, scans = tokens.pop(f"{late}, open"), tokens.pop("SCANS, opener of 2 tokens")
    assert tokens.pop(f"{late}, shut") == bare
    assert set(tokens.values()) == {bare}
    prompts = bare - len(PROMPTS) * (NEW - 1)
    assert opened == bare + prompts
    assert scans == bare + 3 * len(PROMPTS), "the opener, and the last prompt token once more"


def test_the_page_says_what_was_measured_and_the_least_ratio() -> None:
    row = {
        "batch": 1,
        "contender": "additive, 1 block",
        "tokens_per_second": 50.0,
        "times_bare": 0.991,
        "low": 0.98,
        "high": 1.0,
        "times_empty": 0.985,
        "opening_ms": 31.0,
        "rounds": 15,
    }
    found = {
        "speed": [row | {"contender": steering.BARE, "times_bare": 1.0, "times_empty": 0.9}, row],
        "tokens": [
            {"contender": "no policy", "tokens": 1000},
            {"contender": "SCANS", "tokens": 1024},
        ],
        "fit_seconds": 41.2,
        "threads": 2,
        "dtype": "bfloat16",
    }
    page = "\n".join(steering.lines(found))
    assert "| additive, 1 block | 1 | 50.0 | 0.991x [0.980, 1.000] | 0.985x | 31 |" in page
    assert "| SCANS | 1,024 | +24 |" in page
    assert "over 15 rounds" in page
    assert "batches: 0.985 (aim: 0.97 at least)" in page, "the bare call is no policy"
    assert "took 41 s" in page
