"""Candidates of one intervention as rows of one batch: each prompt is read once, then branches.

The intervention is at the last prompt token of one block, so what the tokens before it left in
the key/value cache is the same for every candidate; only the last token runs for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from evaluation.judges.margin import log_odds
from hooks import Capture, Encoded, Model
from hooks.interventions import Intervention
from probes.seeds import generator

ROWS = 256
"""Candidates in one batch."""


@dataclass(frozen=True, eq=False)
class Displace(Intervention):
    """Move rows along ``write`` by what their coordinate along ``read`` lacks of ``value``.

        x' = x + (c - (x - m) . r) w

    With w = r of norm 1 the coordinate becomes c, counted from the mean m. With another w of norm
    1 the state moves as far, in a direction that has nothing to do with r: the matched control.
    """

    read: Float[Tensor, "*row d"]
    write: Float[Tensor, "*row d"]
    value: Float[Tensor, "*row"]
    center: Float[Tensor, "d"]
    at: str

    @property
    def patterns(self) -> str:
        """The site to edit."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return both directions, the value and the centre."""
        return {
            "read": (self.read, 1),
            "write": (self.write, 1),
            "value": (self.value, 0),
            "center": (self.center, 1),
        }

    def width(self) -> int:
        """Return the directions' width."""
        return self.read.shape[-1]

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return x + (c - (x - m) . r) w."""
        now = ((x - parts["center"]) * parts["read"]).sum(dim=-1, keepdim=True)
        return x + (parts["value"] - now) * parts["write"]


def random_controls(
    units: Float[Tensor, "k d"], count: int, *, block: int, seed: int
) -> Float[Tensor, "k r d"]:
    """Draw unit vectors, uniform on the sphere orthogonal to every component."""
    k, d = units.shape
    rng = generator("effects", block, seed)
    drawn = torch.from_numpy(rng.standard_normal((k, count, d)))
    basis = torch.linalg.qr(units.double().T).Q
    inside = einsum(drawn, basis, "k r d, d j -> k r j")
    drawn = drawn - einsum(inside, basis, "k r j, d j -> k r d")
    return (drawn / drawn.norm(dim=-1, keepdim=True)).float()


@dataclass(frozen=True)
class Plan:
    """Which candidates run: nothing, then each component followed by its controls."""

    units: Float[Tensor, "k d"]
    controls: Float[Tensor, "k r d"]
    center: Float[Tensor, "d"]
    site: str

    def chunks(self) -> Iterator[list[int]]:
        """Group components so that a batch keeps to the row limit."""
        step = max(1, ROWS // (1 + self.controls.shape[1]))
        for start in range(0, len(self.units), step):
            yield list(range(start, min(start + step, len(self.units))))

    def edit(self, chosen: list[int], values: Float[Tensor, "k"]) -> Displace:
        """Return the rows of the chosen components; row 0 is not moved."""
        write = torch.cat([self.units[chosen][:, None], self.controls[chosen]], dim=1)
        per = write.shape[1]
        read = self.units[chosen][:, None].expand(-1, per, -1)
        value = values[chosen][:, None].expand(-1, per)
        nothing = torch.zeros(1, write.shape[-1])
        return Displace(
            read=torch.cat([nothing, rearrange(read, "k c d -> (k c) d")]),
            write=torch.cat([nothing, rearrange(write, "k c d -> (k c) d")]),
            value=torch.cat([torch.zeros(1), rearrange(value, "k c -> (k c)")]),
            center=self.center,
            at=self.site,
            # The last prompt token is what follows the part of the prompt that was read before.
            steps="generated",
        )


class _Along:
    """Accumulate projections only; states of many candidates would be many."""

    def __init__(self, unit: Tensor) -> None:
        self.unit = unit
        self.parts: list[Tensor] = []

    def update(
        self,
        site: str,
        values: Float[Tensor, "token d"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Keep the projection of each row."""
        del site, rows, slots
        self.parts.append(values.double() @ self.unit)


@dataclass(frozen=True)
class Changes:
    """Changes by component, own one first and then its controls, and prompt."""

    margin: Float[np.ndarray, "k c n"]
    along: Float[np.ndarray, "k c n"] | None
    """Projections on the aim; None without one."""
    size: Float[np.ndarray, "k"]
    """Mean distance by which a component's rows were moved."""


@dataclass(frozen=True, eq=False)
class Aim:
    """A direction to project on, later than the intervention."""

    site: str
    unit: Float[Tensor, "d"]


def measure(
    model: Model,
    prompts: Encoded,
    plan: Plan,
    values: Float[Tensor, "k"],
    ids: Sequence[int],
    aim: Aim | None,
) -> Changes:
    """Set every component's coordinate to its value, and its controls' states as far away.

    Args:
        model: whose last prompt token is edited.
        prompts: without responses.
        plan: components and controls.
        values: coordinate of each component, counted from the plan's centre.
        ids: refusal tokens.
        aim: where projections are read; None reads none.
    """
    margin, along, size = [], [], []
    for chosen in plan.chunks():
        edit = plan.edit(chosen, values)
        here = None if aim is None else _Along(aim.unit)
        before = _Coordinates(edit, len(chosen))
        captures = [Capture(plan.site, at="all", steps="generated", into=before, when="before")]
        if aim is not None and here is not None:
            captures.append(Capture(aim.site, at="all", steps="generated", into=here))
        found = []
        with model.hooks(capture=captures, edits=edit) as run:
            for row in prompts:
                state = run.prefill(Encoded.from_ids([row[:-1]])).repeat(len(edit.value))
                state.append([row[-1:]] * len(edit.value))
                found.append(log_odds(state.logits, ids).double())
        margin.append(_paired(torch.stack(found), len(chosen)))
        if here is not None:
            along.append(_paired(torch.stack(here.parts), len(chosen)))
        size.append(before.mean())
    read = np.concatenate(along) if along else None
    return Changes(np.concatenate(margin), read, np.concatenate(size))


class _Coordinates:
    """Accumulate how far the components' rows are moved."""

    def __init__(self, edit: Displace, components: int) -> None:
        self.edit = edit
        self.components = components
        self.parts: list[Tensor] = []

    def update(
        self,
        site: str,
        values: Float[Tensor, "token d"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Keep the distance of each row."""
        del site, rows, slots
        edit = self.edit
        now = ((values.float() - edit.center) * edit.read).sum(-1)
        self.parts.append((edit.value - now).abs())

    def mean(self) -> Float[np.ndarray, "k"]:
        """Return the mean distance of each component."""
        moved = torch.stack(self.parts).double().mean(0)[1:]
        return rearrange(moved, "(k c) -> k c", k=self.components)[:, 0].numpy()


def _paired(values: Float[Tensor, "n row"], components: int) -> Float[np.ndarray, "k c n"]:
    """Subtract the unedited row of the same prompt."""
    change = values[:, 1:] - values[:, :1]
    return rearrange(change, "n (k c) -> k c n", k=components).numpy()
