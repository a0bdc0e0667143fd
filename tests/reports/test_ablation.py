"""The figure of an ablation draws every row's numbers, with their intervals, and no others."""

from __future__ import annotations

import pytest
import torch

import ablation
from ablation import AblationReport, Options
from reports.ablation import effects
from tests.ablation import planted


@pytest.fixture(scope="module")
def report() -> AblationReport:
    return ablation.run(
        planted.artifact({"refusal": torch.stack([planted.axis()])}),
        model=planted.model(),
        prompts=planted.requests("test", 100),
        development=planted.requests("dev", 0),
        judge=planted.Judge(),
        texts=planted.TEXTS,
        options=Options(limit=8, new_tokens=2),
    )


def test_every_row_is_drawn_with_its_interval(report: AblationReport) -> None:
    figure = effects(report)
    rows = list(reversed(report.rows))
    drawn = {trace.name or f"{trace.xaxis} {trace.marker.symbol}": trace for trace in figure.data}
    rates = drawn["harmful requests"]
    assert list(rates.y) == [row.name for row in rows]
    assert list(rates.x) == [row.harmful.value for row in rows]
    assert list(rates.error_x.array) == [row.harmful.high - row.harmful.value for row in rows]
    margin = drawn["x2 diamond-open"]
    assert list(margin.x) == [row.margin_harmless.value for row in rows]
    assert list(drawn["x3 circle"].x) == [row.perplexity.value for row in rows]
    assert list(drawn["broken, of all answers"].x) == [row.incoherent.value for row in rows]
    assert "n = 8 + 8" in figure.layout.title.text


def test_controls_are_grey_and_the_ablation_is_not(report: AblationReport) -> None:
    (trace, *_) = effects(report).data
    colours = dict(zip(trace.y, trace.marker.color, strict=True))
    assert colours["random 1"] == colours["random 5"] != colours["ablated"] != colours["clean"]
