"""What a process holds besides its tensors stays bounded, and the user's environment stands."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping

import pytest

from hooks.hardware import bound_kernel_caches

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
GROWTH = """
import ctypes, sys, torch
from hooks.hardware import bound_kernel_caches

class Info(ctypes.Structure):
    _fields_ = [(f"f{i}", ctypes.c_size_t) for i in range(10)]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info
bound_kernel_caches()
weight = torch.randn(192, 128, dtype=torch.bfloat16)
states = torch.randn(3000, 128, dtype=torch.bfloat16)

def run(shapes):
    with torch.no_grad():
        for rows in shapes:
            torch.nn.functional.linear(states[:rows], weight)
    return info().f7  # uordblks: bytes in use

before = run(range(1000, 1100))
print(run(range(1100, 1500)) - before)
"""


def test_kernel_caches_are_bounded_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NAMES[0], "7")
    monkeypatch.setenv(NAMES[1], "")  # so that it is put back as it was
    monkeypatch.delenv(NAMES[1])
    bound_kernel_caches()
    assert [os.environ[name] for name in NAMES] == ["7", "20"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the heap is read from glibc")
def test_memory_does_not_grow_with_the_shapes_of_batches() -> None:
    bounded, free = (_growth(capacity) for capacity in (None, "1024"))
    if free < 8 << 20:
        pytest.skip("here torch multiplies bfloat16 without oneDNN's kernels")
    assert bounded < free / 20


def _growth(capacity: str | None) -> int:
    """Return the bytes that 400 shapes of one product add to the heap, after 100 others."""
    environment = {key: value for key, value in os.environ.items() if key not in NAMES}
    environment |= {} if capacity is None else dict.fromkeys(NAMES, capacity)
    found = subprocess.run(
        [sys.executable, "-c", GROWTH], env=environment, check=True, capture_output=True, text=True
    )
    return int(found.stdout)


FAULTS = """
import resource, torch
from hooks.hardware import keep_heap

keep_heap()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for megabytes in range(2, 31):  # glibc's own threshold follows one step behind
    torch.ones(megabytes << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="for glibc")
def test_freed_states_are_used_again_unless_the_environment_says_otherwise() -> None:
    # What the user set stands: every tensor is mapped and given back, as it is by default.
    mapped = _faults({"MALLOC_MMAP_THRESHOLD_": str(1 << 20)})
    assert mapped > 0.9 * sum(range(2, 31)) * (1 << 20) / resource.getpagesize()
    assert _faults({}) < mapped / 4


def _faults(more: dict[str, str]) -> int:
    return int(_python(FAULTS, more=more))


HOLES = """
import sys, torch
import hooks.hardware as hardware
from hooks.hardware import HeapBound, _resident, keep_heap

keep_heap()
trims, trim = [], hardware.trim_heap
hardware.trim_heap = lambda: (trims.append(1), trim())
bound, start, pins = HeapBound(), _resident(), []
for _ in range(300):
    pins += [torch.ones(1 << 18), torch.zeros(1 << 10)]  # small ones, so that no two holes are one
kept = pins if sys.argv[1] == "kept" else pins[1::2]
del pins
grown = _resident() - start
for _ in range(3):
    bound.settle()
print(grown >> 20, (_resident() - start) >> 20, len(trims), len(kept))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="for glibc")
def test_holes_in_the_heap_are_given_back_and_states_are_not() -> None:
    for mode, left in (("holes", range(60)), ("kept", range(250, 400))):
        grown, after, trims, _ = map(int, _python(HOLES, mode).split())
        assert grown > 250
        assert after in left
        # What is still held is looked at once.
        assert trims == 1


def _python(script: str, *args: str, more: Mapping[str, str] | None = None) -> str:
    """Run a script without what the environment says to glibc's allocator; returns its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {name: value for name, value in kept.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", script, *args]
    result = subprocess.run(
        command, env=environment | dict(more or {}), capture_output=True, text=True, check=True
    )
    return result.stdout
