"""Claim: the page states the numbers of the artifact, escapes its text and loads nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from plotly.offline import get_plotlyjs

import artifacts
import reports
from artifacts import Artifact, DataInfo
from artifacts.command import main
from reports.build import Build
from tests.artifacts import making
from tests.reports import planted

ROOT = Path(__file__).parents[2]
KEYS = ("separation", "projection", "stability", "norms", "cosine_curves", "cosine_map")
HOSTILE = "</script><script>alert(1)</script><img src=https://x.example/a.png onerror=alert(2)>"


class Tags(HTMLParser):
    """Collect tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw = {"script": "", "style": ""}
        self._inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.raw else None

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.text += data
        else:
            self.raw[self._inside] += data


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return planted.planted()


@pytest.fixture(scope="module")
def page(artifact: Artifact) -> reports.Page:
    return reports.report(artifact)


def figure_data(html: str, key: str) -> list[dict[str, object]]:
    start = html.index("[", html.index(f'"figure-{key}",'))
    return json.JSONDecoder().raw_decode(html, start)[0]


def test_the_finding_is_computed_from_the_numbers(artifact: Artifact, page: reports.Page) -> None:
    auc = artifact.tensors["measure/refusal/auc"]
    value, low, high = auc[int(auc[:, 0].argmax())].tolist()
    assert f"AUC {value:.3f} (95% interval {low:.3f} to {high:.3f}, n = 80)" in page.finding
    assert "its controls stay below: fits with shuffled labels reach 0.370 to 0.630" in page.finding
    assert Tags(page.html).text.count(page.finding) == 1
    noise = reports.report(planted.planted(signal=False)).finding  # twin: nothing planted
    assert "this is not above its controls" in noise
    method = artifact.manifest.method | {"verdict.refusal": "beats chance (p = 0.01)"}
    manifest = artifact.manifest.model_copy(update={"method": method})
    stated = reports.report(Artifact(manifest, artifact.tensors))
    assert stated.finding == f"{page.finding} Over all blocks: beats chance (p = 0.01)."
    assert "the choice of the block accounted for" in stated.html
    assert "the choice of the block accounted for" not in page.html
    about = artifact.manifest.directions["refusal"].model_copy(update={"claim": "none"})
    directions = {**artifact.manifest.directions, "refusal": about}
    manifest = artifact.manifest.model_copy(update={"directions": directions})
    modest = reports.report(Artifact(manifest, artifact.tensors)).finding
    assert "which looked at every block, makes no claim" in modest
    unchecked = planted.without(artifact, "measure/x/auc_shuffled", "measure/x/auc_random")
    assert "no control was run, so this is not evidence" in reports.report(unchecked).finding


def test_the_page_holds_every_figure_with_the_numbers_of_the_artifact(
    artifact: Artifact, page: reports.Page
) -> None:
    assert page.shown == KEYS
    assert page.missing == ()
    (line,) = [t for t in figure_data(page.html, "stability") if t.get("name") == "refusal"]
    stored = artifact.tensors["measure/refusal/split_half_cosine"][:, 0].tolist()
    assert line["y"] == stored


def test_tables_state_provenance_claims_and_controls(
    artifact: Artifact, page: reports.Page
) -> None:
    text = " ".join(Tags(page.html).text.split())
    for expected in [
        artifact.digest,
        "planted:base",
        "planted:aligned",
        "a" * 64,
        "d" * 64,
        "t.jsonl",
        "16 harmful",
        "no chat template",
        "quantiles",
        "0.1, 0.9",
        "Claim: decodable.",
        "Does not show that the model uses the direction",
        "held-out AUC of 199 fits with shuffled labels",
        "5 of 5",
        "Made by a test; the truth is known.",
        "hook_resid_post @ last",
        "128, 80",
    ]:
        assert expected in text, expected
    bare = planted.without(artifact, "measure/x/auc_shuffled")
    assert "fits with shuffled labels: NOT RUN" in reports.report(bare).html
    assert "NOT RUN" not in page.html


