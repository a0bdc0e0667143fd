"""What an artifact of extraction keeps for a decomposition, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.manifest import DirectionInfo
from directions.contrasts import ALIGNED, ALIGNED_RAW, BASE, BASE_RAW, CONTRASTS, Contrast
from directions.moments import cell_name
from probes.seeds import generator

LABELS = ("harmful", "harmless")
_HELD_OUT = 0.4
HOW = "extract again with --moments rows"


@dataclass(frozen=True, eq=False)
class BlockRows:
    """Single states of one block; in each role harmful prompts come first."""

    fit: Mapping[str, Float64[np.ndarray, "n d"]]
    test: Mapping[str, Float64[np.ndarray, "m d"]]


@dataclass(frozen=True, eq=False)
class RowSource:
    """Single states of an artifact."""

    artifact: Artifact
    blocks: tuple[int, ...]
    site: str
    position: str
    cells: tuple[str, ...]
    fit: Bool[np.ndarray, "n"]
    """True for harmful; one entry a fitted prompt."""
    test: Bool[np.ndarray, "m"]
    kept: tuple[np.ndarray, np.ndarray] | None
    """Where the artifact holds fitted prompts only: which of them are fitted here and which not."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the split."""
        if self.kept is None:
            return ()
        return (
            f"the artifact holds fitted prompts only: {len(self.fit)} of them were fitted again "
            f"and {len(self.test)} held out at random, so held-out numbers do not show transfer",
        )

    @property
    def counts(self) -> dict[str, int]:
        """Fitted prompts by class."""
        harmful = int(self.fit.sum())
        return {"harmful": harmful, "harmless": len(self.fit) - harmful}

    def has(self, contrast: Contrast) -> bool:
        """Return whether the artifact holds the states that a contrast reads."""
        return contrast.cells <= set(self.cells)

    def read(self, row: int) -> BlockRows:
        """Return the states of one row of ``blocks``, float64."""
        fit = self._cells(row, "")
        if self.kept is None:
            return BlockRows(fit, self._cells(row, ".test"))
        first, second = self.kept
        return BlockRows(
            {cell: states[first] for cell, states in fit.items()},
            {cell: states[second] for cell, states in fit.items()},
        )

    def _cells(self, row: int, end: str) -> dict[str, Float64[np.ndarray, "n d"]]:
        tensors = self.artifact.tensors
        return {
            cell: np.concatenate(
                [tensors[f"rows/{c}{end}/{cell_name(cell)}"][row].double().numpy() for c in LABELS]
            )
            for cell in self.cells
        }


@dataclass(frozen=True, eq=False)
class MomentSource:
    """Second moments of the templated states, with no single prompts."""

    artifact: Artifact
    blocks: tuple[int, ...]
    site: str
    position: str
    counts: dict[str, int]
    """Fitted prompts by class."""
    notes: tuple[str, ...] = (
        "from second moments: penalties by generalised cross-validation, nulls from Gaussian "
        "twins; no single prompts, so no held-out share, separation or stability",
    )

    def has(self, contrast: Contrast) -> bool:
        """Return whether the moments are those of a contrast."""
        return contrast.name == "shift"

    def moment(self, name: str, row: int) -> Float64[np.ndarray, "d d"]:
        """Return ``second/{name}`` at one row of ``blocks``."""
        return self.artifact.tensors[f"second/{name}"][row].double().numpy()

    def mean(self, label: str, model: str, row: int) -> Float64[np.ndarray, "d"]:
        """Return a class mean at one row of ``blocks``."""
        return self.artifact.tensors[f"mean/{label}/{model}"][row].double().numpy()

    def mean_over(self, model: str, row: int) -> Float64[np.ndarray, "d"]:
        """Return the mean over all fitted prompts at one row of ``blocks``."""
        total = sum(self.counts.values())
        return sum(
            (self.counts[label] / total * self.mean(label, model, row) for label in LABELS),
            start=np.zeros(()),
        )


Source = RowSource | MomentSource


def source_of(artifact: Artifact, *, seed: int) -> Source:
    """Return what an artifact keeps for a decomposition: rows if it has them, else moments.

    Raises:
        InputError: it keeps neither, or it is no artifact of extraction.
    """
    manifest = artifact.manifest
    info = _first_place(artifact)
    blocks = manifest.method.get("blocks")
    if info is None or not isinstance(blocks, tuple | list):
        raise InputError(
            f"the artifact is a {manifest.kind} that directions.extract did not write; give one "
            "of its files, or --base and --aligned"
        )
    at = tuple(int(str(block)) for block in blocks)
    if "rows/harmful/base" in artifact.tensors:
        return _rows(artifact, at, info, seed)
    if "second/base_base" in artifact.tensors:
        return MomentSource(artifact, at, info.site, info.position, dict(info.n))
    raise InputError(f"the artifact holds neither rows nor second moments; {HOW}")


def contrasts_of(
    source: Source, names: tuple[str, ...] | None
) -> tuple[tuple[Contrast, ...], tuple[str, ...]]:
    """Return the contrasts to decompose, and the reasons for those that cannot be.

    Raises:
        InputError: a contrast asked for by name cannot be decomposed.
    """
    paired = [contrast for contrast in CONTRASTS.values() if contrast.paired]
    wanted = ("shift", "template_shift", "did") if names is None else tuple(dict.fromkeys(names))
    known = {contrast.name: contrast for contrast in paired}
    found, missing = [], []
    for name in wanted:
        contrast = known.get(name)
        if contrast is None:
            raise InputError(
                f"contrast {name!r} subtracts no pairs of states; choose from {', '.join(known)}"
            )
        if source.has(contrast):
            found.append(contrast)
        else:
            missing.append(f"{name}: the artifact lacks its states; {HOW} --contrast {name}")
    if missing and (names is not None or not found):
        raise InputError(missing[0])
    return tuple(found), tuple(missing)


def _first_place(artifact: Artifact) -> DirectionInfo | None:
    infos = artifact.manifest.directions
    return next((infos[name] for name in artifact.names if "." not in name), None)


def _rows(artifact: Artifact, blocks: tuple[int, ...], info: DirectionInfo, seed: int) -> RowSource:
    held = "rows/harmful.test/base" in artifact.tensors
    ends = ("", ".test") if held else ("",)
    cells = tuple(
        cell
        for cell in (BASE, BASE_RAW, ALIGNED, ALIGNED_RAW)
        if all(
            f"rows/{c}{end}/{cell_name(cell)}" in artifact.tensors for c in LABELS for end in ends
        )
    )
    fit, test = (
        np.repeat([True, False], [artifact.tensors[f"rows/{c}{end}/base"].shape[1] for c in LABELS])
        for end in (ends[0], ends[-1])
    )
    kept = None
    if not held:
        second = np.concatenate([_share(np.flatnonzero(group), seed) for group in (fit, ~fit)])
        first = np.setdiff1d(np.arange(len(fit)), second)
        kept, fit, test = (first, second), fit[first], fit[second]
    return RowSource(artifact, blocks, info.site, info.position, cells, fit, test, kept)


def _share(members: np.ndarray, seed: int) -> np.ndarray:
    order = generator("held-out-rows", len(members), seed).permutation(members)
    return np.sort(order[: round(_HELD_OUT * len(members))])
