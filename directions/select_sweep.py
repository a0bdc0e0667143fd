"""The sweep over all candidates: cheap filters first, and nothing computed that cannot matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.errors import NotBeaten
from directions.candidates import Candidates
from directions.select_options import SelectOptions
from directions.select_scores import Clean, Scorer
from hooks import Encoded

Fell = Literal["passed", "no direction", "not finite", "induce", "KL"]
_FIRST = 4
_TOGETHER = 32
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Candidate:
    """One candidate with its scores on validation prompts; None where it fell before."""

    position: int
    """Counted from the end of the prompt; -1 is the last token."""
    block: int
    """0-based; the direction is that of the state behind it."""
    norm: float
    induce: float | None = None
    kl: float | None = None
    """Where ``kl_n`` is not the number of prompts, what the mean reaches at least."""
    kl_n: int = 0
    """Harmless prompts that the divergence was computed on."""
    bypass: float | None = None
    fell: Fell = "passed"
    """The filter at which it fell."""


@dataclass(frozen=True)
class Sweep:
    """All candidates, by block and position."""

    rows: tuple[Candidate, ...]
    n_harmful: int
    n_harmless: int

    @property
    def best(self) -> Candidate | None:
        """The least bypass of those that passed; ties go to the smaller KL."""
        passed = [row for row in self.rows if row.fell == "passed"]
        return min(passed, key=lambda row: (row.bypass, row.kl), default=None)

    @property
    def counts(self) -> dict[str, int]:
        """How many candidates fell at each filter, and how many passed."""
        return dict(Counter(row.fell for row in self.rows))

    def nearest(self, most: int = 3) -> tuple[Candidate, ...]:
        """Return the candidates that came furthest: least KL, then the largest induce."""
        scored = [row for row in self.rows if row.induce is not None]
        far = sorted(scored, key=lambda r: (r.kl is None, r.kl or 0.0, -(r.induce or 0.0)))
        return tuple(far[:most])


class NothingPasses(NotBeaten):
    """No candidate passes the filters; ``sweep`` has the scores."""

    def __init__(self, message: str, sweep: Sweep) -> None:
        super().__init__(message)
        self.sweep = sweep


def sweep(
    candidates: Candidates,
    scorer: Scorer,
    harmful: Encoded,
    harmless: Encoded,
    options: SelectOptions,
) -> Sweep:
    """Score candidates and filter them.

        choose argmin bypass  subject to  induce > min_induce,  KL < max_kl

    (Arditi et al. 2024, appendix C.) Induce comes first, since a pass from stored states is cheap;
    KL next, prompt by prompt until a candidate cannot come below the limit; bypass last. What the
    filters drop never gets the later scores, so their order does not change the choice.
    """
    clean = scorer.clean(harmless, candidates.blocks)
    rows: list[Candidate] = []
    for block in _bar(candidates.blocks, "induce", options.progress):
        rows += _induced(candidates, scorer, harmless, clean, block, options.min_induce)
    rows = _diverged(rows, candidates, scorer, harmless, clean.logits, options)
    left = [index for index, row in enumerate(rows) if row.fell == "passed"]
    for few in _bar(_chunks(left, _TOGETHER), "bypass", options.progress):
        found = scorer.bypass(harmful, _vectors(candidates, [rows[i] for i in few])).mean(1)
        for index, value in zip(few, found.tolist(), strict=True):
            finite = value == value
            rows[index] = replace(
                rows[index],
                bypass=value if finite else None,
                fell="passed" if finite else "not finite",
            )
    return Sweep(tuple(rows), len(harmful), len(harmless))


def _induced(
    candidates: Candidates,
    scorer: Scorer,
    harmless: Encoded,
    clean: Clean,
    block: int,
    least: float,
) -> list[Candidate]:
    positions, vectors = candidates.at(block)
    found: dict[int, Candidate] = {
        position: Candidate(position, block, 0.0, fell="no direction")
        for position in candidates.positions
    }
    if positions:
        scores = scorer.induce(harmless, vectors, block, clean).mean(1).tolist()
        norms = vectors.norm(dim=-1).tolist()
        for position, value, norm in zip(positions, scores, norms, strict=True):
            if value != value:
                found[position] = Candidate(position, block, norm, fell="not finite")
            else:
                fell: Fell = "passed" if value > least else "induce"
                found[position] = Candidate(position, block, norm, value, fell=fell)
    return list(found.values())


def _diverged(
    rows: Sequence[Candidate],
    candidates: Candidates,
    scorer: Scorer,
    harmless: Encoded,
    clean: Float[Tensor, "prompt vocab"],
    options: SelectOptions,
) -> list[Candidate]:
    """Add up KL over ever more prompts; a sum of terms that are never negative only grows."""
    out, n = list(rows), len(harmless)
    left = [index for index, row in enumerate(out) if row.fell == "passed"]
    sums = torch.zeros(len(out), dtype=torch.float64)
    done, size = 0, _FIRST
    while left and done < n:
        part = slice(done, min(done + size, n))
        for few in _bar(_chunks(left, _TOGETHER), f"KL, prompts to {part.stop}", options.progress):
            vectors = _vectors(candidates, [out[index] for index in few])
            sums[few] += scorer.divergence(harmless[part], vectors, clean[part]).sum(1)
        for index in left:
            value = float(sums[index]) / n
            fell: Fell = "passed" if value < options.max_kl else "KL"
            if value != value:
                out[index] = replace(out[index], fell="not finite")
            else:
                out[index] = replace(out[index], kl=value, kl_n=part.stop, fell=fell)
        left = [index for index in left if out[index].fell == "passed"]
        done, size = part.stop, 2 * size
    return out


def require_choice(found: Sweep, options: SelectOptions) -> Candidate:
    """Return the best candidate.

    Raises:
        NothingPasses: none passed; the message says what they fell at and which came nearest.
    """
    if found.best is not None:
        return found.best
    fell = ", ".join(f"{count} at {name}" for name, count in sorted(found.counts.items()))
    near = "; ".join(describe(row, found.n_harmless) for row in found.nearest(1))
    raise NothingPasses(
        f"none of {len(found.rows)} candidates has induce > {options.min_induce:g} and KL < "
        f"{options.max_kl:g}: {fell} fell; nearest: {near or 'none was scored'}; the model may "
        "refuse along no single direction, or try --max-kl, --min-induce, --max-layer",
        found,
    )


def describe(row: Candidate, n: int) -> str:
    """Say where a candidate is and how far it came."""
    induce = "" if row.induce is None else f", induce {row.induce:.2f}"
    least = ">= " if row.kl_n < n else ""
    kl = "" if row.kl is None else f", KL {least}{row.kl:.3g}"
    return f"position {row.position} block {row.block}{induce}{kl}"


def _vectors(candidates: Candidates, rows: Sequence[Candidate]) -> Float[Tensor, "c d"]:
    return torch.stack([candidates.vector(row.position, row.block) for row in rows])


def _chunks(items: Sequence[int], size: int) -> list[list[int]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _bar(items: Sequence[_Item], what: str, on: bool) -> Iterable[_Item]:
    from tqdm.auto import tqdm

    return tqdm(items, desc=what, disable=not on, leave=False)
