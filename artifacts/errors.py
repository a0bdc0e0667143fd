"""The errors that theodolite raises on purpose, each with the exit code of the command line.

Every message is one line: the value that was refused, the place it was found, the next step. An
exception outside this family is a fault in theodolite itself.
"""

from __future__ import annotations

from typing import ClassVar


class TheodoliteError(Exception):
    """Anything that theodolite refuses knowingly; the message says what to do next."""

    exit_code: ClassVar[int] = 2


class InputError(TheodoliteError):
    """The user's input (a file, a name, an option) cannot be used."""

    exit_code: ClassVar[int] = 2


class ArtifactError(InputError):
    """A file is not a valid theodolite artifact, or a value cannot become one."""


class SystemFailure(TheodoliteError):
    """The environment failed: a full disk, a missing device, an unreachable file."""

    exit_code: ClassVar[int] = 3


class LockedError(SystemFailure):
    """Another process is writing to the same place; the message names its pid and host."""


class NotBeaten(TheodoliteError):
    """The computation ran, but its result did not beat its own control."""

    exit_code: ClassVar[int] = 4