def test_nothing_is_loaded_from_outside(page: reports.Page) -> None:
    found = Tags(page.html)
    loading = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
    assert [(tag, attrs) for tag, attrs in found.tags if loading & attrs.keys()] == []
    assert not {tag for tag, _ in found.tags} & {"link", "iframe", "object", "embed", "base", "img"}
    assert "@import" not in found.raw["style"]
    assert "url(" not in found.raw["style"]
    ours = page.html.replace(get_plotlyjs(), "")
    assert len(ours) < 500_000  # the library was really cut out
    assert not re.search(r"https?://", ours)
    (policy,) = [a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_hostile_text_stays_text() -> None:
    plain = planted.planted()
    directions = {}
    for name, about in plain.manifest.directions.items():
        texts = {"site": HOSTILE, "position": HOSTILE, "sign_rule": HOSTILE}
        auc = about.measures["auc"].model_copy(update={"what": HOSTILE})
        measures = {**about.measures, "auc": auc}
        directions[name] = about.model_copy(update={**texts, "measures": measures})
    manifest = plain.manifest.model_copy(
        update={
            "aligned": making.model(HOSTILE, n_layers=12, d_model=planted.D),
            "data": (DataInfo(source=HOSTILE, digest=HOSTILE, n={"harmful": 1}, role="fit"),),
            "device": HOSTILE,
            "positions": HOSTILE,
            "contrast": (HOSTILE,),
            "method": {HOSTILE: (HOSTILE, 1)},
            "notes": (HOSTILE,),
            "parents": (HOSTILE,),
            "versions": {HOSTILE: HOSTILE},
            "created": plain.manifest.created,
            "directions": directions,
        }
    )
    hostile = Tags(reports.report(Artifact(manifest, plain.tensors)).html)
    clean = Tags(reports.report(plain).html)
    assert "alert" not in hostile.raw["script"].replace(get_plotlyjs(), "")
    assert not [attrs for _, attrs in hostile.tags if "onerror" in attrs or "src" in attrs]

    def scripts(found: Tags) -> int:
        return sum(tag == "script" for tag, _ in found.tags)

    assert scripts(hostile) == scripts(clean)
    assert hostile.text.count(HOSTILE) >= 9


@pytest.mark.parametrize(
    ("dropped", "gone"),
    [
        (("projection/",), {"projection"}),
        (("ambient_norm",), {"norms"}),
        (("measure/x/split_half_cosine",), {"stability"}),
        (("measure/x/auc_shuffled", "measure/x/auc_random"), set()),
        (("measure/x/auc",), {"separation"}),
    ],
)
def test_an_artifact_without_optional_parts_gives_a_note_and_no_crash(
    artifact: Artifact, dropped: tuple[str, ...], gone: set[str]
) -> None:
    page = reports.report(planted.without(artifact, *dropped))
    assert set(page.shown) == set(KEYS) - gone
    assert len(page.missing) == len(gone)
    text = Tags(page.html).text
    assert text.count("Not shown: ") == len(gone)
    for sentence in page.missing:
        assert sentence in text


def test_the_barest_artifacts_still_make_a_page() -> None:
    about = making.info(measures={})
    manifest = making.manifest(directions={"refusal": about}, base=None, aligned=None, data=())
    one = Artifact(manifest, {"direction/refusal": torch.ones(3, 6)})
    page = reports.report(one)
    assert page.shown == ()
    assert "was not measured on held-out prompts" in page.finding
    assert "not measured" in Tags(page.html).text
    empty = making.manifest(kind="probe-set", directions={}, base=None, aligned=None, data=())
    page = reports.report(Artifact(empty, {"probe/p/bias": torch.ones(3)}))
    assert page.finding == "This artifact holds no direction."
    assert "no figure to draw" in page.html


def test_the_page_is_the_same_every_time(artifact: Artifact, page: reports.Page) -> None:
    assert reports.report(artifact).html == page.html


def test_the_command_writes_the_page_and_says_so(
    artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "a.safetensors", tmp_path / "report.html"
    digest = artifacts.save(artifact, file)
    assert main(Build, [str(file), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["out"] == str(out)
    assert printed["digests"] == [digest]
    assert printed["figures"] == list(KEYS)
    assert printed["finding"] in Tags(out.read_text(encoding="utf-8")).text
    assert main(Build, [str(file), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == printed["finding"]
    assert lines[-1] == f"next: open {out} in a browser"


def test_several_artifacts_make_one_page_with_a_chapter_each(artifact: Artifact) -> None:
    noise = planted.planted(signal=False)
    both, first, second = reports.report(artifact, noise), *map(reports.report, (artifact, noise))
    assert both.shown == first.shown + second.shown
    text = Tags(both.html).text
    assert first.finding in text
    assert second.finding in text
    ids = [f"part-{n}-figure-{key}" for n in (1, 2) for key in KEYS]
    assert all(both.html.count(f'id="{name}"') == 1 for name in ids)
    assert '<a href="#part-2">' in both.html
    assert "#part-" not in first.html  # a single artifact needs no list of chapters


def test_no_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Build, []) == 2
    assert "no file was named" in capsys.readouterr().err


def test_the_command_refuses_what_is_not_an_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.safetensors"
    page.write_text("<html></html>")
    out = tmp_path / "report.html"
    assert main(Build, [str(page), "--out", str(out)]) == 2
    assert "an HTML or XML page" in capsys.readouterr().err
    assert not out.exists()
    file = tmp_path / "a.safetensors"
    artifacts.save(planted.planted(), file)
    assert main(Build, [str(file), "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "create it first" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_plotly() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reports.build", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "plotly", "jinja2", "scipy", "sklearn", "transformers"}
