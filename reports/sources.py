"""Read what a page can show: artifacts, and the JSON reports of the commands that judge answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from ablation.result import AblationReport
from ablation.style_result import StyleReport
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.read import load
from reports.shapes import Answers, FrontierFile

JsonReport = AblationReport | StyleReport | FrontierFile | Answers
_KINDS: tuple[tuple[str, type[JsonReport]], ...] = (
    ("points", FrontierFile),
    ("rates", Answers),
    ("styles", StyleReport),
    ("verdict", AblationReport),
)
"""A key that only this kind of file has at its top, most telling first."""
_COMMANDS = "evaluation.run, ablation.run, ablation.style or steering.evaluate"


@dataclass(frozen=True)
class Record:
    """A JSON report with the digest of its file."""

    name: str
    digest: str
    """SHA-256 of the bytes."""
    value: JsonReport


def read(path: str | Path) -> Artifact | Record:
    """Read an artifact, or a JSON report of a command that judges answers.

    Raises:
        InputError: no such file, or none that a page can show.
    """
    file = Path(path)
    if file.suffix.lower() != ".json":
        return load(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}; give an existing file") from error
    return Record(file.name, hashlib.sha256(data).hexdigest(), _report(data, file))


def _report(data: bytes, file: Path) -> JsonReport:
    try:
        value = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON; give a file that {_COMMANDS} wrote") from error
    keys = value if isinstance(value, dict) else {}
    kind = next((kind for key, kind in _KINDS if key in keys), None)
    if kind is None:
        raise InputError(f"{file}: no report is in it; give a file that {_COMMANDS} wrote")
    if keys.get("format") != 1:
        raise InputError(
            f"{file}: format {keys.get('format')!a}, but this version reads 1; run the command "
            "again with this version"
        )
    # Python has no field called "from".
    for row in keys.get("differences", ()) if kind is Answers else ():
        if isinstance(row, dict):
            row |= {"start": row.get("from"), "end": row.get("to")}
    try:
        found = TypeAdapter(kind).validate_python(keys)
        _require_whole(found)
        return found
    except ValueError as error:
        first = str(error).splitlines()[1:3]
        raise InputError(
            f"{file}: not whole ({': '.join(line.strip() for line in first)}); run the command "
            "that wrote it again"
        ) from error


def _require_whole(found: JsonReport) -> None:
    """Refuse reports without the rows that a chapter compares.

    Raises:
        ValueError: says what is missing.
    """
    if isinstance(found, Answers):
        parts = {"setting": found.settings, "rate": found.rates}
    elif isinstance(found, FrontierFile):
        named = {point.name for point in found.points}
        parts = {
            "point": found.points,
            "point of every policy": {gain.name for gain in found.advantages} <= named,
        }
    else:
        roles = {row.role for row in found.rows}
        parts = {role: role in roles for role in ("clean", "ablation", "control")}
        parts["comparison with a control"] = bool(found.verdict.over)
    missing = [name for name, part in parts.items() if not part]
    if missing:
        raise ValueError(f"report\nwithout a {missing[0]}")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")
