"""What a later decomposition of the shift needs: single rows where few, second moments where many.

Rows let a decomposition choose its own centring, hold prompts out and use every contrast; with
n <= d they are also about as small as three d x d matrices. Second moments are centred over all
fitted prompts, divisor n.

    rows/{class}/{model}            fitted prompts, with the chat template
    rows/{class}.test/{model}       held-out prompts
    rows/{class}/{model}.raw        without the template, where a contrast reads them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from directions.assemble import Place
from directions.contrasts import ALIGNED, BASE
from directions.options import MomentsRule
from directions.shards import Role
from hooks import PairedMoments

_LARGEST = 1 << 30
"""Bytes that ``auto`` may add to an artifact."""


def choose(
    rule: MomentsRule, *, n: int, d: int, blocks: int, states: int | None = None
) -> tuple[Literal["none", "rows", "second"], str | None]:
    """Return what to store, and a note where ``auto`` stores nothing.

        rows: blocks states d numbers;  second: 3 blocks d^2 numbers;  rows iff n <= d

    Args:
        rule: what was asked for.
        n: fitted prompts.
        d: width of a state.
        blocks: blocks kept.
        states: single states kept at each block, over roles and cells; 2 n if not given.
    """
    if rule != "auto":
        return rule, None
    kind: Literal["rows", "second"] = "rows" if n <= d else "second"
    size = 4 * blocks * ((states or 2 * n) * d if kind == "rows" else 3 * d * d)
    if size <= _LARGEST:
        return kind, None
    return "none", (
        f"moments left out: {kind} would add {size / 2**30:.1f} GiB; ask for --moments {kind}"
    )


def tensors(
    kind: Literal["none", "rows", "second"],
    parts: tuple[Role, Role],
    place: Place,
    blocks: tuple[int, ...],
    cells: Sequence[str],
) -> Mapping[str, Float32[Tensor, "rows _ _"]]:
    """Return ``rows/{class}/{model}`` or ``second/{a}_{b}`` at one place, a row a block.

    Args:
        kind: what to keep.
        parts: fitted and held-out prompts.
        place: site and position.
        blocks: the blocks to keep.
        cells: the cells of single states; second moments are those of the templated ones.
    """
    if kind == "none":
        return {}
    whole: dict[str, Float32[Tensor, "rows _ _"]] = {}
    for row, block in enumerate(blocks):
        found = (
            _rows(parts, place, block, cells) if kind == "rows" else _second(parts[0], place, block)
        )
        for key, value in found.items():
            # Written into one block of memory: results kept between the large temporaries of each
            # block would leave holes that are never given back.
            whole.setdefault(key, torch.empty(len(blocks), *value.shape))[row] = value
    return whole


def cell_name(cell: str) -> str:
    """Return the model part of a key of ``rows``: ``aligned``, or ``aligned.raw`` without template.

    The templated cells are those that every artifact of extraction with rows has.
    """
    return cell.removesuffix(".template")


def _rows(
    parts: tuple[Role, Role], place: Place, block: int, cells: Sequence[str]
) -> dict[str, Float32[Tensor, "n d"]]:
    found: dict[str, Float32[Tensor, "n d"]] = {}
    for role, end in zip(parts, ("", ".test"), strict=True):
        read = list(role.read(place.site_name(block), place.slot, cells))
        for cell in cells:
            states = np.concatenate([part.cells[cell] for part in read]).astype(np.float32)
            for label, chosen in (("harmful", role.harmful), ("harmless", ~role.harmful)):
                key = f"rows/{label}{end}/{cell_name(cell)}"
                found[key] = torch.from_numpy(states[chosen])
    return found


def _second(fit: Role, place: Place, block: int) -> dict[str, Float32[Tensor, "d d"]]:
    moments, site = PairedMoments(), place.site_name(block)
    for part in fit.read(site, place.slot, (ALIGNED, BASE)):
        moments.update(
            site, torch.from_numpy(part.cells[BASE]), torch.from_numpy(part.cells[ALIGNED])
        )
    return {f"second/{name}": value.float() for name, value in moments.second(site).items()}
