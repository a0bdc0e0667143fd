"""What the registry and the contexts it serves know of each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from hooks.layout import Side, Tap
from hooks.positions import Frame
from hooks.sites import Site

Announcement = Callable[[Tensor | None, int, int], Frame]
"""(token ids, past, width) of the pass that comes next -> its frame."""
Key = tuple[int, Side]
Stage = Literal["before", "edit", "after"]


class Stopped(Exception):  # noqa: N818 - not an error: the pass ended where it was asked to
    """Raised inside the model to end a pass at the deepest site asked for."""


@runtime_checkable
class Action(Protocol):
    """One capture or edit of one context at one site."""

    tap: Tap
    stage: Stage

    def __call__(self, x: Tensor, frame: Frame) -> Tensor:
        """Return the state to go on with; captures return ``x`` itself."""
        ...


@runtime_checkable
class Context(Protocol):
    """What the registry needs of an open context."""

    @property
    def actions(self) -> list[Action]:
        """Captures and edits, edits in the order given."""
        ...

    def start_pass(self, frame: Frame) -> None:
        """A pass of the model body begins."""
        ...

    def end_pass(self, frame: Frame) -> None:
        """A pass came to its end or to its stop."""
        ...

    @property
    def steps_matter(self) -> bool:
        """True when prompt and generated tokens must be told apart."""
        ...


@dataclass
class Plan:
    """What happens at one site."""

    site: Site
    before: list[Action] = field(default_factory=list)
    edits: list[Action] = field(default_factory=list)
    after: list[Action] = field(default_factory=list)
    keep: bool = False
    """Keep the state for an edit of ``hook_resid_mid`` later in the block."""

    def add(self, action: Action) -> None:
        """Put ``action`` behind the others of its stage."""
        {"before": self.before, "edit": self.edits, "after": self.after}[action.stage].append(
            action
        )
