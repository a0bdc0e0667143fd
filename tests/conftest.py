"""Tiny random models of every proven family, and planted pairs, shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch: the suite compares bits, and the user's cache must stay as it is.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")


@pytest.fixture(scope="session", autouse=True)
def private_check_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the converted reference model in the user's cache, and the rest out of it."""
    import hooks.check

    folder = tmp_path_factory.mktemp("cache")
    hooks.check.cache_root = lambda: Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, so that no process ends alone with one of them; notebooks lead."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    long |= {item.path for item in items if item.path.suffix == ".ipynb"}
    items.sort(key=lambda item: item.path not in long)  # stable: notebooks were collected first
