"""Heads and units are set to zero or to their mean, exactly, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ablation.parts import Parts
from ablation.reference import NOTHING, observe
from ablation.ways import Way
from artifacts.errors import InputError
from tests.hooks.common import PROMPTS, capture, model

HEADS = Parts("heads", ((1, 0), (1, 3), (2, 2)))
UNITS = Parts("units", ((1, 5), (1, 40), (3, 0)))
SITE = {"heads": "blocks.1.attn.hook_z", "units": "blocks.1.mlp.hook_post"}
MINE = {"heads": [0, 3], "units": [5, 40]}


def _states(parts: Parts, edits: object, family: str) -> Tensor:
    used = model(family)
    found = capture(used, used.encode(PROMPTS[:4]), SITE[parts.kind], at="all", edits=edits)
    return torch.cat(list(found[SITE[parts.kind]]))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
@pytest.mark.parametrize("parts", [HEADS, UNITS], ids=["heads", "units"])
@pytest.mark.parametrize("way", [Way("zero"), Way("mean"), Way("mean", 0.25), Way("zero", 0.25)])
def test_parts_go_to_zero_or_to_their_mean_by_the_share(
    parts: Parts, way: Way, family: str
) -> None:
    used = model(family)
    seen = NOTHING
    mean: Tensor | float = 0.0
    if way.mode == "mean":
        seen = observe(used, used.encode(PROMPTS[4:]), parts.sites(way, used))
        mean = seen.mean(SITE[parts.kind])
    before = _states(parts, [], family)
    after = _states(parts, parts.edits(way, seen, used), family)
    want = before - way.alpha * (before - mean)
    rest = [index for index in range(before.shape[1]) if index not in MINE[parts.kind]]
    mine = MINE[parts.kind]
    torch.testing.assert_close(after[:, mine], want[:, mine], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after[:, rest], before[:, rest], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("parts", [HEADS, UNITS], ids=["heads", "units"])
def test_random_sets_have_the_size_and_the_blocks_of_the_chosen_one(parts: Parts) -> None:
    many = 4 if parts.kind == "heads" else 48
    drawn = [parts.other(index, many, 0) for index in range(8)]
    for other in drawn:
        sizes = {block: len(indices) for block, indices in other.by_block.items()}
        assert sizes == {block: len(indices) for block, indices in parts.by_block.items()}
        assert not set(other.chosen) & set(parts.chosen)
    assert len({other.chosen for other in drawn}) > 1
    assert parts.other(0, many, 0) == drawn[0]


def test_where_others_are_few_the_draw_is_from_all_and_where_none_are_it_is_refused() -> None:
    most = Parts("heads", ((0, 0), (0, 1), (0, 2)))
    assert len(set(most.other(0, 4, 0).chosen)) == 3
    with pytest.raises(InputError, match="all 4 heads of block 0"):
        Parts("heads", tuple((0, h) for h in range(4))).other(0, 4, 0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Parts("heads", ((0, 4),)), "has heads 0 to 3 in each block"),
        (Parts("heads", ((9, 0),)), "has blocks 0 to 3"),
        (Parts("units", ((0, 48),)), "has units 0 to 47"),
        (Parts("units", ()), "no units were chosen"),
    ],
)
def test_parts_that_are_not_there_are_refused(parts: Parts, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parts.edits(Way("zero"), NOTHING, model())
