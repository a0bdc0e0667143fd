"""The results page says what results.json holds, cell by cell, and is the one in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import results_page

DOCS = Path(__file__).parents[2] / "docs"
RATE = {"hits": 9, "n": 10, "low": 0.596, "high": 0.982}


def answers() -> dict[str, object]:
    rates = [
        {"setting": setting, "set": "test|role-play", "label": "harmful", "outcome": outcome}
        | RATE
        | {"hits": hits}
        for setting, refused, broken in (("base", 1, 0), ("tuned", 9, 1))
        for outcome, hits in (("refused", refused), ("incoherent", broken))
    ]
    difference = {"value": 0.8, "low": 0.5, "high": 1.0}
    return {
        "options": {"new_tokens": 32},
        "settings": [{"model": {"dtype": "float32"}}],
        "judge": "combined",
        "level": 0.95,
        "rates": rates,
        "differences": [
            {"set": "test|role-play", "label": "harmful", "difference": difference, "p": 0.0078}
        ],
    }


def test_each_cell_is_the_measured_number() -> None:
    page = results_page.render({"answers": answers()})
    (line,) = [line for line in page.splitlines() if line.startswith("| test\\|role-play")]
    assert "1/10 = 10.0%" in line
    assert "9/10 = 90.0% [59.6%, 98.2%]" in line
    assert "+0.80 [+0.50, +1.00], p 0.008" in line
    assert line.endswith("| 0, 1 |")
    assert line.replace("\\|", "").count("|") == 6


def test_a_part_that_was_not_measured_is_left_out() -> None:
    page = results_page.render({"answers": answers()})
    assert "## Refusals" in page
    assert "## Capability" not in page
    assert "## Judges" not in page


def test_a_record_of_another_shape_is_no_page() -> None:
    with pytest.raises(TypeError, match="where a list was expected"):
        results_page.render({"capability": {"base": "high", "tuned": [], "change": []}})


def test_the_page_in_the_repository_is_the_one_made_from_its_numbers() -> None:
    found = json.loads((DOCS / "results.json").read_text(encoding="utf-8"))
    assert (DOCS / "results.md").read_text(encoding="utf-8") == results_page.render(found)
    assert {"judges", "answers", "capability", "directions"} <= set(found)
