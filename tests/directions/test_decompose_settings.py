"""Claims: a decomposition of a pair whose truth is known names the component that carries refusal
dominant, one that does not is not; and what was made of it reads its states under its settings.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import artifacts
import directions
import hooks
from artifacts.artifact import Artifact
from artifacts.command import main
from directions import DecomposeOptions, Options, SelectOptions
from directions.decompose import Decompose
from directions.read_component import read
from directions.read_options import ReadOptions
from hooks import Capture, Rows
from tests.directions import selecting, tiny

PLANTED = 2
FEW = DecomposeOptions(contrasts=("shift",), components=2, most=3)
ROWS = Options(contrasts=("shift", "refusal"), moments="rows", dtype="float32", device="cpu")


def _save(folder: Path, model: object) -> str:
    return str(tiny.save(folder, model, extra=(selecting.REFUSAL,)))  # type: ignore[arg-type]


def _also_invisible(block: int):
    """A refusing model in which one head more writes, but where no refusal token looks."""
    made = selecting.made(block)
    planted, mark = selecting.vectors()
    rng = torch.Generator().manual_seed(9)
    other = torch.randn(tiny.D_MODEL, generator=rng)
    other -= planted * (planted @ other) + mark * (mark @ other)
    attention = made.model.layers[block].self_attn
    with torch.no_grad():
        attention.v_proj.weight[1] = mark
        attention.o_proj.weight[:, 1] = 2 * other / other.norm()
    return made, other / other.norm()


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """States of a pair whose aligned side writes the refusal direction at one block."""
    root = tmp_path_factory.mktemp("carried")
    pair = _save(root / "base", selecting.made(None)), _save(root / "own", selecting.made(PLANTED))
    return directions.extract(*pair, fit=selecting.prompts(), options=ROWS).artifact


@pytest.fixture(scope="module")
def found(carried: Artifact) -> directions.Decomposition:
    return directions.decompose(carried, fit=selecting.prompts(), causal=True, options=FEW)


def test_the_component_that_carries_refusal_is_dominant(found: directions.Decomposition) -> None:
    planted, _ = selecting.vectors()
    name = "affine_shift"
    assert found.dominant(name)
    assert "moves refusal more than random" in found.verdict(name)
    first, second = found.table(name)
    row = found.blocks(name).index(found.best_block(name))
    cosine = torch.cosine_similarity(found.components(name)[row, 0], planted, dim=0)
    assert abs(float(cosine)) > 0.95
    for part, sign in (("removed", -1), ("added", 1)):
        effect = first.effects[part]
        assert effect.beats and sign * effect.value > 0
        assert not effect.controls[0] <= effect.value <= effect.controls[1]
    assert first.relation == "itself"
    assert second.relation in {"promotes", "suppresses", "none"}
    info = found.artifact.manifest.directions[name]
    assert info.claim == "causally necessary"


def test_the_sign_puts_what_is_refused_above_what_is_not(
    found: directions.Decomposition, carried: Artifact
) -> None:
    """By the rule that is written in the file, at every block and for every component."""
    assert "refused prompts" in found.sign_rule
    tensors = carried.tensors
    harmful, harmless = (tensors[f"rows/{c}/aligned"].double() for c in ("harmful", "harmless"))
    blocks = list(carried.manifest.method["blocks"])  # type: ignore[arg-type]
    for row, block in enumerate(found.blocks("affine_shift")):
        place = blocks.index(block)
        gap = harmful[place].mean(0) - harmless[place].mean(0)  # it refuses all harmful ones
        assert (found.components("affine_shift")[row].double() @ gap > 0).all()


def test_a_component_that_moves_no_refusal_is_real_and_not_dominant(tmp_path: Path) -> None:
    made, other = _also_invisible(PLANTED)
    base = _save(tmp_path / "base", selecting.made(PLANTED))
    own = _save(tmp_path / "own", made)
    data = selecting.prompts()
    states = directions.extract(base, own, fit=data, options=ROWS).artifact
    found = directions.decompose(states, fit=data, causal=True, options=FEW)
    name = "affine_shift"
    assert found.real(name)
    row = found.blocks(name).index(found.best_block(name))
    first = found.components(name)[row, 0]
    assert abs(float(torch.cosine_similarity(first, other, dim=0))) > 0.9
    assert found.dominant(name) is False
    assert "does not move" in found.verdict(name)
    assert found.artifact.manifest.directions[name].claim != "causally necessary"


def test_held_out_r2_is_of_the_shift_and_not_of_the_states(
    found: directions.Decomposition, carried: Artifact
) -> None:
    """An oracle by scikit-learn at the penalty chosen; that of the states would be near 1."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    name = "affine_shift"
    row, block = 0, found.blocks("affine_shift")[0]
    place = list(carried.manifest.method["blocks"]).index(block)  # type: ignore[arg-type]

    def states(end: str, side: str) -> np.ndarray:
        parts = [carried.tensors[f"rows/{c}{end}/{side}"][place] for c in ("harmful", "harmless")]
        return torch.cat(parts).double().numpy()

    fit, test = ({s: states(end, s) for s in ("base", "aligned")} for end in ("", ".test"))
    shift = fit["aligned"] - fit["base"]
    penalty = float(str(found.at(f"penalty.{name}", row)))
    ridge = Ridge(alpha=penalty, solver="svd").fit(fit["base"], shift)
    left = test["aligned"] - test["base"] - ridge.predict(test["base"])
    moved = test["aligned"] - test["base"] - shift.mean(0)
    want = 1 - np.square(left).sum() / np.square(moved).sum()
    value, low, high = found.measure(name, "r2", block) or (0, 0, 0)
    assert value == pytest.approx(want, abs=1e-5)
    assert low <= value <= high
    predicted = test["base"] + ridge.predict(test["base"])
    of_states = r2_score(test["aligned"], predicted, multioutput="variance_weighted")
    assert abs(of_states - value) > 1e-3


