"""The manifest: everything an artifact says about itself, as strict pydantic models.

A manifest is stored as canonical JSON under one metadata key (see ``artifacts.canonical``). Models
are strict (no silent conversion), frozen, refuse unknown fields and non-finite numbers. What a
manifest does not show: that its statements are true. The digest proves only that nothing changed
since the file was written.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from artifacts.errors import InputError
from artifacts.names import check_name

Kind = Literal["direction-set", "probe-set", "signature", "steering-policy"]
Claim = Literal["decodable", "causally sufficient", "causally necessary", "none"]
Scalar = str | int | float | bool | None
Option = Scalar | tuple[Scalar, ...]


def _name(value: str) -> str:
    try:
        return check_name(value)
    except InputError as error:  # pydantic reports ValueError with the field's place
        raise ValueError(str(error)) from error


def _utc(value: str) -> str:
    if datetime.fromisoformat(value).utcoffset() != timedelta(0):
        raise ValueError(f"{value!a} is not UTC; write it like 2026-01-31T12:00:00+00:00")
    return value


def _increasing(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(b <= a for a, b in zip(value, value[1:], strict=False)):
        raise ValueError("blocks must be strictly increasing")
    return value


Name = Annotated[str, AfterValidator(_name)]
Count = Annotated[int, Field(ge=0)]
Block = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ToolInfo(_Strict):
    """The software that wrote the artifact."""

    version: str
    commit: str | None
    """Git commit of a source checkout; None when installed from a wheel."""
    dirty: bool | None
    """True if the checkout had uncommitted changes; None where there is no checkout."""


class ModelInfo(_Strict):
    """One model, exactly enough to find the same weights again."""

    spec: str
    """What the user asked for: a folder, a hub id, ``reference:base`` or ``BASE+ADAPTER``."""
    revision: str | None
    config_digest: str
    weight_digests: dict[str, str]
    """SHA-256 by weight file name."""
    adapter_digest: str | None
    dtype: str
    attention: str
    """Attention implementation, for example ``sdpa``."""
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count
    d_model: Count
    d_head: Count
    d_mlp: Count | None


class TokenizerInfo(_Strict):
    """The tokenizer and the chat template, by digest."""

    digest: str
    chat_template_digest: str | None


class DataInfo(_Strict):
    """One set of prompts and what it was used for."""

    source: str
    digest: str
    n: dict[Name, Count]
    """Number of prompts by class."""
    role: Literal["fit", "test"]


class MeasureInfo(_Strict):
    """What a number in ``measure/{direction}/{measure}`` means; the values are in the tensor."""

    n: Count
    """Number of held-out prompts (or repetitions, for a null) behind each value."""
    what: str
    """The quantity in words, with its unit."""
    level: Annotated[float, Field(gt=0, lt=1)]
    """Coverage of the interval in columns 1 and 2, for example 0.95."""


class DirectionInfo(_Strict):
    """One named direction; row r of its tensors belongs to ``blocks[r]``."""

    site: str
    """Site kind, for example ``hook_resid_post``."""
    position: str
    """Position rule at which the states were read, for example ``last``."""
    blocks: Annotated[tuple[Block, ...], Field(min_length=1), AfterValidator(_increasing)]
    """0-based blocks, strictly increasing."""
    norm: Literal["raw", "unit"]
    sign_rule: str
    """The convention that fixes the sign."""
    n: dict[Name, Count]
    """Prompts by class that the direction was fitted on."""
    contrast: str
    claim: Claim
    """The strongest statement that the runs behind this direction support."""
    measures: dict[Name, MeasureInfo]


class Manifest(_Strict):
    """The whole statement of an artifact; ``digest`` is filled in by ``artifacts.save``."""

    format: Literal[1] = 1
    kind: Kind
    created: Annotated[str, AfterValidator(_utc)]
    """ISO 8601 time in UTC, given by the caller (``artifacts.timestamp()``), never taken here."""
    tool: ToolInfo
    base: ModelInfo | None
    aligned: ModelInfo | None
    tokenizer: TokenizerInfo | None
    data: tuple[DataInfo, ...]
    positions: str
    contrast: tuple[str, ...]
    method: dict[str, Option]
    """Every option that changes the numbers."""
    directions: dict[Name, DirectionInfo]
    seed: int
    versions: dict[str, str]
    device: str
    parents: tuple[str, ...] = ()
    """Digests of the artifacts that this one was computed from."""
    notes: tuple[str, ...] = ()
    digest: str = ""
    """SHA-256 over manifest and tensors; empty before the artifact is saved."""
