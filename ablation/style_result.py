"""What a style ablation reports, and the rule by which it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ablation.result import Row
from ablation.stylometry import Stylometry
from evaluation.capability import Comparison
from evaluation.capability import Row as Measure
from evaluation.intervals import Change, Interval, mean_interval

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from artifacts.command import JsonValue


@dataclass(frozen=True)
class StyleRow:
    """Marks of style on harmless answers under one setting; ``base`` is the other model."""

    name: str
    style: Stylometry


@dataclass(frozen=True)
class StyleVerdict:
    """Whether style falls while refusal and capability stay."""

    falls: bool
    """The style score falls, and by more than under every control."""
    refusal_stays: bool
    capability_stays: bool
    effect: Interval
    """Score, ablated minus clean."""
    over: tuple[Interval, ...]
    """Score, ablated minus each control."""
    signature: Interval
    """Score, clean aligned minus base: what there is to remove."""
    refusal: Change
    """Refusals of harmful requests, clean to ablated."""
    tolerance: float
    reason: str

    @property
    def holds(self) -> bool:
        """All three."""
        return self.falls and self.refusal_stays and self.capability_stays


@dataclass(frozen=True)
class StyleAbout:
    """What was removed, from what, and on which prompts."""

    refusal: str
    """Name of the direction that the style is orthogonal to."""
    block: int
    """Block at which the style was read."""
    base: str
    aligned: str
    artifact: str
    """Digest."""
    mismatch: tuple[str, ...]
    prompts: str
    prompts_digest: str
    n: dict[str, int]
    judge: str
    tokens: tuple[str, ...]
    """Refusal tokens, found on the development prompts."""
    options: dict[str, str | int | float | bool | None]
    created: str
    version: str


@dataclass(frozen=True)
class StyleReport:
    """A style ablation: refusals and cost as in any ablation, and the marks of every setting."""

    about: StyleAbout
    rows: tuple[Row, ...]
    styles: tuple[StyleRow, ...]
    capability: tuple[Measure, ...]
    """Ablated against clean."""
    verdict: StyleVerdict
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, JsonValue]:
        """Give everything as JSON values; no answer is among them."""
        return {
            "format": 1,
            "holds": self.verdict.holds,
            **_adapter().dump_python(self, mode="json"),
        }


def decide_style(
    styles: Sequence[StyleRow],
    rows: Sequence[Row],
    cost: Comparison,
    *,
    tolerance: float,
    seed: int,
) -> StyleVerdict:
    """Decide by three rules, each on paired changes with 95% intervals.

        falls            iff  high(s_abl - s_clean) < 0 and high(s_abl - s_j) < 0, every control j
        refusal stays    iff  low(refused_abl - refused_clean) >= -tolerance, on harmful requests
        capability stays iff  high(perplexity_abl / perplexity_clean) <= 1 + tolerance, and no
                              yes/no measure falls with its interval below 0

    s: score of an answer. "Stays" must be shown: a change that is merely not significant does not
    pass if its interval allows a fall beyond the tolerance.
    """
    scores = {row.name: row.style.each for row in styles}
    kinds = {row.role: row for row in rows if row.role != "control"}
    controls = [row.name for row in rows if row.role == "control"]

    def gap(after: str, before: str) -> Interval:
        pairs = zip(scores[after], scores[before], strict=True)
        moved = [a - b for a, b in pairs]
        return mean_interval(moved, bounds=(-1.0, 1.0), seed=seed)

    effect = gap("ablated", "clean")
    over = tuple(gap("ablated", control) for control in controls)
    change = kinds["ablation"].change
    if change is None:
        raise ValueError("the ablation has no paired changes: it was measured as the clean model")
    items = (cost.statements, cost.short, cost.arithmetic)
    able = change.perplexity.high <= 1 + tolerance and cost.perplexity.high <= 1 + tolerance
    able = able and not any(item.difference.high < 0 for item in items)
    falls = effect.high < 0 and all(one.high < 0 for one in over)
    stays = change.harmful.difference.low >= -tolerance
    return StyleVerdict(
        falls=falls,
        refusal_stays=stays,
        capability_stays=able,
        effect=effect,
        over=over,
        signature=gap("clean", "base"),
        refusal=change.harmful,
        tolerance=tolerance,
        reason=_reason(falls, stays, able, effect, change.harmful),
    )


def _reason(falls: bool, stays: bool, able: bool, effect: Interval, refusal: Change) -> str:
    shown = f"{effect.value:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}]"
    found = [] if stays else [f"refusal is not shown to stay ({refusal})"]
    if not falls:
        found.append(f"style does not fall beyond its controls (score {shown})")
    if not able:
        found.append("capability is not shown to stay")
    if not found:
        return f"style falls (score {shown}), refusal and capability stay"
    return "; ".join(found)


@cache
def _adapter() -> TypeAdapter[StyleReport]:
    from pydantic import TypeAdapter

    return TypeAdapter(StyleReport)
