"""Canonical JSON: one text per value, and a reader that refuses every other spelling.

    canonical(v) = JSON with sorted keys, no spaces, ASCII only, no NaN or infinity

Two equal manifests give equal bytes, so a digest over the text is a digest over the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from artifacts.errors import ArtifactError

MAX_DEPTH = 16
"""Deepest nesting that is read; a manifest needs 5."""

if TYPE_CHECKING:
    Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
else:
    Json = object  # run-time type checkers cannot resolve a recursive alias

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def canonical(value: object) -> str:
    """Return the canonical JSON text of ``value``.

    Raises:
        ValueError: if ``value`` holds NaN or an infinity.
    """
    return json.dumps(
        value, sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":")
    )


def parse(text: str, *, what: str) -> dict[str, Json]:
    """Parse one JSON object strictly.

    Args:
        text: the JSON text.
        what: what it is, for the message (``manifest``, ``header``).

    Returns:
        The object.

    Raises:
        ArtifactError: for broken JSON, duplicate keys, NaN, infinity or a number that overflows to
            it, nesting deeper than ``MAX_DEPTH``, or anything but an object at the top.
    """
    if _depth(text) > MAX_DEPTH:
        raise ArtifactError(f"the {what} is nested deeper than {MAX_DEPTH} levels; refused")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:  # JSONDecodeError is a ValueError
        raise ArtifactError(f"the {what} is not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"the {what} is not a JSON object; the file is damaged or foreign")
    return cast("dict[str, Json]", value)  # strict JSON has only text keys


def without(value: Mapping[str, Json], key: str) -> dict[str, Json]:
    """Return a copy of ``value`` that lacks ``key``."""
    return {name: item for name, item in value.items() if name != key}


def _depth(text: str) -> int:
    deepest = depth = 0
    for mark in re.findall(r"[\[\]{}]", _STRINGS.sub("", text)):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"duplicate key {twice[:120]!a}")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large for a float")
    return value
