"""On a model that refuses by one direction the report finds it, its cost, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ablation
import artifacts
import hooks
from ablation import AblationReport, Options, read_report
from ablation.run import Run
from artifacts.artifact import Artifact
from artifacts.command import main
from artifacts.errors import InputError
from evaluation.prompts import PromptSet
from tests.ablation import planted
from tests.hooks.common import attached

OPTIONS = Options(limit=8, new_tokens=3, seed=1)


def _other(seed: int) -> Tensor:
    drawn = torch.randn(planted.WIDTH, generator=torch.Generator().manual_seed(seed))
    return drawn - (drawn @ planted.axis()) * planted.axis()


def _artifact(*, offset: float = 0.0) -> Artifact:
    rows = torch.stack([_other(21), 4 * planted.axis(), _other(22)])
    noise = torch.stack([_other(23), _other(24), _other(25)])
    heads = torch.zeros(planted.LAYERS, planted.HEADS)
    heads[planted.WRITER] = 1
    score = {"score/heads": heads}
    return planted.artifact(
        {"refusal": rows, "noise": noise}, planted.model(offset=offset), **score
    )


def _run(
    *, name: str | tuple[str, ...] = "refusal", offset: float = 0.0, **changes: object
) -> AblationReport:
    return ablation.run(
        _artifact(offset=offset),
        name=name,
        model=planted.model(offset=offset),
        prompts=planted.requests("test", 100),
        development=planted.requests("dev", 0),
        judge=planted.Judge(),
        texts=planted.TEXTS,
        options=replace(OPTIONS, **changes),
    )


@cache
def found() -> AblationReport:
    return _run()


def test_the_planted_direction_beats_its_controls_and_a_random_one_does_not() -> None:
    report = found()
    assert report.verdict.beats
    assert report.claim == "causally necessary"
    assert report.clean.harmful.value == 1 > report.ablation.harmful.value == 0
    assert report.ablation.answered.hits == 8
    for control in report.of("control"):
        assert control.harmful.hits == 8
        assert control.margin_harmful.value > 0 > report.ablation.margin_harmful.value
    nothing = _run(name="noise")
    assert not nothing.verdict.beats
    assert nothing.claim == "none"


def test_the_block_is_picked_on_development_prompts() -> None:
    assert found().about.block == 1
    assert _run(block=2).about.block == 2
    assert not _run(block=2).verdict.beats


def test_every_row_has_its_counts_intervals_and_costs() -> None:
    report = found()
    assert [row.role for row in report.rows] == ["clean", "ablation", *["control"] * 5]
    for row in report.rows:
        assert row.harmful.n == row.harmless.n == row.margin_harmful.n == 8
        assert row.incoherent.n == 16
        assert row.harmful.low <= row.harmful.value <= row.harmful.high
        assert (row.kl_first is None) == (row.change is None) == (row.role == "clean")
        assert row.perplexity.n == len(planted.TEXTS)
    change = report.ablation.change
    assert change is not None
    gap = report.ablation.margin_harmful.value - report.clean.margin_harmful.value
    assert change.margin_harmful.value == pytest.approx(gap)
    assert change.harmful.difference.value == -1
    assert len(report.table()[0]) == 9


def test_zero_and_mean_differ_where_the_direction_has_an_offset() -> None:
    """Zero removes an offset that all requests share, the mean leaves it."""
    mean, zero = _run(offset=3.0, block=1), _run(offset=3.0, block=1, mode="zero")
    clean = mean.clean.margin_harmless.value
    assert abs(mean.ablation.margin_harmless.value - clean) < 0.5
    assert abs(zero.ablation.margin_harmless.value - clean) > 1


def test_a_comparison_has_other_ways_and_parts_of_the_depth_with_their_own_controls() -> None:
    report = _run(block=1, compare=True)
    names = [row.name for row in report.of("comparison")]
    assert names == [
        *("zero", "clamp", "mean, half"),
        *("mean, block 0", "mean, block 1", "mean, block 2"),
    ]
    for row in report.of("comparison"):
        assert len(row.control_margins) == 5
    assert report.row("zero").harmful.hits == 0
    # What block 1 reads is where refusal is; behind it the last block alone can still remove it.
    assert report.row("mean, block 1").harmful.hits == 0
    half = report.row("mean, half").margin_harmful.value
    assert report.ablation.margin_harmful.value < half < report.clean.margin_harmful.value
    assert report.ablation.control_margins == ()


def test_the_planted_head_is_found_by_its_score_or_its_name_and_no_other_one_matters() -> None:
    by_score = _run(name="heads", kind="heads", top=1)
    assert by_score.about.where == "heads 1.2"
    assert by_score.verdict.beats
    assert not _run(kind="heads", heads=("1.0", "0.2")).verdict.beats
    units = _run(kind="units", units=("1.3", "2.7"), mode="zero")
    assert not units.verdict.beats


def test_a_subspace_that_holds_the_direction_beats_its_controls() -> None:
    report = _run(name=("refusal", "noise"), kind="subspace", block=1)
    assert report.verdict.beats
    components = torch.stack([torch.stack([_other(28), planted.axis()]) for _ in range(3)])
    made = planted.artifact(
        {"refusal": torch.stack([_other(21)] * 3)}, **{"component/refusal": components}
    )
    for rank, beats in ((1, False), (2, True)):
        again = ablation.run(
            made,
            model=planted.model(),
            prompts=planted.requests("test", 100),
            development=planted.requests("dev", 0),
            judge=planted.Judge(),
            texts=planted.TEXTS,
            options=replace(OPTIONS, kind="subspace", rank=rank, block=1),
        )
        assert again.verdict.beats is beats


def test_a_report_comes_back_from_its_file_and_holds_no_answer(tmp_path: Path) -> None:
    from ablation.result import write_report

    write_report(tmp_path / "report.json", found().to_dict())
    text = (tmp_path / "report.json").read_text()
    assert read_report(tmp_path / "report.json") == found()
    assert planted.SORRY in json.loads(text)["about"]["tokens"]
    assert "hack paint" not in text
    (tmp_path / "bad.json").write_text('{"format": 1}')
    for name in ("bad.json", "none.json"):
        with pytest.raises(InputError):
            read_report(tmp_path / name)


def test_the_same_call_gives_the_same_numbers() -> None:
    again = _run()
    assert again.rows == found().rows
    assert again.verdict == found().verdict


def test_the_model_is_as_before_and_its_weights_too() -> None:
    used = planted.model()
    before = attached(used.hf), [p.clone() for p in used.hf.parameters()]
    _run(block=1)
    assert attached(used.hf) == before[0]
    assert all(torch.equal(a, b) for a, b in zip(used.hf.parameters(), before[1], strict=True))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("refusals", {}, "it has noise, refusal"),
        ("refusal", {"block": 7}, "have rows at 0, 1, 2"),
        ("refusal", {"blocks": "1-9"}, "the model has blocks 0 to 2"),
        ("refusal", {"blocks": "last"}, "write all, 12, or 10-20"),
        (("refusal", "noise"), {}, "takes one name"),
        ("refusal", {"kind": "subspace"}, "needs --rank K, or several names"),
        ("refusal", {"kind": "subspace", "rank": 2}, "has 0 components"),
        (("noise", "noise"), {"kind": "subspace"}, "occurs twice"),
        ("noise", {"kind": "heads"}, "it has heads"),
        ("refusal", {"kind": "heads", "heads": ("1.9",)}, "has heads 0 to 3"),
        ("refusal", {"kind": "heads", "heads": ("1-2",)}, "write BLOCK.INDEX"),
        ("refusal", {"kind": "units", "units": ("5.0",)}, "has blocks 0 to 2"),
    ],
)
def test_input_that_names_nothing_is_refused_in_one_line(
    name: str, changes: dict[str, object], message: str
) -> None:
    before = attached(planted.model().hf)
    with pytest.raises(InputError, match=message) as error:
        _run(name=name, **changes)
    assert "\n" not in str(error.value)
    assert attached(planted.model().hf) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": float("nan")},
        {"alpha": float("inf")},
        {"alpha": 0.0},
        {"controls": 4},
        {"limit": 3},
        {"mode": "clamp", "alpha": 0.5},
        {"mode": "clamp", "kind": "heads"},
        {"heads": ("1.1",)},
        {"rank": 2},
        {"kind": "heads", "blocks": "0-1"},
    ],
)
def test_options_that_mean_nothing_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Options(**changes)


def test_another_model_is_refused_unless_allowed_and_then_recorded() -> None:
    other = hooks.wrap(planted.build(offset=0.1), planted.tokenizer())
    arguments = {
        "model": other,
        "prompts": planted.requests("test", 100),
        "development": planted.requests("dev", 0),
        "judge": planted.Judge(),
        "texts": planted.TEXTS,
    }
    with pytest.raises(InputError, match="is not the model of the artifact"):
        ablation.run(_artifact(), options=OPTIONS, **arguments)
    allowed = replace(OPTIONS, allow_mismatch=True, block=1)
    report = ablation.run(_artifact(), options=allowed, **arguments)
    assert report.about.mismatch == ("weight_digests differs",)
    assert found().about.mismatch == ()


def test_a_model_that_never_refuses_and_prompts_seen_before_are_refused() -> None:
    tame = planted.model(refuses=0.0)
    arguments = {"judge": planted.Judge(), "texts": planted.TEXTS, "options": OPTIONS}
    dev, test = planted.requests("dev", 0), planted.requests("test", 100)
    with pytest.raises(InputError, match="no refusal to ablate|refuses none"):
        ablation.run(
            planted.artifact({"refusal": torch.stack([_other(21)])}, tame),
            model=tame,
            prompts=test,
            development=dev,
            **arguments,
        )
    with pytest.raises(InputError, match="fit and test must differ"):
        ablation.run(_artifact(), model=planted.model(), prompts=dev, development=dev, **arguments)
    one = PromptSet("one", "made", None, dev.harmful)
    with pytest.raises(InputError, match="0 harmless prompts"):
        ablation.run(_artifact(), model=planted.model(), prompts=one, development=dev, **arguments)


def test_a_direction_of_another_site_is_refused_by_its_width() -> None:
    wide = torch.randn(3, planted.WIDTH + 4)
    with pytest.raises(InputError, match=f"width {planted.WIDTH + 4}"):
        ablation.run(
            planted.artifact({"refusal": wide}),
            model=planted.model(),
            prompts=planted.requests("test", 100),
            development=planted.requests("dev", 0),
            judge=planted.Judge(),
            texts=planted.TEXTS,
            options=OPTIONS,
        )


def _on_disk(folder: Path) -> list[str]:
    """Write model, artifact and prompts; return the arguments of the command."""
    model = folder / "model"
    # So mild that what it would say instead stays likely, and so coherent, to the clean model.
    planted.build(refuses=0.6).save_pretrained(model)
    planted.tokenizer().save_pretrained(model)
    used = hooks.load(str(model), dtype="float32", device="cpu")
    rows = torch.stack([_other(21), planted.axis(), _other(22)])
    made = planted.artifact({"refusal": rows, "noise": torch.stack([_other(23)] * 3)}, used)
    artifacts.save(made, folder / "a.safetensors")
    for name, start in (("dev", 0), ("test", 100)):
        lines = [
            json.dumps({"id": p.id, "prompt": p.prompt, "label": p.label})
            for p in planted.requests(name, start).prompts
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return [
        *(str(folder / "a.safetensors"), "--prompts", str(folder / "test.jsonl")),
        *("--development", str(folder / "dev.jsonl"), "--judge", "margin"),
        *("--control", "removed"),
        *("--limit", "8", "--new-tokens", "2", "--dtype", "float32", "--device", "cpu"),
    ]


def test_the_command_writes_a_report_and_its_exit_code_is_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, out = _on_disk(tmp_path), tmp_path / "report.json"
    assert main(Run, [*arguments, "--out", str(out), "--block", "1", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["claim"] == "causally necessary"
    assert read_report(out).verdict.beats
    assert not out.with_name("report.json.journal").exists()
    assert main(Run, [*arguments, "--name", "noise", "--block", "0"]) == 4
    captured = capsys.readouterr()
    assert "random 5" in captured.out
    assert captured.err.strip().splitlines()[-1].startswith("error: noise: ")


def test_bad_input_to_the_command_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _on_disk(tmp_path)
    assert main(Run, [*arguments, "--name", "refusals", "--quiet"]) == 2
    assert "it has noise, refusal" in capsys.readouterr().err
    assert main(Run, [*arguments, "--out", str(tmp_path / "report.txt")]) == 2
    assert main(Run, [str(tmp_path / "none.safetensors")]) in (2, 3)
