"""One block: its space, how many components are real, and what held-out prompts say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from artifacts.errors import InputError
from directions import residual_null as nulls
from directions import residual_space as spaces
from directions.contrasts import ALIGNED, Cells, Contrast
from directions.decompose_held_out import held_out, permuted_share, share_explained
from directions.decompose_input import check_rows
from directions.decompose_options import DecomposeOptions
from directions.residual_null import Null
from directions.residual_space import ResidualSpace
from directions.residual_validation import cross_validate
from probes import angles, controls, ranks, resampling, separation, spectrum, stability
from probes.ranks import RankTest
from probes.resampling import Resampling
from probes.seeds import generator
from probes.separation import Estimate

SPLITS, BOOTSTRAPS = 10, 20
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Shape:
    """How the energy of a space lies."""

    effective: Mapping[float, int]
    """Effective rank by tau."""
    effective_null: Mapping[float, tuple[float, float, float]]
    """Mean and 95% band of the same under the null."""
    participation: float
    mean_cosine: float
    """Cosine of the first component with the mean shift."""
    mean_share: float
    """Share of the shift's energy that is its mean."""


@dataclass(frozen=True, eq=False)
class BlockResult:
    """One decomposition at one block."""

    space: ResidualSpace
    """Signs fixed."""
    test: RankTest
    shape: Shape
    estimates: Mapping[str, Estimate]
    """Measures by name; empty where there are no single prompts."""
    projections: tuple[Float64[np.ndarray, "p"], Float64[np.ndarray, "q"]] | None
    """Held-out harmful and harmless aligned states along the first component."""
    fit_separation: tuple[float, float]
    """AUC and d' of the fitted prompts along the first component, to choose a block by."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What is drawn once for all blocks: folds, halves, pairings."""

    folds: tuple[Int[np.ndarray, "_"], ...]
    plan: Resampling
    orders: Int[np.ndarray, "draws n"]

    @classmethod
    def of(cls, harmful: Bool[np.ndarray, "n"], options: DecomposeOptions) -> Draws:
        """Draw for fitted prompts of these classes.

        Raises:
            InputError: too few prompts for the rank or the folds asked.
        """
        n = len(harmful)
        fewest = 2 * (options.components + 1)
        if n < max(fewest, options.folds):
            raise InputError(
                f"{n} fitted prompts cannot give {options.components} components in each half and "
                f"{options.folds} folds; give {max(fewest, options.folds)} prompts or ask for "
                "fewer components"
            )
        rng = generator("decompose-folds", n, options.seed)
        place = np.empty(n, dtype=np.int64)
        for group in (harmful, ~harmful):
            members = rng.permutation(np.flatnonzero(group))
            place[members] = np.arange(len(members)) % options.folds
        folds = tuple(np.flatnonzero(place == fold) for fold in range(options.folds))
        plan = resampling.plan(
            harmful,
            paired=True,
            seed=options.seed,
            shuffles=1,
            splits=SPLITS,
            bootstraps=BOOTSTRAPS,
        )
        kept = tuple(fold for fold in folds if len(fold))
        return cls(kept, plan, nulls.orders(n, options.seed))


@dataclass(frozen=True, eq=False)
class Rows:
    """Single states of one block and one contrast."""

    base: Float64[np.ndarray, "n d"]
    shift: Float64[np.ndarray, "n d"]
    aligned: Float64[np.ndarray, "n d"]
    """Templated states of the aligned model, whose projections are read."""

    @classmethod
    def of(cls, contrast: Contrast, cells: Cells) -> Rows:
        """Combine cells: the shift is plus less minus, the base is minus."""
        shift = contrast.values(cells)
        plus, minus = contrast.sides(cells, np.ones(len(shift), dtype=bool))
        del plus
        return cls(minus, shift, cells[ALIGNED])


def decompose_rows(
    method: str,
    fit: Rows,
    test: Rows,
    harmful: tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "m"]],
    draws: Draws,
    options: DecomposeOptions,
    toward: Float64[np.ndarray, "d"],
) -> BlockResult:
    """Decompose the shift of one block from single states.

    Args:
        method: ``affine`` or ``shift-svd``.
        fit: fitted prompts.
        test: held-out prompts.
        harmful: class of both.
        draws: folds, halves and pairings.
        options: components, level, tau.
        toward: every component is turned to point along it.

    Raises:
        InputError: rows that are not finite, all base states equal, too few prompts.
    """
    check_rows(test.base, test.shift)
    count, d = options.components, fit.shift.shape[1]
    if count > d:
        raise InputError(f"{count} components of states of width {d}; ask for at most {d}")
    every = min(max(count, options.most), d)
    solved = (_affine if method == "affine" else _plain)(fit, test, draws, options, every)
    more, null = dict(solved.measures), solved.null
    space = spaces.with_signs(solved.space, toward)
    most = min(options.most, len(space.singular_values))
    tested = ranks.claim_rank(null.stage, most=most, alpha=options.alpha)
    more["participation"] = spectrum.participation_estimate(
        solved.gram, centred=False, seed=options.seed, level=LEVEL
    )
    more |= held_out(space, test, harmful[1], count, options.seed, centred=method == "affine")
    more |= _stability(solved.half, space, count, draws)
    more |= _null_bands(tested, count)
    along = fit.aligned @ space.components[0]
    gaps = along[harmful[0]], along[~harmful[0]]
    test_along = test.aligned @ space.components[0]
    return BlockResult(
        space=space,
        test=tested,
        shape=_shape(space, null, options, float(np.square(fit.shift).sum())),
        estimates=more,
        projections=(test_along[harmful[1]], test_along[~harmful[1]]),
        fit_separation=(float(separation.auc(*gaps)), float(separation.d_prime(*gaps).value)),
    )


