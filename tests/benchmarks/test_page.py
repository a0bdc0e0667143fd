"""The benchmark page says what its file holds, and keeps what other machines measured."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import page

DOCS = Path(__file__).parents[2] / "docs"
HERE = {"cpu": "a", "cuda": "none", "threads": 2, "capabilities": "avx2"}
THERE = {**HERE, "cpu": "b"}


def memory(megabytes: int) -> dict[str, object]:
    sizes = ((100, 100), (10_000, megabytes))
    return {"memory": [{"prompts": n, "peak_mb": mb, "seconds": 1.0} for n, mb in sizes]}


def test_a_new_measurement_replaces_that_of_its_machine_only():
    records = page.renew([], THERE, memory(110))
    records = page.renew(records, HERE, memory(120))
    records = page.renew(records, HERE, memory(130))
    assert [record["machine"] for record in records] == [HERE, THERE]
    text = page.render(records)
    assert "+30.0%" in text
    assert "+20.0%" not in text
    assert text.index("+30.0%") < text.index("+10.0%")


def test_parts_measured_before_on_this_machine_stay():
    first = page.renew([], HERE, memory(110))
    second = page.renew(first, HERE, {"notes": ["the memory"]})
    assert second == [{"machine": HERE, **memory(110), "notes": ["the memory"]}]
    assert first == [{"machine": HERE, **memory(110)}]


def test_the_page_in_the_repository_is_that_of_its_numbers():
    records = json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))["machines"]
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == page.render(records)
