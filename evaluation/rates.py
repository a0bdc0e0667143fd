"""Rates with their intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import binomtest

from evaluation.errors import JudgeError

LEVEL = 0.95


@dataclass(frozen=True)
class Rate:
    """``hits`` out of ``n`` with the Wilson interval at ``LEVEL`` (Wilson 1927).

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),   p = hits / n

    The interval is for prompts drawn like these; it says nothing about other kinds of prompts.
    """

    hits: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """``hits / n``, between 0 and 1."""
        return self.hits / self.n

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """Count outcomes.

        Raises:
            JudgeError: there is no outcome.
        """
        listed = [bool(outcome) for outcome in outcomes]
        if not listed:
            raise JudgeError("a rate of no outcomes; judge at least one answer")
        interval = binomtest(sum(listed), len(listed)).proportion_ci(LEVEL, method="wilson")
        return cls(sum(listed), len(listed), float(interval.low), float(interval.high))

    def __str__(self) -> str:
        return f"{self.hits}/{self.n} = {self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"
