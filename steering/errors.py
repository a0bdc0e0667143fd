"""Typed refusals of steering; each message is one line: value, place, next step."""

from __future__ import annotations

from artifacts.errors import InputError


class PolicyError(InputError):
    """A steering policy that cannot be made, or does not belong to this model."""
