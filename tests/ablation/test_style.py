"""A planted style is found beside refusal and removed, and refusal that falls fails the report."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from ablation import StyleReport, ablate_style
from ablation.options import StyleOptions
from ablation.style_result import decide_style
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from evaluation.battery import Battery
from evaluation.capability import Comparison
from evaluation.intervals import Change
from evaluation.perplexity import Perplexity, PerplexityRatio
from tests.ablation import planted

# The shipped items are words that the tiny tokenizer does not know.
pytestmark = pytest.mark.filterwarnings("ignore:tokenizer .* unknown to the vocabulary")

OPTIONS = StyleOptions(limit=24, answers=8, new_tokens=3, tolerance=0.2)
STYLE = 2.0


def _artifact() -> Artifact:
    rows = torch.stack([planted.axis()] * planted.LAYERS)
    means = torch.zeros(planted.LAYERS, planted.WIDTH)
    moved = means + STYLE * planted.style_axis() + planted.axis()
    made = planted.artifact(
        {"refusal": rows},
        planted.model(style=STYLE),
        **{"mean/harmless/aligned": moved, "mean/harmless/base": means},
    )
    method = {"blocks": tuple(range(planted.LAYERS))}
    return Artifact(made.manifest.model_copy(update={"method": method}), dict(made.tensors))


def _run(*, aligned: float = STYLE, **changes: object) -> StyleReport:
    options = replace(OPTIONS, allow_mismatch=True, **changes)
    battery = replace(Battery.shipped(limit=4), texts=planted.TEXTS)
    return ablate_style(
        _artifact(),
        pair=(planted.model(), planted.model(style=aligned)),
        prompts=planted.requests("test", 100, 24),
        development=planted.requests("dev", 0),
        judge=planted.Judge(),
        texts=planted.TEXTS,
        battery=battery,
        options=options,
    )


@cache
def found() -> StyleReport:
    return _run()


@pytest.mark.parametrize("source", ["responses", "artifact"])
def test_a_planted_style_falls_and_refusal_stays(source: str) -> None:
    report = found() if source == "responses" else _run(source=source)
    styles = {row.name: row.style for row in report.styles}
    assert styles["base"].opener.hits == 0
    assert styles["clean"].opener.hits == 24
    assert styles["ablated"].opener.hits == 0
    assert all(styles[f"random {k}"].opener.hits == 24 for k in range(1, 6))
    assert report.verdict.falls
    assert report.verdict.refusal_stays
    assert report.verdict.signature.value == pytest.approx(0.25)
    clean, ablated = report.rows[:2]
    assert clean.harmful.hits == ablated.harmful.hits == 24


def test_a_report_is_json_and_holds_no_answer() -> None:
    text = json.dumps(found().to_dict(), allow_nan=False)
    assert "sure sure" not in text
    assert json.loads(text)["holds"] is found().verdict.holds


def test_a_pair_without_a_difference_has_no_style() -> None:
    with pytest.raises(InputError, match="no style to remove"):
        _run(aligned=0.0)
    with pytest.raises(InputError, match="the style is known at"):
        _run(block=9)


def _comparison(*, perplexity: float = 1.0, statements: float = 0.0) -> Comparison:
    base = Perplexity.of([100.0] * 20, [50] * 20)
    worse = Perplexity.of([100.0 + 50 * (perplexity - 1)] * 20, [50] * 20)
    same = Change.of([True] * 40, [True] * 40)
    lost = Change.of([True] * 40, [k >= statements * 40 for k in range(40)])
    return Comparison(PerplexityRatio.of(worse, base), lost, same, same)


def _decide(report: StyleReport, cost: Comparison, *, refused: int = 40) -> tuple[bool, ...]:
    clean, ablated, *rest = report.rows
    assert ablated.change is not None
    fell = Change.of([True] * 40, [k < refused for k in range(40)])
    one = PerplexityRatio(1.0, 0.99, 1.01, 4)
    changed = replace(ablated, change=replace(ablated.change, harmful=fell, perplexity=one))
    verdict = decide_style(report.styles, [clean, changed, *rest], cost, tolerance=0.1, seed=0)
    return verdict.falls, verdict.refusal_stays, verdict.capability_stays


def test_refusal_or_capability_that_falls_fails_the_report() -> None:
    assert _decide(found(), _comparison()) == (True, True, True)
    assert _decide(found(), _comparison(), refused=30) == (True, False, True)
    assert _decide(found(), _comparison(perplexity=1.5)) == (True, True, False)
    assert _decide(found(), _comparison(statements=0.5)) == (True, True, False)
    kept = replace(
        found(),
        styles=tuple(replace(row, style=found().styles[1].style) for row in found().styles),
    )
    assert _decide(kept, _comparison()) == (False, True, True)


@pytest.mark.parametrize(
    "changes", [{"alpha": float("inf")}, {"tolerance": 0.0}, {"answers": 2}, {"limit": 3}]
)
def test_options_that_mean_nothing_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        StyleOptions(**changes)
