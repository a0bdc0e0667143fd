"""Make pairs: the refusal-tuned reference model, its recipe, its data and its measured card.

    python -m training.reference               # makes the pair ready and checks it
    python -m training.reference --retrain     # repeats the recipe and measures again

Training here teaches a small model to refuse; nothing in this package removes a refusal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.card import render
    from training.data import TrainingData, load_training_data
    from training.fitting import train
    from training.measuring import measure
    from training.metrics import Metrics
    from training.recipe import Recipe

_HOMES = {
    "Metrics": "training.metrics",
    "Recipe": "training.recipe",
    "TrainingData": "training.data",
    "load_training_data": "training.data",
    "measure": "training.measuring",
    "render": "training.card",
    "train": "training.fitting",
}

__all__ = [
    "Metrics",
    "Recipe",
    "TrainingData",
    "load_training_data",
    "measure",
    "render",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'training' has no attribute {name!r}")
