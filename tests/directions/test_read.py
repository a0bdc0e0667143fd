"""The reading command: an artifact's prompts, tokens and masking, with the right exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

import artifacts
import directions
from artifacts.command import main
from artifacts.errors import InputError
from directions import Options
from directions.read import Read, shown
from directions.read_component import read
from directions.read_options import ReadOptions
from evaluation.prompts import Prompt, PromptSet
from evaluation.prompts import read as read_prompts
from tests.directions import tiny
from tests.directions.conftest import Pair


def refusing() -> LlamaForCausalLM:
    """Return a model whose harmful words alone raise one first token: head 0 copies their mark."""
    made = tiny.model()
    words = tiny.tokenizer().convert_tokens_to_ids(list(tiny.HARMFUL_WORDS))
    with torch.no_grad():
        attention = made.model.layers[0].self_attn
        for part in (attention.q_proj, attention.v_proj):
            part.weight.zero_()
        attention.v_proj.weight[0, 0] = attention.o_proj.weight[0, 0] = 4.0
        made.model.embed_tokens.weight[:, 0] = 0
        made.model.embed_tokens.weight[words, 0] = 4.0
        made.lm_head.weight[40, 0] = 20.0
    return made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp("refusing")
    return Pair(
        tiny.save(root / "base", tiny.model()),
        tiny.save(root / "aligned", refusing()),
        tiny.write(root / "harmful.jsonl", tiny.rows("harmful", 48)),
        tiny.write(root / "harmless.jsonl", tiny.rows("harmless", 48)),
        torch.eye(tiny.D_MODEL)[0],
        0,
    )


@pytest.fixture(scope="module")
def made(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of the tiny pair, with two components put beside its direction."""
    out = tmp_path_factory.mktemp("read") / "pair.safetensors"
    options = Options(contrasts=("refusal", "shift"), dtype="float32", device="cpu")
    directions.extract(str(pair.base), str(pair.aligned), fit=both(pair), out=out, options=options)
    whole = artifacts.load(out)
    single = whole.direction("refusal")
    unit = single / single.norm(dim=-1, keepdim=True)
    tensors = {**whole.tensors, "component/refusal": torch.stack([unit, -unit], dim=1)}
    more = out.with_name("more.safetensors")
    artifacts.save(artifacts.Artifact(whole.manifest, tensors), more)
    return more


def both(pair: Pair) -> PromptSet:
    from directions.split import join

    return join(
        read_prompts(pair.harmful, label="harmful"), read_prompts(pair.harmless, label="harmless")
    )


def arguments(pair: Pair, made: Path, *more: str) -> list[str]:
    data = ["--harmful", str(pair.harmful), "--harmless", str(pair.harmless)]
    return [str(made), *data, "--device", "cpu", "--prompts", "8", "--draws", "5", *more]


