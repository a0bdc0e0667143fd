"""Which device and precision a model is loaded in."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Literal

import torch

from hooks.errors import ModelError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def native_bfloat16(device: str) -> bool:
    """True where the hardware multiplies bfloat16 natively."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("amx_tile") or able.get("avx512_bf16"))


def pick_device(device: str) -> str:
    """Return a torch device name.

    Raises:
        ModelError: no such device, or not here.
    """
    if device in ("auto", "map"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"{device!r} is not a device; try auto, cpu, cuda or cuda:1") from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"{device}: torch sees no CUDA device here; use --device cpu")
    return device


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the precision to load in.

    Raises:
        ModelError: naming the choices.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    if dtype not in names:
        raise ModelError(f"dtype {dtype!r}; choose auto, {', '.join(names)}")
    return names[dtype]


_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_KERNELS = "20"


def bound_kernel_caches() -> None:
    """Keep oneDNN from holding a kernel for every shape of batch that it has seen.

    On a CPU it compiles one for each shape of a product and keeps 1,024 of them, in two caches:
    2.4 MB for each new shape of a batch (135M parameters, bfloat16), so that memory grows with the
    number of prompts. 20 are those of one shape, which all blocks of a pass have in common;
    compiling them takes a tenth of one block's time. Acts only before the first product; what the
    environment says already stands.
    """
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, _KERNELS)


_MMAP, _TRIM = -3, -1  # glibc's numbers for mallopt()
_MAPPED_FROM, _TRIMMED_FROM = 32 * 2**20, 2**30


def keep_heap() -> None:
    """Keep glibc from giving the memory of every block's states back and asking for it again.

    By default it returns freed tensors of some MB to the system at once; the pages of the next ones
    are then made and cleared anew (measured: 1.6 million page faults and 3 s of 13 in a first pass
    over 256 prompts in bfloat16). What stays is bounded by :class:`HeapBound`, and
    :func:`release_memory` gives it back. What the environment says already stands.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MMAP, _MAPPED_FROM)
        mallopt(_TRIM, _TRIMMED_FROM)


def release_memory() -> None:
    """Give back what loading or deleted models have held, to the system and to the accelerator.

    Python frees them late (they hold references to themselves), and glibc keeps what was freed.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


_GROWN = 128 * 2**20


class HeapBound:
    """Keeps the holes that passes leave in the heap from adding up; one for a set of weights.

    Batches differ in width, so that what one leaves free seldom fits the next. Giving all of it
    back after each costs time, because the pages of the next are made anew (docs/decisions/025).
    """

    def __init__(self) -> None:
        """Count from what the process holds now."""
        self._held = _resident()

    def settle(self) -> None:
        """Give the holes back where the process has grown by 128 MB since it was smallest."""
        now = _resident()
        self._held = min(self._held, now)
        if now > self._held + _GROWN:
            trim_heap()
            # What is left is held and no hole: the states of captures, another model.
            self._held = _resident()


def _resident() -> int:
    """Return the bytes of this process in memory, 0 where the system does not say."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim_heap() -> None:
    """Give back the holes that passes left in the heap."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
