"""Claims: artifact in, components out, the same from rows and moments; bad input is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import artifacts
import directions
from artifacts.artifact import Artifact
from artifacts.command import main
from artifacts.errors import InputError
from directions import CONTRASTS, DecomposeOptions, Options
from directions.decompose import Decompose
from directions.decompose_block import Rows
from directions.decompose_source import RowSource, source_of
from directions.split import join
from evaluation.prompts import PromptSet, read
from probes.angles import principal_angles
from tests.directions.conftest import Pair

LABELS = ("harmful", "harmless")
FEW = DecomposeOptions(components=3, most=4)
PLAIN = Options(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def prompts(pair: Pair) -> PromptSet:
    both = [read(str(path), label=label) for path, label in
            ((pair.harmful, "harmful"), (pair.harmless, "harmless"))]  # fmt: skip
    return join(*both)


@pytest.fixture(scope="module")
def extracted(pair: Pair, prompts: PromptSet) -> dict[str, Artifact]:
    return {
        kind: directions.extract(
            str(pair.base),
            str(pair.aligned),
            fit=prompts,
            options=replace(PLAIN, moments=kind, contrasts=("shift", "template_shift", "did")),
        ).artifact
        for kind in ("rows", "second", "none")
    }


@pytest.fixture(scope="module")
def found(extracted: dict[str, Artifact]) -> directions.Decomposition:
    options = replace(FEW, methods=("affine", "shift-svd"))
    return directions.decompose(extracted["rows"], causal=False, options=options)


def test_every_contrast_and_method_has_components_at_every_block(
    found: directions.Decomposition, extracted: dict[str, Artifact]
) -> None:
    names = [f"{m}_{c}" for m in ("affine", "svd") for c in ("shift", "template_shift", "did")]
    assert list(found.names) == names
    assert found.artifact.manifest.parents == (extracted["rows"].digest,)
    for name in names:
        components = found.components(name).double()
        gram = components @ components.mT
        torch.testing.assert_close(gram, torch.eye(3).double().expand_as(gram), atol=1e-5, rtol=0)
        values = found.singular_values(name)
        assert (values.diff(dim=1) <= 1e-6 * values[:, :1]).all()
        # The direction is the first component, as long as what it explains of one prompt.
        direction = found.artifact.direction(name).double()
        torch.testing.assert_close(
            direction / direction.norm(dim=1, keepdim=True), components[:, 0], atol=1e-5, rtol=0
        )
        sizes = values[:, 0].double() / np.sqrt(48)
        torch.testing.assert_close(direction.norm(dim=1), sizes, atol=0, rtol=1e-5)


def test_the_planted_write_is_the_first_component_of_the_shift(
    found: directions.Decomposition, pair: Pair
) -> None:
    """At the block of the write the shift IS the plant; before it there is no shift at all."""
    for name in ("affine_shift", "svd_shift"):
        assert found.blocks(name) == (pair.block, pair.block + 1)
        first = found.components(name)[0, 0]
        assert abs(float(first @ pair.direction)) > 0.999
        assert found.real(name)
    assert any("affine_shift: the shift is zero" in note for note in found.artifact.manifest.notes)


def test_the_plain_svd_is_that_of_the_rows(
    found: directions.Decomposition, extracted: dict[str, Artifact]
) -> None:
    tensors = extracted["rows"].tensors
    block = found.blocks("svd_shift")[-1]
    kept = extracted["rows"].manifest.method["blocks"]
    assert isinstance(kept, tuple | list)
    row = list(kept).index(block)
    shift = torch.cat(
        [tensors[f"rows/{c}/aligned"][row] - tensors[f"rows/{c}/base"][row] for c in LABELS]
    ).double()
    _, values, right = torch.linalg.svd(shift, full_matrices=False)
    torch.testing.assert_close(
        found.singular_values("svd_shift")[-1].double(), values[:3], rtol=1e-5, atol=0
    )
    first = found.components("svd_shift")[-1, 0].double()
    assert abs(float(first @ right[0])) == pytest.approx(1, abs=1e-5)


def test_signs_put_harmful_prompts_above_harmless_ones(
    found: directions.Decomposition, extracted: dict[str, Artifact]
) -> None:
    source = source_of(extracted["rows"], seed=0)
    assert isinstance(source, RowSource)
    for row, block in enumerate(found.blocks("affine_shift")):
        aligned = source.read(source.blocks.index(block)).fit["aligned.template"]
        gap = aligned[source.fit].mean(0) - aligned[~source.fit].mean(0)
        assert (found.components("affine_shift")[row].double().numpy() @ gap > 0).all()
    assert "harmful prompts lie above" in found.sign_rule


def test_numbers_lie_in_their_intervals_and_have_controls(found: directions.Decomposition) -> None:
    for name in found.names:
        measures = found.artifact.manifest.directions[name].measures
        wanted = {"auc", "auc_random", "captured", "participation", "angle_1", "null_c1"}
        assert wanted <= set(measures)
        assert ("r2" in measures) == ("r2_permuted" in measures) == name.startswith("affine")
        for measure in measures:
            for block in found.blocks(name):
                value, low, high = found.measure(name, measure, block) or (1, 0, 0)
                assert low - 1e-6 <= value <= high + 1e-6


def test_rows_that_hold_their_prompts_differ_from_those_held_out(
    extracted: dict[str, Artifact],
) -> None:
    tensors = extracted["rows"].tensors
    assert tensors["rows/harmful/base"].shape == tensors["rows/harmful.test/base"].shape
    assert not torch.equal(tensors["rows/harmful/base"], tensors["rows/harmful.test/base"])
    source = source_of(extracted["rows"], seed=0)
    assert isinstance(source, RowSource) and source.has(CONTRASTS["did"])
    rows = Rows.of(CONTRASTS["did"], source.read(1).fit)
    cells = source.read(1).fit
    plus = cells["aligned.template"] - cells["aligned.raw"]
    minus = cells["base.template"] - cells["base.raw"]
    np.testing.assert_allclose(rows.shift, plus - minus)
    np.testing.assert_allclose(rows.base, minus)


def test_an_older_artifact_without_held_out_rows_is_split(extracted: dict[str, Artifact]) -> None:
    old = extracted["rows"]
    kept = {k: v for k, v in old.tensors.items() if ".test" not in k and ".raw" not in k}
    older = Artifact(old.manifest, kept)
    result = directions.decompose(older, causal=False, options=FEW)
    assert result.names == ("affine_shift",)
    notes = " ".join(result.artifact.manifest.notes)
    assert "held out at random" in notes
    assert "template_shift: the artifact lacks its states; extract again" in notes
    with pytest.raises(InputError, match="did: the artifact lacks"):
        directions.decompose(older, causal=False, options=replace(FEW, contrasts=("did",)))


def test_rows_and_moments_of_one_extraction_span_one_space(
    extracted: dict[str, Artifact],
) -> None:
    options = replace(FEW, methods=("shift-svd",), contrasts=("shift",))
    rows, second = (
        directions.decompose(extracted[kind], causal=False, options=options)
        for kind in ("rows", "second")
    )
    assert rows.blocks("svd_shift") == second.blocks("svd_shift")
    for first, other, values in zip(
        rows.components("svd_shift"),
        second.components("svd_shift"),
        rows.singular_values("svd_shift"),
        strict=True,
    ):
        real = int((values > 1e-4 * values[0]).sum())
        pairs = (x[:real].double().numpy() for x in (first, other))
        assert principal_angles(*pairs)[-1] < 1e-3
    assert "auc" not in second.artifact.manifest.directions["svd_shift"].measures
    assert any("Gaussian twins" in note for note in second.artifact.manifest.notes)


def test_the_same_seed_gives_the_same_artifact(
    extracted: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    options = replace(FEW, contrasts=("shift",))
    digests = {
        directions.decompose(extracted["rows"], causal=False, options=options).digest
        for _ in range(2)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("none", {}, "neither rows nor second moments; extract again with --moments rows"),
        ("rows", {"components": 40}, "48 fitted prompts cannot give 40 components"),
        ("second", {"components": 47}, "48 fitted prompts cannot give 47 components"),
        ("second", {"contrasts": ("did",)}, "did: the artifact lacks its states"),
    ],
)
def test_what_cannot_be_decomposed_is_refused(
    extracted: dict[str, Artifact], kind: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        directions.decompose(extracted[kind], causal=False, options=replace(FEW, **changes))  # type: ignore[arg-type]


def test_a_decomposition_is_no_source(found: directions.Decomposition) -> None:
    with pytest.raises(InputError, match="directions.extract did not write"):
        directions.decompose(found.artifact, causal=False)


def test_states_that_are_all_equal_are_refused(extracted: dict[str, Artifact]) -> None:
    """A constant class: every prompt of the base has one state, so there is nothing to map from."""
    old = extracted["rows"]
    same = {
        key: torch.ones_like(value) if key.startswith("rows/") and "base" in key else value
        for key, value in old.tensors.items()
    }
    with pytest.raises(InputError, match="all states before the shift are equal"):
        directions.decompose(
            Artifact(old.manifest, same),
            causal=False,
            options=replace(FEW, contrasts=("shift",)),
        )


def test_rows_that_are_not_finite_are_refused(extracted: dict[str, Artifact]) -> None:
    old = extracted["rows"]
    broken = {key: value.clone() for key, value in old.tensors.items()}
    broken["rows/harmful/base"][2, 3, 0] = float("nan")
    with pytest.raises(InputError, match="1 of 48 rows are not finite, the first at prompt 3"):
        directions.decompose(Artifact(old.manifest, broken), causal=False, options=FEW)


def test_another_model_or_other_prompts_are_refused(
    extracted: dict[str, Artifact], pair: Pair, prompts: PromptSet
) -> None:
    with pytest.raises(InputError, match="not those of the artifact"):
        directions.decompose(extracted["rows"], causal=True, options=FEW)
    import hooks

    other = hooks.load(str(pair.base), dtype="float32", device="cpu")
    with pytest.raises(InputError, match="is not the model of the artifact.*digests differ"):
        directions.decompose(
            extracted["rows"], aligned=other, fit=prompts, causal=True, options=FEW
        )
    result = directions.decompose(
        extracted["rows"], options=replace(FEW, contrasts=("shift",))
    )  # no prompts at hand: left out, and said
    assert result.dominant("affine_shift") is None
    assert any("no intervention was run" in note for note in result.artifact.manifest.notes)


def test_the_command_prints_one_object_with_every_number(
    extracted: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    artifacts.save(extracted["rows"], source)
    argv = [str(source), "--out", str(out), "--contrast", "shift", "--components", "3"]
    assert main(Decompose, [*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["digest"] == artifacts.load(out).manifest.digest
    space = said["spaces"]["affine_shift"]
    assert {"rank", "p_any", "effective_rank", "participation_ratio", "verdict"} <= set(space)
    assert len(space["components"]) == 3
    assert {"singular_value", "null", "auc", "effects", "relation"} <= set(space["components"][0])
    assert main(Decompose, argv) == 0
    table = capsys.readouterr().out
    for word in ("affine_shift", "C1", "R2", "sign:", "note:", f"wrote {out}", "next: python -m"):
        assert word in table
    assert main(Decompose, [*argv, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_without_any_component_the_file_is_written_and_the_exit_code_is_4(
    extracted: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shifts dealt to other prompts, in every role: the map has nothing to find."""
    old, rng = extracted["rows"], np.random.default_rng(0)
    tensors = dict(old.tensors)
    for key in old.tensors:
        if key.startswith("rows/") and key.endswith("aligned"):
            base = tensors[key.replace("aligned", "base")]
            noise = rng.normal(size=tuple(base.shape)).astype(np.float32)
            tensors[key] = base + torch.from_numpy(noise)
    source, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    artifacts.save(Artifact(old.manifest, tensors), source)
    argv = [str(source), "--out", str(out), "--contrast", "shift", "--components", "3", "--quiet"]
    assert main(Decompose, argv) == 4
    assert "no component stands above its null" in capsys.readouterr().err
    written = artifacts.load(out)
    assert written.manifest.directions["affine_shift"].claim == "none"


def test_a_pair_is_extracted_first_and_kept_beside(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "d.safetensors"
    argv = pair.arguments(out, "--contrast", "shift", "--components", "3", "--quiet")
    assert main(Decompose, argv) == 0, capsys.readouterr().err
    source = artifacts.load(tmp_path / "d.directions.safetensors")
    assert artifacts.load(out).manifest.parents == (source.manifest.digest,)
