"""Token ids of many prompts with the two boundaries that position rules need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooks.errors import PositionError


@dataclass(frozen=True)
class Encoded:
    """Prompts as token ids, one row each, without padding."""

    ids: tuple[tuple[int, ...], ...]
    """Token ids of every row: prompt, then the response if there is one."""
    instruction_end: tuple[int, ...]
    """Index of the first token after the instruction (the template's tail starts there)."""
    response_start: tuple[int, ...]
    """Index of the first response token; the row's length where there is no response."""

    def __post_init__(self) -> None:
        """Refuse rows that no model can read."""
        if not len(self.ids) == len(self.instruction_end) == len(self.response_start):
            raise PositionError("ids, instruction_end and response_start differ in length")
        for index, row in enumerate(self.ids):
            if not row:
                raise PositionError(f"row {index} has no tokens")
            if not 0 <= self.instruction_end[index] <= self.response_start[index] <= len(row):
                raise PositionError(f"row {index}: boundaries lie outside its {len(row)} tokens")
            if self.response_start[index] == 0:
                raise PositionError(f"row {index} has a response but no prompt token")

    @classmethod
    def from_ids(cls, ids: Sequence[Sequence[int]]) -> Encoded:
        """Wrap raw ids: all of them prompt, no template, no response."""
        rows = tuple(tuple(int(token) for token in row) for row in ids)
        ends = tuple(len(row) for row in rows)
        return cls(rows, ends, ends)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice) -> Encoded:
        return self.select(range(len(self))[index])

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self.ids)

    def select(self, rows: Sequence[int]) -> Encoded:
        """Return the rows with these numbers, in that order."""
        return Encoded(
            tuple(self.ids[row] for row in rows),
            tuple(self.instruction_end[row] for row in rows),
            tuple(self.response_start[row] for row in rows),
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each row."""
        return tuple(len(row) for row in self.ids)

    @property
    def template_length(self) -> int:
        """Number of template tokens that every row has between instruction and response."""
        pairs = zip(self.response_start, self.instruction_end, strict=True)
        return min((start - end for start, end in pairs), default=0)

    def common_prefix(self) -> int:
        """Return how many leading tokens all rows share."""
        if not self.ids:
            return 0
        # The least and the greatest row bound every other one, so two are enough.
        low, high = min(self.ids), max(self.ids)
        shared = 0
        for left, right in zip(low, high, strict=False):
            if left != right:
                break
            shared += 1
        return shared


@dataclass(frozen=True)
class Batch:
    """Left-padded rows of one forward pass."""

    ids: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]
    """1 for a real token, 0 for padding."""
    positions: Int[Tensor, "row token"]
    """Position ids; padding gets 0, which its mask makes harmless."""


def left_pad(rows: Sequence[Sequence[int]], *, pad: int, offset: int, width: int = 0) -> Batch:
    """Pad ``rows`` on the left; positions start at ``offset`` (the length of a reused prefix)."""
    widest = max(width, max(len(row) for row in rows))
    gaps = [widest - len(row) for row in rows]
    ids = torch.tensor(
        [[pad] * gap + list(row) for gap, row in zip(gaps, rows, strict=True)], dtype=torch.long
    )
    gap = torch.tensor(gaps)[:, None]
    index = torch.arange(widest)[None]
    mask = (index >= gap).long()
    return Batch(ids, mask, (index - gap).clamp_min(0) + offset * mask)


def as_bool(
    mask: Int[Tensor, "row token"] | Bool[Tensor, "row token"],
) -> Bool[Tensor, "row token"]:
    """Return a 0/1 mask as booleans."""
    return mask.bool()
