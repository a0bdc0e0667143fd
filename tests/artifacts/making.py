"""Small artifacts with known content for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import artifacts
from artifacts import (
    Artifact,
    DataInfo,
    DirectionInfo,
    Manifest,
    MeasureInfo,
    ModelInfo,
    TokenizerInfo,
    ToolInfo,
)

TOOL = ToolInfo(version="0.1.0", commit=None, dirty=None)
CREATED = "2026-01-31T12:00:00+00:00"


def model(spec: str = "toy", **changes: object) -> ModelInfo:
    fields: dict[str, object] = {
        "spec": spec,
        "revision": None,
        "config_digest": "c" * 64,
        "weight_digests": {"model.safetensors": "a" * 64},
        "adapter_digest": None,
        "dtype": "float32",
        "attention": "sdpa",
        "n_layers": 4,
        "n_heads": 2,
        "n_kv_heads": 1,
        "d_model": 6,
        "d_head": 3,
        "d_mlp": 12,
    }
    return ModelInfo.model_validate(fields | changes)


def info(**changes: object) -> DirectionInfo:
    fields: dict[str, object] = {
        "site": "hook_resid_post",
        "position": "last",
        "blocks": (0, 1, 3),
        "norm": "raw",
        "sign_rule": "positive on harmful",
        "n": {"harmful": 8, "harmless": 8},
        "contrast": "refusal",
        "claim": "decodable",
        "measures": {"auc": MeasureInfo(n=16, what="area under the ROC curve", level=0.95)},
    }
    return DirectionInfo.model_validate(fields | changes)


def manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "kind": "direction-set",
        "created": CREATED,
        "tool": TOOL,
        "base": model(),
        "aligned": model("toy+adapter", adapter_digest="d" * 64),
        "tokenizer": TokenizerInfo(digest="e" * 64, chat_template_digest=None),
        "data": (
            DataInfo(source="f.jsonl", digest="f" * 64, n={"harmful": 8}, role="fit"),
            DataInfo(source="t.jsonl", digest="b" * 64, n={"harmful": 16}, role="test"),
        ),
        "positions": "last",
        "contrast": ("refusal",),
        "method": {"estimator": "mean difference", "folds": 2, "quantiles": (0.1, 0.9)},
        "directions": {"refusal": info()},
        "seed": 7,
        "versions": {"python": "3.11"},
        "device": "cpu",
    }
    return Manifest.model_validate(fields | changes)


def tensors(seed: int = 0, rows: int = 3, width: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(rows, 1, generator=generator) / 2 + 0.25
    return {
        "direction/refusal": torch.randn(rows, width, generator=generator),
        "measure/refusal/auc": torch.cat([value, value - 0.1, value + 0.1], dim=1),
        "ambient_norm": torch.rand(rows, generator=generator) + 1,
        "projection/refusal/harmful": torch.randn(rows, 4, generator=generator),
    }


def small(seed: int = 0) -> Artifact:
    return Artifact(manifest=manifest(), tensors=tensors(seed))


def raw(manifest_text: str, data: dict[str, torch.Tensor] | None = None, **header: object) -> bytes:
    """Bytes of a safetensors file with any metadata text, valid or not; F32 tensors only."""
    body, entries = b"", {}
    for key, tensor in sorted((data or {}).items()):
        chunk = tensor.contiguous().numpy().tobytes()
        span = [len(body), len(body) + len(chunk)]
        entries[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
        body += chunk
    entries |= header
    text = json.dumps({"__metadata__": {"theodolite": manifest_text}} | entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def parts(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Manifest text and tensors of a valid file, to build changed copies with ``raw``."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + length])["__metadata__"]["theodolite"]
    return text, dict(artifacts.load(path).tensors)


def same(left: Artifact, right: Artifact) -> bool:
    return (
        left.manifest == right.manifest
        and left.tensors.keys() == right.tensors.keys()
        and all(torch.equal(left.tensors[key], right.tensors[key]) for key in left.tensors)
    )
