"""Claims: the figures of a decomposition draw singular values beside their null, and ranks and
held-out shares of every block; other artifacts have no such figures.
"""

from __future__ import annotations

import pytest
import torch

from artifacts import Artifact, MeasureInfo
from reports import decomposition
from reports.reading import MissingPart
from tests.artifacts import making

BLOCKS, K = (1, 2, 4), 3
VALUES = torch.tensor([[9.0, 4.0, 1.0], [20.0, 5.0, 0.5], [12.0, 6.0, 3.0]])


def made(best: int | None = 2) -> Artifact:
    rng = torch.Generator().manual_seed(0)
    null = {
        f"null_c{k}": torch.tensor([[2.0, 1.0 + k / 10, 3.0 + k]] * len(BLOCKS))
        for k in range(1, K + 1)
    }
    share = torch.tensor([[0.1, 0.0, 0.2], [0.5, 0.4, 0.6], [0.3, 0.2, 0.4]])
    measured = null | {"r2": share}
    about = {name: MeasureInfo(n=24, what=name, level=0.9) for name in measured}
    info = making.info(blocks=BLOCKS, contrast="shift", measures=about)
    tensors = {
        "direction/affine_shift": torch.randn(len(BLOCKS), 6, generator=rng),
        "component/affine_shift": torch.randn(len(BLOCKS), K, 6, generator=rng),
        "singular_values/affine_shift": VALUES,
    } | {f"measure/affine_shift/{name}": value for name, value in measured.items()}
    method = {"name": "decomposition", "rank.affine_shift": (1, 2, 0)}
    if best is not None:
        method |= {"best_block.affine_shift": best}
    return Artifact(
        making.manifest(
            base=making.model(n_layers=5),
            aligned=making.model(n_layers=5),
            directions={"affine_shift": info},
            contrast=("shift",),
            method=method,
        ),
        tensors,
    )


@pytest.mark.parametrize(("best", "row"), [(2, 1), (1, 0), (None, 2)])
def test_singular_values_are_those_of_the_best_block_with_the_band_of_their_null(
    best: int | None, row: int
) -> None:
    artifact = made(best)
    figure = decomposition.singular_values(artifact)
    (points,) = [trace for trace in figure.data if trace.name == "singular value"]
    assert list(points.x) == [1, 2, 3]
    assert list(points.y) == VALUES[row].tolist()
    (band,) = [trace for trace in figure.data if trace.fill == "toself"]
    ends = [artifact.tensors[f"measure/affine_shift/null_c{k}"][row] for k in (1, 2, 3)]
    high, low = ([float(end[i]) for end in ends] for i in (2, 1))
    assert list(band.y) == high + low[::-1]
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.annotations[0].text == f"affine_shift, block {BLOCKS[row]}"


def test_ranks_and_shares_are_those_of_every_block() -> None:
    artifact = made()
    figure = decomposition.ranks(artifact)
    counts, share = (trace for trace in figure.data if trace.fill != "toself")
    assert list(counts.x) == list(share.x) == list(BLOCKS)
    assert list(counts.y) == [1, 2, 0]
    stored = artifact.tensors["measure/affine_shift/r2"]
    assert list(share.y) == stored[:, 0].tolist()
    (band,) = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(band.y) == stored[:, 2].tolist() + stored[:, 1].tolist()[::-1]


def test_an_artifact_without_a_decomposition_is_named() -> None:
    plain = making.small()
    assert decomposition.names(plain) == ()
    for draw in (decomposition.singular_values, decomposition.ranks):
        with pytest.raises(MissingPart, match=r"run python -m directions\.decompose"):
            draw(plain)
