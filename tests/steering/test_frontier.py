"""The frontier: equal policies have no advantage, better ones have; the figure is complete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import artifacts
import steering
from artifacts.errors import InputError
from evaluation.catalogue import shipped
from evaluation.outcomes import Answer, Verdict
from reports.steering import frontier as figure_of
from reports.steering import read
from steering.advantage import Outcomes, advantages
from steering.answers import Asked, Runner
from steering.errors import PolicyError
from steering.evaluate import Evaluate, as_dict
from steering.frontier import contenders, measure_frontier
from steering.laws import Logistic
from tests.hooks.common import plain_logits
from tests.steering.common import gated, middle, model, vectors

N = 120


def _outcomes(name: str, score: np.ndarray, cut: float, *, fixed: bool) -> Outcomes:
    refused = score > cut
    return Outcomes(name, fixed, refused, ~refused)


def _planted(gain: float) -> dict[str, float]:
    """Return advantages of a classifier that sees the class better than the fixed one by gain."""
    rng = np.random.default_rng(4)
    harmful = np.arange(2 * N) < N
    requests = [f"r{index // 2}" for index in range(2 * N)]
    noise = rng.normal(size=2 * N)
    base = 1.2 * harmful + noise
    points = [_outcomes(f"f{cut}", base, cut, fixed=True) for cut in (2.5, 1.5, 1.0, 0.5, 0.0)]
    points.append(_outcomes("same", base, 1.0, fixed=False))
    points.append(_outcomes("other", base + gain * harmful, 1.0, fixed=False))
    found = advantages(points, harmful, requests)
    return {row.name: row for row in found}


def test_a_policy_equal_to_a_fixed_strength_has_no_advantage_and_a_better_one_has() -> None:
    found = _planted(gain=1.5)
    assert found["same"].value == pytest.approx(0.0, abs=1e-9)
    assert not found["same"].ahead
    assert found["other"].ahead
    assert 0.15 < found["other"].value < 0.6
    assert not _planted(gain=-0.5)["other"].ahead
    assert _planted(gain=-0.5)["other"].value < 0


def test_the_envelope_is_straight_between_the_corners_of_fixed_strengths() -> None:
    harmful = np.arange(200) < 100
    requests = [str(index) for index in range(200)]

    def point(name: str, defence: int, compliance: int, fixed: bool) -> Outcomes:
        refused = np.zeros(200, dtype=bool)
        refused[:defence] = True
        complied = np.zeros(200, dtype=bool)
        complied[100 : 100 + compliance] = True
        return Outcomes(name, fixed, refused, complied)

    points = [
        point("unsteered", 20, 100, True),
        point("weak", 60, 80, True),
        point("worse", 50, 70, True),
        point("strong", 100, 40, True),
        point("half way", 40, 90, False),
        point("between", 80, 60, False),
        point("at worse", 60, 70, False),
    ]
    found = {row.name: row.value for row in advantages(points, harmful, requests)}
    assert found["half way"] == pytest.approx(0.0)
    # Where a strength is beaten by a weaker one, the weaker one's defence stands.
    assert found["at worse"] == pytest.approx(0.0)
    assert found["between"] == pytest.approx(0.80 - np.interp(60, [40, 70], [1.0, 0.6]))


def test_the_best_of_fixed_strengths_with_equal_compliance_is_the_one_to_beat() -> None:
    harmful = np.arange(40) < 20
    complied = ~harmful

    def point(name: str, defence: int, fixed: bool) -> Outcomes:
        return Outcomes(name, fixed, np.arange(40) < defence, complied)

    fixed = [point("unsteered", 4, True), point("fixed", 16, True)]
    for order in (fixed, fixed[::-1]):
        rows = [*order, point("equal", 16, False), point("better", 18, False)]
        found = {row.name: row for row in advantages(rows, harmful, [str(i) for i in range(40)])}
        assert found["equal"].value == pytest.approx(0.0)
        assert not found["equal"].ahead
        assert found["better"].value == pytest.approx(0.1)


class Spy:
    """A judge that calls an answer refused by its first character."""

    name = "spy"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, answers: list[Answer]) -> tuple[Verdict, ...]:
        self.seen.append(len(answers))
        return tuple(
            Verdict("refused" if sum(map(ord, a.text[:3])) % 2 else "complied") for a in answers
        )


def test_prompts_left_alone_keep_the_unsteered_answer_and_all_else_is_asked() -> None:
    few = shipped("development").select(limit=6)
    policy = gated(Logistic(3.0, -3.0 * middle(), 0.4))
    asked = Asked.of((few,), ("plain",))
    runner, judge = Runner(model(), asked, Spy(), 4), Spy()
    clean = runner.outcomes(None)
    hit = steering.measuring.touched(model(), policy, runner.encoded)
    mixed = runner.outcomes(policy, hit, clean)[0]
    whole = runner.outcomes(policy, np.ones(12, dtype=bool), clean)[0]
    assert (mixed == whole).all()
    del judge


def test_a_frontier_holds_every_contender_and_no_answer(tmp_path: Path) -> None:
    few = shipped("development").select(limit=6)
    policy = gated(Logistic(3.0, -3.0 * middle()))
    policy = replace(policy, facts={"strength": 0.5})
    found = measure_frontier(
        model(),
        {"mine": policy},
        few.select(label="harmful"),
        [few.select(label="harmless")],
        Spy(),
        forms=("plain", "opener-injection"),
        new_tokens=4,
    )
    names = [point.contender.name for point in found.points]
    assert names[0] == "unsteered"
    assert names[-1] == "mine"
    assert sum(name.startswith("fixed") for name in names) == 6
    assert "hard gate" in names
    assert {gain.name for gain in found.advantages} == {"hard gate", "mine"}
    first = found.points[0]
    assert (first.defence.n, first.defence.n_clusters) == (12, 6)
    assert len(found.group_names) == 4
    value = as_dict(found, ("plain",))
    text = json.dumps(value, allow_nan=False)
    assert all(prompt.prompt not in text for prompt in few.prompts)
    file = tmp_path / "f.json"
    file.write_text(text)
    for figure in (figure_of(found), figure_of(read(file))):
        assert {trace.name for trace in figure.data} == {"unsteered", "fixed", "hard gate", "mine"}
        fixed = next(trace for trace in figure.data if trace.name == "fixed")
        assert len(fixed.x) == 7, "the curve begins at the unsteered model"
        assert "n = 12 harmful, 12 benign" in figure.layout.title.text
        assert all(0 <= x <= 1 for trace in figure.data for x in (*trace.x, *trace.y))


def test_baselines_share_vectors_and_the_half_open_point_of_the_gate() -> None:
    policy = replace(gated(Logistic(2.0, -1.0)), facts={"strength": 0.1})
    found = {c.name: c for c in contenders({"p": policy})}
    full = found["fixed 0.1"].policy
    assert full is not None
    assert (full.terms[0].vectors == policy.terms[0].vectors).all()
    hard = found["hard gate"].policy
    assert hard is not None
    assert hard.terms[0].gate.law.threshold == pytest.approx(0.5)
    plain = steering.additive(model(), vectors(1), strength=1.0, kind="absolute")
    assert [c.name for c in contenders({"a": plain})] == ["unsteered", "a"]
    with pytest.raises(PolicyError, match="no policy"):
        contenders({})


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    for text in ("[1]", "{}", "no"):
        file = tmp_path / "x.json"
        file.write_text(text)
        with pytest.raises(InputError):
            read(file)
    with pytest.raises(InputError, match="existing"):
        read(tmp_path / "none.json")
    with pytest.raises(InputError, match="no policy"):
        Evaluate(policies=(), out=tmp_path / "o.json").run()
    with pytest.raises(InputError, match="reads no answers"):
        Evaluate(policies=(tmp_path,), out=tmp_path / "o.json", judge="margin").run()
    with pytest.raises(artifacts.ArtifactError):
        Evaluate(policies=(tmp_path / "no",), out=tmp_path / "o.json").run()


def test_losses_of_answers_are_those_of_one_pass_over_prompt_and_answer() -> None:
    few = shipped("development").select(limit=2)
    asked = Asked.of((few,), ("plain", "prefill-5"))
    runner = Runner(model(), asked, Spy(), 4)
    ids = [[20, 21, 22], [], [30], [40, 41], [50], [60, 61], [7], [8, 9]]
    found = steering.measuring.clean_losses(model(), runner.encoded, ids)
    assert found[1] is None
    for row in (0, 5, 7):
        whole = [*runner.encoded.ids[row], *ids[row]]
        logp = plain_logits(model(), whole).log_softmax(-1)
        start = len(runner.encoded.ids[row])
        want = [-float(logp[start + k - 1, token]) for k, token in enumerate(ids[row])]
        assert found[row] == pytest.approx(float(np.mean(want)), rel=1e-4)
