"""Digests that say which weights, configuration and tokenizer a result came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

# They say where and how the model was loaded, not what it is.
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def config_digest(config: PretrainedConfig) -> str:
    """Return SHA-256 over the configuration, without path, dtype and library version."""
    values = {k: v for k, v in config.to_dict().items() if k not in _VOLATILE}
    return _of_json(values)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return SHA-256 over vocabulary, merges and special tokens (not the chat template)."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
        return _of_backend(backend, json.dumps(special))
    return _of_json({"backend": tokenizer.get_vocab(), "special": special})


@lru_cache(maxsize=4)
def _of_backend(text: str, special: str) -> str:
    """Return the digest of a fast tokenizer; read again only where its text has changed."""
    backend = json.loads(text)
    # Set by the last call and no part of the tokenizer.
    backend.pop("truncation", None)
    backend.pop("padding", None)
    return _of_json({"backend": backend, "special": json.loads(special)})


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return SHA-256 of the chat template's text, None without one."""
    template = tokenizer.chat_template
    return None if not template else _of_json(template)


def folder_digests(folder: Path) -> dict[str, str]:
    """Return SHA-256 of every safetensors file in ``folder``, by file name.

    A file is read again only where its size, inode or time of change differ from the last time:
    whatever belongs to a model asks for its digest, and weights are long.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        status = path.stat()
        found[path.name] = _of_file(path, status.st_size, status.st_ino, status.st_mtime_ns)
    return found


@lru_cache(maxsize=256)
def _of_file(path: Path, size: int, inode: int, changed: int) -> str:
    del size, inode, changed  # they are the key of the cache
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return SHA-256 over tensors in memory: names, shapes, dtypes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def text_digest(text: str) -> str:
    """Return SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _of_json(value: object) -> str:
    return text_digest(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))
