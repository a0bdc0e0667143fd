"""A planted MLP unit that carries refusal is found; heads and units have five random controls."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

import ablation
import hooks
from ablation import AblationReport, Options
from tests.ablation import planted

UNIT = (2, 7)
OPTIONS = Options(limit=8, new_tokens=3, seed=1, kind="units")


@cache
def model() -> hooks.Model:
    """Return a model in which unit 2.7 turns harmfulness into refusal, and nothing else does."""
    made, words = planted.build(refuses=0.0), planted.tokenizer()
    block, unit = UNIT
    mlp, refusal = made.model.layers[block].mlp, planted.minor_axis(10)
    with torch.no_grad():
        # Open where the axis outweighs what the assistant's token always has.
        mlp.gate_proj.weight[unit] = 0.5 * planted.axis() - 0.3 * planted.minor_axis(4)
        mlp.up_proj.weight[unit] = 0.5 * planted.minor_axis(4)
        mlp.down_proj.weight[:, unit] = refusal
        made.lm_head.weight[words.convert_tokens_to_ids(planted.SORRY)] += 1.5 * refusal
    return hooks.wrap(made, words)


def _run(**changes: object) -> AblationReport:
    rows = torch.stack([planted.minor_axis(seed) for seed in (21, 22, 23)])
    score = torch.zeros(planted.LAYERS, 48)
    score[UNIT] = 1.0
    return ablation.run(
        planted.artifact({"refusal": rows}, model(), **{"score/units": score}),
        name="units",
        model=model(),
        prompts=planted.requests("test", 100),
        development=planted.requests("dev", 0),
        judge=planted.Judge(),
        texts=planted.TEXTS,
        options=replace(OPTIONS, **changes),
    )


def test_a_planted_unit_is_found_by_its_score_or_its_name_and_no_other_one_matters() -> None:
    for changes in ({"top": 1}, {"units": ("2.7",)}, {"units": ("2.7", "0.3"), "mode": "zero"}):
        report = _run(**changes)
        assert report.verdict.beats, changes
        assert report.clean.harmful.hits == 8
        assert report.ablation.answered.hits == 8
        assert all(row.harmful.hits == 8 for row in report.of("control"))
    assert not _run(units=("2.8", "0.3")).verdict.beats


def test_half_of_a_unit_takes_half_of_its_effect() -> None:
    whole, half = (_run(units=("2.7",), alpha=alpha) for alpha in (1.0, 0.5))
    moved = [report.ablation.change.margin_harmful.value for report in (whole, half)]
    assert moved[0] < moved[1] < 0


def test_random_sets_of_the_same_blocks_are_the_controls_and_there_are_five() -> None:
    units = _run(units=("2.7",))
    heads = _run(kind="heads", heads=("1.2",), controls=6)
    for report, kind, n in ((units, "units", 5), (heads, "heads", 6)):
        controls = report.of("control")
        assert len(controls) == len(report.verdict.over) == n
        assert {row.what for row in controls} == {f"as many random {kind} of the same blocks"}
