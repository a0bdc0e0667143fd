"""Read: separation of prompts along a direction, its controls and its stability.

    estimate = probes.auc_estimate(positive, negative)      # AUC with interval
    verdict = probes.beats_control(...)                     # against shuffled labels and random

See ``docs/decisions/012-separation-and-controls.md`` for the choices.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probes.controls import Verdict, band, beats_control, random_units, unsigned
    from probes.resampling import Resampling, plan, shuffled_labels
    from probes.seeds import derive, generator
    from probes.separation import (
        Estimate,
        auc,
        auc_estimate,
        auc_of_labels,
        d_prime,
        score_interval,
    )
    from probes.stability import chance_cosine, split_half_cosine

_HOMES = {
    "Estimate": "probes.separation",
    "Resampling": "probes.resampling",
    "Verdict": "probes.controls",
    "auc": "probes.separation",
    "auc_estimate": "probes.separation",
    "auc_of_labels": "probes.separation",
    "band": "probes.controls",
    "beats_control": "probes.controls",
    "chance_cosine": "probes.stability",
    "d_prime": "probes.separation",
    "derive": "probes.seeds",
    "generator": "probes.seeds",
    "plan": "probes.resampling",
    "random_units": "probes.controls",
    "score_interval": "probes.separation",
    "shuffled_labels": "probes.resampling",
    "split_half_cosine": "probes.stability",
    "unsigned": "probes.controls",
}

__all__ = [
    "Estimate",
    "Resampling",
    "Verdict",
    "auc",
    "auc_estimate",
    "auc_of_labels",
    "band",
    "beats_control",
    "chance_cosine",
    "d_prime",
    "derive",
    "generator",
    "plan",
    "random_units",
    "score_interval",
    "shuffled_labels",
    "split_half_cosine",
    "unsigned",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` never pays for scipy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'probes' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
