"""Facts about the running software that go into a manifest: time, tool and library versions."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from artifacts.errors import InputError
from artifacts.manifest import ToolInfo

_LIBRARIES = ("torch", "transformers", "transformer-lens", "numpy", "scikit-learn", "safetensors")
_DISTRIBUTION = "theodolite"


def timestamp() -> str:
    """Return the present time in UTC to the second, or ``SOURCE_DATE_EPOCH`` where that is set.

    The variable is the convention of reproducible-builds.org; with it, two runs that compute the
    same numbers write the same bytes.

    Raises:
        InputError: if ``SOURCE_DATE_EPOCH`` is not a number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.now(UTC).isoformat(timespec="seconds")
    try:
        return datetime.fromtimestamp(int(epoch), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError) as error:
        raise InputError(f"SOURCE_DATE_EPOCH={epoch!a} is not a number of seconds") from error


def tool() -> ToolInfo:
    """Return the version of theodolite and, in a source checkout, its git commit.

    Does not show what uncommitted changes were, only that there were some (``dirty``).
    """
    try:
        version = metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        version = "unknown"
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # an installed wheel, not a checkout
        return ToolInfo(version=version, commit=None, dirty=None)
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return ToolInfo(
        version=version, commit=commit or None, dirty=None if status is None else bool(status)
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that can change a number."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            ["git", "-C", str(root), *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
