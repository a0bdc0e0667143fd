"""Load a model, name its sites, capture and edit them through one registry.

import hooks

model = hooks.load("reference:base")
rows = hooks.Rows()
with model.hooks(capture=hooks.Capture("blocks.*.hook_resid_post", into=rows)) as run:
    run.forward(model.encode(["Name three rivers."]))
rows.stack()                                      # [site, prompt, d_model]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hooks.accumulate import Accumulator as Accumulator
    from hooks.accumulate import Moments as Moments
    from hooks.accumulate import PairedMoments as PairedMoments
    from hooks.accumulate import Reservoir as Reservoir
    from hooks.accumulate import Rows as Rows
    from hooks.capture import Capture as Capture
    from hooks.check import CheckReport as CheckReport
    from hooks.check import output_weights as output_weights
    from hooks.encoded import Encoded as Encoded
    from hooks.engine import EngineOptions as EngineOptions
    from hooks.engine import RunOutput as RunOutput
    from hooks.engine import RunStats as RunStats
    from hooks.gates import Affine as Affine
    from hooks.gates import Gate as Gate
    from hooks.gates import Threshold as Threshold
    from hooks.interventions import Ablate as Ablate
    from hooks.interventions import Add as Add
    from hooks.interventions import Apply as Apply
    from hooks.interventions import Clamp as Clamp
    from hooks.interventions import Intervention as Intervention
    from hooks.interventions import Scale as Scale
    from hooks.interventions import SetCoordinate as SetCoordinate
    from hooks.kv import KVState as KVState
    from hooks.loading import check_pair as check_pair
    from hooks.loading import load as load
    from hooks.loading import load_pair as load_pair
    from hooks.loading import wrap as wrap
    from hooks.model import Model as Model
    from hooks.model import expand as expand
    from hooks.pair import PairStates as PairStates
    from hooks.pair import read_pair as read_pair
    from hooks.pair import why_not_joint as why_not_joint
    from hooks.run import Run as Run
    from hooks.sites import SITE_KINDS as SITE_KINDS
    from hooks.start import Start as Start

_HOME = {
    "accumulate": ("Accumulator", "Moments", "PairedMoments", "Reservoir", "Rows"),
    "capture": ("Capture",),
    "check": ("CheckReport", "output_weights"),
    "encoded": ("Encoded",),
    "engine": ("EngineOptions", "RunOutput", "RunStats"),
    "gates": ("Affine", "Gate", "Threshold"),
    "interventions": (
        "Ablate",
        "Add",
        "Apply",
        "Clamp",
        "Intervention",
        "Scale",
        "SetCoordinate",
    ),
    "kv": ("KVState",),
    "loading": ("check_pair", "load", "load_pair", "wrap"),
    "model": ("Model", "expand"),
    "pair": ("PairStates", "read_pair", "why_not_joint"),
    "run": ("Run",),
    "sites": ("SITE_KINDS",),
    "start": ("Start",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that importing ``hooks`` stays cheap."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hooks' has no attribute {name!r}")
    return getattr(import_module(f"hooks.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
