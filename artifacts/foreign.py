"""Say what a file is when it is not an artifact, from its first bytes, without reading on."""

from __future__ import annotations

import re

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git-LFS pointer; fetch the real file with `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch .pt file; pickle files are never read"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"GGUF", "a GGUF file of llama.cpp, not an artifact"),
    (b"\x93NUMPY", "a NumPy .npy file, not an artifact"),
    (b"\x89HDF\r\n", "an HDF5 file, not an artifact"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"\x78\x01", "zlib data, perhaps a compressed joblib pickle; pickle files are never read"),
    (b"\x78\x9c", "zlib data, perhaps a compressed joblib pickle; pickle files are never read"),
    (b"\x78\xda", "zlib data, perhaps a compressed joblib pickle; pickle files are never read"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\x7fELF", "a program, not an artifact"),
)

_PICKLE = re.compile(rb"\x80[\x02-\x05]|\(dp\d|\(lp\d|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n")
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_TAR = slice(257, 262)


def recognise(head: bytes) -> str | None:
    """Name a known kind of file from its first 512 bytes.

    Args:
        head: the beginning of the file.

    Returns:
        A phrase that completes "this is ...", or None for an unknown kind. None does not mean that
        the file is an artifact.
    """
    if not head:
        return "an empty file (0 bytes); the download or the copy failed"
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if _PICKLE.match(head):
        return "a pickle file (.pkl, .pt, .joblib); pickle files are never read"
    if _PAGE.match(head):
        return "an HTML or XML page, perhaps a login or error page saved instead of the file"
    if head[_TAR] == b"ustar":
        return "a tar archive; unpack it first"
    if re.match(rb"\s*[\[{]", head):
        return "a JSON text, not an artifact; a peer's format needs a converter"
    return None
