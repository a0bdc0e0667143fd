"""The options of a fit; nothing here imports torch, so that ``--help`` stays fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import tyro

from artifacts.errors import InputError

ProbeName = Literal["mass-mean", "mass-mean-iid", "logistic", "lda"]
SiteKind = Literal[
    "hook_resid_pre",
    "ln1.hook_out",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_resid_post",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to fit; ``python -m probes.fit`` takes these very fields."""

    probes: tuple[ProbeName, ...] = ("mass-mean", "logistic", "lda")
    """Probes; mass-mean-iid corrects for the covariance and needs more prompts than dimensions."""
    sites: tuple[SiteKind, ...] = ("hook_resid_post",)
    """Site kinds; probes are fitted at every block of each."""
    positions: Literal["last", "template"] = "last"
    """The last prompt token, or every template token after the instruction."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    stream: Literal["auto", "model", "float32"] = "auto"
    """Residual stream in low precision: float32 where the family can, or the model's own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    seed: int = 0
    """Seed of the folds, the controls and the intervals."""
    refits: int = 19
    """How often the controls on shuffled labels and on random features are fitted again."""
    system: str | None = None
    """System prompt, put before every prompt."""
    progress: tyro.conf.Suppress[bool] = False
    """Progress bars on stderr."""

    def __post_init__(self) -> None:
        """Refuse values outside their choices; the command's parser refuses the same ones.

        Raises:
            InputError: naming the value and the choices.
        """
        _choose("probe", self.probes, get_args(ProbeName))
        _choose("site", self.sites, get_args(SiteKind))
        _choose("positions", (self.positions,), ("last", "template"))
        if not self.probes or not self.sites:
            raise InputError("probes and sites need at least one name each")
        if self.refits < 2:
            raise InputError(f"refits {self.refits}: give at least 2 for a band")

    def record(self) -> dict[str, str | int | bool | None | tuple[str, ...]]:
        """Return every option that can change a number, for the manifest."""
        values = asdict(self)
        return {key: values[key] for key in values if key not in ("progress", "device")}


def _choose(what: str, values: tuple[str, ...], choices: tuple[str, ...]) -> None:
    for value in values:
        if value not in choices:
            raise InputError(f"{what} {value!r} is unknown; choose from {', '.join(choices)}")
