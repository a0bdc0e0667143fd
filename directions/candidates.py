"""Candidate directions: mean differences at every template position behind every block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from directions.assemble import harmful_mask
from directions.collect import by_slot
from directions.fitters import MeanFitter
from evaluation.prompts import PromptSet
from evaluation.wrappers import encode
from hooks import Capture, Model, Rows

SITE = "hook_resid_post"
_CHUNK = 128
# Below this share of the mean state norm a difference is rounding of float32.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Mean differences r = mean_harmful x_b[i] - mean_harmless x_b[i], not normalised.

    Arditi et al. (2024, section 2.3); x_b is the state behind the 0-based block b, which they count
    as the input of block l = b + 1. Position -1 is the last prompt token.
    """

    vectors: Float64[Tensor, "position block d"]
    positions: tuple[int, ...]
    """Template positions, counted from the end of the prompt: -1, -2, ..."""
    blocks: tuple[int, ...]
    known: Bool[Tensor, "position block"]
    """False where there is no direction: the classes have equal means."""
    n: dict[str, int]
    """Prompts of each class that they were fitted on."""

    def at(self, block: int) -> tuple[list[int], Float64[Tensor, "candidate d"]]:
        """Return the positions that have a direction behind ``block``, and their directions."""
        column = self.blocks.index(block)
        rows = [row for row in range(len(self.positions)) if bool(self.known[row, column])]
        return [self.positions[row] for row in rows], self.vectors[rows, column]

    def vector(self, position: int, block: int) -> Float64[Tensor, "d"]:
        """Return one candidate."""
        return self.vectors[self.positions.index(position), self.blocks.index(block)]


def from_artifact(artifact: Artifact, blocks: Sequence[int]) -> Candidates:
    """Take the ``refusal`` directions of an extraction, at every position that it has.

    Raises:
        InputError: the artifact has none behind these blocks.
    """
    found: dict[int, str] = {}
    for name in artifact.names:
        info = artifact.manifest.directions[name]
        if info.contrast == "refusal" and info.site == SITE and _position(info.position):
            found[_position(info.position)] = name
    positions = tuple(sorted(found, reverse=True))
    if not positions:
        raise InputError(
            f"the artifact has no refusal direction at {SITE}, only {', '.join(artifact.names)}: "
            "extract with --contrast refusal --positions template"
        )
    width = artifact.direction(found[positions[0]]).shape[1]
    vectors = torch.zeros(len(positions), len(blocks), width, dtype=torch.float64)
    known = torch.zeros(len(positions), len(blocks), dtype=torch.bool)
    for row, position in enumerate(positions):
        name = found[position]
        have = artifact.manifest.directions[name].blocks
        for column, block in enumerate(blocks):
            if block in have:
                vectors[row, column] = artifact.direction(name)[have.index(block)].double()
                known[row, column] = True
    if not known.any():
        raise InputError(f"the artifact's refusal directions have no row at blocks 0-{blocks[-1]}")
    n = artifact.manifest.directions[found[positions[0]]].n
    return Candidates(vectors, positions, tuple(blocks), known, dict(n))


def from_model(model: Model, prompts: PromptSet, blocks: Sequence[int]) -> Candidates:
    """Fit candidates on prompts of both classes, in one pass that ends behind the last block.

    Sums are float64; memory does not grow with the prompts.

    Raises:
        InputError: the chat template ends with the instruction.
    """
    encoded = encode(model, prompts)
    slots = encoded.template_length
    if slots == 0:
        raise InputError("the chat template ends with the instruction: no position to read")
    harmful = harmful_mask([prompt.label for prompt in prompts.prompts])
    sites = [f"blocks.{block}.{SITE}" for block in blocks]
    fitters = [[MeanFitter() for _ in blocks] for _ in range(slots)]
    for first in range(0, len(encoded), _CHUNK):
        taken, part = Rows(), slice(first, first + _CHUNK)
        with model.hooks(capture=Capture(sites, at="template", into=taken)) as run:
            run.forward(encoded[part])
        for column, site in enumerate(sites):
            states = by_slot(taken[site], slots).double().numpy()
            for slot in range(slots):
                fitters[slot][column].update(states[:, slot], harmful[part])
    means = [[fitter.result() for fitter in row] for row in fitters]
    gaps = np.array([[m.mean["harmful"] - m.mean["harmless"] for m in row] for row in means])
    norms = np.array([[m.norm for m in row] for row in means])
    known = np.linalg.norm(gaps, axis=-1) > _ROUNDING * norms
    positions = tuple(-slot - 1 for slot in range(slots))
    return Candidates(
        torch.from_numpy(gaps), positions, tuple(blocks), torch.from_numpy(known), prompts.counts
    )


def _position(text: str) -> int:
    """Read ``last`` or ``template[-k]``; 0 for another rule."""
    found = re.fullmatch(r"template\[(-\d+)\]", text)
    return -1 if text == "last" else int(found[1]) if found else 0
