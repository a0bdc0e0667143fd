"""A fitted gate opens for planted harmful prompts and for no benign one; the rest is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hooks
import steering
from artifacts.errors import NotBeaten
from evaluation.catalogue import shipped
from evaluation.intervals import Change
from evaluation.judges.tokens import RefusalTokens
from evaluation.wrappers import encode
from steering import behaviour as behaviours
from steering.behaviour import in_form, observe, require_classes
from steering.designs import adasteer
from steering.errors import PolicyError
from steering.fitting import default_prompts
from steering.guard import check, require
from steering.measuring import Paths, first_margins, paths, touched, utility
from steering.options import FitOptions
from steering.scans import scans
from steering.sweep import Point, changed_rows, choose, sweep
from tests.steering import planted
from tests.steering.common import PROMPTS, vectors
from tests.steering.planted import BENIGN, NEEDY, material, model, prompts

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = FitOptions(gate_block=1, answer_tokens=3)


def tokens(ids: tuple[int, ...] = (7, 8)) -> RefusalTokens:
    info = model().tokenizer_info()
    return RefusalTokens(ids, ("a", "b"), (0.5, 0.4), (0.0, 0.0), (8, 8), "tiny", "x", info.digest)


@pytest.mark.parametrize("method", ["adasteer", "hard-gate"])
@pytest.mark.parametrize("hd", ["parallel", "orthogonal"])
def test_the_gate_opens_for_planted_harmful_prompts_only(method: str, hd: str) -> None:
    design = adasteer(model(), material(), replace(OPTIONS, method=method, hd=hd))
    policy = design.make(0.2)
    fresh = {mark: hooks.Encoded.from_ids(prompts(mark, 30, 99)) for mark in (NEEDY, BENIGN)}
    shares = {m: steering.coefficients(model(), policy, e)["rejection"] for m, e in fresh.items()}
    assert shares[NEEDY].min() > 0.5
    assert (shares[BENIGN] == 0).all(), "benign prompts are left alone bit for bit"
    assert design.facts["gate_auc"] == 1.0
    assert not touched(model(), policy, fresh[BENIGN]).any()


def test_no_gate_is_found_where_labels_are_shuffled() -> None:
    design = adasteer(model(), material(shuffled=True), OPTIONS)
    assert abs(design.facts["gate_auc"] - 0.5) < 0.25
    policy = design.make(0.2)
    fresh = hooks.Encoded.from_ids(prompts(BENIGN, 30, 99) + prompts(NEEDY, 30, 98))
    shares = steering.coefficients(model(), policy, fresh)["rejection"]
    assert (shares > 0.5).float().mean() < 0.4


def test_vectors_have_the_relative_strength_asked_for() -> None:
    made = material()
    for hd in ("parallel", "orthogonal"):
        made_by = adasteer(model(), made, replace(OPTIONS, hd=hd))
        term = made_by.make(0.2).terms[0]
        norms = made.first.states.norm(dim=-1).mean(dim=-1)
        for row, block in zip(term.vectors, term.blocks, strict=True):
            assert float(row.norm()) == pytest.approx(0.2 * float(norms[block]), rel=1e-4)
    assert term.blocks == (2, 3)
    with pytest.raises(PolicyError, match="before its gate"):
        adasteer(model(), made, replace(OPTIONS, blocks=(1, 2))).make(0.2)
    with pytest.raises(PolicyError, match="gate block 3"):
        adasteer(model(), made, replace(OPTIONS, gate_block=3))


def test_refused_harmless_prompts_get_a_harmfulness_term() -> None:
    made = material()
    second = made.second
    refused = list(second.outcomes)
    for row in np.flatnonzero(~second.harmful)[:6]:
        refused[row] = "refused"
    made = replace(made, second=replace(second, outcomes=tuple(refused)))
    for hd, along in (("parallel", 1.0), ("orthogonal", 0.0)):
        policy = adasteer(model(), made, replace(OPTIONS, hd=hd)).make(0.1)
        reject, comply = policy.terms
        cosine = torch.cosine_similarity(reject.vectors, comply.vectors, dim=-1)
        torch.testing.assert_close(cosine, torch.full_like(cosine, -along), atol=1e-4, rtol=0)
        assert comply.gate is not None
        fresh = hooks.Encoded.from_ids(prompts(BENIGN, 20, 97) + prompts(NEEDY, 20, 96))
        share = steering.coefficients(model(), policy, fresh)["harmfulness"]
        assert share[:20].min() > 0.5
        assert share[20:].max() < 0.5
    plain = material()
    assert len(adasteer(model(), plain, OPTIONS).make(0.1).terms) == 1
    part = replace(plain.first, outcomes=tuple(refused))
    assert len(adasteer(model(), replace(plain, first=part), OPTIONS).make(0.1).terms) == 2
    assert len(adasteer(model(), made, replace(OPTIONS, method="hard-gate")).make(0.1).terms) == 1


def test_an_empty_class_says_what_to_do() -> None:
    found = planted.behaviour(0)
    cases = (
        (("complied",) * 72, "refuses .almost. nothing.*steering.additive"),
        (("refused",) * 48 + ("complied",) * 24, "add forms that get past it with --forms"),
        (("refused",) * 24 + ("complied",) * 24 + ("refused",) * 24, "every harmless prompt"),
    )
    for outcomes, words in cases:
        with pytest.raises(PolicyError, match=words):
            require_classes(replace(found, outcomes=outcomes), "tiny")
    assert {n: int(m.sum()) for n, m in require_classes(found, "tiny").items()} == {
        "refused harmful": 24,
        "complied harmful": 24,
        "complied harmless": 24,
    }


def test_every_form_of_a_request_is_in_one_part() -> None:
    few = shipped("development").select(limit=12)
    found = observe(model(), few, ("plain", "opener-injection"), tokens())
    assert len(found.encoded) == 48
    assert found.parts[:24] == found.parts[24:]
    for part, n in enumerate((12, 6, 6)):
        assert int(found.part(part).harmful.sum()) == n
    wrapped = encode(model(), in_form(few, "opener-injection"))
    assert found.encoded.ids[24:] == wrapped.ids
    alone = hooks.Rows()
    with model().hooks(capture=hooks.Capture("blocks.2.hook_resid_post", into=alone)) as run:
        run.forward(found.encoded.select([30]))
    torch.testing.assert_close(found.states[2, 30:31], alone.stack()[0], atol=1e-4, rtol=1e-4)
    assert (found.refused == (found.margins > 0)).all()


# Cost and the safe range


def test_no_steering_costs_exactly_nothing_and_more_costs_more() -> None:
    answers = paths(model(), PROMPTS, new_tokens=4)
    v = vectors(1, 2)
    costs = []
    for strength in (0.0, 0.3, 3.0):
        policy = steering.additive(model(), v, strength=strength, kind="absolute")
        costs.append(utility(model(), policy, answers))
    assert costs[0].divergence.value == 0.0
    assert costs[0].perplexity.value == 1.0
    assert costs[0].touched == 0
    assert 0 < costs[1].divergence.value < costs[2].divergence.value
    assert costs[2].touched == len(answers.ids)
    assert costs[1].within(1e9, 1e9)
    assert not costs[1].within(0.0, 1.0)


def test_cost_counts_the_steps_as_generation_does() -> None:
    answers = paths(model(), PROMPTS, new_tokens=4)
    late = steering.additive(model(), vectors(1), strength=2.0, kind="absolute", steps="generated")
    row = next(r for r, ids in enumerate(answers.ids) if len(ids) == 4)
    one = answers.encoded.select([row])
    ids = torch.tensor([answers.ids[row]])
    with model().hooks() as run:
        state = run.prefill(one)
        clean = torch.cat([state.logits[:, None], state.score(ids[:, :-1])], dim=1)[0]
    with model().hooks(edits=late.edits()) as run:
        state = run.prefill(one)
        first = state.logits[:, None]
        steered = [first] + [
            state.append(ids[:, t : t + 1]).logits[:, None] for t in range(ids.shape[1] - 1)
        ]
    changed = torch.cat(steered, dim=1)[0]
    assert torch.equal(changed[0], clean[0]), "the first token is not steered by generated edits"
    p, q = clean.double().log_softmax(-1), changed.double().log_softmax(-1)
    wanted = float((p.exp() * (p - q)).sum(-1).mean())
    pair = answers.encoded.select([row, row])
    one_path = Paths(pair, (answers.ids[row],) * 2, (answers.losses[row],) * 2)
    found = utility(model(), late, one_path).divergence.value
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_margins_under_a_policy_are_those_of_its_first_tokens() -> None:
    policy = steering.additive(model(), vectors(1, 2), strength=1.0, kind="absolute")
    found = first_margins(model(), policy, PROMPTS, tokens())
    with model().hooks(edits=policy.edits()) as run:
        logits = run.forward(PROMPTS, logits="last").logits.double()
    p = logits.softmax(-1)[:, [7, 8]].sum(-1)
    np.testing.assert_allclose(found, torch.log(p / (1 - p)).numpy(), atol=1e-6)
    assert not np.allclose(found, first_margins(model(), None, PROMPTS, tokens()))


def _points(*rows: tuple[float, float, bool]) -> list[Point]:
    return [Point(s, r, 0.0, 0.1, 1.0, safe) for s, r, safe in rows]


def test_the_weakest_strength_that_refuses_most_is_chosen_within_the_safe_range() -> None:
    rows = _points((0.1, 0.6, True), (0.2, 0.9, True), (0.3, 0.9, True), (0.4, 1.0, False))
    assert choose(rows, before=0.5, what="x").strength == 0.2
    with pytest.raises(NotBeaten, match="already costs"):
        choose(_points((0.1, 0.9, False)), before=0.5, what="x")
    words = "no safe strength refuses more.*0.2, the strongest.* refuses 90.0% of them"
    with pytest.raises(NotBeaten, match=words):
        choose(_points((0.1, 0.5, True), (0.2, 0.9, False)), before=0.5, what="x")


def test_rows_that_change_are_known_from_states_that_were_read() -> None:
    found = planted.behaviour(2, n=8)
    for policy in (
        adasteer(model(), material(), OPTIONS).make(0.1),
        steering.additive(model(), vectors(1), strength=1.0, kind="absolute"),
    ):
        hit = changed_rows(model(), policy, found)
        assert (hit == touched(model(), policy, found.encoded)).all()
    gated = adasteer(model(), material(), OPTIONS).make(0.1)
    assert 8 <= changed_rows(model(), gated, found).sum() < 24


def test_the_sweep_stops_at_the_first_strength_that_is_not_safe() -> None:
    found = planted.behaviour(2, n=8)
    answers = paths(model(), found.encoded.select([16, 17, 18, 19]), new_tokens=3)

    def make(strength: float) -> steering.Policy:
        return steering.additive(model(), vectors(1), strength=strength, kind="absolute")

    options = replace(OPTIONS, strengths=(1e-6, 1e-5, 5.0, 6.0), max_kl=1e-3, max_perplexity=1.01)
    points = sweep(model(), make, found, answers, tokens(), options)
    assert [point.safe for point in points] == [True, True, False]


def test_a_policy_that_does_harm_is_refused_with_the_numbers_or_forced_on_record() -> None:
    found = planted.behaviour(2, n=8)
    used = model()
    head = used.hf.get_output_embeddings().weight
    # What the pushed state makes likely is called a refusal.
    opener = tokens(tuple((head @ head[7]).topk(40).indices.tolist()))
    up = steering.additive(used, {3: 400 * head[7]}, strength=1.0, kind="absolute")
    plain = replace(found, margins=first_margins(used, None, found.encoded, opener))
    verdict = check(used, up, plain, opener, OPTIONS)
    assert verdict.benign.before < 0.5 < verdict.benign.after == 1.0
    assert any("benign prompts are refused more" in p for p in verdict.problems)
    assert any("to 100.0% of 8" in p for p in verdict.problems)
    assert any("benign answers change too much" in p for p in verdict.problems)
    with pytest.raises(NotBeaten, match="not saved"):
        require(verdict, force=False)
    assert "by force" in require(verdict, force=True)[0]
    down = replace(found, margins=np.full(24, 3.0))
    down = replace(down, margins=np.where(found.harmful, 3.0, -3.0))
    worse = check(used, up.scaled(-1.0), down, opener, OPTIONS)
    assert any("harmful prompts are refused less: 100.0% to 0.0%" in p for p in worse.problems)
    still = check(used, up.scaled(0.0), plain, opener, OPTIONS)
    assert still.problems == ()
    assert isinstance(still.harmful, Change)
    assert still.facts()["check.passed"] is True


# SCANS


def test_scans_tells_planted_classes_apart_by_their_transition_and_calibrates_off_test() -> None:
    made = material()
    design = scans(model(), made, replace(OPTIONS, method="scans", opener="S", false_open=0.1))
    table = design.tables["threshold"]
    assert table.shape == (41, 3)
    assert (table[1:, 1:] <= table[:-1, 1:]).all(), "shares fall as the threshold rises"
    assert design.facts["gate_auc"] > 0.9
    policy = design.make(0.1)
    fresh = hooks.Encoded.from_ids(prompts(BENIGN, 20, 95) + prompts(NEEDY, 20, 94))
    signs = steering.coefficients(model(), policy, fresh)["scans"]
    assert (signs[:20] < 0).float().mean() > 0.7
    blind = scans(model(), material(shuffled=True), replace(OPTIONS, method="scans", opener="S"))
    assert abs(blind.facts["gate_auc"] - 0.5) < 0.25
    with pytest.raises(PolicyError, match="give one or two"):
        scans(model(), made, replace(OPTIONS, method="scans", opener="of course"))


# The command


def test_options_that_no_fit_can_use_are_refused() -> None:
    for wrong, words in (
        ({"strengths": (0.2, 0.1)}, "weakest first"),
        ({"strengths": (float("inf"),)}, "finite"),
        ({"max_kl": float("nan")}, "max_kl"),
        ({"limit": 5}, "at least 24"),
        ({"opener": " "}, "an opener"),
        ({"shrinkage": 0.0}, "shrinkage=0.0"),
    ):
        with pytest.raises(PolicyError, match=words):
            FitOptions(**wrong)


@pytest.mark.parametrize("verb", ["fit", "generate", "evaluate"])
def test_help_is_quick_and_needs_no_torch(verb: str) -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']\n"
        f"from artifacts.command import main\nimport steering.{verb} as v\n"
        f"try: main(v.{verb.capitalize()})\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "Exit code" in done.stdout or "nothing is written" in done.stdout


def test_parts_are_a_half_and_two_quarters_and_depend_on_the_seed_only() -> None:
    few = shipped("development").select(limit=12)
    one = behaviours.deal(few, seed=0)
    assert one == behaviours.deal(few, seed=0) != behaviours.deal(few, seed=1)
    assert [list(one.values()).count(part) for part in range(3)] == [12, 6, 6]


def test_requests_are_spread_over_the_whole_set() -> None:
    whole = shipped("development")
    few = behaviours.evenly(whole, 24)
    assert few.counts == {"harmful": 24, "harmless": 24}
    categories = {p.category for p in whole.prompts}
    assert {p.category for p in few.prompts} == categories
    assert {p.category for p in whole.select(limit=24).prompts} < categories
    assert behaviours.evenly(whole, 500).prompts == (*whole.harmful, *whole.harmless)
    asked = default_prompts(48)
    assert asked.counts == {"harmful": 48, "harmless": 48}
    risky = [p for p in asked.harmless if p.category == "borderline"]
    assert len(risky) == 16
    assert {p.category for p in asked.prompts} == {*categories, "borderline"}
