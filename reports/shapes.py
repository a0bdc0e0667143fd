"""What the JSON files of ``evaluation.run`` and ``steering.evaluate`` hold, as far as it is shown.

Records of single answers are left out on purpose: no text of an answer reaches a page.
"""

from __future__ import annotations

from dataclasses import dataclass

from artifacts.manifest import ModelInfo, ToolInfo
from evaluation.intervals import Interval
from evaluation.perplexity import PerplexityRatio
from evaluation.rates import Rate


@dataclass(frozen=True)
class SetInfo:
    """One set of prompts."""

    name: str
    source: str
    n: dict[str, int]
    digest: str


@dataclass(frozen=True)
class Answered:
    """How often one outcome was judged, for one setting, set and class."""

    setting: str
    set: str
    label: str
    outcome: str
    hits: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """``hits / n``."""
        return self.hits / self.n

    def __str__(self) -> str:
        return f"{self.hits}/{self.n} = {self.value:.0%} [{self.low:.0%}, {self.high:.0%}]"


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Paired change of refusals between two settings."""

    start: str
    """The setting that is compared with."""
    end: str
    set: str
    label: str
    difference: Interval
    p: float


@dataclass(frozen=True)
class Asked:
    """A setting: a model, with how many edits."""

    name: str
    model: ModelInfo
    edits: list[dict[str, object]]


@dataclass(frozen=True)
class Measure:
    """One capability of one setting."""

    measure: str
    value: float
    low: float
    high: float
    n: int
    unit: str


@dataclass(frozen=True)
class Ability:
    """The capabilities of one setting."""

    setting: str
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Answers:
    """A file of ``python -m evaluation.run``."""

    created: str
    tool: ToolInfo
    judge: str
    warning: str | None
    options: dict[str, str | int | float | bool | None]
    settings: tuple[Asked, ...]
    sets: tuple[SetInfo, ...]
    rates: tuple[Answered, ...]
    differences: tuple[Moved, ...]
    capability: tuple[Ability, ...] = ()


@dataclass(frozen=True)
class Point:
    """One policy, or one fixed strength."""

    name: str
    family: str
    strength: float
    defence: Interval
    compliance: Interval
    incoherent: float
    kl: Interval | None
    perplexity: PerplexityRatio | None
    touched: int
    groups: dict[str, Rate]


@dataclass(frozen=True)
class Gain:
    """Defence against fixed strengths at the same benign compliance."""

    name: str
    value: float
    low: float
    high: float
    ahead: bool


@dataclass(frozen=True)
class FrontierFile:
    """A file of ``python -m steering.evaluate``."""

    created: str
    tool: ToolInfo
    model: str
    judge: str
    n_harmful: int
    n_benign: int
    forms_seen_in_fit: tuple[str, ...]
    points: tuple[Point, ...]
    advantages: tuple[Gain, ...]
    sets: tuple[SetInfo, ...] = ()
    warning: str | None = None
