"""The content digest of an artifact.

    D = SHA-256( tag | block(canonical manifest without digest)
                     | for each tensor in sorted key order: block(canonical [key, dtype, shape])
                                                          | block(little-endian bytes) )

with block(b) = 8-byte little-endian length followed by b, so no two contents share one byte
stream. The digest shows that nothing changed since saving; it is not a signature and does not show
who saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from artifacts.canonical import Json, canonical, without
from artifacts.manifest import Manifest


@runtime_checkable
class _Sha(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


_TAG = b"theodolite artifact 1\n"

Tensors = Mapping[str, Shaped[Tensor, "..."]]
"""Tensors by key, of any shape; an alias because linters misread the lone ellipsis."""

DTYPES: Mapping[torch.dtype, tuple[str, str]] = {
    torch.float32: ("F32", "<f4"),
    torch.float64: ("F64", "<f8"),
    torch.int64: ("I64", "<i8"),
}
"""What an artifact may hold: torch dtype -> (safetensors name, little-endian NumPy dtype)."""


def manifest_json(manifest: Manifest) -> dict[str, Json]:
    """Return the manifest as plain JSON values, in the form that is stored."""
    return manifest.model_dump(mode="json")


def content_digest(manifest: Manifest, tensors: Tensors) -> str:
    """Return the digest of a manifest in memory and its tensors, as 64 hexadecimal digits."""
    return digest_of(manifest_json(manifest), tensors)


def digest_of(manifest: Mapping[str, Json], tensors: Tensors) -> str:
    """Return the digest for a manifest given as JSON values; its ``digest`` entry is ignored.

    The reader uses the JSON values as stored, so that a later version which adds optional fields
    to the models still verifies old files.
    """
    sha = hashlib.sha256(_TAG)
    _block(sha, canonical(without(manifest, "digest")).encode("ascii"))
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        name, little_endian = DTYPES[tensor.dtype]
        _block(sha, canonical([key, name, list(tensor.shape)]).encode("ascii"))
        data = np.ascontiguousarray(tensor.numpy().astype(little_endian, copy=False))
        _block(sha, data.reshape(-1).data.cast("B"))
    return sha.hexdigest()


def _block(sha: _Sha, data: bytes | memoryview) -> None:
    sha.update(len(data).to_bytes(8, "little"))
    sha.update(data)
