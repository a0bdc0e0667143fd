"""Typed refusals of the probe layer."""

from __future__ import annotations

from artifacts.errors import InputError


class NonFiniteError(InputError):
    """A state, a loss, a gradient or a weight that is not finite; nothing is written."""

    def __init__(self, message: str, *, step: int | None = None) -> None:
        """Keep the optimiser's step, counted from 0; None outside an optimiser."""
        super().__init__(message if step is None else f"{message} at step {step}")
        self.step = step
