"""The options of a decomposition; nothing here imports numpy, so that ``--help`` stays fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from artifacts.errors import InputError

MethodName = Literal["affine", "shift-svd"]
PairedName = Literal["shift", "template_shift", "did", "naive_shift"]


@dataclass(frozen=True, kw_only=True)
class DecomposeOptions:
    """How to decompose; ``python -m directions.decompose`` takes these very fields."""

    methods: Annotated[tuple[MethodName, ...], tyro.conf.arg(name="method")] = ("affine",)
    """affine: what a map of the base state explains of the shift; shift-svd: the shift itself."""
    contrasts: Annotated[tuple[PairedName, ...] | None, tyro.conf.arg(name="contrast")] = None
    """Shifts to decompose; by default those of shift, template_shift and did that are there."""
    components: int = 5
    """Components to keep at each block."""
    alpha: float = 0.05
    """Level of every test for one more component."""
    most: int = 10
    """Components to test at each block at most."""
    tau: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    """Shares of the energy for which the effective rank is given."""
    folds: int = 10
    """Folds of the fitted prompts for the choice of the penalty."""
    effect_prompts: int = 32
    """Held-out prompts of each class to intervene on."""
    seed: int = 0
    """Seed of folds, nulls and intervals."""
    progress: tyro.conf.Suppress[bool] = False
    """Progress bars on stderr."""

    def __post_init__(self) -> None:
        """Refuse values that decompose nothing.

        Raises:
            InputError: naming the value and what is allowed.
        """
        for what, values, choices in (
            ("method", self.methods, get_args(MethodName)),
            ("contrast", self.contrasts or (), get_args(PairedName)),
        ):
            unknown = [value for value in values if value not in choices]
            if unknown:
                raise InputError(
                    f"{what} {unknown[0]!r} is unknown; choose from {', '.join(choices)}"
                )
        if not self.methods or self.contrasts == ():
            raise InputError("methods and contrasts need at least one name each")
        if min(self.components, self.most) < 1 or self.folds < 2:
            raise InputError(
                f"components {self.components}, most {self.most}, folds {self.folds}: give at "
                "least 1, 1 and 2"
            )
        if self.effect_prompts < 8:
            raise InputError(f"effect prompts {self.effect_prompts}: give at least 8")
        if not 0.01 <= self.alpha <= 0.5:
            raise InputError(f"alpha {self.alpha}: give a level from 0.01 to 0.5")
        if not self.tau or not all(0 < tau <= 1 for tau in self.tau):
            raise InputError(f"tau {self.tau}: give shares above 0 and at most 1")

    def name(self, method: MethodName, contrast: str) -> str:
        """Return the name under which a decomposition is stored."""
        return f"{'affine' if method == 'affine' else 'svd'}_{contrast}"
