"""Whatever fails, the model has afterwards the hooks it had before (R16); nothing is silent (R17),
nothing is broadcast (R18), and nested contexts count and order as documented (R19)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor, nn

import hooks
from hooks import Add, Apply, Capture, Gate, Scale, Threshold
from hooks.errors import ContextError, EditContractError, EditError, SilentEditError, SiteError
from hooks.registry import Registry
from tests.hooks.common import (
    LAYERS,
    MID,
    POST,
    WIDTH,
    attached,
    capture,
    ids_of,
    model,
    plain_logits,
    vector,
)

V = vector(1)
IDS = ids_of([5, 8, 3])
SITES = ("hook_embed", POST, "blocks.*.attn.hook_z", "blocks.*.hook_resid_mid")


class Planted(Exception):
    """The fault of a test."""


def _edits() -> list[object]:
    return [Scale(site, 1.5) for site in SITES]


@contextmanager
def _foreign(root: nn.Module) -> Iterator[list[int]]:
    """A user's own hooks on modules that we use too; they must survive and keep acting."""
    calls: list[int] = []
    layer = root.model.layers[1]
    handles = [
        layer.register_forward_hook(lambda *_: calls.append(1)),
        layer.register_forward_pre_hook(lambda *_: calls.append(2)),
        root.register_forward_hook(lambda *_: calls.append(3), always_call=True),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _unchanged() -> Iterator[None]:
    used = model()
    want = plain_logits(used, IDS.ids[0])
    with _foreign(used.hf) as calls:
        before = attached(used.hf)
        yield
        assert attached(used.hf) == before
        assert used._view.registry.contexts == ()
        calls.clear()
        assert torch.equal(plain_logits(used, IDS.ids[0]), want)
        assert calls == [2, 1, 3]
    assert attached(used.hf) == []


def _fail_on(call: int, error: BaseException) -> Callable[[Tensor], Tensor]:
    count = iter(range(1, 100))

    def edit(x: Tensor) -> Tensor:
        if next(count) == call:
            raise error
        return x + 1

    return edit


def test_resolving_fails_before_a_hook_exists() -> None:
    with _unchanged(), pytest.raises(SiteError):
        model().hooks(edits=[*_edits(), Add(V, "blocks.9.hook_resid_post")])


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("which", [1, 2, 3, 6])
def test_a_failing_registration_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, which: int, kind: str
) -> None:
    with _unchanged():
        real, count = getattr(nn.Module, kind), iter(range(1, 100))

        def flaky(self: nn.Module, *args: object, **kwargs: object) -> object:
            if next(count) == which:
                raise Planted
            return real(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, kind, flaky)
            with pytest.raises(Planted), model().hooks(edits=_edits()):
                pass
            assert next(count) > which


def test_a_failing_inner_registration_keeps_the_outer_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _unchanged(), model().hooks(edits=[Add(V, MID)]) as outer:
        before = attached(model().hf)
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "_register", lambda *_: (_ for _ in ()).throw(Planted()))
            with pytest.raises(Planted), model().hooks(edits=_edits()):
                pass
        assert attached(model().hf) == before
        outer.forward(IDS, logits="last")
        assert outer.calls[MID] == 1


@pytest.mark.parametrize("error", [Planted(), KeyboardInterrupt(), ValueError("x")])
@pytest.mark.parametrize("call", [1, 3, 5])
def test_a_failing_edit_call_leaves_nothing(call: int, error: BaseException) -> None:
    edits = [*_edits(), Apply(_fail_on(call, error), POST)]
    with _unchanged(), pytest.raises(type(error)), model().hooks(edits=edits) as run:
        run.forward(IDS, logits="last")
        run.forward(IDS, logits="last")


@pytest.mark.parametrize("error", [Planted(), KeyboardInterrupt()])
def test_a_failing_user_body_leaves_nothing(error: BaseException) -> None:
    with _unchanged(), pytest.raises(type(error)), model().hooks(edits=_edits()):
        raise error


def test_a_failing_forward_leaves_nothing() -> None:
    with _unchanged(), pytest.raises(IndexError), model().hooks(edits=_edits()):
        model().hf(torch.tensor([[10**6]]))


def test_a_closed_generator_leaves_nothing() -> None:
    def steps() -> Iterator[int]:
        with model().hooks(edits=_edits()):
            yield 1
            yield 2

    with _unchanged():
        generator = steps()
        next(generator)
        assert attached(model().hf)
        generator.close()


