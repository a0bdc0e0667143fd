"""From shards to directions, block by block.

The shards are streamed once for the fit and once for the test of each block, in shard order and in
float64, so that memory does not depend on the number of prompts and a resumed run repeats the same
sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Float64

from directions.contrasts import ALIGNED, BASE, Contrast
from directions.fitters import ContrastFitter, FittedContrast, MeanFitter, StateMeans
from directions.measure import BOOTSTRAPS, SHUFFLES, SPLITS, HeldOut, measure
from directions.shards import Role
from probes import controls, resampling
from probes.controls import Verdict
from probes.resampling import Resampling
from probes.separation import Estimate

_ZERO = 4 * float(np.finfo(np.float32).eps)
"""A direction below this share of the mean state norm is rounding of float32, not a direction."""
_CACHED_WEIGHTS = 8


@dataclass(frozen=True)
class Place:
    """One site kind and position: the rows of a direction are its blocks."""

    site: str
    slot: int
    """0 is the last token of the prompt."""
    suffix: str
    """Empty for the first place of an extraction; else part of names and tensor keys."""

    @property
    def position(self) -> str:
        """Position rule as the artifact states it."""
        return "last" if self.slot == 0 else f"template[-{self.slot + 1}]"

    def name(self, contrast: str) -> str:
        """Return the name of a contrast's direction at this place."""
        return f"{contrast}.{self.suffix}" if self.suffix else contrast

    def site_name(self, block: int) -> str:
        """Return the full site name at ``block``."""
        return f"blocks.{block}.{self.site}"


@dataclass(frozen=True, eq=False)
class Extracted:
    """One named direction with everything measured about it."""

    name: str
    contrast: Contrast
    place: Place
    blocks: tuple[int, ...]
    """Blocks where the direction is not zero."""
    left_out: tuple[int, ...]
    """Blocks where it is zero within float32 rounding."""
    vectors: Float32[np.ndarray, "rows d"]
    held_out: tuple[HeldOut, ...]
    verdict: Verdict

    def estimate(self, measure: str) -> Estimate:
        """Return one measure over the rows."""
        found = [held.estimates[measure] for held in self.held_out]
        stacked = [np.stack([getattr(e, f) for e in found]) for f in ("value", "low", "high")]
        return Estimate(stacked[0], stacked[1], stacked[2], found[0].n, found[0].level)


@dataclass(frozen=True, eq=False)
class PlaceMeans:
    """Class means and norms of both models at one place, a row a block."""

    place: Place
    aligned: tuple[StateMeans, ...]
    base: tuple[StateMeans, ...]


