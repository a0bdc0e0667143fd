"""Claims: the command finds the planted head, prints one JSON object, writes a signature that can
be read and drawn, refuses bad input in one line, and exits with the documented codes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import artifacts
import directions
from artifacts.command import main
from artifacts.show import Show
from directions.localize import Localize
from directions.localize_options import LocalizeOptions
from directions.signature import Signature
from directions.split import join
from evaluation.prompts import read
from reports.page import report
from tests.directions import tiny
from tests.directions.conftest import Pair

HEAD = (1, 2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Path:
    """The base of ``pair`` with a write planted in one head."""
    made = tiny.model()
    projection = made.model.layers[HEAD[0]].self_attn.o_proj
    seen: list[torch.Tensor] = []
    hook = projection.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0][0, -1]))
    with torch.no_grad():
        tokens = tiny.tokenizer()
        for row in (*tiny.rows("harmful", 12), *tiny.rows("harmless", 12)):
            chat = [{"role": "user", "content": row["prompt"]}]
            ids = tokens.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            made(torch.tensor([ids]))
        hook.remove()
        columns = slice(HEAD[1] * 8, HEAD[1] * 8 + 8)
        mean = torch.stack(seen).mean(0)[columns]
        projection.weight[:, columns] += 3 * torch.outer(pair.direction, mean / mean.norm() ** 2)
    return tiny.save(tmp_path_factory.mktemp("planted"), made)


@pytest.fixture(scope="module")
def arguments(pair: Pair, planted: Path) -> list[str]:
    argv = pair.arguments(Path("unused"))
    argv[argv.index("--aligned") + 1] = str(planted)
    at = argv.index("--out")
    return [*argv[:at], *argv[at + 2 :], "--bootstraps", "300", "--random-sets", "5"]


@pytest.fixture(scope="module")
def found(
    arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict, artifacts.Artifact]:
    """What ``--json`` prints, and the file."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("signature") / "s.safetensors"
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main(Localize, [*arguments, "--out", str(out), "--json"]) == 0
    return json.loads(text.getvalue()), artifacts.load(out)


def test_the_planted_head_comes_first_and_is_the_only_origin(
    found: tuple[dict, artifacts.Artifact],
) -> None:
    said, _ = found
    first = said["heads"][0]
    assert (first["block"], first["head"]) == HEAD
    assert first["significant"]
    assert first["origin"]["significant"]
    assert first["echo"]["score"] == 0
    others = [*said["heads"][1:], *said["mlps"]]
    assert not any(item["origin"]["significant"] for item in others)
    assert all(item["origin"]["score"] == 0 for item in others)


def test_json_lists_heads_and_mlps_the_strongest_first(
    found: tuple[dict, artifacts.Artifact],
) -> None:
    said, _ = found
    assert len(said["heads"]) == 12
    assert len(said["mlps"]) == 3
    wanted = {"block", "head", "score", "low", "high", "p", "q", "significant", "origin", "echo"}
    for key in ("heads", "mlps"):
        sizes = [abs(item["score"]) for item in said[key]]
        assert sizes == sorted(sizes, reverse=True)
        for item in said[key]:
            assert wanted <= set(item)
            assert item["low"] <= item["score"] <= item["high"]
            assert item["p"] <= item["q"] + 1e-6
            assert item["significant"] == (item["q"] <= said["alpha"])
            assert item["origin"]["score"] + item["echo"]["score"] == pytest.approx(
                item["score"], abs=1e-4
            )
    assert said["n"]["test"] == {"harmful": 24, "harmless": 24}
    assert said["largest_gap"] < 1e-5
    assert said["along"] == "did"


def test_the_causal_check_finds_that_the_planted_head_is_all_there_is(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*arguments, "--out", str(tmp_path / "s.safetensors"), "--json"]
    assert main(Localize, [*argv, "--heads", "1.2"]) == 0
    check = json.loads(capsys.readouterr().out)["causal"]
    assert check["heads"] == [[1, 2]]
    for way in ("removed", "restored"):
        assert check[way]["effect"]["value"] == pytest.approx(check["gap"]["value"], rel=0.02)
        assert check[way]["beats"]
        assert len(check[way]["random"]) == 5


