"""Read: linear probes across sources, separation along a direction, controls and stability.

    found = probes.fit("reference:aligned")                 # linear probes, cross-source matrix
    found.predict("logistic", states)                       # p(harmful)
    estimate = probes.auc_estimate(positive, negative)      # AUC with interval
    verdict = probes.beats_control(...)                     # against shuffled labels and random

The first from the shell: ``python -m probes.fit --help``. See ``docs/decisions/`` 012 and 020 for
the choices.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probes.calibration import Calibration, Platt, platt
    from probes.controls import Verdict, band, beats_control, random_units, unsigned
    from probes.erasure import Leace
    from probes.errors import NonFiniteError
    from probes.estimators import PROBES, Discriminant, Logistic, MassMean
    from probes.fitting import fit
    from probes.options import Options
    from probes.resampling import Resampling, plan, shuffled_labels
    from probes.result import ProbeSet, load
    from probes.rows import Row, read_rows
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
    "Calibration": "probes.calibration",
    "Discriminant": "probes.estimators",
    "Estimate": "probes.separation",
    "Leace": "probes.erasure",
    "Logistic": "probes.estimators",
    "MassMean": "probes.estimators",
    "NonFiniteError": "probes.errors",
    "Options": "probes.options",
    "PROBES": "probes.estimators",
    "Platt": "probes.calibration",
    "ProbeSet": "probes.result",
    "Resampling": "probes.resampling",
    "Row": "probes.rows",
    "Verdict": "probes.controls",
    "auc": "probes.separation",
    "auc_estimate": "probes.separation",
    "auc_of_labels": "probes.separation",
    "band": "probes.controls",
    "beats_control": "probes.controls",
    "chance_cosine": "probes.stability",
    "d_prime": "probes.separation",
    "derive": "probes.seeds",
    "fit": "probes.fitting",
    "generator": "probes.seeds",
    "load": "probes.result",
    "plan": "probes.resampling",
    "platt": "probes.calibration",
    "random_units": "probes.controls",
    "read_rows": "probes.rows",
    "score_interval": "probes.separation",
    "shuffled_labels": "probes.resampling",
    "split_half_cosine": "probes.stability",
    "unsigned": "probes.controls",
}

__all__ = [
    "Calibration",
    "Discriminant",
    "Estimate",
    "Leace",
    "Logistic",
    "MassMean",
    "NonFiniteError",
    "Options",
    "PROBES",
    "Platt",
    "ProbeSet",
    "Resampling",
    "Row",
    "Verdict",
    "auc",
    "auc_estimate",
    "auc_of_labels",
    "band",
    "beats_control",
    "chance_cosine",
    "d_prime",
    "derive",
    "fit",
    "generator",
    "load",
    "plan",
    "platt",
    "random_units",
    "read_rows",
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
