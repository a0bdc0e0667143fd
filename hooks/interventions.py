"""Interventions as data: each says where, when and how much; the registry carries them out.

    x' = x + s (e(x) - x)

with ``e`` the edit and ``s`` the strength that a :class:`Gate` sets (1 without one). Directions may
be ``[d]`` or, one for each of the caller's rows, ``[row, d]``; so may scales be ``[row]``. Every
edit returns a new tensor; arithmetic is float32 or wider, then cast back to the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from hooks.errors import EditError
from hooks.positions import PositionRule, StepRule, check_rule

Patterns = str | Sequence[str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Intervention:
    """Where and when: the part that every intervention shares."""

    positions: PositionRule = "all"
    """Which tokens; see :mod:`hooks.positions`."""
    steps: StepRule = "both"
    """``prompt``, ``generated`` or ``both``."""
    heads: tuple[int, ...] | None = None
    """Only these heads; for sites with a head axis."""

    @property
    def patterns(self) -> Patterns:
        """The sites to edit."""
        raise NotImplementedError

    @property
    def per_row(self) -> bool:
        """True when rows get different data, so that no prefix can be shared between them."""
        return any(_rows_of(part) is not None for part in self.parts().values())

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return the tensors with the number of axes that a single row's part has."""
        return {}

    def width(self) -> int | None:
        """Return the width the site must have; None when any will do."""
        return None

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return the edited states; ``x`` is [row, token, (head,) d], parts broadcast over it."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Refuse rules that do not exist and numbers that are not finite."""
        check_rule(self.positions, self.steps)
        for name, (tensor, axes) in self.parts().items():
            if not torch.isfinite(tensor).all():
                raise EditError(f"{type(self).__name__}: {name} holds a number that is not finite")
            if tensor.ndim not in (axes, axes + 1):
                raise EditError(
                    f"{type(self).__name__}: {name} has shape {tuple(tensor.shape)}; "
                    f"expected {axes} axes, or {axes + 1} with one entry for each row"
                )


def _rows_of(part: tuple[Tensor, int]) -> int | None:
    tensor, axes = part
    return tensor.shape[0] if tensor.ndim > axes else None


def _number(value: float | Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32)


def unit(direction: Tensor, name: str) -> Tensor:
    """Return ``direction`` with norm 1 on its last axis, float32 or wider."""
    wide = direction if direction.dtype == torch.float64 else direction.float()
    norm = wide.norm(dim=-1, keepdim=True)
    if not torch.isfinite(norm).all() or (norm == 0).any():
        raise EditError(f"{name}: a direction has norm zero or is not finite")
    return wide / norm


