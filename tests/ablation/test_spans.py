"""A span loses what it should, by the share asked for, where asked; its controls move as far."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import hooks
from ablation.reference import NOTHING, Reference, observe
from ablation.spans import Span
from ablation.ways import Way
from artifacts.errors import InputError
from hooks import Ablate
from hooks.errors import EditError
from tests.hooks.common import LAYERS, POST, PROMPTS, WIDTH, capture, model, vector

V = vector(1)
U = V / V.norm()
SPAN = Span("v", V[None], 0, LAYERS - 1)
PLANE = Span("p", vector(2, 2, WIDTH), 0, LAYERS - 1)
WAYS = [Way("zero"), Way("mean"), Way("zero", 0.4), Way("mean", 0.4)]


def _encoded(n: int = 5) -> hooks.Encoded:
    return model().encode(PROMPTS[:n])


def _seen(span: Span, way: Way, used: hooks.Model | None = None) -> Reference:
    used = used or model()
    sites = span.sites(way, used)
    return observe(used, used.encode(PROMPTS[5:]), sites, bounds=way.mode == "clamp")


def _stream(edits: object, site: str = POST, family: str = "llama") -> list[Tensor]:
    found = capture(model(family), model(family).encode(PROMPTS[:5]), site, at="all", edits=edits)
    return [torch.cat(list(found[name])) for name in found.sites]


def test_a_reference_is_the_mean_over_the_tokens_meant() -> None:
    site = "blocks.1.hook_attn_out"
    last = observe(model(), _encoded(), [site])
    rows = capture(model(), _encoded(), site, at="last")[site]
    torch.testing.assert_close(last.mean(site), rows.mean(0), atol=1e-5, rtol=1e-4)
    every = observe(model(), _encoded(), [site], at=("all",))
    tokens = torch.cat(list(capture(model(), _encoded(), site, at="all")[site]))
    torch.testing.assert_close(every.mean(site), tokens.mean(0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(every.mean(site), last.mean(site), atol=1e-4)
    both = model().encode(PROMPTS[:2], responses=["Yes.", "No, two."])
    spoken = observe(model(), both, [site], at=("last", "response"))
    parts = [capture(model(), both, site, at=rule)[site] for rule in ("last", "response")]
    joined = torch.cat([row.reshape(-1, WIDTH) for part in parts for row in part])
    torch.testing.assert_close(spoken.mean(site), joined.mean(0), atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="no reference mean"):
        last.mean("blocks.2.hook_attn_out")


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_is_left_of_the_last_write_is_its_mean_and_the_rest_of_the_share(
    way: Way, family: str
) -> None:
    used = model(family)
    seen = _seen(SPAN, way, used) if way.mode == "mean" else NOTHING
    last = f"blocks.{LAYERS - 1}.hook_mlp_out"
    captured = {}
    for when in ("before", "after"):
        rows = capture(
            used,
            used.encode(PROMPTS[:5]),
            last,
            at="all",
            edits=SPAN.edits(way, seen, used),
            when=when,
        )
        captured[when] = torch.cat(list(rows[last]))
    mean = seen.mean(last) @ U if way.mode == "mean" else torch.tensor(0.0)
    before, after = captured["before"] @ U, captured["after"] @ U
    torch.testing.assert_close(
        after, mean + (1 - way.alpha) * (before - mean), atol=1e-4, rtol=1e-4
    )
    beside = captured["before"] - torch.outer(before, U)
    torch.testing.assert_close(
        captured["after"] - torch.outer(after, U), beside, atol=1e-4, rtol=1e-4
    )


def test_under_mean_ablation_every_token_has_the_same_coordinate() -> None:
    edits = SPAN.edits(Way("mean"), _seen(SPAN, Way("mean")), model())
    for state in _stream(edits):
        along = state @ U
        assert float(along.std()) < 1e-4
    assert float((_stream([])[-1] @ U).std()) > 1e-2


def test_behind_a_range_of_blocks_the_direction_may_be_written_again() -> None:
    early = Span("v", V[None], 0, 1).edits(Way("zero"), NOTHING, model())
    along = [float((state @ U).abs().max()) for state in _stream(early)]
    assert max(along[:2]) < 1e-4 < 1e-2 < along[-1]
    late = Span("v", V[None], 2, LAYERS - 1).edits(Way("zero"), NOTHING, model())
    states, plain = _stream(late), _stream([])
    assert torch.equal(states[1], plain[1])
    assert float((states[-1] @ U).abs().max()) < 1e-4


def test_a_subspace_loses_all_of_its_directions_whatever_its_basis() -> None:
    turned = replace(PLANE, rows=torch.tensor([[0.6, -0.8], [0.8, 0.6]]) @ PLANE.rows * 5)
    for span in (PLANE, turned):
        for state in _stream(span.edits(Way("zero"), NOTHING, model())):
            assert float((state @ PLANE.rows.T).abs().max()) < 1e-3
    with pytest.raises(EditError, match="linearly dependent"):
        Span("twice", torch.stack([V, 2 * V]), 0, 1).edits(Way("zero"), NOTHING, model())


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_clamping_keeps_the_stream_within_bounds_and_leaves_what_is_within(family: str) -> None:
    used = model(family)
    seen = _seen(SPAN, Way("clamp"), used)
    edits = SPAN.edits(Way("clamp"), seen, used)
    site = f"blocks.{LAYERS - 1}.hook_resid_post"
    low, high = seen.bounds(site, U)
    clamped = _stream(edits, site, family)[0] @ U
    assert low - 1e-4 <= float(clamped.min()) <= float(clamped.max()) <= high + 1e-4
    free = _stream([], site, family)[0] @ U
    assert float(free.min()) < low or float(free.max()) > high
    both = {site: torch.cat([1e4 * x, -1e4 * x]) for site, x in seen.samples.items()}
    wide = replace(seen, samples=both)
    loose = _stream(SPAN.edits(Way("clamp"), wide, used), site, family)[0] @ U
    torch.testing.assert_close(loose, free, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("span", [SPAN, PLANE], ids=["direction", "plane"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_moved_control_moves_every_state_as_far_and_elsewhere(span: Span, way: Way) -> None:
    seen = _seen(span, way) if way.mode == "mean" else NOTHING
    site = "blocks.0.hook_resid_pre"
    plain = _stream([], site)[0]
    moved = _stream(span.edits(way, seen, model()), site)[0] - plain
    for index in range(3):
        edits = span.control(index, way, seen, model(), how="moved", seed=0)
        other = _stream(edits, site)[0] - plain
        torch.testing.assert_close(other.norm(dim=-1), moved.norm(dim=-1), atol=1e-5, rtol=1e-3)
        assert float((other @ span.basis.T).abs().max()) < 1e-5


def test_controls_differ_by_number_and_seed_and_come_back() -> None:
    def drawn(index: int, seed: int) -> Tensor:
        (edit,) = SPAN.control(index, Way("zero"), NOTHING, model(), how="removed", seed=seed)
        assert isinstance(edit, Ablate)
        return edit.parts()["basis"][0]

    assert torch.equal(drawn(1, 0), drawn(1, 0))
    for other in (drawn(0, 0), drawn(1, 1)):
        assert not torch.allclose(drawn(1, 0), other, atol=0.05)
    assert float((drawn(1, 0) @ U).abs().max()) < 1e-5
    other = vector(9)[None] - (vector(9) @ U) * U
    away = replace(SPAN, beside=other)
    (edit,) = away.control(1, Way("zero"), NOTHING, model(), how="removed", seed=0)
    found = edit.parts()["basis"][0]
    assert float((found @ other.T).abs().max()) < 1e-5 > float((found @ U).abs().max())
    assert float((drawn(1, 0) @ other.T).abs().max()) > 1e-3
    with pytest.raises(InputError, match="leave no room"):
        wide = Span("wide", vector(3, WIDTH - 1, WIDTH), 0, 1)
        wide.control(0, Way("zero"), NOTHING, model(), how="removed", seed=0)


def test_another_width_is_refused_before_any_hook_exists() -> None:
    wrong = Span("wide", vector(1, 1, WIDTH + 1), 0, LAYERS - 1)
    with pytest.raises(InputError, match=f"width {WIDTH + 1}, but the stream"):
        wrong.edits(Way("zero"), NOTHING, model())
