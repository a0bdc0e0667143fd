"""Read numbers out of an artifact: measures, best blocks, norms, groups of directions.

Nothing is estimated here; every number is a stored one or a ratio or cosine of stored ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.manifest import DirectionInfo, MeasureInfo

CONTROLS = ("auc_shuffled", "auc_random")


class MissingPart(InputError):
    """The artifact lacks what a figure needs; the message says what and which command adds it."""


@dataclass(frozen=True)
class Series:
    """One measure of one direction over blocks."""

    blocks: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    about: MeasureInfo

    def at(self, block: int) -> Point:
        """Return the entry of one block."""
        row = self.blocks.index(block)
        return Point(self.value[row], self.low[row], self.high[row], self.about)


@dataclass(frozen=True)
class Point:
    """A number with its interval."""

    value: float
    low: float
    high: float
    about: MeasureInfo

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Verdict:
    """Whether a direction's separation stands above its controls at one block."""

    block: int
    auc: Point
    controls: tuple[tuple[str, Point], ...]

    @property
    def beaten(self) -> bool:
        """True if the AUC lies above the band of every control that was run, at this block.

        With a 95% band that is a one-sided test at 2.5%, not corrected for the choice of the block;
        the direction's ``claim`` is the verdict of the run that made it.
        """
        return bool(self.controls) and all(
            self.auc.value > point.high for _, point in self.controls
        )


def info(artifact: Artifact, name: str) -> DirectionInfo:
    """Return what the manifest says about a direction.

    Raises:
        InputError: if there is no such direction.
    """
    artifact.direction(name)  # raises with the list of names
    return artifact.manifest.directions[name]


def series(artifact: Artifact, name: str, measure: str) -> Series | None:
    """Return one measure by block, or None if it was not taken."""
    about = info(artifact, name).measures.get(measure)
    if about is None:
        return None
    columns: list[list[float]] = artifact.tensors[f"measure/{name}/{measure}"].T.tolist()
    value, low, high = (tuple(column) for column in columns)
    return Series(info(artifact, name).blocks, value, low, high, about)


def verdict(artifact: Artifact, name: str) -> Verdict | None:
    """Return the separation at the best block with its controls, or None without an AUC.

    The best block has the highest AUC; ties (often 1.0) go to the larger ``d_prime`` if that was
    measured, then to the earlier block. It is chosen on the same held-out prompts, so its AUC is
    optimistic; the controls are read at the same block.
    """
    auc = series(artifact, name, "auc")
    if auc is None:
        return None
    gap = series(artifact, name, "d_prime")
    gaps = auc.value if gap is None else gap.value
    rows = range(len(auc.blocks))
    block = auc.blocks[max(rows, key=lambda row: (auc.value[row], gaps[row], -row))]
    found = ((control, series(artifact, name, control)) for control in CONTROLS)
    controls = tuple((control, line.at(block)) for control, line in found if line is not None)
    return Verdict(block, auc.at(block), controls)


def stated(artifact: Artifact, name: str) -> str | None:
    """Return the verdict over all blocks that the run stated (``method`` entry ``verdict.NAME``).

    Unlike :func:`verdict` it accounts for the choice of the block. None if the run stated none.
    """
    text = artifact.manifest.method.get(f"verdict.{name}")
    return text if isinstance(text, str) else None


def headline(artifact: Artifact) -> str | None:
    """Return the direction that the page is about: ``refusal`` if there, else the best separated.

    None if the artifact has no direction.
    """
    names = artifact.names
    if not names:
        return None
    if "refusal" in names:
        return "refusal"
    found = {name: verdict(artifact, name) for name in names}
    return max(found, key=lambda name: -1.0 if (v := found[name]) is None else v.auc.value)


def site_tensor(artifact: Artifact, family: str, name: str) -> Float[Tensor, "rows *rest"] | None:
    """Return a tensor kept by site and position, with one row for each block of a direction.

    Its key is ``family/site.p-k``, ``family/site`` or, for the one place that has no key of its
    own, ``family``. Its rows belong to the sorted union of the blocks of the directions there.
    None if it was not stored, or if its rows cannot be told apart.
    """
    about = info(artifact, name)
    place = _place(about)
    key = _place_key(artifact, family, about)
    if key is None:
        bare = {
            _place(other)
            for other in artifact.manifest.directions.values()
            if _place_key(artifact, family, other) is None
        }
        if family not in artifact.tensors or bare != {place}:
            return None
        key = family
    directions = artifact.manifest.directions.values()
    union = sorted({b for other in directions if _place(other) == place for b in other.blocks})
    tensor = artifact.tensors[key]
    if tensor.shape[0] != len(union):
        return None
    return tensor[[union.index(block) for block in about.blocks]]


def _place(about: DirectionInfo) -> tuple[str, str]:
    return about.site, about.position


def _place_key(artifact: Artifact, family: str, about: DirectionInfo) -> str | None:
    found = re.search(r"-(\d+)\]?$", about.position)  # "template[-2]" or "p-2"
    back = 1 if found is None else int(found[1])
    keys = [f"{family}/{about.site}.p-{back}"]
    if back == 1:
        keys.append(f"{family}/{about.site}")
    return next((key for key in keys if key in artifact.tensors), None)


def relative_norm(artifact: Artifact, name: str) -> tuple[float, ...] | None:
    """Return |v_b| / mean |x_b| by block, or None if the ambient norm was not stored."""
    ambient = site_tensor(artifact, "ambient_norm", name)
    if ambient is None:
        return None
    norms = artifact.direction(name).double().norm(dim=-1)
    return tuple((norms / ambient.double()).tolist())


def companions(artifact: Artifact, name: str) -> tuple[str, ...]:
    """Return the directions at the same site and position and of the same width, ``name`` first."""
    about, width = info(artifact, name), artifact.direction(name).shape[1]
    others = [
        other
        for other in artifact.names
        if other != name
        and (about.site, about.position)
        == (artifact.manifest.directions[other].site, artifact.manifest.directions[other].position)
        and artifact.direction(other).shape[1] == width
    ]
    return (name, *others)


def cosine(artifact: Artifact, left: str, right: str) -> dict[int, float]:
    """Return the cosine between two directions at every block that both have."""
    a, b = _units(artifact, left), _units(artifact, right)
    return {block: float(a[block] @ b[block]) for block in a if block in b}


def projections(artifact: Artifact, name: str, block: int) -> dict[str, list[float]]:
    """Return the held-out projections at one block by class, empty if none were stored."""
    row = info(artifact, name).blocks.index(block)
    prefix = f"projection/{name}/"
    return {
        key.removeprefix(prefix): artifact.tensors[key][row].tolist()
        for key in sorted(artifact.tensors)
        if key.startswith(prefix)
    }


def _units(artifact: Artifact, name: str) -> dict[int, Float[Tensor, "width"]]:
    unit = torch.nn.functional.normalize(artifact.direction(name).double(), dim=-1, eps=0.0)
    return dict(zip(info(artifact, name).blocks, unit, strict=True))
