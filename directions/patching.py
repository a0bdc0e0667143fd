"""Does it matter what these heads write? Exchange their outputs between base and aligned model.

    removed  = m(aligned) - m(aligned, z_h W_O[h] of the base for h in S)
    restored = m(base, z_h W_O[h] of the aligned for h in S) - m(base)

for a set of heads S and an outcome m, at all tokens of the prompt (Vig et al. 2020; Meng et al.
2022), beside the same for random sets of as many other heads. Both are counted in the direction of
m(aligned) - m(base). A set that removes much is needed by the outcome *in this model*; one that
restores much brings it about alone. Neither says through which later parts it works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from artifacts.errors import InputError
from directions.head_swap import Swaps
from directions.overwrite import ENGINE, groups_of
from evaluation.intervals import Interval, mean_interval
from evaluation.judges.margin import margins
from hooks import Capture, Encoded, Intervention, Model, Rows
from probes.seeds import derive, generator

if TYPE_CHECKING:
    from evaluation.judges.tokens import RefusalTokens

Head = tuple[int, int]
Outcome = Callable[[Model, Encoded, Sequence[Intervention]], Float64[np.ndarray, "row"]]


@dataclass(frozen=True)
class Patch:
    """The effect of one exchange, beside that of random sets."""

    effect: Interval
    random: tuple[float, ...]
    """Mean effect of each random set."""
    excess: Interval
    """Effect less the mean effect of the random sets, prompt by prompt."""

    @property
    def beats(self) -> bool:
        """True if it exceeds every random set, and their mean beyond its interval."""
        return self.effect.value > max(self.random) and self.excess.low > 0


@dataclass(frozen=True)
class CausalCheck:
    """What exchanging the heads does to the outcome."""

    heads: tuple[Head, ...]
    outcome: str
    """What was measured, in words."""
    gap: Interval
    """Outcome of the aligned less that of the base model, counted positive."""
    removed: Patch
    restored: Patch

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.gap.n


def refusal_margin(tokens: RefusalTokens) -> Outcome:
    """Measure the log-odds of the refusal tokens."""

    def outcome(
        model: Model, encoded: Encoded, edits: Sequence[Intervention]
    ) -> Float64[np.ndarray, "row"]:
        with model.hooks(edits=edits, options=ENGINE) as run:
            return margins(model, encoded, tokens, run=run).double().numpy()

    return outcome


def projection(direction: Float[Tensor, "d"]) -> Outcome:
    """Measure the last token's projection on a unit direction, behind the last block."""

    def outcome(
        model: Model, encoded: Encoded, edits: Sequence[Intervention]
    ) -> Float64[np.ndarray, "row"]:
        rows = Rows()
        capture = Capture(f"blocks.{model.n_layers - 1}.hook_resid_post", into=rows)
        with model.hooks(capture=capture, edits=edits, options=ENGINE) as run:
            run.forward(encoded)
        return (rows.stack()[0].double() @ direction.double()).numpy()

    return outcome


def random_sets(
    heads: Sequence[Head], shape: tuple[int, int], *, count: int, seed: int
) -> tuple[tuple[Head, ...], ...]:
    """Draw sets of as many heads, none of which is among ``heads``.

    Raises:
        InputError: too few other heads.
    """
    others = [(b, h) for b in range(shape[0]) for h in range(shape[1]) if (b, h) not in set(heads)]
    if len(others) < len(heads):
        raise InputError(
            f"{len(heads)} heads of {shape[0] * shape[1]}: no random set of as many others; check "
            "fewer"
        )
    rng = generator("random-heads", len(heads), seed)
    drawn = [rng.choice(len(others), len(heads), replace=False) for _ in range(count)]
    return tuple(tuple(sorted(others[i] for i in places)) for places in drawn)


def causal_check(
    base: Model,
    aligned: Model,
    encoded: Encoded,
    heads: Sequence[Head],
    outcome: Outcome,
    *,
    what: str,
    sets: int = 10,
    seed: int = 0,
) -> CausalCheck:
    """Exchange ``heads`` and random sets between the models, both ways.

    Args:
        base: the base model.
        aligned: the aligned model.
        encoded: prompts; at least 2.
        heads: (block, head) of the set.
        outcome: what is measured for each prompt.
        what: the outcome in words.
        sets: random sets.
        seed: of the random sets and the intervals.

    Raises:
        InputError: a head that is not there, or too few others.
    """
    shape = (aligned.n_layers, aligned.n_heads)
    require_heads(heads, shape)
    every = (tuple(heads), *random_sets(heads, shape, count=sets, seed=seed))
    clean = {"base": np.zeros(len(encoded)), "aligned": np.zeros(len(encoded))}
    patched = {side: np.zeros((len(every), len(encoded))) for side in clean}
    blocks = sorted({block for group in every for block, _ in group})
    to_base, to_aligned = Swaps(base, aligned, blocks), Swaps(aligned, base, blocks)
    bytes_per_token = len(blocks) * aligned.n_heads * aligned.d_head * 4
    for rows in groups_of(encoded, bytes_per_token):
        part = encoded.select(rows)
        for model, side, swaps in ((base, "base", to_base), (aligned, "aligned", to_aligned)):
            states = swaps.states(part)
            clean[side][rows] = outcome(model, part, ())
            for index, group in enumerate(every):
                patched[side][index, rows] = outcome(model, part, swaps.edits(group, states))
    difference = clean["aligned"] - clean["base"]
    sign = -1.0 if difference.mean() < 0 else 1.0
    return CausalCheck(
        tuple(heads),
        what,
        _interval(sign * difference, seed),
        _patch(sign * (clean["aligned"] - patched["aligned"]), seed),
        _patch(sign * (patched["base"] - clean["base"]), seed),
    )


def require_heads(heads: Iterable[Head], shape: tuple[int, int]) -> None:
    """Refuse heads that the model does not have.

    Raises:
        InputError: naming the head and the ranges.
    """
    for block, head in heads:
        if not (0 <= block < shape[0] and 0 <= head < shape[1]):
            raise InputError(
                f"head {block}.{head}: this model has blocks 0 to {shape[0] - 1} with heads 0 to "
                f"{shape[1] - 1}"
            )


def _patch(effects: Float64[np.ndarray, "sets row"], seed: int) -> Patch:
    random = effects[1:]
    return Patch(
        _interval(effects[0], seed),
        tuple(float(value) for value in random.mean(1)),
        _interval(effects[0] - random.mean(0), seed),
    )


def _interval(values: Float64[np.ndarray, "row"], seed: int) -> Interval:
    return mean_interval(values.tolist(), seed=derive("patching", seed) % 2**32)