def test_the_file_is_a_signature_that_can_be_shown_and_drawn(
    found: tuple[dict, artifacts.Artifact],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, stored = found
    assert stored.manifest.kind == "signature"
    assert stored.manifest.digest == said["digest"]
    assert stored.tensors["score/heads/total"].shape == (3, 4)
    assert stored.tensors["p_value/mlps/origin"].shape == (3,)
    assert main(Show, [said["out"]]) == 0
    assert "signature, format 1" in capsys.readouterr().out
    page = report(stored)
    assert {"signature_total", "signature_origin", "signature_curves"} <= set(page.shown)
    assert "head 2 of block 1" in page.finding
    signature = Signature(stored, stored.manifest.digest, 0.0, {}, None)
    assert (signature.heads[0].block, signature.heads[0].head) == HEAD
    assert signature.heads[0].name == "1.2"
    assert signature.mlps[0].name.endswith(".mlp")
    assert [item.name for item in signature.significant("origin")] == ["1.2"]


def test_an_identical_copy_is_written_claims_nothing_and_exits_4(
    pair: Pair, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*arguments, "--out", str(tmp_path / "s.safetensors"), "--json"]
    argv[argv.index("--aligned") + 1] = str(tiny.save(tmp_path / "copy", tiny.model()))
    assert main(Localize, argv) == 4
    text = capsys.readouterr()
    said = json.loads(text.out)
    assert "none of 12 heads and 3 MLPs" in text.err
    assert not any(item["significant"] for item in (*said["heads"], *said["mlps"]))
    assert all(item["score"] == 0 for item in said["heads"])
    assert said["causal"] is None
    assert any("zero within rounding at every block" in note for note in said["notes"])
    assert "No head changes" in report(artifacts.load(tmp_path / "s.safetensors")).finding


def test_a_direction_from_a_file_serves_and_its_pair_is_checked(
    pair: Pair,
    planted: Path,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = join(read(pair.harmful, label="harmful"), read(pair.harmless, label="harmless"))
    options = directions.Options(dtype="float32", device="cpu", contrasts=("shift",))
    file = tmp_path / "d.safetensors"
    directions.extract(str(pair.base), str(planted), fit=data, out=file, options=options)
    argv = [*arguments, "--out", str(tmp_path / "s.safetensors"), "--json", "--top", "0"]
    assert main(Localize, [*argv, "--along", f"{file}:shift"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["heads"][0]["block"], said["heads"][0]["head"]) == HEAD
    assert said["along"] == "shift"
    assert said["causal"] is None
    stored = artifacts.load(tmp_path / "s.safetensors")
    assert stored.manifest.parents == (artifacts.load(file).manifest.digest,)
    other = [*argv, "--along", f"{file}:shift"]
    other[other.index("--aligned") + 1] = str(pair.aligned)
    assert "made from other weights (aligned model" in _refused(other, capsys)
    assert "no direction 'refusal'" in _refused([*argv, "--along", f"{file}:refusal"], capsys)
    assert "write ARTIFACT:NAME" in _refused([*argv, "--along", "shift"], capsys)
    wide = directions.Options(dtype="float32", device="cpu", contrasts=("shift",))
    narrow = [str(tiny.save(tmp_path / f"n{i}", tiny.model(i, hidden_size=16))) for i in (0, 1)]
    small = tmp_path / "n.safetensors"
    directions.extract(*narrow, fit=data, out=small, options=wide)
    message = _refused([*argv, "--along", f"{small}:shift"], capsys)
    assert "width 16" in message
    assert "d_model 32" in message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--heads", "1.9"], r"head 1\.9: this model has blocks 0 to 2 with heads 0 to 3"),
        (["--heads", "7.0"], r"head 7\.0: this model has blocks 0 to 2"),
        (["--heads", "x"], "write BLOCK.HEAD"),
        (["--alpha", "2"], "alpha 2.0: give a rate between 0 and 1"),
        (["--random-sets", "2"], "random sets 2"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    argv = [*arguments, "--out", str(tmp_path / "s.safetensors")]
    try:
        assert re.search(message, _refused([*argv, *more], capsys))
    except SystemExit as stop:  # the parser itself refuses what the dataclass does
        assert stop.code == 2
    assert not (tmp_path / "s.safetensors").exists()


def test_too_few_prompts_for_the_heads_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*arguments, "--out", str(tmp_path / "s.safetensors")]
    for label in ("harmful", "harmless"):
        file = tiny.write(tmp_path / f"{label}.jsonl", tiny.rows(label, 12, fields=False))
        argv[argv.index(f"--{label}") + 1] = str(file)
    message = _refused([*argv, "--alpha", "0.001"], capsys)
    assert re.search(r"\d+ scored prompts cannot reach q = 0.001 among 15", message)


def test_python_gives_the_same_numbers_and_the_class_can_be_chosen(
    pair: Pair, planted: Path, found: tuple[dict, artifacts.Artifact]
) -> None:
    data = join(read(pair.harmful, label="harmful"), read(pair.harmless, label="harmless"))
    options = LocalizeOptions(dtype="float32", device="cpu", bootstraps=300, random_sets=5)
    twin = directions.localize(str(pair.base), str(planted), prompts=data, options=options)
    assert torch.equal(twin.scores(), found[1].tensors["score/heads/total"])
    assert twin.n == {"harmful": 24, "harmless": 24}
    one = LocalizeOptions(
        dtype="float32", device="cpu", over="harmful", top=0, contrast="shift", bootstraps=300
    )
    single = directions.localize(str(pair.base), str(planted), prompts=data, options=one)
    assert single.n == {"harmful": 24}
    assert (single.heads[0].block, single.heads[0].head) == HEAD


def _refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(Localize, argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]
