"""What prompt sets and judges refuse."""

from __future__ import annotations

from artifacts.errors import InputError


class PromptError(InputError):
    """A prompt file, or a line of it, cannot be used; the message names the line."""


class JudgeError(InputError):
    """A judge was asked to judge nothing, or text it cannot measure."""
