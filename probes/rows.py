"""The requests that probes are fitted on: rows with a class and a source, from files or values."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol, runtime_checkable

from artifacts.canonical import canonical, parse
from artifacts.errors import InputError

LABELS = ("harmful", "harmless")
MIN_PER_CLASS = 8
SHIPPED = {
    "test": ("harmful.jsonl", "harmless.jsonl"),
    "development": ("development_harmful.jsonl", "development_harmless.jsonl"),
    "twins": ("borderline.jsonl", "unsafe_twins.jsonl"),
}
"""theodolite's own requests by source: each has both classes. In ``twins`` a harmless request that
looks risky and a harmful one have nearly the same words."""


@runtime_checkable
class Request(Protocol):
    """Anything with a prompt, a class and a source, for example ``evaluation.prompts.Prompt``."""

    @property
    def prompt(self) -> str:
        """The request as a person would type it."""
        ...

    @property
    def label(self) -> str:
        """``harmful`` or ``harmless``."""
        ...

    @property
    def source(self) -> str | None:
        """Where it came from."""
        ...


@dataclass(frozen=True)
class Row:
    """One request."""

    prompt: str
    label: str
    source: str
    group: str
    """Rows of one group (a pair of twins, or one text) are never split between fit and test."""
    place: str
    """Where it stands, for messages."""


def shipped() -> tuple[Row, ...]:
    """Read the requests that theodolite ships, see ``SHIPPED``."""
    folder = resources.files("evaluation") / "data"
    with resources.as_file(folder) as data:
        return tuple(
            row
            for name, files in SHIPPED.items()
            for file in files
            for row in read_rows(f"{name}={data / file}")
        )


def read_rows(spec: str) -> tuple[Row, ...]:
    """Read a JSONL file with ``prompt``, ``label``, ``source`` and optionally ``pair`` a line.

    Args:
        spec: FILE, or NAME=FILE to give all of its rows the source NAME. Without a source, a row
            gets the file's name.

    Raises:
        InputError: names the file, the line and what to do.
    """
    name, found, file = spec.partition("=")
    source = name if found and not Path(spec).exists() else None
    path = Path(file if source is not None else spec)
    # split("\n"), not splitlines(): a JSON string may hold U+2028, which is no end of line.
    lines = enumerate(_text(path).split("\n"), start=1)
    return tuple(_row(path, n, line, source) for n, line in lines if line.strip())


def rows_of(requests: Iterable[Request]) -> tuple[Row, ...]:
    """Make rows of values; those without a source belong to ``unnamed``.

    Raises:
        InputError: an empty prompt or an unknown label.
    """
    found = []
    for index, request in enumerate(requests):
        if isinstance(request, Row):
            found.append(request)
            continue
        pair = getattr(request, "pair", None)
        row = Row(
            prompt=request.prompt.strip(),
            label=request.label,
            source=request.source or "unnamed",
            group=str(pair) if pair else _key(request.prompt),
            place=f"request {index}",
        )
        found.append(_checked(row))
    return tuple(found)


def settle(rows: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Drop repeated texts and refuse sources that a probe could not be fitted or tested on.

    Returns:
        The rows and what a reader should know.

    Raises:
        InputError: a source has one class only, or fewer than ``MIN_PER_CLASS`` of one.
    """
    kept: dict[str, Row] = {}
    for row in rows:
        kept.setdefault(_key(row.prompt), row)
    dropped = len(rows) - len(kept)
    counts = Counter((row.source, row.label) for row in kept.values())
    for source in dict.fromkeys(row.source for row in kept.values()):
        n = {label: counts[source, label] for label in LABELS}
        if 0 in n.values():
            only = next(label for label, count in n.items() if count)
            raise InputError(
                f"source {source!r} has {only} prompts only, so a probe could tell the source "
                "instead of the class; add the other class, or join files as NAME=FILE"
            )
        if min(n.values()) < MIN_PER_CLASS:
            least = min(n, key=lambda label: n[label])
            raise InputError(
                f"source {source!r}: {n[least]} {least} prompts after {dropped} repeats were "
                f"dropped; at least {MIN_PER_CLASS} of each class are needed"
            )
    if not kept:
        raise InputError("no prompts; give JSONL files with prompt, label and source")
    notes = (f"{dropped} repeated prompts dropped",) if dropped else ()
    return tuple(kept.values()), notes


def digest(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of source, label and prompt of every row, in order."""
    text = canonical([[row.source, row.label, row.prompt] for row in rows])
    return hashlib.sha256(text.encode()).hexdigest()


def _row(path: Path, number: int, line: str, source: str | None) -> Row:
    place = f"{path}, line {number}"
    fields = parse(line, what=f"JSON of {place}")
    text = {key: fields.get(key) for key in ("prompt", "label", "source", "pair")}
    for key, value in text.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{place}: {key} is {type(value).__name__}, not text; quote it")
    prompt = str(text["prompt"] or "").strip()
    row = Row(
        prompt=prompt,
        label=str(text["label"] or ""),
        source=source or str(text["source"] or path.stem),
        group=str(text["pair"] or _key(prompt)),
        place=place,
    )
    return _checked(row)


def _checked(row: Row) -> Row:
    if not row.prompt:
        raise InputError(f"{row.place}: the prompt is empty; delete the line or fill it in")
    if row.label not in LABELS:
        raise InputError(f"{row.place}: label {row.label!r}; use one of {', '.join(LABELS)}")
    return row


def _key(text: str) -> str:
    """Give the text by which repeats are told: letters and digits, lower case."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give JSONL as FILE or NAME=FILE") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder; give one prompt file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8") from error
