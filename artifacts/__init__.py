"""Store and verify what theodolite found: one safetensors file per artifact, nothing else needed.

    artifact = artifacts.load("directions.safetensors")
    refusal = artifact.direction("refusal")        # [rows, d_model] float32
    digest = artifacts.save(artifact, "copy.safetensors")

The file format is described in ``docs/artifact-format.md``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from artifacts.errors import (
    ArtifactError,
    InputError,
    LockedError,
    NotBeaten,
    SystemFailure,
    TheodoliteError,
)

if TYPE_CHECKING:
    from artifacts.artifact import Artifact
    from artifacts.locks import locked
    from artifacts.manifest import (
        DataInfo,
        DirectionInfo,
        Manifest,
        MeasureInfo,
        ModelInfo,
        TokenizerInfo,
        ToolInfo,
    )
    from artifacts.names import check_name, safe_join
    from artifacts.provenance import timestamp, tool, versions
    from artifacts.read import load, verify
    from artifacts.write import save, write_file

_HOMES = {
    "Artifact": "artifacts.artifact",
    "DataInfo": "artifacts.manifest",
    "DirectionInfo": "artifacts.manifest",
    "Manifest": "artifacts.manifest",
    "MeasureInfo": "artifacts.manifest",
    "ModelInfo": "artifacts.manifest",
    "TokenizerInfo": "artifacts.manifest",
    "ToolInfo": "artifacts.manifest",
    "check_name": "artifacts.names",
    "load": "artifacts.read",
    "locked": "artifacts.locks",
    "safe_join": "artifacts.names",
    "save": "artifacts.write",
    "timestamp": "artifacts.provenance",
    "tool": "artifacts.provenance",
    "verify": "artifacts.read",
    "versions": "artifacts.provenance",
    "write_file": "artifacts.write",
}

__all__ = [
    "Artifact",
    "ArtifactError",
    "DataInfo",
    "DirectionInfo",
    "InputError",
    "LockedError",
    "Manifest",
    "MeasureInfo",
    "ModelInfo",
    "NotBeaten",
    "SystemFailure",
    "TheodoliteError",
    "TokenizerInfo",
    "ToolInfo",
    "check_name",
    "load",
    "locked",
    "safe_join",
    "save",
    "timestamp",
    "tool",
    "verify",
    "versions",
    "write_file",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'artifacts' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