def test_after_an_interrupt_the_open_context_goes_on_right() -> None:
    rows = hooks.Rows()
    stop = Apply(_fail_on(1, KeyboardInterrupt()), MID)
    with _unchanged(), model().hooks(capture=Capture(POST, into=rows)) as run:
        with pytest.raises(KeyboardInterrupt), model().hooks(edits=[stop]) as inner:
            inner.forward(IDS, logits="last")
        run.forward(IDS)
    torch.testing.assert_close(rows.stack(), capture(model(), IDS).stack())


# R17


@pytest.mark.parametrize(
    "sites",
    ["blocks.1.hook_resid_pots", "blocks.7-9.hook_resid_post", [MID, "blocks.1.hook_resid_pos"]],
)
def test_names_that_are_not_there_raise(sites: str | list[str]) -> None:
    with pytest.raises(SiteError):
        model().hooks(capture=Capture(sites))
    with pytest.raises(SiteError):
        model().hooks(edits=[Add(V, sites)])


def test_an_edit_whose_tokens_never_come_raises() -> None:
    never = Add(V, MID, steps="generated")
    with pytest.raises(SilentEditError, match=MID), model().hooks(edits=[never]) as run:
        run.forward(IDS, logits="last")
    nowhere = Add(V, MID, positions=lambda _, mask: torch.zeros_like(mask))
    with pytest.raises(SilentEditError, match=MID), model().hooks(edits=[nowhere]) as run:
        run.forward(IDS, logits="last")


def test_a_context_in_which_nothing_ran_raises() -> None:
    with pytest.raises(SilentEditError, match="nothing happened"), model().hooks(edits=_edits()):
        pass
    gate = Gate(V, "blocks.0.hook_resid_post", (Add(V, MID),), Threshold(0.0))
    with pytest.raises(SilentEditError, match="nothing happened"), model().hooks(edits=[gate]):
        pass
    with model().hooks():
        pass


def test_a_context_used_again_counts_again() -> None:
    context = model().hooks(edits=[Add(V, MID)])
    with context as run:
        run.forward(IDS, logits="last")
    with pytest.raises(SilentEditError), context:
        pass


def test_a_layer_past_the_stop_raises() -> None:
    with model().hooks(edits=[Add(V, MID)]) as run:
        with pytest.raises(SiteError, match="lies past the stop"):
            run.forward(IDS, stop_at="blocks.0.hook_resid_post")
        with pytest.raises(SiteError, match="logits lie past"):
            run.forward(IDS, logits="last", stop_at=MID)
        run.forward(IDS, stop_at=MID)


def test_a_pass_that_asks_for_nothing_raises() -> None:
    with model().hooks() as run, pytest.raises(SiteError, match="nothing is asked for"):
        run.forward(IDS)


def test_a_closed_context_and_one_open_twice_are_refused() -> None:
    context = model().hooks(edits=[Add(V, MID)])
    with pytest.raises(ContextError, match="closed"):
        context.forward(IDS, logits="last")
    with context as run:
        run.forward(IDS, logits="last")
        with pytest.raises(ContextError, match="open already"):
            context.__enter__()
    with pytest.raises(ContextError, match="closed"):
        run.forward(IDS, logits="last")


# R18


def _in_place(x: Tensor) -> Tensor:
    return x.add_(1)


def _in_place_behind_a_copy(x: Tensor) -> Tensor:
    x.add_(1)
    return x.clone()


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x[..., :-1], "returned"),
        (lambda x: x[..., :1], "returned"),
        (lambda x: x[:, 1:], "returned"),
        (lambda x: x[:1], "returned"),
        (lambda x: x.double(), "returned"),
        (lambda x: x * float("nan"), "not finite"),
        (lambda x: x / 0, "not finite"),
        (_in_place, "in place"),
        (_in_place_behind_a_copy, "in place"),
    ],
)
def test_an_edit_that_breaks_its_contract_raises_and_names_the_site(
    function: Callable[[Tensor], Tensor], why: str
) -> None:
    with (
        _unchanged(),
        pytest.raises(EditContractError, match=f"Apply at {MID}.*{why}"),
        model().hooks(edits=[Apply(function, MID)]) as run,
    ):
        run.forward(IDS, logits="last")


