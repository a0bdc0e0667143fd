"""What the benchmarks ran on, and its fastest matrix products at a model's shapes."""

from __future__ import annotations

import platform
import time
from collections import Counter
from importlib.metadata import version

import torch
from torch import nn

PACKAGES = ("torch", "transformers", "transformer-lens", "peft")


def describe() -> dict[str, str | int]:
    able = torch.cpu.get_capabilities()
    special = [name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if able.get(name)]
    return {
        "cpu": str(able.get("cpu_name", platform.processor())),
        "cores": int(able.get("num_physical_cores", 0)),
        "threads": torch.get_num_threads(),
        "capabilities": ", ".join(special),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def linear_shapes(body: nn.Module) -> Counter[tuple[int, int]]:
    """Count the weight matrices of a model body by (in, out)."""
    return Counter(
        (part.in_features, part.out_features)
        for part in body.modules()
        if isinstance(part, nn.Linear)
    )


def flops_per_token(body: nn.Module) -> int:
    """Floating-point operations of the body's linear maps for one token."""
    return sum(2 * i * o * n for (i, o), n in linear_shapes(body).items())


def matmul_limit(body: nn.Module, *, tokens: int, dtype: torch.dtype, rounds: int = 7) -> float:
    """Return FLOP/s of the body's own matrix products alone, best of ``rounds``."""
    shapes = linear_shapes(body)
    device = next(body.parameters()).device
    operands = {
        (i, o): (
            torch.randn(tokens, i, dtype=dtype, device=device),
            nn.Linear(i, o, bias=False, dtype=dtype, device=device).requires_grad_(False),
        )
        for i, o in shapes
    }
    best = float("inf")
    for _ in range(rounds):
        spent = 0.0
        for shape, (x, linear) in operands.items():
            _sync(device)
            start = time.perf_counter()
            for _ in range(8):
                linear(x)
            _sync(device)
            spent += (time.perf_counter() - start) / 8 * shapes[shape]
        best = min(best, spent)
    return flops_per_token(body) * tokens / best


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
