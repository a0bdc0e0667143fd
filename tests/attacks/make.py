"""Write the attack corpus: small hostile or mistaken files, the same bytes every time.

Run ``python -m tests.attacks.make`` to write the files beside this module; a test asserts that the
files in the repository are these bytes. The pickle payload only creates a file named CANARY in the
working folder.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.artifacts import making

FOLDER = Path(__file__).parent / "files"
CANARY = "CANARY"


class Canary:
    """Unpickling this opens a file for writing: harmless proof that code ran."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (CANARY, "w")


def pickled(protocol: int) -> bytes:
    return pickle.dumps(Canary(), protocol=protocol)


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Canary()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def header(text: str | bytes, body: bytes = b"") -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return len(data).to_bytes(8, "little") + data + body


def tensor(dtype: str, shape: list[int], span: list[int]) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def with_metadata(metadata: dict[str, str], **tensors: object) -> bytes:
    return header(json.dumps({"__metadata__": metadata, **tensors}))


def mistakes() -> dict[str, tuple[bytes, str]]:
    """Files of another kind: name -> (bytes, what the message must say)."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    return {
        "empty.safetensors": (b"", "an empty file"),
        "lfs-pointer.safetensors": (pointer, "a Git-LFS pointer"),
        "page.safetensors": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML"),
        "page-after-blank.safetensors": (b"\n  <html lang=en></html>", "an HTML"),
        "torch-zip.pt": (
            zipped("archive/data.pkl", pickled(2)),
            "a zip archive, perhaps a PyTorch",
        ),
        "empty.zip": (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
        "protocol-0.pkl": (pickled(0), "a pickle file"),
        "protocol-2.pkl": (pickled(2), "a pickle file"),
        "protocol-4.pt": (pickled(4), "a pickle file"),
        "protocol-5.pkl": (pickled(5), "a pickle file"),
        "compressed.joblib": (zlib.compress(pickled(4)), "zlib data, perhaps a compressed joblib"),
        "object.npy": (npy(), "a NumPy .npy file"),
        "vector.gguf": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "a GGUF file"),
        "packed.safetensors.gz": (gzip.compress(b"x", mtime=0), "a gzip archive"),
        "vector.svec": (b'{"model_type": "llama", "directions": {}}', "a JSON text"),
        "noise.safetensors": (bytes(range(255, 191, -1)), "not a safetensors file"),
        "weights.safetensors": (
            with_metadata({"format": "pt"}, w=tensor("F32", [1], [0, 4])) + bytes(4),
            "without a theodolite manifest, perhaps model weights.*'format'",
        ),
        "no-metadata.safetensors": (
            header(json.dumps({"w": tensor("F32", [1], [0, 4])}), bytes(4)),
            "without a theodolite manifest.*none",
        ),
    }


def exploits() -> dict[str, tuple[bytes, str]]:
    """Files built to confuse a reader: name -> (bytes, what the message must say)."""
    ok = '{"theodolite": "{}"}'
    deep = '{"a":' * 400 + "1" + "}" * 400
    return {
        "header-of-8-exabytes": ((1 << 63).to_bytes(8, "little") + b"{}", "the header claims"),
        "header-beyond-the-end": ((4_000).to_bytes(8, "little") + b"{}" + bytes(9), "cut short"),
        "header-not-utf8": (header(b'{"\xff\xfe": 1}'), "not UTF-8"),
        "header-not-json": (header("{not json}"), "not strict JSON"),
        "header-truncated-json": (header('{"__metadata__": {'), "not strict JSON"),
        "duplicate-header-key": (
            header(f'{{"__metadata__": {ok}, "__metadata__": {ok}}}'),
            "duplicate key '__metadata__'",
        ),
        "duplicate-manifest-key": (
            with_metadata({"theodolite": '{"format":1,"format":1}'}),
            "duplicate key 'format'",
        ),
        "metadata-is-nested": (
            header('{"__metadata__": {"theodolite": {"format": 1}}}'),
            "not a text",
        ),
        "metadata-has-two-keys": (
            with_metadata({"theodolite": "{}", "workbench": "{}"}),
            "2 metadata keys",
        ),
        "manifest-is-a-list": (with_metadata({"theodolite": "[1]"}), "not a JSON object"),
        "manifest-overflows": (
            with_metadata({"theodolite": '{"format":1,"seed":1e999}'}),
            "too large for a float",
        ),
        "manifest-has-nan": (with_metadata({"theodolite": '{"seed":NaN}'}), "NaN is not"),
        "manifest-has-infinity": (with_metadata({"theodolite": '{"a":-Infinity}'}), "-Infinity"),
        "manifest-is-deep": (with_metadata({"theodolite": deep}), "nested deeper than 16"),
        "manifest-has-a-huge-integer": (
            with_metadata({"theodolite": '{"seed":' + "9" * 5000 + "}"}),
            "not strict JSON",
        ),
        "header-is-deep": (header('{"a":' + "[" * 10_000 + "]" * 10_000 + "}"), "nested deeper"),
        "manifest-not-canonical": (
            with_metadata({"theodolite": '{ "format":1, "digest":""}'}),
            "not in canonical form",
        ),
        "manifest-without-digest": (with_metadata({"theodolite": '{"format":1}'}), "no digest"),
    } | _bodies()


def _bodies() -> dict[str, tuple[bytes, str]]:
    meta = {"theodolite": '{"digest":"","format":1}'}
    f4 = "ambient_norm"
    return {
        "trailing-bytes": (
            with_metadata(meta, **{f4: tensor("F32", [1], [0, 4])}) + bytes(4) + b"PK\x03\x04",
            "damaged safetensors",
        ),
        "hole-in-the-data": (
            with_metadata(meta, **{f4: tensor("F32", [1], [4, 8])}) + bytes(8),
            "damaged safetensors",
        ),
        "overlap": (
            with_metadata(
                meta,
                ambient_norm=tensor("F32", [1], [0, 4]),
                base_norm=tensor("F32", [1], [0, 4]),
            )
            + bytes(4),
            "damaged safetensors",
        ),
        "shape-overflows": (
            with_metadata(meta, **{f4: tensor("F32", [1 << 62, 1 << 62], [0, 4])}) + bytes(4),
            "damaged safetensors",
        ),
        "shape-is-empty": (
            with_metadata(meta, **{f4: tensor("F32", [0], [0, 0])}),
            "holds nothing",
        ),
        "dtype-without-name": (
            with_metadata(meta, **{f4: tensor("Q4", [1], [0, 4])}) + bytes(4),
            "damaged safetensors",
        ),
        "dtype-not-allowed": (
            with_metadata(meta, **{f4: tensor("BF16", [2], [0, 4])}) + bytes(4),
            "dtype BF16; it must be F32",
        ),
        "key-climbs-out": (
            with_metadata(meta, **{"direction/../../x": tensor("F32", [1, 1], [0, 4])}) + bytes(4),
            "no known family",
        ),
        "key-is-a-device": (
            with_metadata(meta, **{"direction/NUL": tensor("F32", [1, 1], [0, 4])}) + bytes(4),
            "'NUL' is not allowed",
        ),
        "empty-but-well-formed": (making.raw('{"digest":"","format":1}'), "does not match its dig"),
    }


def corpus() -> dict[str, tuple[bytes, str]]:
    return mistakes() | exploits()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, (data, _) in corpus().items():
        (FOLDER / name).write_bytes(data)
