"""One tiny pair on disk for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch


@dataclass(frozen=True)
class Pair:
    base: Path
    aligned: Path
    harmful: Path
    harmless: Path
    direction: torch.Tensor
    block: int

    def arguments(self, out: Path, *more: str) -> list[str]:
        return [
            *("--base", str(self.base), "--aligned", str(self.aligned)),
            *("--harmful", str(self.harmful), "--harmless", str(self.harmless)),
            *("--out", str(out), "--dtype", "float32", "--device", "cpu", *more),
        ]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from tests.directions import tiny

    root = tmp_path_factory.mktemp("pair")
    base = tiny.model()
    torch.manual_seed(7)
    direction = torch.nn.functional.normalize(torch.randn(tiny.D_MODEL), dim=0)
    block = 1
    return Pair(
        tiny.save(root / "base", base),
        tiny.save(root / "aligned", tiny.planted(base, direction, block)),
        tiny.write(root / "harmful.jsonl", tiny.rows("harmful", 48)),
        tiny.write(root / "harmless.jsonl", tiny.rows("harmless", 48)),
        direction,
        block,
    )
