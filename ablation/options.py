"""The options of an ablation; nothing here imports torch, so that ``--help`` stays fast."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from artifacts.errors import InputError

Kind = Literal["direction", "subspace", "heads", "units"]
Mode = Literal["zero", "mean", "clamp"]
Control = Literal["moved", "removed"]
LEAST_CONTROLS = 5
MOST_ALPHA = 2.0
LEAST_PROMPTS = 8
_BLOCKS = re.compile(r"(\d+)(?:-(\d+))?")
_PART = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every ablation needs: prompts, judge, controls, and how the model is run."""

    controls: int = LEAST_CONTROLS
    """Random directions, or random sets of heads or units; 5 at least."""
    limit: int = 32
    """Prompts of each class that are answered, evenly spaced; 0 means all."""
    new_tokens: int = 24
    """Longest answer, in tokens."""
    neutral: int = 16
    """Neutral texts for the perplexity."""
    prompts: str = "auto"
    """Prompts to measure on. auto: our own set, less what the artifact was fitted on."""
    development: str = "development"
    """Prompts on which refusal tokens, reference means and the block are found."""
    judge: str = "default"
    """default, prefix, embedding, combined, margin, or command:PROGRAM ARGS."""
    seed: int = 0
    """Seed of controls and intervals."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    stream: Literal["auto", "model", "float32"] = "auto"
    """Residual stream in low precision: float32 where the family can, or the model's own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    allow_mismatch: bool = False
    """Use another model than the artifact was made from; recorded in the report."""
    progress: tyro.conf.Suppress[bool] = False
    """Progress bars on stderr."""

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing.

        Raises:
            InputError: naming the value and what to give.
        """
        if self.controls < LEAST_CONTROLS:
            raise InputError(f"controls {self.controls}: give at least {LEAST_CONTROLS}")
        for name, least in (("limit", 0), ("new_tokens", 1), ("neutral", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)}: give {least} or more")
        if 0 < self.limit < LEAST_PROMPTS:
            raise InputError(
                f"limit {self.limit}: an interval needs {LEAST_PROMPTS} prompts of each class"
            )


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """What to remove and how to measure; ``python -m ablation.run`` takes these very fields."""

    kind: Kind = "direction"
    """direction: one name. subspace: what several names, or --rank components of one, span. heads
    and units: those of --heads or --units, or the --top of a score with that name."""
    mode: Mode = "mean"
    """Set what is removed to its mean at the last token of harmless development requests, to zero,
    or (clamp) keep it within the central 95% that it has there."""
    alpha: float = 1.0
    """Share that is removed; 1 is all of it, at most 2."""
    block: int | None = None
    """Block at which the direction was read (a row of the artifact). By default one is picked on
    development requests."""
    blocks: str = "all"
    """Blocks in which a direction is removed: all, 12, or 10-20."""
    rank: int | None = None
    """For subspaces: the number of components of one name."""
    heads: tuple[str, ...] = ()
    """Heads, as BLOCK.HEAD."""
    units: tuple[str, ...] = ()
    """Hidden units of the MLP, as BLOCK.UNIT."""
    top: int = 8
    """Heads or units taken from the head of a score."""
    compare: bool = False
    """Also measure zero, mean, clamp, half and thirds of the blocks, in the same table."""
    control: Control = "moved"
    """moved: move each state as far as the ablation does, along a random direction. removed:
    remove a random direction. For heads and units: other ones of the same blocks."""

    def __post_init__(self) -> None:
        """Refuse values outside their choices and numbers that mean nothing.

        Raises:
            InputError: naming the value and the choices.
        """
        super().__post_init__()
        _choose("kind", self.kind, get_args(Kind))
        _choose("mode", self.mode, get_args(Mode))
        _choose("control", self.control, get_args(Control))
        _check_alpha(self.alpha)
        if self.mode == "clamp" and (self.alpha != 1 or self.kind in ("heads", "units")):
            raise InputError(
                "mode clamp: bounds are for directions and take no share; use --mode mean"
            )
        if self.top < 1:
            raise InputError(f"top {self.top}: give 1 or more")
        self._check_kind()

    def _check_kind(self) -> None:
        given = {"heads": bool(self.heads), "units": bool(self.units)}
        for name, present in given.items():
            if present and self.kind != name:
                raise InputError(f"--{name} is given with --kind {self.kind}; use --kind {name}")
        if self.rank is not None and (self.kind != "subspace" or self.rank < 1):
            raise InputError(f"rank {self.rank}: give 1 or more, with --kind subspace")
        if self.blocks != "all" and self.kind in ("heads", "units"):
            raise InputError("--blocks is for directions; heads and units name their blocks")

    def span(self, n_layers: int) -> tuple[int, int]:
        """Give the first and last block in which a direction is removed.

        Raises:
            InputError: not a range, or a block that the model does not have.
        """
        if self.blocks == "all":
            return 0, n_layers - 1
        match = _BLOCKS.fullmatch(self.blocks)
        if match is None:
            raise InputError(f"blocks {self.blocks!r}: write all, 12, or 10-20")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= n_layers:
            raise InputError(f"blocks {self.blocks}: the model has blocks 0 to {n_layers - 1}")
        return first, last

    def chosen(self) -> tuple[tuple[int, int], ...]:
        """Give the heads or units that were named, as pairs of block and index.

        Raises:
            InputError: an entry that is not BLOCK.INDEX.
        """
        found = []
        for text in self.heads or self.units:
            match = _PART.fullmatch(text)
            if match is None:
                raise InputError(f"--{self.kind} {text!r}: write BLOCK.INDEX, for example 12.3")
            found.append((int(match[1]), int(match[2])))
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class StyleOptions(Common):
    """How a style is found and removed; ``python -m ablation.style`` takes these very fields."""

    limit: int = 40
    """Prompts of each class that are answered, evenly spaced; 0 means all. With fewer than 35 even
    an unchanged refusal rate cannot be shown to stay within a tolerance of 0.1."""
    source: Literal["responses", "artifact"] = "responses"
    """responses: aligned minus base over the tokens that each model itself writes. artifact:
    aligned minus base at the last token of harmless prompts, as the artifact holds it."""
    mode: Literal["zero", "mean"] = "mean"
    """Set the style to its mean on harmless development requests in the base model, or to zero."""
    alpha: float = 1.0
    """Share that is removed; 1 is all of it, at most 2."""
    block: int | None = None
    """Block of the direction; by default one is picked on development requests."""
    answers: int = 24
    """Development requests whose answers the style is read from."""
    tolerance: float = 0.1
    """Largest fall of the refusal rate, and largest rise of perplexity, that counts as none."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            InputError: naming the value and what to give.
        """
        super().__post_init__()
        _choose("source", self.source, ("responses", "artifact"))
        _choose("mode", self.mode, ("zero", "mean"))
        _check_alpha(self.alpha)
        if self.answers < LEAST_PROMPTS:
            raise InputError(f"answers {self.answers}: give {LEAST_PROMPTS} or more")
        if not 0 < self.tolerance < 1:
            raise InputError(f"tolerance {self.tolerance}: give a share between 0 and 1")


OptionFlags = Annotated[Options, tyro.conf.arg(name="")]
"""The fields of ``Options`` as flat flags."""
StyleFlags = Annotated[StyleOptions, tyro.conf.arg(name="")]
"""The fields of ``StyleOptions`` as flat flags."""


def _check_alpha(alpha: float) -> None:
    if not math.isfinite(alpha) or not 0 < alpha <= MOST_ALPHA:
        raise InputError(f"alpha {alpha}: give a share above 0, at most {MOST_ALPHA:g}")


def _choose(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{what} {value!r}: choose from {', '.join(choices)}")
