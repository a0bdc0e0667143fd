"""Marks of an assistant's style, counted by answer: openers, hedges, lists, disclaimers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.intervals import Interval, mean_interval
from evaluation.rates import Rate
from evaluation.refusal import without_thinking

_OPENER = re.compile(
    r"(?:sure|certainly|absolutely|definitely|of course|great|wonderful|excellent|good question"
    r"|happy to|glad to|i(?:'d| would) be (?:happy|glad|delighted) to|i(?:'m| am) (?:happy|glad) to"
    r"|i can help|no problem|thank you for|thanks for|here(?:'s| is| are)|let(?:'s| me)|to answer"
    r"|that(?:'s| is) a (?:great|good|interesting|wonderful))\b"
)
_HEDGE = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|probably|generally|typically|usually|often|tends? to"
    r"|it depends|in general|in most cases|some people|can vary|it is possible|it's possible)\b"
)
_LIST = re.compile(r"^[ \t]*(?:[-*\u2022]|\d{1,2}[.)])[ \t]+\S", re.MULTILINE)
_DISCLAIMER = re.compile(
    r"\b(?:as an ai|i(?:'m| am) (?:just |only )?an ai|as a language model"
    r"|i(?:'m| am) not a (?:doctor|lawyer|professional)|not (?:medical|legal|financial) advice"
    r"|consult (?:a|an|your|with)|seek (?:professional|medical|legal)"
    r"|(?:it(?:'s| is)|please) (?:important|essential|crucial|worth|note|remember)"
    r"|please be (?:careful|aware)|keep in mind|always (?:check|consult|follow))\b"
)
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'"})
MARKS = ("opener", "hedge", "list", "disclaimer")


@dataclass(frozen=True)
class Marks:
    """Which marks one answer has."""

    opener: bool
    """It opens by agreeing, praising or announcing."""
    hedge: bool
    list: bool
    """Two or more lines are items of a list."""
    disclaimer: bool
    words: int

    @property
    def share(self) -> float:
        """Share of the four marks that are there."""
        return sum(getattr(self, mark) for mark in MARKS) / len(MARKS)


@dataclass(frozen=True)
class Stylometry:
    """How many of a set of answers have each mark.

        score_i = share of the four marks that answer i has,   score = mean_i score_i

    English word lists decide, so it says nothing of other languages, of tone, or of quality.
    """

    opener: Rate
    hedge: Rate
    list: Rate
    disclaimer: Rate
    score: Interval
    words: Interval
    """Words of an answer; longer answers have more marks by their length alone."""
    each: tuple[float, ...]
    """Score of each answer."""


def marks(text: str) -> Marks:
    """Read the marks of one answer, after any thinking block; case and curly quotes are alike."""
    answer = without_thinking(text).translate(_QUOTES).casefold().strip()
    return Marks(
        opener=_OPENER.match(answer) is not None,
        hedge=_HEDGE.search(answer) is not None,
        list=len(_LIST.findall(answer)) >= 2,
        disclaimer=_DISCLAIMER.search(answer) is not None,
        words=len(answer.split()),
    )


def stylometry(texts: Sequence[str], *, seed: int = 0) -> Stylometry:
    """Count marks over answers.

    Raises:
        JudgeError: fewer than two answers.
    """
    found = [marks(text) for text in texts]
    each = tuple(one.share for one in found)
    rates = {mark: Rate.of(getattr(one, mark) for one in found) for mark in MARKS}
    return Stylometry(
        **rates,
        score=mean_interval(each, bounds=(0.0, 1.0), seed=seed),
        words=mean_interval([float(one.words) for one in found], seed=seed),
        each=each,
    )
