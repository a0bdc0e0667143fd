"""Claims: torchrun with two processes gives the directions, and the n, of one process; rank 0 alone
prints; what rank 0 refuses ends all ranks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import artifacts
from artifacts.errors import SystemFailure
from directions.ranks import Ranks
from tests.directions.conftest import Pair


def _torchrun(
    pair: Pair, out: Path, tmp_path: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
    ]
    port = str(20000 + os.getpid() % 20000)
    return subprocess.run(
        [*command, port, "-m", "directions.extract", *pair.arguments(out, *more)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_give_what_one_gives(pair: Pair, tmp_path: Path) -> None:
    import directions
    from directions.split import join
    from evaluation.prompts import read

    out = tmp_path / "two.safetensors"
    done = _torchrun(pair, out, tmp_path, "--json", "--shard-size", "10")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)  # one object: the other rank printed nothing
    options = directions.Options(dtype="float32", device="cpu", shard_size=10)
    prompts = join(read(pair.harmful, label="harmful"), read(pair.harmless, label="harmless"))
    one = directions.extract(str(pair.base), str(pair.aligned), fit=prompts, options=options)
    two = artifacts.load(out)
    assert two.manifest.digest == found["digest"]
    assert two.names == one.artifact.names
    assert found["stats"]["shards"] == one.stats["shards"]
    assert found["stats"]["tokens_asked"] == one.stats["tokens_asked"]
    for name in two.names:
        assert two.manifest.directions[name].n == one.artifact.manifest.directions[name].n
        torch.testing.assert_close(two.direction(name), one.direction(name), atol=1e-6, rtol=1e-6)
    assert [d.n for d in two.manifest.data] == [d.n for d in one.artifact.manifest.data]
    assert sorted(p.name for p in tmp_path.glob("two*")) == ["two.safetensors"]


def test_shards_are_dealt_without_gap_or_overlap() -> None:
    for world in (1, 2, 3):
        dealt = [[s for s in range(7) if Ranks(rank, world).mine(s)] for rank in range(world)]
        assert sorted(sum(dealt, [])) == list(range(7))


def test_a_single_process_agrees_with_itself_and_passes_errors_on() -> None:
    with Ranks().together():
        pass
    with pytest.raises(SystemFailure, match="mine"), Ranks().together():
        raise SystemFailure("mine")
    assert Ranks().device("auto") == "auto"
    assert Ranks(0, 2).device("cpu") == "cpu"