def _along(x: Tensor, axis: Tensor) -> Tensor:
    """Return (x . u), with a last axis of length 1."""
    return (x * axis).sum(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """Add a vector.

        x' = x + c v                      (activation addition; Arditi et al. 2024, eq. 3)

    ``v`` is used as given, not normalised, so ``scale`` is in multiples of it.
    """

    direction: Float[Tensor, "*row d"]
    at: Patterns
    scale: float | Float[Tensor, "*scales"] = 1.0

    @property
    def patterns(self) -> Patterns:
        """The sites to edit."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return direction and scale."""
        return {"direction": (self.direction, 1), "scale": (_number(self.scale), 0)}

    def width(self) -> int | None:
        """Return the direction's width."""
        return self.direction.shape[-1]

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return x + c v."""
        return x + parts["scale"] * parts["direction"]


@dataclass(frozen=True, eq=False)
class Ablate(Intervention):
    """Remove what lies along one direction or a subspace.

        x' = x - a U^T U (x - m)          (Arditi et al. 2024, eq. 4, with a = 1 and m = 0)

    ``directions`` is [d], or [k, d] spanning a subspace (orthonormalised here), or with
    ``by_row`` [row, d]: one direction for each row. ``amount`` a = 1 removes all of it; ``center``
    m sets the coordinate to that of a reference mean instead of zero.
    """

    directions: Float[Tensor, "*k d"]
    at: Patterns = "blocks.*.hook_resid_post"
    amount: float | Float[Tensor, "*row"] = 1.0
    center: Float[Tensor, "d"] | None = None
    by_row: bool = False
    _basis: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Orthonormalise once, in float64."""
        object.__setattr__(self, "_basis", self._orthonormal())
        super().__post_init__()

    def _orthonormal(self) -> Tensor:
        if self.directions.ndim > 2:
            raise EditError(f"Ablate: directions have shape {tuple(self.directions.shape)}")
        single = unit(self.directions, "Ablate")
        if self.by_row or single.ndim == 1:
            return rearrange(single, "... d -> ... 1 d")
        q, r = torch.linalg.qr(single.double().T)
        if (r.diagonal().abs() < 1e-6).any():
            raise EditError("Ablate: the directions are linearly dependent; drop one of them")
        return q.T.to(single.dtype)

    @property
    def patterns(self) -> Patterns:
        """The sites to edit."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return basis, amount and centre."""
        parts = {"basis": (self._basis, 2), "amount": (_number(self.amount), 0)}
        if self.center is not None:
            parts["center"] = (self.center, 1)
        return parts

    def width(self) -> int | None:
        """Return the directions' width."""
        return self.directions.shape[-1]

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return x - a U^T U (x - m)."""
        centred = x - parts["center"] if "center" in parts else x
        basis = parts["basis"]
        pattern = "row k d" if basis.ndim == 3 else "k d"
        inside = einsum(centred, basis, f"row ... d, {pattern} -> row ... k")
        return x - parts["amount"] * einsum(inside, basis, f"row ... k, {pattern} -> row ... d")


@dataclass(frozen=True, eq=False)
class SetCoordinate(Intervention):
    """Set the coordinate along a direction to a value.

    x' = x + (c - x . u) u,  u = v / |v|
    """

    direction: Float[Tensor, "*row d"]
    at: Patterns
    value: float | Float[Tensor, "*values"]

    @property
    def patterns(self) -> Patterns:
        """The sites to edit."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return unit direction and value."""
        parts = {"unit": (unit(self.direction, "SetCoordinate"), 1)}
        return parts | {"value": (_number(self.value), 0)}

    def width(self) -> int | None:
        """Return the direction's width."""
        return self.direction.shape[-1]

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return x + (c - x . u) u."""
        return x + (parts["value"] - _along(x, parts["unit"])) * parts["unit"]


@dataclass(frozen=True, eq=False)
class Clamp(Intervention):
    """Keep the coordinate along a direction within bounds.

    x' = x + (min(max(x . u, low), high) - x . u) u,  u = v / |v|
    """

    direction: Float[Tensor, "*row d"]
    at: Patterns
    low: float = -torch.finfo(torch.float32).max
    high: float = torch.finfo(torch.float32).max

    def __post_init__(self) -> None:
        """Refuse an empty interval."""
        if not self.low <= self.high:
            raise EditError(f"Clamp: low {self.low} is not at most high {self.high}")
        super().__post_init__()

    @property
    def patterns(self) -> Patterns:
        """The sites to edit."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return the unit direction."""
        return {"unit": (unit(self.direction, "Clamp"), 1)}

    def width(self) -> int | None:
        """Return the direction's width."""
        return self.direction.shape[-1]

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return x with its coordinate clamped."""
        now = _along(x, parts["unit"])
        return x + (now.clamp(self.low, self.high) - now) * parts["unit"]


@dataclass(frozen=True, eq=False)
class Scale(Intervention):
    """Multiply the state, for example with 0 to remove a head.

    x' = c x
    """

    at: Patterns
    factor: float | Float[Tensor, "*row"]

    @property
    def patterns(self) -> Patterns:
        """The sites to edit."""
        return self.at

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """Return the factor."""
        return {"factor": (_number(self.factor), 0)}

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return c x."""
        return x * parts["factor"]


@dataclass(frozen=True, eq=False)
class Apply(Intervention):
    """Apply a function of your own to [row, token, (head,) d] states.

    It must return a new tensor of the same shape and dtype, with finite numbers; the registry
    checks this at every call.
    """

    function: Callable[[Tensor], Tensor]
    at: Patterns

    @property
    def patterns(self) -> Patterns:
        """The sites to edit."""
        return self.at

    def edit(self, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Return what the function returns."""
        del parts
        return self.function(x)
