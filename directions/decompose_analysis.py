"""From what an artifact keeps to one block's result, or the reason why the block is left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from artifacts.errors import InputError
from directions import residual_null as nulls
from directions import residual_space as spaces
from directions.contrasts import Contrast
from directions.decompose_block import (
    BlockResult,
    Draws,
    Rows,
    decompose_moments,
    decompose_rows,
)
from directions.decompose_input import check_rows
from directions.decompose_options import DecomposeOptions, MethodName
from directions.decompose_source import MomentSource, RowSource, Source
from directions.residual_null import Null

_ZERO = 4 * float(np.finfo(np.float32).eps)
"""Differences below this share of the states' norm are rounding of float32."""

Analysis = Callable[[MethodName, Contrast, int], "BlockResult | str"]
"""Method, contrast and row of the source -> what was found, or why the block is left out."""


def analysis(
    source: Source, options: DecomposeOptions, refused: Bool[np.ndarray, "n"] | None
) -> Analysis:
    """Return what decomposes one block of a source.

    Args:
        source: rows or moments.
        options: methods, components, level.
        refused: fitted prompts that the aligned model refuses, for the sign rule.

    Raises:
        InputError: too few prompts for the rank asked.
    """
    if isinstance(source, RowSource):
        return _row_analysis(source, options, refused)
    return _moment_analysis(source, options)


def _row_analysis(
    source: RowSource, options: DecomposeOptions, refused: Bool[np.ndarray, "n"] | None
) -> Analysis:
    draws = Draws.of(source.fit, options)
    up = _upper(source, refused)

    def analyse(method: MethodName, contrast: Contrast, row: int) -> BlockResult | str:
        read = source.read(row)
        fit, test = Rows.of(contrast, read.fit), Rows.of(contrast, read.test)
        check_rows(fit.base, fit.shift)
        size = float(np.linalg.norm(fit.aligned, axis=1).mean())
        if float(np.linalg.norm(fit.shift, axis=1).max()) <= _ZERO * size:
            return "the shift is zero within float32 rounding"
        if float(np.ptp(fit.base, axis=0).max()) <= _ZERO * size:
            return "all states before the shift are equal"
        if method == "affine" and float(np.ptp(fit.shift, axis=0).max()) <= _ZERO * size:
            return "the shift is the same for every prompt within float32 rounding"
        toward = fit.aligned[up].mean(0) - fit.aligned[~source.fit].mean(0)
        classes = source.fit, source.test
        return decompose_rows(method, fit, test, classes, draws, options, toward)

    return analyse


def _upper(source: RowSource, refused: Bool[np.ndarray, "n"] | None) -> Bool[np.ndarray, "n"]:
    """Return the fitted prompts that the sign rule wants above the harmless ones."""
    if refused is None:
        return source.fit
    known = refused if source.kept is None else refused[source.kept[0]]
    chosen = known & source.fit
    return chosen if chosen.any() else source.fit


def _moment_analysis(source: MomentSource, options: DecomposeOptions) -> Analysis:
    n = sum(source.counts.values())
    if n < options.components + 2:
        raise InputError(
            f"{n} fitted prompts cannot give {options.components} components; give more prompts "
            "or ask for fewer"
        )

    def analyse(method: MethodName, contrast: Contrast, row: int) -> BlockResult | str:
        del contrast
        shift = source.moment("shift_shift", row)
        base_mean = source.mean_over("base", row)
        mean = source.mean_over("aligned", row) - base_mean
        energy = n * float(np.trace(shift) + mean @ mean)
        if energy <= n * (_ZERO * float(np.linalg.norm(base_mean))) ** 2:
            return "the shift is zero within float32 rounding"
        toward = source.mean("harmful", "aligned", row) - source.mean("harmless", "aligned", row)
        d = len(base_mean)
        if options.components > d:
            raise InputError(
                f"{options.components} components of states of width {d}; ask for at most {d}"
            )
        count = min(max(options.components, options.most), d)
        null: Null
        if method == "affine":
            squares, cross = (source.moment(f"base_{with_}", row) for with_ in ("base", "shift"))
            problem = spaces.ridge_of_moments(
                squares, cross, shift, base_mean=base_mean, shift_mean=mean, n=n
            )
            penalty = float(problem.penalties[problem.generalised_loss().argmin()])
            space = problem.solve(penalty, count)
            null = nulls.GaussianPairing(problem, space, shift, options.seed)
        else:
            space = spaces.shift_svd_of_moments(shift, shift_mean=mean, n=n, count=count)
            null = nulls.GaussianSigns(space, np.diagonal(shift) + mean**2, options.seed)
        return decompose_moments(space, null, energy, options, toward)

    return analyse
