"""Cells of the results page: a JSON value of the expected shape, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Found = Mapping[str, object]
Rows = Sequence[Found]


def row_of(value: object) -> Found:
    if not isinstance(value, Mapping):
        raise TypeError(f"results: a {type(value).__name__} where an object was expected")
    return value


def rows_of(value: object) -> Rows:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"results: a {type(value).__name__} where a list was expected")
    return [row_of(row) for row in value]


def number(value: object) -> float:
    return float(str(value))


def share(value: object) -> str:
    return f"{number(value):.0%}"


def rate(row: Found) -> str:
    low, high, hits, n = (number(row[k]) for k in ("low", "high", "hits", "n"))
    return f"{hits:.0f}/{n:.0f} = {hits / n:.1%} [{low:.1%}, {high:.1%}]"


def value(row: Found) -> str:
    return three([row[k] for k in ("value", "low", "high")])


def three(found: Sequence[object], digits: int = 3) -> str:
    middle, low, high = (number(x) for x in found)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def p_value(found: object) -> str:
    p = number(found)
    return "< 0.001" if p < 1e-3 else f"{p:.3f}"
