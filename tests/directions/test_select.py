"""Claims: the direction that mediates refusal is found at its block, with its controls; where none
does, nothing passes and the exit code is 4; filters, splits and files are what they say.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import artifacts
import directions
from artifacts.command import main
from artifacts.errors import InputError, NotBeaten
from directions import Options, SelectOptions
from directions.select import Select
from directions.select_sweep import Candidate, NothingPasses, Sweep
from directions.selection import Selection, three_ways
from evaluation.prompts import deduplicate
from tests.directions import selecting, tiny

PLANTED = 2
"""The last block that may be chosen in a model of five."""
QUICK = SelectOptions(neutral=2, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def found() -> Selection:
    return directions.select(selecting.model(PLANTED), prompts=selecting.prompts(), options=QUICK)


def test_the_planted_direction_is_found_at_its_block(found: Selection) -> None:
    planted, _ = selecting.vectors()
    assert found.chosen.block == PLANTED
    cosine = torch.cosine_similarity(found.direction.double(), planted.double(), dim=0)
    assert cosine > 0.98
    assert found.tokens.texts == (selecting.REFUSAL,)


def test_it_is_necessary_and_sufficient_beyond_random_directions(found: Selection) -> None:
    method = found.artifact.manifest.method
    assert found.claim == "causally necessary"
    assert method["necessary"] and method["sufficient"]
    assert found.measure("clean_harmful")[0] > 0 > found.measure("bypass")[2]
    assert found.measure("clean_harmless")[0] < 0 < found.measure("induce")[1]
    for name in ("drop", "rise"):
        assert found.measure(name)[1] > found.measure(f"{name}_random")[2]
    assert found.measure("drop")[0] == pytest.approx(
        found.measure("clean_harmful")[0] - found.measure("bypass")[0], abs=1e-4
    )
    info = found.artifact.manifest.directions["selected"]
    assert info.measures["drop_random"].n == QUICK.controls
    assert info.measures["drop"].n == 12


def test_blocks_before_the_write_fall_at_a_filter_and_later_ones_are_not_scored(
    found: Selection,
) -> None:
    rows = found.table()
    assert {row.block for row in rows} == {0, 1, 2}
    assert {row.position for row in rows} == {-1, -2}
    assert all(row.fell != "passed" for row in rows if row.block < PLANTED)
    assert all(row.bypass is None for row in rows if row.fell != "passed")
    assert sum(found.sweep.counts.values()) == len(rows) == 6


@pytest.mark.parametrize("block", [None, selecting.LAYERS - 1])
def test_without_a_direction_nothing_passes(block: int | None) -> None:
    """Nothing planted: no refusal token. Planted behind the last candidate: none induces."""
    with pytest.raises(NotBeaten) as refused:
        directions.select(selecting.model(block), prompts=selecting.prompts(), options=QUICK)
    if block is None:
        assert "no token separates" in str(refused.value)
    else:
        assert isinstance(refused.value, NothingPasses)
        assert "nearest: position" in str(refused.value)
        assert refused.value.sweep.best is None


def test_the_artifact_of_an_extraction_gives_the_same_choice(
    found: Selection, tmp_path: Path
) -> None:
    folder = _saved(tmp_path / "model", PLANTED)
    base = _saved(tmp_path / "base", None)
    options = Options(
        contrasts=("refusal",), positions="template", dtype="float32", device="cpu", seed=0
    )
    path = tmp_path / "x.safetensors"
    directions.extract(str(base), str(folder), fit=selecting.prompts(), out=path, options=options)
    again = directions.select(
        candidates=path, prompts=selecting.prompts(), options=replace(QUICK, filter=False)
    )
    assert (again.chosen.block, again.chosen.position) == (
        found.chosen.block,
        found.chosen.position,
    )
    torch.testing.assert_close(again.direction, found.direction, atol=1e-5, rtol=1e-5)
    assert again.artifact.manifest.parents == (artifacts.load(path).digest,)
    assert not any("other prompts" in note for note in again.artifact.manifest.notes)
    with pytest.raises(InputError, match="weight_digests"):
        directions.select(str(base), candidates=path, prompts=selecting.prompts(), options=QUICK)


def test_no_prompt_is_in_two_of_the_three_sets() -> None:
    pool = selecting.prompts()
    split, validation = three_ways(pool, None, seed=0)
    sets = (split.fit, validation, split.test)
    assert sum(len(part) for part in sets) == len(pool)
    ids = [prompt.id for part in sets for prompt in part.prompts]
    assert len(set(ids)) == len(ids)
    given, apart = three_ways(pool, selecting.prompts(60), seed=0)
    assert len(given.fit) + len(apart) == len(pool)
    assert given.test.counts == {"harmful": 12, "harmless": 12}
    assert deduplicate(pool, given.test)[2] == 0
    with pytest.raises(InputError, match="to test on"):
        three_ways(pool, pool, seed=0)


def test_the_best_is_the_least_bypass_and_ties_go_to_the_smaller_kl() -> None:
    rows = tuple(
        Candidate(-1, block, 1.0, 1.0, kl, 4, bypass, fell)
        for block, (kl, bypass, fell) in enumerate(
            [
                (0.05, -3.0, "passed"),
                (0.01, -3.0, "passed"),
                (0.5, None, "KL"),
                (0.0, -1.0, "passed"),
            ]
        )
    )
    found = Sweep(rows, 4, 4)
    assert found.best == rows[1]
    assert [row.block for row in found.nearest(2)] == [3, 1]
    assert found.counts == {"passed": 3, "KL": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"controls": 4},
        {"max_layer": 0.0},
        {"max_kl": float("inf")},
        {"min_induce": float("nan")},
        {"neutral": 1},
    ],
)
def test_options_that_measure_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        SelectOptions(**wrong)


def test_blocks_follow_the_papers_limit() -> None:
    # Llama-3-8B: l < 25.6 of 32, so l is at most 25, which is the output of block 24.
    assert SelectOptions().blocks(32)[-1] == 24
    assert SelectOptions(max_layer=1.0).blocks(4) == (0, 1, 2)
    with pytest.raises(InputError, match="no block"):
        SelectOptions(max_layer=0.2).blocks(4)


def _saved(folder: Path, block: int | None) -> Path:
    return tiny.save(folder, selecting.made(block), extra=(selecting.REFUSAL,))


def _arguments(tmp_path: Path, block: int | None, *more: str) -> list[str]:
    model = _saved(tmp_path / f"model-{block}", block)
    files = [
        tiny.write(tmp_path / f"{label}.jsonl", tiny.rows(label, 48))
        for label in ("harmful", "harmless")
    ]
    return [
        *("--model", str(model), "--harmful", str(files[0]), "--harmless", str(files[1])),
        *("--out", str(tmp_path / "out.safetensors"), "--neutral", "2"),
        *("--dtype", "float32", "--device", "cpu", *more),
    ]


def test_the_command_prints_numbers_controls_and_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(Select, _arguments(tmp_path, PLANTED)) == 0
    said = capsys.readouterr().out
    for expected in ("block 2", "19 random", "claim: causally necessary", "next: python -m"):
        assert expected in said


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Select, _arguments(tmp_path, PLANTED, "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["selected"]["block"] == PLANTED
    assert said["digest"] == artifacts.load(tmp_path / "out.safetensors").manifest.digest
    assert {"drop", "drop_random", "kl", "perplexity_ablated"} <= set(said["measures"])


def test_exit_code_4_with_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = selecting.LAYERS - 1
    assert main(Select, _arguments(tmp_path, last, "--json")) == 4
    said = capsys.readouterr()
    assert json.loads(said.out)["selected"] is None
    assert "none of 6 candidates" in said.err
    assert not (tmp_path / "out.safetensors").exists()
    assert main(Select, _arguments(tmp_path, last)) == 4
    assert "The nearest" in capsys.readouterr().out


def test_a_choice_that_does_no_more_than_chance_is_written_without_a_claim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Filters opened so far that something passes although nothing before the limit mediates."""
    loose = ("--min-induce", "-100", "--max-kl", "100", "--quiet")
    assert main(Select, _arguments(tmp_path, selecting.LAYERS - 1, *loose)) == 4
    assert "no more than random" in capsys.readouterr().err
    stored = artifacts.load(tmp_path / "out.safetensors")
    assert stored.manifest.directions["selected"].claim == "none"


def test_help_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "directions.select", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--max-kl" in done.stdout
    assert "--no-filter" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy"}