@dataclass(frozen=True, eq=False)
class _Solved:
    """A space with what its tests need."""

    space: ResidualSpace
    null: Null
    gram: Float64[np.ndarray, "n n"]
    half: Callable[[Int[np.ndarray, "h"]], Float64[np.ndarray, "k d"]]
    measures: Mapping[str, Estimate]


def _affine(fit: Rows, test: Rows, draws: Draws, options: DecomposeOptions, every: int) -> _Solved:
    problem = spaces.ridge(fit.base, fit.shift)
    validation = cross_validate(problem, draws.folds)
    space = problem.solve(validation.penalty, every)
    null = nulls.PermutedPairing(problem, validation, space, draws.orders, options.seed)
    left = test.shift - space.predict(test.base)
    measures = {
        "r2": share_explained(left, test.shift - space.shift_mean, options.seed),
        "r2_permuted": permuted_share(null, test.base, test.shift),
    }

    def half(rows: Int[np.ndarray, "h"]) -> Float64[np.ndarray, "k d"]:
        # The penalty that each prompt bears is held.
        penalty = validation.penalty * len(rows) / problem.n
        return spaces.refit(problem, rows, penalty, options.components)

    return _Solved(space, null, spaces.explained_gram(problem, validation.penalty), half, measures)


def _plain(fit: Rows, test: Rows, draws: Draws, options: DecomposeOptions, every: int) -> _Solved:
    del test, draws
    space = spaces.shift_svd(fit.shift, every)
    null = nulls.RandomSigns(fit.shift, space, options.seed)

    def half(rows: Int[np.ndarray, "h"]) -> Float64[np.ndarray, "k d"]:
        return spaces.shift_svd(fit.shift[rows], options.components).components

    return _Solved(space, null, fit.shift @ fit.shift.T, half, {})


def decompose_moments(
    space: ResidualSpace,
    null: Null,
    energy: float,
    options: DecomposeOptions,
    toward: Float64[np.ndarray, "d"],
) -> BlockResult:
    """Say what moments allow of one block: components, their nulls, effective ranks."""
    space = spaces.with_signs(space, toward)
    most = min(options.most, len(space.singular_values))
    tested = ranks.claim_rank(null.stage, most=most, alpha=options.alpha)
    gap = float(toward @ space.components[0])
    return BlockResult(
        space=space,
        test=tested,
        shape=_shape(space, null, options, energy),
        estimates=_null_bands(tested, options.components),
        projections=None,
        # No single prompts: the distance of the class means along the component stands in.
        fit_separation=(0.5, gap),
    )


def _shape(space: ResidualSpace, null: Null, options: DecomposeOptions, energy: float) -> Shape:
    drawn = list(null.spectra())
    size = max(len(values) for values in drawn)
    padded = np.stack([np.pad(values, (0, size - len(values))) for values in drawn])
    bands = {}
    for tau in options.tau:
        band = controls.band(spectrum.effective_rank(padded, tau)[None].astype(np.float64))
        bands[tau] = (float(band.value[0]), float(band.low[0]), float(band.high[0]))
    mean = float(np.linalg.norm(space.shift_mean))
    values = space.singular_values
    return Shape(
        effective={tau: int(spectrum.effective_rank(values, tau)) for tau in options.tau},
        effective_null=bands,
        participation=float(spectrum.participation_ratio(values)),
        mean_cosine=float(space.components[0] @ space.shift_mean) / mean if mean else 0.0,
        mean_share=space.n * mean**2 / energy if energy else 0.0,
    )


def _null_bands(tested: RankTest, count: int) -> dict[str, Estimate]:
    """Give mean and band of each component's null; past the last test, that of the last test."""
    found: dict[str, Estimate] = {}
    for number in range(count):
        null = tested.null[min(number, len(tested.null) - 1)]
        low, high = np.quantile(null, [tested.alpha, 1 - tested.alpha])
        found[f"null_c{number + 1}"] = Estimate(
            np.asarray(min(max(null.mean(), low), high)),
            np.asarray(low),
            np.asarray(high),
            len(null),
            1 - 2 * tested.alpha,
        )
    return found


def _stability(
    half: Callable[[Int[np.ndarray, "h"]], Float64[np.ndarray, "k d"]],
    space: ResidualSpace,
    count: int,
    draws: Draws,
) -> dict[str, Estimate]:
    """Compare the listed components of fits on random halves."""
    plan, n, first = draws.plan, space.n, space.components[0]
    splits = _pairs(half, plan.halves, np.ones_like(plan.halves, dtype=np.uint8))
    boots = _pairs(half, plan.boot_halves, plan.boot_counts)
    found = angles.split_half_angles(splits, boots, n=n, level=LEVEL)
    # A component has no sign: that of the whole fit is lent to both halves.
    leading = [pairs[:, :, 0] * np.sign(pairs[:, :, :1] @ first) for pairs in (splits, boots)]
    estimates = {"split_half_cosine": stability.split_half_cosine(*leading, n=n, level=LEVEL)}
    return estimates | {f"angle_{k + 1}": found.row(k) for k in range(count)}


def _pairs(
    half: Callable[[Int[np.ndarray, "h"]], Float64[np.ndarray, "k d"]],
    chosen: Bool[np.ndarray, "r n"],
    counts: np.ndarray,
) -> Float64[np.ndarray, "r 2 k d"]:
    every = np.arange(chosen.shape[1])
    return np.stack(
        [
            np.stack([half(np.repeat(every, side * count)) for side in (first, ~first)])
            for first, count in zip(chosen, counts, strict=True)
        ]
    )
