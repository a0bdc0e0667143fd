"""What an ablation report holds: a row for every setting, the verdict, and what was measured on.

Everything is plain values, so that a report goes to JSON and comes back the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from artifacts.errors import InputError
from artifacts.write import write_file
from evaluation.intervals import Change, Interval
from evaluation.perplexity import PerplexityRatio
from evaluation.rates import Rate

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from artifacts.command import JsonValue

Role = Literal["clean", "ablation", "control", "comparison"]


@dataclass(frozen=True)
class Changes:
    """How a row differs from the clean model, prompt by prompt."""

    harmful: Change
    """Refusals of harmful requests."""
    answered: Change
    """Harmful requests that got a coherent answer without a refusal."""
    harmless: Change
    """Refusals of harmless requests."""
    margin_harmful: Interval
    margin_harmless: Interval
    perplexity: PerplexityRatio
    """How many times larger; on neutral text."""


@dataclass(frozen=True)
class Row:
    """One setting: what it does to refusals, and what it costs."""

    name: str
    role: Role
    what: str
    """What is edited, in words."""
    harmful: Rate
    """Refused, of harmful requests."""
    answered: Rate
    """Answered coherently and without a refusal, of harmful requests."""
    harmless: Rate
    """Refused, of harmless requests."""
    incoherent: Rate
    """Broken text, of all answers."""
    margin_harmful: Interval
    """Log-odds of the refusal tokens at the first answer token; no judge decides it."""
    margin_harmless: Interval
    perplexity: Interval
    """On neutral text; n counts texts."""
    kl_first: Interval | None
    """KL(clean || this) at the first answer token of harmless requests, in nats; None if clean."""
    kl_continuation: Interval | None
    change: Changes | None
    """None for the clean model."""
    control_margins: tuple[float, ...] = ()
    """For an ablation or comparison: mean change of the harmful margin under each of its own
    random controls."""


@dataclass(frozen=True)
class Verdict:
    """Whether the ablation beats its control, and by what rule."""

    beats: bool
    effect: Change
    """Harmful requests answered, clean to ablated."""
    over: tuple[Change, ...]
    """Harmful requests answered, each control to ablated."""
    p_rank: float
    """(1 + controls that open as many) / (1 + controls)."""
    reason: str
    rule: str


@dataclass(frozen=True)
class About:
    """What was measured, on what, with what."""

    name: str
    kind: str
    mode: str
    alpha: float
    where: str
    block: int | None
    """Block at which the direction was read; None for heads and units."""
    artifact: str | None
    """Digest."""
    model: str
    model_digest: str
    """Digest of the model's description."""
    mismatch: tuple[str, ...]
    """Where the model is not that of the artifact, allowed by the user."""
    prompts: str
    prompts_digest: str
    n: dict[str, int]
    development: str
    development_digest: str
    tokens: tuple[str, ...]
    """Refusal tokens, found on the development prompts."""
    judge: str
    judge_warning: str | None
    options: dict[str, str | int | float | bool | None | tuple[str, ...]]
    created: str
    version: str


@dataclass(frozen=True)
class AblationReport:
    """An ablation with its cost and its controls."""

    about: About
    rows: tuple[Row, ...]
    verdict: Verdict
    notes: tuple[str, ...]
    seconds: float

    @property
    def claim(self) -> str:
        """``causally necessary`` (for these refusals, this model) if the verdict holds, or none."""
        return "causally necessary" if self.verdict.beats else "none"

    def row(self, name: str) -> Row:
        """Give one row.

        Raises:
            InputError: there is no such row; names the rows.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise InputError(f"no row {name!r}; there are {', '.join(row.name for row in self.rows)}")

    def of(self, role: Role) -> tuple[Row, ...]:
        """Give the rows of a role."""
        return tuple(row for row in self.rows if row.role == role)

    @property
    def ablation(self) -> Row:
        """The ablation itself."""
        return self.of("ablation")[0]

    @property
    def clean(self) -> Row:
        """The model without edits."""
        return self.of("clean")[0]

    def table(self) -> tuple[tuple[str, ...], ...]:
        """Give the rows as text, in the columns of ``COLUMNS``."""
        return tuple((*answer_cells(row), *cost_cells(row)[1:]) for row in self.rows)

    def to_dict(self) -> dict[str, JsonValue]:
        """Give everything as JSON values; no answer is among them."""
        found = _adapter().dump_python(self, mode="json")
        return {"format": 1, "claim": self.claim, **found}


ANSWERS = ("setting", "refused: harmful", "harmless", "answered: harmful", "broken")
COSTS = ("setting", "margin: harmful", "harmless", "KL first, later", "perplexity")
COLUMNS = (*ANSWERS, *COSTS[1:])


def answer_cells(row: Row) -> tuple[str, ...]:
    """Give what a row's answers were, as text in the columns of ``ANSWERS``."""
    broken = f"{row.incoherent.value:.0%}"
    return (row.name, *map(_rate, (row.harmful, row.harmless, row.answered)), broken)


def cost_cells(row: Row) -> tuple[str, ...]:
    """Give a row's margins and costs, as text in the columns of ``COSTS``."""
    first, later = row.kl_first, row.kl_continuation
    return (
        row.name,
        _mean(row.margin_harmful),
        _mean(row.margin_harmless),
        "-" if first is None or later is None else f"{first.value:.2f}, {later.value:.2f}",
        f"{row.perplexity.value:.1f}" + ("" if row.change is None else _ratio(row.change)),
    )


def read_report(path: str | Path) -> AblationReport:
    """Read a report that ``python -m ablation.run --out`` wrote.

    Raises:
        InputError: no such file, or not a report of this version.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if found.pop("format") != 1:
            raise ValueError("another format")
        found.pop("claim")
        return _adapter().validate_python(found)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a report of python -m ablation.run") from error


def check_out(out: Path | None) -> None:
    """Refuse a name that no report can be written to, before any work.

    Raises:
        InputError: not a .json file in a folder that exists.
    """
    if out is None:
        return
    if out.suffix != ".json":
        raise InputError(f"--out {out}: the name must end in .json")
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {out}: not a file name in a folder that exists")


def write_report(out: Path, value: Mapping[str, JsonValue]) -> None:
    """Write a report whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_file(out, (text + "\n").encode())


@cache
def _adapter() -> TypeAdapter[AblationReport]:
    from pydantic import TypeAdapter

    return TypeAdapter(AblationReport)


def _rate(rate: Rate) -> str:
    return f"{rate.hits}/{rate.n} {rate.value:.0%} [{rate.low:.0%},{rate.high:.0%}]"


def _mean(found: Interval) -> str:
    return f"{found.value:+.1f} [{found.low:.1f},{found.high:.1f}]"


def _ratio(change: Changes) -> str:
    return f" (x{change.perplexity.value:.2f})"
