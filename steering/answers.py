"""Answers under many policies on one list of prompts, judged and thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from evaluation.filling import needs
from evaluation.outcomes import Answer, Judge, Outcome
from evaluation.prompts import Prompt, PromptSet
from evaluation.wrappers import encode
from hooks import Model
from steering.behaviour import in_form, joined
from steering.measuring import clean_losses
from steering.policy import Policy
from steering.serve import answer as steered_answer


@dataclass(frozen=True, eq=False)
class Asked:
    """All prompts in one row order."""

    sets: tuple[PromptSet, ...]
    rows: tuple[Prompt, ...]
    requests: tuple[str, ...]
    """Id of each row without its form."""
    groups: tuple[str, ...]
    """Set and form of each row."""

    @classmethod
    def of(cls, sets: Sequence[PromptSet], forms: Sequence[str]) -> Asked:
        """Put every set in every form, one behind the other."""
        made, requests, groups = [], [], []
        for prompts in sets:
            for form in forms:
                made.append(in_form(prompts, form))
                requests += [p.id for p in prompts.prompts]
                label = prompts.prompts[0].label
                short = prompts.name.removeprefix("theodolite-")
                groups += [f"{short}, {label}|{form}"] * len(prompts)
        rows = tuple(p for prompts in made for p in prompts.prompts)
        return cls(tuple(made), rows, tuple(requests), tuple(groups))


class Runner:
    """Answers and judges prompts under one policy after the other."""

    def __init__(self, model: Model, asked: Asked, judge: Judge, new_tokens: int) -> None:
        """Encode all prompts once."""
        self.model, self.asked = model, asked
        self.encoded = joined([encode(model, prompts) for prompts in asked.sets])
        self._judge, self._new = judge, new_tokens

    def outcomes(
        self,
        policy: Policy | None,
        hit: Bool[np.ndarray, "row"] | None = None,
        clean: tuple[np.ndarray, int] | None = None,
    ) -> tuple[np.ndarray, int]:
        """Return the outcome of every row, and the tokens read."""
        rows = list(range(len(self.asked.rows)))
        found = np.full(len(rows), "complied", dtype=object)
        if clean is not None and hit is not None:
            rows, found = np.flatnonzero(hit).tolist(), clean[0].copy()
        if not rows:
            return found, 0
        texts, ids, tokens = self._texts(policy, rows)
        found[rows] = self._judged(rows, texts, ids)
        return found, tokens

    def _texts(
        self, policy: Policy | None, rows: Sequence[int]
    ) -> tuple[list[str], list[list[int]], int]:
        part = self.encoded.select(rows)
        if policy is not None:
            given = steered_answer(self.model, policy, part, max_new_tokens=self._new)
            return list(given.texts), [list(r) for r in given.ids], given.stats.tokens_computed
        with self.model.hooks() as run:
            ids = run.generate_ids(part, max_new_tokens=self._new)
        texts = [str(self.model.tokenizer.decode(r, skip_special_tokens=True)) for r in ids]
        return texts, ids, run.stats.tokens_computed

    def _judged(
        self, rows: Sequence[int], texts: Sequence[str], ids: Sequence[Sequence[int]]
    ) -> list[Outcome]:
        prompts = [self.asked.rows[row] for row in rows]
        answers = [
            Answer(p, text, ended=len(row) < self._new)
            for p, text, row in zip(prompts, texts, ids, strict=True)
        ]
        if "nll" in needs(self._judge):
            losses = clean_losses(self.model, self.encoded.select(list(rows)), ids)
            answers = [replace(a, nll=x) for a, x in zip(answers, losses, strict=True)]
        return [verdict.outcome for verdict in self._judge(answers)]