@dataclass(eq=False)
class Assembler:
    """Fit and measure every contrast at every place."""

    contrasts: tuple[Contrast, ...]
    fit: Role
    test: Role
    n_blocks: int
    seed: int
    _plans: dict[bool, Resampling] = field(default_factory=dict, init=False)
    _weights: dict[tuple[bool, int], Float32[np.ndarray, "rows n"]] = field(
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        """Draw the resampling plans, one for classes and one for pairs, shared by all blocks."""
        for paired in {contrast.paired for contrast in self.contrasts}:
            self._plans[paired] = resampling.plan(
                self.fit.harmful,
                paired=paired,
                seed=self.seed,
                shuffles=SHUFFLES,
                splits=SPLITS,
                bootstraps=BOOTSTRAPS,
            )

    def run(
        self, place: Place, step: Callable[[], None] = lambda: None
    ) -> tuple[list[Extracted], PlaceMeans]:
        """Return the directions at ``place`` that are not zero everywhere, and the means.

        Args:
            place: site kind and position.
            step: called after each block, for progress.
        """
        means: list[tuple[StateMeans, StateMeans]] = []
        vectors: dict[str, list[Float64[np.ndarray, "d"]]] = {c.name: [] for c in self.contrasts}
        held: dict[str, dict[int, HeldOut]] = {c.name: {} for c in self.contrasts}
        for block in range(self.n_blocks):
            fitted, aligned, base = self._fit(place, block)
            means.append((aligned, base))
            for contrast in self.contrasts:
                result = fitted[contrast.name]
                vectors[contrast.name].append(result.direction)
                if np.linalg.norm(result.direction) > _ZERO * aligned.norm:
                    held[contrast.name][block] = self._measure(contrast, result, place, block)
            step()
        found = [
            _extracted(contrast, place, vectors[contrast.name], held[contrast.name])
            for contrast in self.contrasts
            if held[contrast.name]
        ]
        both = tuple(zip(*means, strict=True))
        return found, PlaceMeans(place, both[0], both[1])

    def _fit(
        self, place: Place, block: int
    ) -> tuple[dict[str, FittedContrast], StateMeans, StateMeans]:
        fitters = {c.name: ContrastFitter(c, self._plans[c.paired]) for c in self.contrasts}
        sides = {ALIGNED: MeanFitter(), BASE: MeanFitter()}
        for part in self.fit.read(place.site_name(block), place.slot, self._cells()):
            for contrast in self.contrasts:
                weights = self._weights_of(contrast.paired, part.index, part.rows)
                fitters[contrast.name].update(part.cells, part.rows, weights)
            for cell, fitter in sides.items():
                fitter.update(part.cells[cell], self.fit.harmful[part.rows])
        fitted = {name: fitter.result() for name, fitter in fitters.items()}
        return fitted, sides[ALIGNED].result(), sides[BASE].result()

    def _measure(
        self, contrast: Contrast, fitted: FittedContrast, place: Place, block: int
    ) -> HeldOut:
        cells = sorted({*contrast.cells, ALIGNED})
        return measure(
            contrast,
            fitted,
            self.test.read(place.site_name(block), place.slot, cells),
            self.test.harmful,
            n_fit=len(self.fit.harmful),
            seed=self.seed,
        )

    def _cells(self) -> list[str]:
        return sorted({ALIGNED, BASE}.union(*(contrast.cells for contrast in self.contrasts)))

    def _weights_of(self, paired: bool, index: int, rows: slice) -> Float32[np.ndarray, "rows n"]:
        key = (paired, index)
        if key not in self._weights:
            if len(self._weights) >= 2 * _CACHED_WEIGHTS:  # bounded, whatever n is
                self._weights.pop(next(iter(self._weights)))
            self._weights[key] = self._plans[paired].weights(rows)
        return self._weights[key]


def places(sites: Sequence[str], slots: int) -> Iterator[Place]:
    """Give every site kind and position, the unsuffixed one first."""
    for index, site in enumerate(sites):
        for slot in range(slots):
            parts = [site] if index or slot else []
            parts += [f"p-{slot + 1}"] if slot else []
            yield Place(site, slot, ".".join(parts))


def _extracted(
    contrast: Contrast,
    place: Place,
    vectors: Sequence[Float64[np.ndarray, "d"]],
    held: dict[int, HeldOut],
) -> Extracted:
    blocks = tuple(sorted(held))
    rows = tuple(held[block] for block in blocks)
    stacked = np.stack([vectors[block] for block in blocks]).astype(np.float32)
    left_out = tuple(block for block in range(len(vectors)) if block not in held)
    auc = [row.estimates["auc"] for row in rows]
    verdict = controls.beats_control(
        Estimate(
            np.stack([a.value for a in auc]),
            np.stack([a.low for a in auc]),
            np.stack([a.high for a in auc]),
            auc[0].n,
            auc[0].level,
        ),
        np.stack([row.estimates["d_prime"].value for row in rows]),
        np.stack([row.shuffled for row in rows]),
        np.stack([row.random for row in rows]),
        np.stack([row.random_d_prime for row in rows]),
    )
    return Extracted(
        place.name(contrast.name), contrast, place, blocks, left_out, stacked, rows, verdict
    )


def harmful_mask(labels: Sequence[str]) -> Bool[np.ndarray, "n"]:
    """Return True for harmful prompts."""
    return np.array([label == "harmful" for label in labels])
