"""Rules for names that may become tensor keys or files, so that no name leaves its folder.

One rule everywhere (directions, classes, measures, shards, cache entries): a letter or digit, then
at most 95 letters, digits, dots, underscores or hyphens; no ``..``; no trailing dot; no device name
of Windows.
"""

from __future__ import annotations

import re
from pathlib import Path

from artifacts.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)


def check_name(name: str, *, what: str = "name") -> str:
    """Return ``name`` unchanged if it is safe as a file name on every system.

    Args:
        name: the candidate.
        what: what the name is for; used in the message.

    Returns:
        The same string.

    Raises:
        InputError: if the name breaks a rule; the message quotes it and states the rule.
    """
    if (
        _NAME.fullmatch(name) is None
        or ".." in name
        or name.endswith(".")
        or _DEVICES.match(name) is not None
    ):
        raise InputError(
            f"{what} {name[:120]!a} is not allowed; use letters, digits, '.', '_' or '-', start "
            "with a letter or digit, at most 96 characters, no '..' and no device name"
        )
    return name


def safe_join(root: Path, name: str) -> Path:
    """Return ``root / name`` if that is an ordinary place directly inside ``root``.

    Args:
        root: an existing or future folder.
        name: one path component that satisfies :func:`check_name`.

    Returns:
        The joined path, unresolved.

    Raises:
        InputError: if the name is not allowed, or a symbolic link stands at that place.
    """
    path = root / check_name(name, what="file name")
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link; remove it or choose another name")
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{name!a} leads outside {root}; choose a plain file name")
    return path


def check_target(path: Path) -> Path:
    """Return ``path`` unchanged if an artifact can be written there, before any work is done.

    Raises:
        InputError: if the suffix is not .safetensors, a link or folder is there, or its folder is
            missing.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"--out {path}: the name must end in .safetensors")
    if path.is_symlink() or path.is_dir():
        raise InputError(f"--out {path} is a link or a folder; choose a file name")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: folder {path.parent} does not exist; create it first")
    return path
