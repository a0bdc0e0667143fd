"""Claim: an artifact that contradicts itself is neither saved nor loaded, and the message says why.

R4 (not finite, norm zero), and the shapes that follow from the manifest. Each bad artifact is also
written around our writer, with a right digest, to show that the reader refuses it as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save as plain_save

import artifacts
from artifacts import Artifact, ArtifactError, MeasureInfo
from artifacts.canonical import canonical
from artifacts.digest import content_digest, manifest_json
from tests.artifacts import making


def spoilt(key: str, place: tuple[int, ...], value: float) -> torch.Tensor:
    tensor = making.tensors()[key].clone()
    tensor[place] = value
    return tensor


NAN, INF = float("nan"), float("inf")
D = "direction/refusal"
CASES: dict[str, tuple[dict[str, object], dict[str, torch.Tensor | None], str]] = {
    "NaN": ({}, {D: spoilt(D, (2, 1), NAN)}, "refusal, block 3: 1 of 6 values are not finite"),
    "Inf": ({}, {D: spoilt(D, (1,), INF)}, "refusal, block 1: 6 of 6 values are not finite"),
    "zero norm": (
        {},
        {D: spoilt(D, (1,), 0.0)},
        r"refusal, block 1: norm is zero \(1 of 3 rows\)",
    ),
    "NaN elsewhere": (
        {},
        {"ambient_norm": spoilt("ambient_norm", (0,), NAN)},
        "ambient_norm: 1 of 3 values",
    ),
    "unit norm claimed": (
        {"directions": {"refusal": making.info(norm="unit")}},
        {},
        "norm is 'unit' in the manifest, but rows have norms",
    ),
    "row missing": ({}, {D: torch.ones(2, 6)}, "axis 0 must be 3 .one row for each block"),
    "wrong width": ({}, {D: torch.ones(3, 5)}, "axis 1 must be 6 .the width of hook_resid_post"),
    "wrong width of z": (
        {
            "directions": {"refusal": making.info(site="mlp.hook_post")},
        },
        {},
        "axis 1 must be 12 .the width of mlp.hook_post",
    ),
    "block beyond the model": (
        {"directions": {"refusal": making.info(blocks=(0, 1, 4))}},
        {},
        r"block 4, but the model has 4 blocks \(0-3\)",
    ),
    "direction missing": ({}, {D: None}, "in the manifest, but tensor direction/refusal is not"),
    "direction unannounced": ({}, {"direction/x": torch.ones(3, 6)}, "has no direction x"),
    "measure missing": ({}, {"measure/refusal/auc": None}, "measure auc has no tensor"),
    "measure unannounced": (
        {},
        {"measure/refusal/other": torch.ones(3, 3)},
        "does not describe this measure",
    ),
    "measure without interval": (
        {},
        {"measure/refusal/auc": torch.ones(3, 1)},
        "axis 1 must be 3 .value, low, high",
    ),
    "interval upside down": (
        {},
        {"measure/refusal/auc": torch.tensor([[0.5, 0.6, 0.4]] * 3)},
        "low is above high in 3 rows",
    ),
    "projection of nothing": ({}, {"projection/x/harmful": torch.ones(3, 2)}, "no direction x"),
    "projection rows": (
        {},
        {"projection/refusal/harmful": torch.ones(2, 2)},
        "axis 0 must be 3",
    ),
    "component width": ({}, {"component/refusal": torch.ones(3, 2, 5)}, "axis 2 must be 6"),
    "ambient rows": ({}, {"ambient_norm": torch.ones(2)}, r"2 rows, but the directions have \[3\]"),
    "second not square": ({}, {"second/base_base": torch.ones(3, 6, 5)}, "the last two differ"),
    "score bounds alone": ({}, {"score_low/heads": torch.ones(4, 2)}, "score/heads is missing"),
    "probe role": ({}, {"probe/p/intercept": torch.ones(3)}, "'intercept' with 1 axes"),
    "dtype": ({}, {D: torch.ones(3, 6, dtype=torch.float64)}, "dtype F64; it must be F32"),
    "half": ({}, {D: torch.ones(3, 6, dtype=torch.bfloat16)}, "dtype (torch.bfloat16|BF16)"),
    "axes": ({}, {"ambient_norm": torch.ones(3, 1)}, "must have 1 axes"),
    "empty": ({}, {"projection/refusal/harmful": torch.ones(3, 0)}, "holds nothing"),
    "unknown family": ({}, {"logits": torch.ones(3)}, "no known family"),
    "too many levels": ({}, {"direction/a/b": torch.ones(3, 6)}, "no known family"),
    "unsafe part": ({}, {"projection/refusal/..": torch.ones(3, 2)}, "is not allowed"),
}


@pytest.mark.parametrize("name", CASES)
def test_contradictions_are_refused_both_ways(name: str, tmp_path: Path) -> None:
    changes, changed, message = CASES[name]
    manifest = making.manifest(**changes)
    merged = making.tensors() | changed
    tensors = {key: tensor for key, tensor in merged.items() if tensor is not None}
    path = tmp_path / "a.safetensors"
    with pytest.raises(ArtifactError, match=message):
        artifacts.save(Artifact(manifest, tensors), path)
    assert not path.exists()

    exotic = any(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    digest = "0" * 64 if exotic else content_digest(manifest, tensors)
    text = canonical(manifest_json(manifest) | {"digest": digest})
    path.write_bytes(plain_save(tensors, metadata={"theodolite": text}))
    with pytest.raises(ArtifactError, match=message):
        artifacts.load(path)


def test_every_documented_key_is_accepted(tmp_path: Path) -> None:
    r, n, d, k = 3, 5, 6, 2
    extra = {
        "component/refusal": torch.ones(r, k, d),
        "singular_values/refusal": torch.ones(r, k),
        "mean/harmful/base": torch.ones(r, d),
        "mean/harmful/aligned/attn.hook_z.p-2": torch.ones(r, d),
        "ambient_norm/hook_resid_post.p-1": torch.ones(r),
        "base_norm": torch.ones(r),
        "rows/harmful/base": torch.ones(r, n, d),
        "second/base_shift": torch.ones(r, d, d),
        "second/shift_shift/hook_resid_mid": torch.ones(r, d, d, dtype=torch.float64),
        "score/heads": torch.ones(4, 2),
        "score_low/heads": torch.ones(4, 2),
        "score_high/heads": torch.ones(4, 2),
        "p_value/heads": torch.ones(4, 2),
        "probe/refusal/weight": torch.ones(r, d),
        "probe/refusal/bias": torch.ones(r),
        "probe/refusal/mean": torch.ones(r, d),
        "probe/refusal/scale": torch.ones(r, d),
        "adasteer/harm/coefficient": torch.tensor(0.5),
        "adasteer/steps": torch.tensor([1, 2]),
    }
    path = tmp_path / "a.safetensors"
    given = Artifact(making.manifest(), making.tensors() | extra)
    artifacts.save(given, path)
    found = artifacts.load(path)
    assert found.digest == given.digest
    assert found.tensors["adasteer/harm/coefficient"].shape == ()


def test_shared_tensors_may_have_a_row_for_every_block_of_any_direction(tmp_path: Path) -> None:
    two = {
        "a": making.info(blocks=(0, 1), measures={}),
        "b": making.info(blocks=(1, 3), measures={}),
    }
    tensors = {"direction/a": torch.ones(2, 6), "direction/b": torch.ones(2, 6)}
    path = tmp_path / "a.safetensors"
    for rows in (2, 3):  # one direction's blocks, or the union 0, 1, 3
        shared = tensors | {"ambient_norm": torch.ones(rows)}
        artifacts.save(Artifact(making.manifest(directions=two), shared), path)
    with pytest.raises(ArtifactError, match=r"4 rows, but the directions have \[2, 3\] blocks"):
        shared = tensors | {"ambient_norm": torch.ones(4)}
        artifacts.save(Artifact(making.manifest(directions=two), shared), path)


def test_subnormal_directions_are_not_taken_for_zero(tmp_path: Path) -> None:
    tiny = making.tensors() | {D: torch.full((3, 6), 1e-44)}
    artifacts.save(Artifact(making.manifest(), tiny), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "Extra inputs"),
        ({"kind": "pickle"}, "kind"),
        ({"seed": "7"}, "valid integer"),
        ({"seed": True}, "valid integer"),
        ({"method": {"x": float("nan")}}, "finite"),
        ({"created": "yesterday"}, "created"),
        ({"created": "2026-01-31T12:00:00"}, "not UTC"),
        ({"created": "2026-01-31T12:00:00+02:00"}, "not UTC"),
        ({"contrast": ["refusal"]}, "valid tuple"),
        ({"directions": {"../x": making.info()}}, "not allowed"),
    ],
)
def test_manifests_are_strict(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        making.manifest(**changes)
    assert making.manifest().kind == "direction-set"


@pytest.mark.parametrize("blocks", [(), (1, 0), (0, 0), (-1, 0)])
def test_blocks_are_increasing_and_not_negative(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="blocks"):
        making.info(blocks=blocks)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_coverage(level: float) -> None:
    with pytest.raises(ValidationError, match="level"):
        MeasureInfo(n=1, what="x", level=level)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"surprise": 1}, "manifest field surprise: Extra inputs"),
        ({"seed": "7"}, "manifest field seed: Input should be a valid integer"),
        ({"directions": {"x": {}}}, r"manifest field directions.x.site: Field required \(and 8"),
    ],
)
def test_the_reader_names_the_manifest_field_it_refuses(
    changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    from artifacts.digest import digest_of

    stored = manifest_json(making.manifest()) | changed
    stored["digest"] = digest_of(stored, making.tensors())
    path = tmp_path / "a.safetensors"
    path.write_bytes(making.raw(canonical(stored), making.tensors()))
    with pytest.raises(ArtifactError, match=message):
        artifacts.load(path)
