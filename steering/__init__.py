"""Add and guard: additive, adaptive (AdaSteer) and look-ahead (SCANS) steering on one registry.

    policy = steering.load("runs/policy.safetensors")
    with steering.steer(model, policy):
        model.hf.generate(**inputs)

A policy belongs to one model, by digest. The same from the shell: ``python -m steering.fit``,
``python -m steering.generate``, ``python -m steering.evaluate``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steering.adding import additive, ambient_norms
    from steering.errors import PolicyError
    from steering.fitting import Fitted, fit_policy
    from steering.frontier import Frontier, measure_frontier
    from steering.laws import Logistic, Step
    from steering.options import FitOptions
    from steering.policy import Policy, Reading, Term
    from steering.serve import Steered, answer, coefficients, steer
    from steering.store import load, save
    from steering.transition import Transition

_HOMES = {
    "FitOptions": "options",
    "Fitted": "fitting",
    "Frontier": "frontier",
    "Logistic": "laws",
    "Policy": "policy",
    "PolicyError": "errors",
    "Reading": "policy",
    "Steered": "serve",
    "Step": "laws",
    "Term": "policy",
    "Transition": "transition",
    "additive": "adding",
    "ambient_norms": "adding",
    "answer": "serve",
    "coefficients": "serve",
    "fit_policy": "fitting",
    "load": "store",
    "measure_frontier": "frontier",
    "save": "store",
    "steer": "serve",
}

__all__ = [
    "FitOptions",
    "Fitted",
    "Frontier",
    "Logistic",
    "Policy",
    "PolicyError",
    "Reading",
    "Steered",
    "Step",
    "Term",
    "Transition",
    "additive",
    "ambient_norms",
    "answer",
    "coefficients",
    "fit_policy",
    "load",
    "measure_frontier",
    "save",
    "steer",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that ``--help`` never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'steering' has no attribute {name!r}")
    return getattr(importlib.import_module(f"steering.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
