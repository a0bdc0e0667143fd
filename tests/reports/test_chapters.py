"""Claims: every report that a command writes is a chapter of one page, which states its numbers,
says loudly what did not beat its control, shows no answer and takes no text for markup.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from plotly.offline import get_plotlyjs

import artifacts
import reports
from artifacts.command import main
from artifacts.errors import InputError
from reports import policy as policies
from reports.build import Build
from reports.reading import MissingPart
from tests.reports import judged, planted
from tests.reports.test_page import HOSTILE, Tags, figure_data

# The shipped items are words that the tiny tokenizer does not know.
pytestmark = pytest.mark.filterwarnings("ignore:tokenizer .* unknown to the vocabulary")

MAKERS = {
    "answers": judged.able,
    "ablation": judged.ablated,
    "style": lambda: dict(judged.styled().to_dict()),
    "frontier": judged.frontier,
}


def page_of(value: object, folder: Path) -> reports.Page:
    file = folder / "report.json"
    file.write_text(json.dumps(value, allow_nan=False))
    return reports.report(reports.read(file))


def text_of(page: reports.Page) -> str:
    return " ".join(Tags(page.html).text.split())


def test_every_kind_of_file_is_a_chapter_of_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "p.safetensors"]
    artifacts.save(planted.planted(), files[0])
    artifacts.save(judged.policy(), files[1])
    for name, make in MAKERS.items():
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(make(), allow_nan=False))
    out = tmp_path / "report.html"
    assert main(Build, [*map(str, files), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["missing"] == []
    keys = ("policy_range", "refused", "ablation_effects", "style_score", "frontier")
    assert printed["figures"][-5:] == list(keys)
    assert printed["digests"][2] == hashlib.sha256(files[2].read_bytes()).hexdigest()
    text = " ".join(Tags(out.read_text(encoding="utf-8")).text.split())
    for file, digest in zip(files, printed["digests"], strict=True):
        finding = reports.report(reports.read(file)).finding
        assert text.count(finding) == 2, "in the list of chapters, and above its own"
        assert digest in text


def test_answers_are_stated_with_n_interval_and_the_paired_change(tmp_path: Path) -> None:
    value = judged.answers()
    page = page_of(value, tmp_path)
    rates = value["rates"]
    assert isinstance(rates, list)
    wanted = {"setting": "edited", "label": "harmful", "outcome": "refused"}
    (row,) = [r for r in rates if wanted.items() <= r.items()]
    stated = f"edited refuses {row['hits']}/4 = {row['rate']:.0%} [{row['low']:.0%}, "
    assert stated in page.finding
    (moved,) = [d for d in value["differences"] if d["label"] == "harmful"]  # type: ignore[union-attr]
    assert f"paired change {moved['difference']['value']:+.0%} [" in page.finding
    edited = next(t for t in figure_data(page.html, "refused") if t.get("name") == "edited")
    assert edited["y"] == [0.15, 1.15]
    assert '"ticktext":["test, harmful","test, harmless"]' in page.html
    assert edited["x"][0] == row["rate"]  # type: ignore[index]
    text = text_of(page)
    assert "No capability was measured in this run" in text
    assert "edited: 1 edits." in text
    measured = text_of(page_of(judged.able(), tmp_path))  # twin: with a capability
    assert "No capability was measured" not in measured
    assert "21.500 [19.250, 24.750]" in measured


def test_an_answer_that_a_file_keeps_never_reaches_the_page(tmp_path: Path) -> None:
    value = copy.deepcopy(judged.answers())
    records = value["records"]
    assert isinstance(records, dict)
    for rows in records.values():
        for row in rows:
            row["text"] = "the kept answer"
    assert "the kept answer" not in page_of(value, tmp_path).html


def test_an_ablation_states_effect_controls_and_cost(tmp_path: Path) -> None:
    value = judged.ablated()
    page = page_of(value, tmp_path)
    assert "answers 100% of harmful requests instead of 0% (n = 16; change +100% [" in page.finding
    assert "beyond its controls" in page.finding
    assert "NOT beyond" not in page.finding
    text = text_of(page)
    assert "Claim: causally necessary." in text
    assert "No claim" not in text
    assert "16/16 100% [81%,100%]" in text
    drawn = figure_data(page.html, "ablation_effects")
    assert drawn[0]["y"][-2:] == ["ablated", "clean"]  # type: ignore[index]
    assert "largest of controls" not in text
    assert "largest of controls" in text_of(page_of(judged.ablated(compare=True), tmp_path))


def test_an_ablation_that_loses_to_its_control_says_so_and_claims_nothing(tmp_path: Path) -> None:
    value = copy.deepcopy(judged.ablated())
    verdict = value["verdict"]
    assert isinstance(verdict, dict)
    verdict |= {"beats": False, "reason": "one of 5 controls answers as many"}
    page = page_of(value, tmp_path)
    assert "NOT beyond its controls" in page.finding
    text = text_of(page)
    assert "No claim: one of 5 controls answers as many." in text
    assert "Claim: causally" not in text


def test_a_style_report_says_what_falls_and_whether_it_holds(tmp_path: Path) -> None:
    report = judged.styled()
    page = page_of(report.to_dict(), tmp_path)
    effect = report.verdict.effect
    assert f"changes by {effect.value:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}]" in page.finding
    (drawn,) = figure_data(page.html, "style_score")
    assert drawn["x"] == [row.style.score.value for row in reversed(report.styles)]
    said = f"Does not hold: {report.verdict.reason}."
    assert (said in text_of(page)) is not report.verdict.holds
    failed = copy.deepcopy(dict(report.to_dict()))
    failed["verdict"] |= {"falls": False, "reason": "style stays"}  # type: ignore[operator]
    assert "Does not hold: style stays." in text_of(page_of(failed, tmp_path))


def test_a_frontier_states_the_policy_against_fixed_strengths(tmp_path: Path) -> None:
    value = copy.deepcopy(judged.frontier())
    gains = value["advantages"]
    assert isinstance(gains, list)
    (gain,) = [g for g in gains if g["name"] == "mine"]
    for ahead, said in ((True, ": ahead of them."), (False, ": NOT ahead of them.")):
        gain["ahead"] = ahead
        page = page_of(value, tmp_path)
        assert page.finding.startswith("mine refuses ")
        assert "n = 12 harmful and 12 benign prompts of 6 and 6 requests" in page.finding
        assert f"that is {gain['value']:+.1%} [" in page.finding
        assert page.finding.endswith(said)
        noted = "Not shown to be ahead of fixed strengths at equal benign compliance: "
        assert (f"{noted}hard gate, mine." in text_of(page)) is not ahead
    names = {trace["name"] for trace in figure_data(page.html, "frontier")}
    assert names == {"unsteered", "fixed", "hard gate", "mine"}


def test_a_policy_states_its_check_and_its_range() -> None:
    page = reports.report(judged.policy())
    assert page.shown == ("policy_range",)
    assert (
        "AdaSteer at strength 0.04 makes the first token refuse 75.0% of held-out harmful prompts "
        "instead of 50.0% (change +25.0% [+12.5%, +37.5%], n = 72)"
    ) in page.finding
    assert "it passed its check. Its gate at block 0" in page.finding
    assert "AUC 0.900 [0.800, 0.950] (n = 60)" in page.finding
    text = text_of(page)
    assert "a note of the fit" in text
    assert "holds no direction" not in text
    harmful, benign, kl, most, ratio, _ = figure_data(page.html, "policy_range")
    assert most["y"] == [0.1, 0.1]
    assert harmful["y"] == [0.5, 0.75]
    assert kl["y"] == pytest.approx([0.01, 0.02])
    assert ratio["marker"]["symbol"] == ["circle", "circle-open"]  # type: ignore[index]
    assert benign["name"] == "benign prompts"
    forced = reports.report(judged.policy(**{"check.passed": False})).finding
    assert "it FAILED its check and was saved by force" in forced


def test_a_policy_without_parts_says_what_it_lacks() -> None:
    made = judged.policy(**{"check.harmful_change_low": None, "check.benign_change_low": None})
    assert "(change +25.0%, no interval kept, n = 72)" in reports.report(made).finding
    bare = judged.policy(**{"check.n_harmful": None})
    assert "was not checked on held-out requests" in reports.report(bare).finding
    tensors = {k: v for k, v in made.tensors.items() if not k.endswith("range")}
    page = reports.report(artifacts.Artifact(made.manifest, tensors))
    assert page.shown == ()
    assert "holds no safe range" in page.missing[0]
    with pytest.raises(MissingPart, match="only SCANS"):
        policies.threshold(made)


def test_the_threshold_curve_of_scans_is_drawn() -> None:
    made = judged.policy(threshold=0.25)
    curve = torch.tensor([[0.0, 1.0, 0.5], [0.5, 0.5, 0.0]])
    scans = artifacts.Artifact(made.manifest, made.tensors | {"adasteer/table/threshold": curve})
    page = reports.report(scans)
    assert page.shown == ("policy_range", "policy_threshold")
    harmful, harmless = figure_data(page.html, "policy_threshold")
    assert (harmful["y"], harmless["y"]) == ([1.0, 0.5], [0.5, 0.0])


def hostile(value: object, kept: tuple[str, ...]) -> object:
    """Replace every text but those that the reader chooses from a list."""
    if isinstance(value, dict):
        return {key: inner if key in kept else hostile(inner, kept) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, kept) for inner in value]
    return f"{value} {HOSTILE}" if isinstance(value, str) else value


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_hostile_text_stays_text(kind: str, tmp_path: Path) -> None:
    plain = MAKERS[kind]()
    kept = ("role", "label", "outcome", "spec")
    bad = page_of(hostile(copy.deepcopy(plain), kept), tmp_path)
    found, clean = Tags(bad.html), Tags(page_of(plain, tmp_path).html)
    assert found.text.count(HOSTILE) >= 5
    drawn = found.raw["script"].replace(get_plotlyjs(), "")
    assert "&lt;img src" in drawn.replace("\\u0026", "&"), "a name is in the figure"
    assert "<img" not in drawn.replace("\\u003c", "<"), "plotly takes no name for markup"
    assert not [attrs for _, attrs in found.tags if "onerror" in attrs or "src" in attrs]
    scripts = [sum(tag == "script" for tag, _ in one.tags) for one in (found, clean)]
    assert scripts[0] == scripts[1]


WRONG = {
    "not JSON": ("{", "not JSON"),
    "a constant": ('{"points": NaN}', "not JSON"),
    "another file": ('{"a": 1}', "no report is in it"),
    "a list": ("[1]", "no report is in it"),
    "another format": ('{"points": [], "format": 2}', "format 2"),
    "no points": ('{"points": 3, "format": 1}', "not whole"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_file_that_is_no_report_is_refused(name: str, tmp_path: Path) -> None:
    text, match = WRONG[name]
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(InputError, match=match):
        reports.read(file)
    with pytest.raises(InputError, match="existing file"):
        reports.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("kind", "part", "value", "match"),
    [
        ("ablation", "rows", [], "without a clean"),
        ("answers", "rates", [], "without a rate"),
        ("frontier", "points", [], "without a point"),
        ("style", "verdict", {}, "not whole"),
        ("ablation", "about", None, "not whole"),
    ],
)
def test_a_report_that_lacks_a_part_is_refused_by_name(
    kind: str, part: str, value: object, match: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=match):
        page_of(MAKERS[kind]() | {part: value}, tmp_path)


def test_what_is_absent_stands_on_top_and_is_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "p.safetensors", tmp_path / "report.html"
    artifacts.save(judged.policy(), file)
    said = ["selection: no candidate passes <b>", "steering: left out"]
    assert main(Build, [str(file), "--absent", *said, "--out", str(out)]) == 0
    text = " ".join(Tags(out.read_text(encoding="utf-8")).text.split())
    for sentence in said:
        assert text.index(f"Not in this report: {sentence}") < text.index("AdaSteer at strength")
    assert "Not in this report" not in reports.report(reports.read(file)).html