def test_states_that_hardly_move_have_no_share_explained() -> None:
    """Negative twin: base against itself with a little noise; the states explain themselves."""
    from directions.decompose_held_out import share_explained
    from directions.residual_space import ridge

    rng = np.random.default_rng(0)
    base = 10 * rng.normal(size=(80, 12))
    noise = 0.01 * rng.normal(size=(80, 12))
    space = ridge(base[:40], noise[:40]).solve(1e6, 3)
    left = noise[40:] - space.predict(base[40:])
    of_shift = share_explained(left, noise[40:] - space.shift_mean, 0)
    of_states = share_explained(left, base[40:] - base[40:].mean(0), 0)
    assert float(of_shift.value) < 0.05
    assert float(of_states.value) > 0.999


def test_the_table_of_the_command_has_every_column_of_a_component(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path
    pair = ["--base", _save(root / "b", selecting.made(None))]
    pair += ["--aligned", _save(root / "a", selecting.made(PLANTED))]
    for label in ("harmful", "harmless"):
        file = tiny.write(root / f"{label}.jsonl", tiny.rows(label, 48))
        pair += [f"--{label}", str(file)]
    argv = [*pair, "--out", str(root / "d.safetensors"), "--dtype", "float32", "--device", "cpu"]
    argv += ["--contrast", "shift", "--components", "2", "--most", "3", "--causal", "on", "--json"]
    assert main(Decompose, argv) == 0
    said = json.loads(capsys.readouterr().out)["spaces"]["affine_shift"]
    assert said["dominant"] is True
    first = said["components"][0]
    assert {"singular_value", "null", "auc", "real", "relation"} <= set(first)
    for component in said["components"]:
        assert set(component["effects"]) == {"removed", "added", "on_c1"}
        for effect in component["effects"].values():
            assert effect["low"] <= effect["value"] <= effect["high"]
            assert {"controls", "p", "n", "beats"} <= set(effect)


# Settings of the extraction


@pytest.fixture(scope="module")
def under(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same pair, read under a system prompt."""
    root = tmp_path_factory.mktemp("under")
    pair = _save(root / "base", selecting.made(None)), _save(root / "own", selecting.made(PLANTED))
    options = replace(ROWS, system="please bake", stream="model")
    return directions.extract(*pair, fit=selecting.prompts(), options=options).artifact


def _last(model: hooks.Model, prompts: list[str], block: int, system: str | None) -> torch.Tensor:
    rows = Rows()
    site = f"blocks.{block}.hook_resid_post"
    with model.hooks(capture=Capture(site, into=rows)) as run:
        run.forward(model.encode(prompts, system=system))
    return rows[site]  # type: ignore[return-value]


def test_a_component_is_read_under_the_system_prompt_of_its_extraction(under: Artifact) -> None:
    made = directions.decompose(under, causal=False, options=FEW).artifact
    for name in ("dtype", "passes", "stream", "system", "split"):
        assert made.manifest.method[name] == under.manifest.method[name]
    assert made.manifest.method["system"] == "please bake"
    assert made.manifest.method["name"] == "decomposition"
    found = read(
        made,
        "affine_shift",
        fit=selecting.prompts(),
        options=ReadOptions(relevance="off", device="cpu", component=1),
    )
    used = hooks.load(under.manifest.aligned.spec, dtype="float32", device="cpu")  # type: ignore[union-attr]
    row = made.manifest.directions["affine_shift"].blocks.index(found.subject.block)
    unit = made.tensors["component/affine_shift"][row, 0]
    texts = [prompt.prompt for prompt in found.prompts]
    block = found.subject.block
    along, plain = (_last(used, texts, block, system) @ unit for system in ("please bake", None))
    assert found.ends.high_values[0] == pytest.approx(float(along.max()), abs=1e-4)
    assert found.ends.high_values[0] != pytest.approx(float(plain.max()), abs=1e-2)


def test_candidates_are_scored_under_the_system_prompt_of_their_extraction(
    under: Artifact, carried: Artifact
) -> None:
    options = SelectOptions(neutral=2, dtype="float32", device="cpu", filter=False)
    with_, without = (
        directions.select(candidates=each, prompts=selecting.prompts(), options=options)
        for each in (under, carried)
    )
    used = hooks.load(under.manifest.aligned.spec, dtype="float32", device="cpu")  # type: ignore[union-attr]
    data = with_.artifact.manifest.data
    assert not any("other prompts" in note for note in with_.artifact.manifest.notes)
    assert [entry.n for entry in data] == [entry.n for entry in without.artifact.manifest.data]
    from directions.selection import three_ways
    from evaluation.judges import margins

    split, _ = three_ways(selecting.prompts(), None, seed=0)
    rows = used.encode([p.prompt for p in split.test.harmful], system="please bake")
    want = float(margins(used, rows, with_.tokens).mean())
    assert with_.measure("clean_harmful")[0] == pytest.approx(want, abs=1e-4)
    assert without.measure("clean_harmful")[0] != pytest.approx(want, abs=1e-3)


def test_an_artifact_of_a_decomposition_keeps_its_settings_on_disk(
    under: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "d.safetensors"
    directions.decompose(under, causal=False, options=FEW, out=out)
    assert artifacts.load(out).manifest.method["system"] == "please bake"
