"""Claims: a pass that begins behind a block equals a whole pass whose edits lie there or later;
copies of the prompts in one batch equal one run for each; both compute less, and are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import hooks
from hooks import Ablate, Add, Capture, EngineOptions, Rows, Start
from hooks.errors import EditError, PositionError, SiteError
from tests.hooks.common import LAYERS, MID, PROMPTS, WIDTH, attached, logits, model, vector
from tests.tiny import FAMILIES

SYSTEM = "Be kind and short."
DIRECTIONS = vector(5, 3, WIDTH)
EVERYWHERE = ("blocks.*.hook_resid_pre", "blocks.*.hook_mlp_out")
PLAIN = EngineOptions(prefix=False, pack=False)


def _encoded(family: str = "llama") -> hooks.Encoded:
    return model(family).encode(PROMPTS[:5], system=SYSTEM)


def _states(used: hooks.Model, encoded: hooks.Encoded, site: str = MID) -> Sequence[Tensor]:
    rows = Rows()
    with used.hooks(capture=Capture(site, at="all", into=rows)) as run:
        run.forward(encoded)
    return list(rows[site])


def _last(used: hooks.Model, encoded: hooks.Encoded, edits: Sequence[object], **how: object):
    with used.hooks(edits=edits, options=how.pop("options", None)) as run:
        found = run.forward(encoded, logits="last", **how).logits
    assert isinstance(found, Tensor)
    return found, run.stats


@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(batch_rows=2), PLAIN])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_pass_from_stored_states_equals_the_whole_pass(
    family: str, options: EngineOptions
) -> None:
    used, encoded = model(family), _encoded(family)
    for block in (0, LAYERS - 2, LAYERS - 1):
        site = f"blocks.{block}.hook_resid_post"
        edits = [Add(DIRECTIONS[0], site)]
        start = Start(site, _states(used, encoded, site))
        got, stats = _last(used, encoded, edits, start=start, options=options)
        want, _ = _last(used, encoded, edits, options=PLAIN)
        torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-4)
        assert stats.blocks_run == stats.forwards * (LAYERS - block - 1)


@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(batch_rows=4), PLAIN])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_copies_with_edits_of_their_own_equal_single_runs(
    family: str, options: EngineOptions
) -> None:
    used, encoded = model(family), _encoded(family)
    start = Start(MID, _states(used, encoded))
    ablate = Ablate(DIRECTIONS, EVERYWHERE, by_row=True)
    add = Add(DIRECTIONS, MID, scale=torch.tensor([1.0, -2.0, 0.5]))
    erased, _ = _last(used, encoded, [ablate], copies=3, options=options)
    added, _ = _last(used, encoded, [add], copies=3, start=start, options=options)
    n = len(encoded)
    assert len(erased) == len(added) == 3 * n
    for copy, scale in enumerate((1.0, -2.0, 0.5)):
        rows = slice(copy * n, (copy + 1) * n)
        one, _ = _last(used, encoded, [Ablate(DIRECTIONS[copy], EVERYWHERE)], options=PLAIN)
        torch.testing.assert_close(erased[rows], one, atol=2e-4, rtol=1e-4)
        two, _ = _last(used, encoded, [Add(DIRECTIONS[copy], MID, scale=scale)], options=PLAIN)
        torch.testing.assert_close(added[rows], two, atol=2e-4, rtol=1e-4)


def test_a_prefix_is_computed_once_for_each_copy() -> None:
    used, encoded = model(), _encoded()
    edit = [Ablate(DIRECTIONS, EVERYWHERE, by_row=True)]
    _, saved = _last(used, encoded, edit, copies=3)
    _, whole = _last(used, encoded, edit, copies=3, options=PLAIN)
    prefix = min(encoded.common_prefix(), min(encoded.instruction_end) - 1)
    assert prefix > 8
    assert saved.token_blocks < whole.token_blocks
    assert whole.tokens_asked == 3 * sum(encoded.lengths)
    assert saved.token_blocks == LAYERS * saved.tokens_computed


def test_captures_of_copies_are_told_apart_by_row() -> None:
    used, encoded, rows = model(), _encoded(), Rows()
    edits = [Add(DIRECTIONS, "blocks.0.hook_resid_post")]
    with used.hooks(capture=Capture(MID, into=rows), edits=edits) as run:
        run.forward(encoded, copies=3)
    for copy in range(3):
        single = Rows()
        one = [Add(DIRECTIONS[copy], "blocks.0.hook_resid_post")]
        with used.hooks(capture=Capture(MID, into=single), edits=one) as run:
            run.forward(encoded)
        part = rows[MID][copy * len(encoded) : (copy + 1) * len(encoded)]
        torch.testing.assert_close(part, single[MID], atol=1e-5, rtol=1e-4)


def test_the_model_is_as_before_even_when_the_pass_fails() -> None:
    used, encoded = model(), _encoded()
    states = _states(used, encoded)
    clean, hooked = logits(used, encoded), attached(used.hf)
    blocks = [used.layout.component(f"blocks.{b}") for b in range(LAYERS)]

    def fail(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    last = f"blocks.{LAYERS - 1}.hook_resid_post"
    edits = [hooks.Apply(fail, last)]
    with pytest.raises(KeyboardInterrupt), used.hooks(edits=edits) as run:
        run.forward(encoded, logits="last", start=Start(MID, states))
    assert all("forward" not in block.__dict__ for block in blocks)
    assert attached(used.hf) == hooked
    torch.testing.assert_close(logits(used, encoded), clean, atol=0, rtol=0)


def test_a_forward_of_the_instance_comes_back() -> None:
    used, encoded = model("qwen2", 3), _encoded("qwen2")
    states, block = _states(used, encoded), used.layout.component("blocks.0")
    own = block.forward
    block.__dict__["forward"] = own  # what accelerate does to place a module on a device
    try:
        _last(used, encoded, [Add(DIRECTIONS[0], MID)], start=Start(MID, states))
        assert block.__dict__["forward"] is own
    finally:
        del block.__dict__["forward"]


def test_what_cannot_act_or_does_not_fit_is_refused() -> None:
    used, encoded = model(), _encoded()
    states = _states(used, encoded)
    for at in ("blocks.1.hook_resid_pre", "blocks.*.hook_resid_post", "ln_final.hook_out"):
        with pytest.raises(SiteError, match="start at"), used.hooks() as run:
            run.forward(encoded, logits="last", start=Start(at, states))
    early = [Add(DIRECTIONS[0], "blocks.0.hook_resid_post")]
    with pytest.raises(SiteError, match="before the start"), used.hooks(edits=early) as run:
        run.forward(encoded, logits="last", start=Start(MID, states))
    for wrong in (states[:-1], [*states[:-1], states[-1][1:]], [s[:, :-1] for s in states]):
        with pytest.raises(PositionError, match="start"), used.hooks() as run:
            run.forward(encoded, logits="last", start=Start(MID, wrong))
    with pytest.raises(PositionError, match="copies=0"), used.hooks() as run:
        run.forward(encoded, logits="last", copies=0)
    three = [Add(DIRECTIONS, MID)]
    with pytest.raises(EditError, match="2 copies"), used.hooks(edits=three) as run:
        run.forward(encoded, logits="last", copies=2)