@pytest.mark.parametrize("width", [1, WIDTH - 1, WIDTH + 1, 2 * WIDTH])
def test_a_direction_of_another_width_is_refused_before_any_hook(width: int) -> None:
    edits = [
        Add(vector(1, width), MID),
        hooks.Ablate(vector(1, width), MID),
        hooks.SetCoordinate(vector(1, width), MID, value=1.0),
        hooks.Clamp(vector(1, width), MID, low=0.0),
    ]
    for edit in edits:
        with pytest.raises(EditError, match=f"{MID}.*width {width}.*nothing is broadcast"):
            model().hooks(edits=[edit])
    gate = Gate(vector(1, width), "blocks.0.hook_resid_post", (Add(V, MID),), Threshold(0.0))
    with pytest.raises(EditError, match="nothing is broadcast"):
        model().hooks(edits=[gate])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_directions_that_say_nothing_are_refused(bad: float) -> None:
    with pytest.raises(EditError):
        hooks.Ablate(torch.full((WIDTH,), bad), MID)
    if bad != 0:
        with pytest.raises(EditError, match="not finite"):
            Add(torch.full((WIDTH,), bad), MID)
        with pytest.raises(EditError, match="not finite"):
            Scale(MID, bad)
    with pytest.raises(EditError, match="linearly dependent"):
        hooks.Ablate(torch.stack([V, 2 * V]), MID)


@pytest.mark.parametrize("heads", [(), (4,), (-1,)])
def test_heads_that_are_not_there_are_refused(heads: tuple[int, ...]) -> None:
    with pytest.raises(EditError, match="heads"):
        model().hooks(edits=[Scale("blocks.1.attn.hook_z", 0.0, heads=heads)])
    with pytest.raises(EditError, match="no head axis"):
        model().hooks(edits=[Scale(MID, 0.0, heads=(0,))])


# R19


def test_nested_contexts_count_and_order_as_documented() -> None:
    seen: list[str] = []

    def note(name: str, factor: float, shift: float) -> Apply:
        def edit(x: Tensor) -> Tensor:
            seen.append(name)
            return x * factor + shift

        return Apply(edit, MID)

    plain = capture(model(), IDS, MID)[MID]
    reads = [hooks.Rows() for _ in range(3)]
    with ExitStack() as stack, _unchanged():
        outer = stack.enter_context(
            model().hooks(capture=Capture(MID, into=reads[0]), edits=[note("outer", 2, 0)])
        )
        with model().hooks(
            capture=Capture(MID, into=reads[1], when="before"),
            edits=[note("middle 1", 1, 3), note("middle 2", -1, 0)],
        ) as middle:
            with model().hooks(
                capture=Capture(MID, into=reads[2]), edits=[note("inner", 1, 5)]
            ) as inner:
                inner.forward(IDS)
                assert seen == ["outer", "middle 1", "middle 2", "inner"]
                assert (outer.calls[MID], middle.calls[MID], inner.calls[MID]) == (2, 3, 2)
            middle.forward(IDS)
            assert seen[4:] == ["outer", "middle 1", "middle 2"]
            assert (outer.calls[MID], middle.calls[MID], inner.calls[MID]) == (4, 6, 2)
        outer.forward(IDS)
        assert seen[7:] == ["outer"]
        assert outer.calls[MID] == 6
        stack.close()
    # A capture reads what the model goes on with: all edits of all contexts are in it.
    final = -(2 * plain + 3) + 5
    torch.testing.assert_close(reads[2][MID], final)
    torch.testing.assert_close(reads[1][MID][:, 0], plain)
    want = torch.stack([final, -(2 * plain + 3), 2 * plain], dim=1)
    torch.testing.assert_close(reads[0][MID], want)


def test_contexts_may_close_in_any_order() -> None:
    with _unchanged():
        first, second = model().hooks(edits=[Add(V, MID)]), model().hooks(edits=_edits())
        first.__enter__()
        second.__enter__().forward(IDS, logits="last")
        first.__exit__(None, None, None)
        second.forward(IDS, logits="last")
        assert second.calls[MID] == 2
        second.__exit__(None, None, None)


def test_every_block_counts_once_a_pass() -> None:
    with model().hooks(edits=[Scale(POST, 1.0)]) as run:
        run.forward(IDS, logits="last")
    assert run.calls == {f"blocks.{block}.hook_resid_post": 1 for block in range(LAYERS)}
