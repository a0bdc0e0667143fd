"""The commands on a model whose behaviour is planted: files, JSON, exit codes, the gate, force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import artifacts
import hooks
import steering
from artifacts.command import main
from evaluation.prompts import PromptSet
from steering.evaluate import Evaluate
from steering.fit import Fit
from steering.generate import Generate
from tests.ablation import planted
from tests.steering.common import vectors
from tests.steering.talking import WRAPPER, Place, build, wrapped
from tests.tiny import save

# Wrappers are made of words that the tiny tokenizer does not know.
pytestmark = pytest.mark.filterwarnings("ignore:tokenizer .* unknown to the vocabulary")

HARMFUL_UP = ("--method", "additive", "--strengths", "3", "--max-benign-lost", "1")
LOOSE = ("--max-kl", "1000000", "--max-perplexity", "1000000")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return build(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def fitted(place: Place) -> Path:
    """Return a policy that the command has saved."""
    out = place.folder / "fitted" / "policy.safetensors"
    assert main(Fit, place.fit(out, "--quiet")) == 0
    return out


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Return the one object on stdout."""
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    return json.loads(printed)


# fit


def test_fit_writes_a_policy_and_says_in_json_how_it_came_about(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "policy.safetensors"
    assert main(Fit, place.fit(out, "--json")) == 0
    value = _json(capsys)
    policy = steering.load(out)
    assert value["out"] == str(out)
    assert value["digest"] == artifacts.verify(out)
    assert value["method"] == policy.method == "adasteer"
    assert value["model"] == place.model
    assert value["refusal_tokens"] == [planted.SORRY]
    classes = value["classes"]
    assert set(classes) == {"refused harmful", "complied harmful", "complied harmless"}
    assert min(classes.values()) >= 8
    assert value["facts"]["option.forms"] == ["plain", WRAPPER]
    assert value["facts"]["strength"] == value["chosen"]["strength"] in (0.1, 0.2, 0.4, 0.8)
    assert [row["strength"] for row in value["range"]][0] == 0.1
    assert value["check"]["problems"] == []
    harmful, benign = value["check"]["harmful"], value["check"]["benign"]
    assert harmful["after"] > harmful["before"]
    assert benign["after"] == benign["before"] == 0
    assert harmful["difference"]["n"] > 0
    assert value["check"]["kl"]["low"] <= value["check"]["kl"]["high"]
    assert dict(policy.facts)["check.passed"] is True
    assert not any("force" in note for note in policy.notes)
    policy.check(place.load())


def test_fit_prints_tables_or_nothing(
    place: Place, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.safetensors"
    assert main(Fit, place.fit(out)) == 0
    shown = " ".join(capsys.readouterr().out.split())  # the title wraps where the path is long
    for words in ("directions from", "gate at block", "held-out harmful refused", "next: python"):
        assert words in shown
    assert main(Fit, place.fit(out, "--quiet")) == 0
    assert capsys.readouterr().out == ""
    first, second = steering.load(fitted), steering.load(out)
    for one, two in zip(first.terms, second.terms, strict=True):
        assert (one.vectors == two.vectors).all(), "the same command gives the same policy"


@pytest.mark.parametrize("method", ["hard-gate", "additive"])
def test_fit_makes_the_baselines_too(method: str, place: Place, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    assert main(Fit, place.fit(out, "--method", method, "--quiet")) == 0
    found = steering.load(out)
    assert found.method == method
    assert (found.terms[0].gate is None) is (method == "additive")


def test_fit_writes_nothing_where_no_strength_helps(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.safetensors"
    assert main(Fit, place.fit(out, "--strengths", "0.000001", "--quiet")) == 4
    error = capsys.readouterr().err
    assert "no safe strength refuses more harmful prompts" in error
    assert error.count("\n") == 1
    assert main(Fit, place.fit(out, *HARMFUL_UP, "--max-kl", "0.001", "--quiet")) == 4
    assert "strength 3.0 already costs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_breaks_benign_use_is_refused_with_numbers_and_forced_on_record(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, arguments = tmp_path / "p.safetensors", [*HARMFUL_UP, *LOOSE, "--json"]
    assert main(Fit, place.fit(out, *arguments)) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (
        "the policy is not saved: benign prompts are refused more: 0.0% to 100.0%" in captured.err
    )
    assert "--force" in captured.err
    assert list(tmp_path.iterdir()) == []
    assert main(Fit, place.fit(out, *arguments, "--force")) == 0
    value = _json(capsys)
    assert any("benign prompts are refused more" in p for p in value["check"]["problems"])
    manifest = artifacts.load(out).manifest
    assert any(note.startswith("saved by force although benign") for note in manifest.notes)
    assert manifest.method["check.passed"] is False
    assert manifest.method["check.benign_refused_after"] == 1.0


def test_fit_refuses_bad_options_in_one_line(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.safetensors"
    whole = place.fit(out)
    cases = (
        (["--out", str(out), "--harmful", place.file("harmful.jsonl")], "--harmful and --harmless"),
        ([*whole, "--forms", "plain", "no-such-form"], "form 'no-such-form': use prefill-N"),
        ([*whole, "--strengths", "0.2", "0.1"], "weakest first"),
        ([*whole, "--strengths", "nan"], "finite numbers"),
        ([*whole, "--max-kl", "inf"], "max_kl=inf"),
        ([*whole, "--limit", "6"], "limit=6"),
        ([*whole, "--harmful", place.file("none.jsonl")], "none.jsonl"),
        ([*whole, "--judge", "nobody"], "judge 'nobody'"),
        ([*whole, "--model", place.file("no-model")], "no-model"),
    )
    for arguments, words in cases:
        assert main(Fit, arguments) == 2, words
        error = capsys.readouterr().err
        assert words in error
        assert error.strip().splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


# generate


def _texts(prompts: PromptSet, label: str) -> list[str]:
    return [p.prompt for p in prompts.prompts if p.label == label]


def test_generate_makes_refusals_hold_in_the_wrapper_and_leaves_benign_prompts_alone(
    place: Place, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmful, benign = (_texts(wrapped(), label) for label in ("harmful", "harmless"))
    arguments = [str(fitted), "--new-tokens", "2", "--dtype", "float32", "--device", "cpu"]
    asked = [*arguments, "--compare", "--json", "--prompt", *harmful, *benign]
    assert main(Generate, asked) == 0
    rows = _json(capsys)["answers"]
    opens = [row["answer"].startswith(planted.SORRY) for row in rows]
    before = [row["unsteered"].startswith(planted.SORRY) for row in rows]
    assert before == [False] * 16
    assert opens == [True] * 8 + [False] * 8
    assert [row["answer"] for row in rows[8:]] == [row["unsteered"] for row in rows[8:]]
    shares = [row["shares"]["rejection"] for row in rows]
    assert min(shares[:8]) > 0.5 > max(shares[8:])
    assert main(Generate, [*asked, "--strength", "0"]) == 0
    assert all(row["answer"] == row["unsteered"] for row in _json(capsys)["answers"])


def test_generate_reads_prompts_from_files_and_prints_a_table(
    place: Place, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(fitted), "--new-tokens", "2", "--dtype", "float32", "--device", "cpu"]
    plain = tmp_path / "prompts.txt"
    plain.write_text("paint a wall\nbake the bread\n")
    assert main(Generate, [*arguments, "--file", str(plain), "--prompt", "sing", "--json"]) == 0
    value = _json(capsys)
    asked = [row["prompt"] for row in value["answers"]]
    assert asked == ["sing", "paint a wall", "bake the bread"]
    assert set(value) == {"model", "method", "answers", "tokens_computed"}
    assert main(Generate, [*arguments, "--file", place.file("test.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert "n = 32" in shown
    assert "tokens through the model" in shown
    assert main(Generate, [*arguments, "--file", str(plain), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_generate_answers_with_a_saved_policy_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "tiny")
    used = hooks.load(str(folder), dtype="float32", device="cpu")
    policy = steering.additive(used, vectors(1), strength=1.0, kind="absolute")
    steering.save(policy, tmp_path / "p.safetensors")
    arguments = [str(tmp_path / "p.safetensors"), "--prompt", "Name a river.", "Hi", "--new-tokens"]
    arguments += ["5", "--dtype", "float32", "--device", "cpu"]
    assert main(Generate, [*arguments, "--compare", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    want = steering.answer(used, policy, ["Name a river.", "Hi"], max_new_tokens=5)
    assert [row["answer"] for row in value["answers"]] == list(want.texts)
    assert value["answers"][0]["shares"] == {"add": 1.0}
    assert value["answers"][0]["unsteered"] != value["answers"][0]["answer"]
    assert value["tokens_computed"] == want.stats.tokens_computed


# evaluate


def test_evaluate_writes_the_frontier_and_exit_code_0_says_that_the_policy_is_ahead(
    place: Place, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "frontier.json"
    assert main(Evaluate, place.evaluate(fitted, out, "--json")) == 0
    printed, value = _json(capsys), json.loads(out.read_text())
    assert printed == {"out": str(out)} | value
    assert {"format", "model", "judge", "points", "advantages", "sets", "seconds"} <= set(value)
    assert value["model"] == place.model
    assert (value["n_harmful"], value["n_benign"]) == (32, 32)
    assert value["forms_seen_in_fit"] == sorted(["plain", WRAPPER])
    points = {point["name"]: point for point in value["points"]}
    assert {"unsteered", "hard gate", "policy"} <= set(points)
    assert sum(point["family"] == "fixed" for point in points.values()) == 6
    for point in points.values():
        for share in (point["defence"], point["compliance"]):
            assert share["low"] <= share["value"] <= share["high"]
            assert (share["n"], share["n_clusters"]) == (32, 16)
    assert points["unsteered"]["defence"]["value"] < 0.5 < points["policy"]["defence"]["value"]
    assert points["policy"]["compliance"]["value"] == 1
    fixed = [point for point in points.values() if point["family"] == "fixed"]
    assert all(p["compliance"]["value"] < 1 for p in fixed if p["defence"]["value"] > 0.5)
    mine = next(row for row in value["advantages"] if row["name"] == "policy")
    assert mine["ahead"]
    assert "steal" not in out.read_text(), "neither requests nor answers are in the file"


def test_evaluate_ends_with_exit_code_4_where_fixed_strength_does_as_well(
    place: Place, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weak, out = tmp_path / "weak.safetensors", tmp_path / "frontier.json"
    steering.save(steering.load(fitted).scaled(1e-6), weak)
    assert main(Evaluate, place.evaluate(weak, out)) == 4
    captured = capsys.readouterr()
    assert "weak is not ahead of fixed strength" in captured.err
    assert "the file is written" in captured.err
    assert "By set and form" in captured.out
    assert json.loads(out.read_text())["points"][-1]["name"] == "weak"


def test_evaluate_refuses_bad_input_before_it_writes(
    place: Place, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "frontier.json", build(tmp_path / "other", refuses=1.9)
    capsys.readouterr()
    kept = tmp_path / "policy.safetensors"
    kept.write_bytes(fitted.read_bytes())
    cases = (
        (place.evaluate(fitted, out, "--model", other.model), "this policy is for"),
        (place.evaluate(fitted, out, "--judge", "margin"), "reads no answers"),
        (place.evaluate(fitted, out, "--limit", "1"), "limit=1"),
        (place.evaluate(fitted, out, "--harmful", "nothing"), "neither a set nor a file"),
        (place.evaluate(fitted, out, "--forms", "nothing"), "form 'nothing'"),
        ([str(kept), *place.evaluate(fitted, out)], "two policies are called policy"),
        (place.evaluate(tmp_path / "none.safetensors", out), "none.safetensors"),
    )
    for arguments, words in cases:
        assert main(Evaluate, [*arguments, "--quiet"]) == 2, words
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not out.exists()