def test_a_direction_is_read_and_its_first_component_is_itself(
    pair: Pair, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Harmful words carry the mark, so they are the relevant ones, and masking them tells."""
    assert main(Read, arguments(pair, made, "--json", "--masked", "1")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["masking"]["beats"] and found["masking"]["top"][2] < 0
    assert {text for text, _, _ in found["words"][:4]} == set(tiny.HARMFUL_WORDS)
    assert found["name"] == "refusal" and found["component"] is None
    assert found["auc"][1] <= found["auc"][0] <= found["auc"][2]
    assert found["relevance_gap"] < 1e-3 and found["relevance_disagreement"] < 1e-4
    values = [row["value"] for row in found["prompts_high"]]
    assert values == sorted(values, reverse=True)
    assert found["masking"]["n"] == 8 and found["masking"]["draws"] == 5
    assert len(found["examples"]) == 4
    main(Read, arguments(pair, made, "--json", "--component", "1", "--relevance", "off"))
    first = json.loads(capsys.readouterr().out)
    assert first["component"] == 1 and first["masking"] is None
    assert [text for text, _ in first["tokens_high"]] == [t for t, _ in found["tokens_high"]]
    main(Read, arguments(pair, made, "--json", "--component", "2", "--relevance", "off"))
    second = json.loads(capsys.readouterr().out)
    assert second["tokens_high"] != first["tokens_high"]


def test_masking_that_does_not_beat_chance_exits_with_4(
    pair: Pair, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Along the turned direction the mark counts least, so the words masked say nothing."""
    more = ("--json", "--masked", "1", "--component", "2")
    assert main(Read, arguments(pair, made, *more)) == 4
    out = capsys.readouterr()
    assert not json.loads(out.out)["masking"]["beats"]
    assert "no more than masking random ones" in out.err


def test_the_table_says_everything_and_quiet_says_nothing(
    pair: Pair, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(Read, arguments(pair, made, "--block", "1"))
    text = capsys.readouterr().out
    for word in (
        "at blocks.1.hook_resid_post",
        "AUC",
        "random directions",
        "raises:",
        "lowers:",
        "most relevant",
        "random, 5 draws",
        "refusal tokens",
        "next: python -m",
    ):
        assert word in text
    main(Read, arguments(pair, made, "--quiet", "--relevance", "off"))
    assert capsys.readouterr().out == ""


def test_projections_and_ends_are_those_of_the_prompts(pair: Pair, made: Path) -> None:
    import hooks
    from tests.hooks.common import capture

    artifact = artifacts.load(made)
    found = read(
        artifact, "refusal", fit=both(pair), options=ReadOptions(relevance="off", device="cpu")
    )
    used = hooks.load(str(pair.aligned), dtype="float32", device="cpu")
    block = found.subject.block
    site = f"blocks.{block}.hook_resid_post"
    row = artifact.manifest.directions["refusal"].blocks.index(block)
    vector = artifact.direction("refusal")[row]
    texts = [prompt.prompt for prompt in found.prompts]
    along = capture(used, used.encode(texts), site)[site] @ (vector / vector.norm())
    assert found.ends.high[0] == int(along.argmax())
    assert found.ends.low_values[0] == pytest.approx(float(along.min()), abs=1e-4)
    assert [p.label for p in found.prompts] == sorted(p.label for p in found.prompts)


def test_our_own_harmful_prompts_are_named_and_not_printed() -> None:
    harmful = Prompt("h1", "a text", "harmful", category="fraud")
    assert shown(harmful, own=True) == "[h1: fraud]"
    assert shown(harmful, own=False) == "a text"
    assert shown(Prompt("b1", "a\n text", "harmless"), own=True) == "a text"
    assert shown(Prompt("b1", "x" * 80, "harmless"), own=True).endswith("...")


def test_bad_input_is_refused(pair: Pair, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(message: str, *more: str, code: int = 2) -> None:
        assert main(Read, arguments(pair, made, *more)) == code
        assert message in capsys.readouterr().err

    fails("no direction 'nothing'", "--name", "nothing")
    fails("no row at block 9", "--block", "9")
    fails("there are 2", "--component", "3")
    fails("has no components", "--name", "shift", "--component", "1")
    fails("is not the model of the artifact", "--model", str(pair.base))
    assert main(Read, [str(made), "--device", "cpu"]) == 2
    assert "not those of the artifact" in capsys.readouterr().err
    for wrong in ({"component": 0}, {"count": 0}, {"prompts": 7}, {"draws": 4}, {"masked": 0}):
        with pytest.raises(InputError):
            ReadOptions(**wrong)


def test_a_family_without_rules_is_refused_before_any_pass_and_read_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tiny import save

    pair = [str(save(tmp_path / str(seed), "gpt2", seed=seed)) for seed in (0, 1)]
    files = []
    for label in ("harmful", "harmless"):
        file = tiny.write(tmp_path / f"{label}.jsonl", tiny.rows(label, 24))
        files += [f"--{label}", str(file)]
    data = [read_prompts(tmp_path / f"{c}.jsonl", label=c) for c in ("harmful", "harmless")]
    out = tmp_path / "x.safetensors"
    options = Options(contrasts=("shift",), dtype="float32", device="cpu")
    directions.extract(*pair, fit=data[0] + data[1], out=out, options=options)
    argv = [str(out), *files, "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("directions.read_component._states", lambda *_: pytest.fail("a pass ran"))
        assert main(Read, argv) == 2
    said = capsys.readouterr().err
    assert "GPT2LMHeadModel is not among the families whose rules are written" in said
    assert "--relevance off" in said
    assert main(Read, [*argv, "--relevance", "off", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["masking"] is None and found["tokens_high"]


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, directions.read; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
