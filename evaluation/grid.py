"""What a grid is made of and what comes out: settings, sets, and a record for every answer.

Rates say how often a judge gave an outcome; what the judge is worth must stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluation.errors import JudgeError
from evaluation.intervals import Change
from evaluation.outcomes import Outcome
from evaluation.prompts import Label, PromptSet
from evaluation.rates import Rate
from evaluation.records import Record
from hooks import Gate, Model
from hooks.interventions import Intervention


@dataclass(frozen=True)
class Setting:
    """A model, with or without edits."""

    name: str
    model: Model = field(repr=False)
    edits: tuple[Intervention | Gate, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """How answers are made and kept."""

    new_tokens: int = 48
    """Longest answer; what is longer is cut and counts as not ended."""
    batch_tokens: int = 8192
    """Padded tokens of one batch, answers included."""
    chunk: int = 96
    """Prompts between two entries of the journal."""
    keep_text: bool = False
    """Keep the answers to harmful requests too; those to harmless ones are always kept."""
    progress: bool = False
    """Show bars on stderr."""

    def __post_init__(self) -> None:
        """Refuse numbers below 1."""
        for name in ("new_tokens", "batch_tokens", "chunk"):
            if getattr(self, name) < 1:
                raise JudgeError(f"{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Grid:
    """Everything that was judged: a record for every setting, condition and prompt."""

    judge: str
    options: GridOptions
    sets: Mapping[str, PromptSet] = field(repr=False)
    settings: tuple[str, ...]
    records: Mapping[tuple[str, str], tuple[Record, ...]] = field(repr=False)
    """By setting and set, in the order of the set."""
    seconds: Mapping[tuple[str, str], float] = field(repr=False)
    """Time spent on answers in this process; what came from a journal took none."""

    def select(self, setting: str, prompts: str, label: Label) -> tuple[Record, ...]:
        """Give the records of one class.

        Raises:
            JudgeError: an unknown setting or set, or the set has no such prompts.
        """
        if (setting, prompts) not in self.records:
            raise JudgeError(
                f"{setting!r} on {prompts!r}: not measured; settings {', '.join(self.settings)}, "
                f"sets {', '.join(self.sets)}"
            )
        found = tuple(r for r in self.records[setting, prompts] if r.label == label)
        if not found:
            raise JudgeError(f"{prompts}: no {label} prompts in this set")
        return found

    def rate(self, setting: str, prompts: str, label: Label, outcome: Outcome = "refused") -> Rate:
        """Give how often ``outcome`` was judged, with the Wilson interval."""
        return Rate.of(r.outcome == outcome for r in self.select(setting, prompts, label))

    def difference(
        self,
        first: str,
        second: str,
        prompts: str,
        label: Label,
        outcome: Outcome = "refused",
    ) -> Change:
        """Give the change from ``first`` to ``second``, prompt by prompt."""
        before, after = (self.select(name, prompts, label) for name in (first, second))
        if [r.id for r in before] != [r.id for r in after]:
            raise JudgeError(f"{prompts}: the two settings answered different prompts")
        return Change.of(
            [r.outcome == outcome for r in before], [r.outcome == outcome for r in after]
        )

    def labels(self, prompts: str) -> tuple[Label, ...]:
        """Give the classes that a set has."""
        counts = self.sets[prompts].counts
        return tuple(label for label in ("harmful", "harmless") if counts[label])
