"""Claim: what is saved is what is loaded, byte for byte the same in every process.

R24 (reproducible bytes), R25 (file mode), R29 (golden file of format 1).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

import artifacts
from artifacts import Artifact, ArtifactError, InputError
from artifacts.canonical import canonical
from artifacts.digest import manifest_json
from tests.artifacts import making

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "format-1.safetensors"
GOLDEN_DIGEST = "c2e62b722afeaf3d0c5ff6257219acd6b67e2efb14e84f5bc20cb94056102a9b"


def test_load_returns_what_save_was_given(tmp_path: Path) -> None:
    path, given = tmp_path / "a.safetensors", making.small()
    digest = artifacts.save(given, path)
    found = artifacts.load(path)
    assert digest == given.digest == found.digest == found.manifest.digest == artifacts.verify(path)
    assert found.manifest.model_copy(update={"digest": ""}) == given.manifest
    assert all(torch.equal(found.tensors[key], given.tensors[key]) for key in given.tensors)
    assert found.names == ("refusal",)
    assert torch.equal(found.direction("refusal"), given.tensors["direction/refusal"])


def test_saving_a_loaded_artifact_again_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    artifacts.save(making.small(), first)
    artifacts.save(artifacts.load(first), second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("change", ["manifest", "value", "key", "shape", "dtype"])
def test_every_part_of_the_content_enters_the_digest(change: str) -> None:
    base = making.small()
    tensors = dict(base.tensors) | {"second/base_base": torch.ones(3, 6, 6)}
    base = Artifact(manifest=base.manifest, tensors=tensors)
    manifest = base.manifest
    if change == "manifest":
        manifest = manifest.model_copy(update={"seed": 8})
    elif change == "value":
        tensors["ambient_norm"] = torch.nextafter(tensors["ambient_norm"], torch.tensor(9.0))
    elif change == "key":
        tensors["base_norm"] = tensors.pop("ambient_norm")
    elif change == "shape":
        tensors["second/base_base"] = torch.ones(3, 36, 1)
    else:
        # As many zero bytes in float64 as in float32, so that only the name of the dtype differs.
        base = Artifact(
            manifest, tensors | {"second/base_base": torch.zeros(4, dtype=torch.float32)}
        )
        tensors["second/base_base"] = torch.zeros(2, dtype=torch.float64)
    assert Artifact(manifest=manifest, tensors=tensors).digest != base.digest


def test_digest_ignores_order_views_and_strides() -> None:
    base = making.small()
    wide = torch.randn(6, 3)
    views = dict(reversed(base.tensors.items())) | {"direction/refusal": wide.T}
    plain = dict(base.tensors) | {"direction/refusal": wide.T.contiguous()}
    assert (
        Artifact(manifest=base.manifest, tensors=views).digest
        == Artifact(manifest=base.manifest, tensors=plain).digest
    )


def test_gradients_shared_memory_and_views_are_saved_as_plain_tensors(tmp_path: Path) -> None:
    base, path = making.small(), tmp_path / "a.safetensors"
    leaf = torch.randn(3, 6, requires_grad=True)
    norms = torch.arange(1.0, 7.0)
    tensors = dict(base.tensors) | {
        "direction/refusal": leaf,
        "ambient_norm": norms[::2],
        "base_norm": norms[::2],
    }
    artifacts.save(Artifact(manifest=base.manifest, tensors=tensors), path)
    found = artifacts.load(path)
    assert torch.equal(found.direction("refusal"), leaf.detach())
    assert found.tensors["base_norm"].tolist() == [1.0, 3.0, 5.0]
    assert leaf.requires_grad  # the argument was not changed


def test_an_artifact_cannot_be_changed_in_place() -> None:
    given = making.small()
    with pytest.raises(TypeError):
        given.tensors["ambient_norm"] = torch.zeros(3)  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        given.manifest = making.manifest(seed=1)  # type: ignore[misc]
    with pytest.raises(InputError, match="it has refusal"):
        given.direction("refusl")


_SAVE = """
import sys
sys.path.insert(0, {root!r})
import artifacts
from tests.artifacts import making
artifacts.save(making.small(), sys.argv[1])
"""


def test_four_processes_write_the_same_bytes(tmp_path: Path) -> None:
    children = []
    for seed in range(4):
        path = tmp_path / f"{seed}.safetensors"
        code = [sys.executable, "-c", _SAVE.format(root=str(ROOT)), str(path)]
        environment = os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
        children.append((subprocess.Popen(code, env=environment), path))
    digests = set()
    for child, path in children:
        assert child.wait(timeout=120) == 0
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    artifacts.save(making.small(seed=1), path)  # twin: other content, other bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() not in digests


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("existing", [False, True])
def test_mode_is_what_the_umask_leaves(tmp_path: Path, umask: int, existing: bool) -> None:
    path = tmp_path / "a.safetensors"
    if existing:
        path.write_bytes(b"old")
        path.chmod(0o600)
    before = os.umask(umask)
    try:
        artifacts.save(making.small(), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_golden_file_of_format_1_loads_with_its_old_digest() -> None:
    found = artifacts.load(GOLDEN)
    assert found.manifest.digest == GOLDEN_DIGEST
    assert found.manifest.format == 1
    assert found.manifest.directions["refusal"].blocks == (0, 1, 3)
    assert found.manifest.method["quantiles"] == (0.1, 0.9)
    assert found.direction("refusal").shape == (3, 6)
    assert found.direction("refusal")[0, 0].item() == pytest.approx(-0.4338788)


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_other_format_versions_are_refused_by_number(tmp_path: Path, version: object) -> None:
    stored = manifest_json(making.manifest()) | {"format": version, "digest": ""}
    path = tmp_path / "a.safetensors"
    path.write_bytes(making.raw(canonical(stored), making.tensors()))
    with pytest.raises(ArtifactError, match=rf"format {version}; .* reads format 1"):
        artifacts.load(path)
