"""The options of an extraction; nothing here imports torch, so that ``--help`` stays fast."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

import tyro

from artifacts.errors import InputError

ContrastName = Literal["shift", "template_shift", "did", "refusal", "refusal_base", "naive_shift"]
SiteKind = Literal[
    "hook_resid_pre",
    "ln1.hook_out",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_resid_post",
]
PositionName = Literal["last", "template"]
MomentsRule = Literal["auto", "none", "rows", "second"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
StreamName = Literal["auto", "model", "float32"]
PassName = Literal["auto", "joint", "apart"]

DEFAULT_CONTRASTS: tuple[ContrastName, ...] = (
    "shift",
    "template_shift",
    "did",
    "refusal",
    "refusal_base",
)
RAW_CONTRASTS: frozenset[str] = frozenset({"template_shift", "did", "naive_shift"})
"""Contrasts that also need the prompts without the chat template."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to extract; ``python -m directions.extract`` takes these very fields."""

    sites: tuple[SiteKind, ...] = ("hook_resid_post",)
    """Site kinds; directions are taken at every block of each."""
    positions: PositionName = "last"
    """The last prompt token, or every template token after the instruction."""
    contrasts: Annotated[tuple[ContrastName, ...] | None, tyro.conf.arg(name="contrast")] = None
    """Directions to extract; by default all but naive_shift that the positions allow."""
    dtype: DtypeName = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    stream: StreamName = "auto"
    """Residual stream in low precision: float32 where the family can, or the model's own."""
    passes: PassName = "auto"
    """Whether base and aligned are read in one pass, which keeps the digits of small differences
    in bfloat16: auto does so where the pair allows it (a LoRA adapter on shared weights)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    seed: int = 0
    """Seed of the split, the controls and the intervals."""
    shard_size: int = 128
    """Prompts between two entries of the ledger."""
    moments: MomentsRule = "auto"
    """What is kept for a later decomposition: single rows (4 d_model bytes for each prompt, block,
    model and rendering: 80 MB on the reference pair), second moments, or neither."""
    system: str | None = None
    """System prompt, put before every templated prompt."""
    allow_mismatch: bool = False
    """Accept models whose tokenizers or chat templates differ; recorded in the artifact."""
    keep_shards: bool = False
    """Keep the folder OUT.run."""
    progress: tyro.conf.Suppress[bool] = False
    """Progress bars on stderr."""

    def __post_init__(self) -> None:
        """Refuse values outside their choices; the command's parser refuses the same ones.

        Raises:
            InputError: naming the value and the choices.
        """
        _choose("sites", self.sites, get_args(SiteKind))
        _choose("positions", (self.positions,), get_args(PositionName))
        _choose("contrasts", self.contrasts or DEFAULT_CONTRASTS, get_args(ContrastName))
        _choose("moments", (self.moments,), get_args(MomentsRule))
        _choose("dtype", (self.dtype,), get_args(DtypeName))
        _choose("stream", (self.stream,), get_args(StreamName))
        _choose("passes", (self.passes,), get_args(PassName))
        if self.passes == "joint" and self.stream == "model":
            raise InputError("passes joint keeps a float32 stream: leave out --stream model")
        if not self.sites or self.contrasts == ():
            raise InputError("sites and contrasts need at least one name each")
        if self.shard_size < 1:
            raise InputError(f"shard size {self.shard_size}: give at least 1 prompt")
        raw = sorted(RAW_CONTRASTS.intersection(self.contrasts or ()))
        if raw and self.positions != "last":
            raise InputError(
                f"{', '.join(raw)} cannot be read at positions {self.positions!r}: prompts without "
                "the chat template have none of its tokens; use --positions last"
            )

    def resolved_contrasts(self) -> tuple[ContrastName, ...]:
        """Return the contrasts to extract, each once, in the order given."""
        if self.contrasts is not None:
            return tuple(dict.fromkeys(self.contrasts))
        if self.positions == "last":
            return DEFAULT_CONTRASTS
        return tuple(name for name in DEFAULT_CONTRASTS if name not in RAW_CONTRASTS)

    def record(self) -> dict[str, str | int | bool | None | tuple[str, ...]]:
        """Return every option that can change a number, for the ledger and the manifest."""
        skipped = ("keep_shards", "progress", "device", "contrasts")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        return {**values, "contrasts": tuple(self.resolved_contrasts())}


def _choose(what: str, values: tuple[str, ...], choices: tuple[str, ...]) -> None:
    for value in values:
        if value not in choices:
            raise InputError(f"{what}: {value!r} is unknown; choose from {', '.join(choices)}")
