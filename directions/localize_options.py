"""The options of a localisation; nothing here imports torch, so that ``--help`` stays fast."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal, get_args

import tyro

from artifacts.errors import InputError
from directions.options import ContrastName, DtypeName, Options, StreamName

Over = Literal["both", "harmful", "harmless"]
_HEAD = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class LocalizeOptions:
    """How to localise; ``python -m directions.localize`` takes these very fields."""

    contrast: ContrastName = "did"
    """Direction to fit where none is given, on prompts that are not scored."""
    over: Over = "both"
    """Prompts whose contributions are scored; both gives each class the same weight."""
    alpha: float = 0.05
    """False discovery rate over all heads and MLPs."""
    top: int = 5
    """Heads of the causal check: this many of the strongest significant ones; 0 leaves it out."""
    heads: tuple[str, ...] | None = None
    """Heads to check instead, as BLOCK.HEAD."""
    random_sets: int = 10
    """Random sets of as many heads that the causal check is held against."""
    bootstraps: int = 2000
    """Bootstrap samples behind the intervals."""
    dtype: DtypeName = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    stream: StreamName = "auto"
    """Residual stream in low precision: float32 where the family can, or the model's own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    seed: int = 0
    """Seed of the split, the flips, the intervals and the random sets."""
    system: str | None = None
    """System prompt, put before every templated prompt."""
    allow_mismatch: bool = False
    """Accept models whose tokenizers or chat templates differ; recorded in the artifact."""
    progress: tyro.conf.Suppress[bool] = False
    """Progress bars on stderr."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used.

        Raises:
            InputError: naming the value and what to give.
        """
        for name, value, choices in (
            ("contrast", self.contrast, get_args(ContrastName)),
            ("over", self.over, get_args(Over)),
        ):
            if value not in choices:
                raise InputError(f"{name}: {value!r} is unknown; choose from {', '.join(choices)}")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha {self.alpha}: give a rate between 0 and 1")
        if self.top < 0 or self.random_sets < 5 or self.bootstraps < 200:
            raise InputError(
                f"top {self.top}, random sets {self.random_sets}, bootstraps {self.bootstraps}: "
                "give at least 0, 5 and 200"
            )
        self.chosen()

    def chosen(self) -> tuple[tuple[int, int], ...]:
        """Return the heads named by the user as (block, head).

        Raises:
            InputError: a name that is not BLOCK.HEAD.
        """
        found = []
        for name in self.heads or ():
            match = _HEAD.fullmatch(name)
            if match is None:
                raise InputError(f"head {name!r}: write BLOCK.HEAD, for example 12.3")
            found.append((int(match[1]), int(match[2])))
        return tuple(dict.fromkeys(found))

    def loading(self) -> Options:
        """Return what loads the models, as an extraction takes it."""
        return Options(
            dtype=self.dtype,
            stream=self.stream,
            device=self.device,
            seed=self.seed,
            system=self.system,
            allow_mismatch=self.allow_mismatch,
        )

    def record(self) -> dict[str, str | int | float | bool | None | tuple[str, ...]]:
        """Return every option that can change a number, for the manifest."""
        skipped = ("progress", "device")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
