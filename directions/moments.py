"""What a later decomposition of the shift needs: single rows where few, second moments where many.

Rows let a decomposition choose its own centring and hold prompts out; with n <= d they are also
smaller than three d x d matrices. Second moments are centred over all fitted prompts, divisor n.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    rule: MomentsRule, *, n: int, d: int, blocks: int
) -> tuple[Literal["none", "rows", "second"], str | None]:
    """Return what to store, and a note where ``auto`` stores nothing.

    rows: 2 blocks n d numbers;  second: 3 blocks d^2 numbers;  rows iff n <= d
    """
    if rule != "auto":
        return rule, None
    kind: Literal["rows", "second"] = "rows" if n <= d else "second"
    size = 4 * blocks * (2 * n * d if kind == "rows" else 3 * d * d)
    if size <= _LARGEST:
        return kind, None
    return "none", (
        f"moments left out: {kind} would add {size / 2**30:.1f} GiB; ask for --moments {kind}"
    )


def tensors(
    kind: Literal["none", "rows", "second"], fit: Role, place: Place, blocks: tuple[int, ...]
) -> Mapping[str, Float32[Tensor, "rows _ _"]]:
    """Return ``rows/{class}/{model}`` or ``second/{a}_{b}`` at one place, a row a block."""
    if kind == "none":
        return {}
    whole: dict[str, Float32[Tensor, "rows _ _"]] = {}
    for row, block in enumerate(blocks):
        found = (_rows if kind == "rows" else _second)(fit, place, block)
        for key, value in found.items():
            # Written into one block of memory: results kept between the large temporaries of each
            # block would leave holes that are never given back.
            whole.setdefault(key, torch.empty(len(blocks), *value.shape))[row] = value
    return whole


def _rows(fit: Role, place: Place, block: int) -> dict[str, Float32[Tensor, "n d"]]:
    parts = list(fit.read(place.site_name(block), place.slot, (ALIGNED, BASE)))
    found: dict[str, Float32[Tensor, "n d"]] = {}
    for model, cell in (("aligned", ALIGNED), ("base", BASE)):
        states = np.concatenate([part.cells[cell] for part in parts]).astype(np.float32)
        for label, chosen in (("harmful", fit.harmful), ("harmless", ~fit.harmful)):
            found[f"rows/{label}/{model}"] = torch.from_numpy(states[chosen])
    return found


def _second(fit: Role, place: Place, block: int) -> dict[str, Float32[Tensor, "d d"]]:
    moments, site = PairedMoments(), place.site_name(block)
    for part in fit.read(site, place.slot, (ALIGNED, BASE)):
        moments.update(
            site, torch.from_numpy(part.cells[BASE]), torch.from_numpy(part.cells[ALIGNED])
        )
    return {f"second/{name}": value.float() for name, value in moments.second(site).items()}
