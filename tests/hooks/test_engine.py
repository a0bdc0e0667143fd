"""Each saving of the engine leaves the results as they are, and the counters count exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

import hooks
from hooks import Add, EngineOptions
from hooks.cache import expand_cache, new_cache, read_only, select_cache
from hooks.engine import plan_batches, usable_prefix
from hooks.errors import OutOfMemoryError, PositionError
from hooks.storage import PassStore
from tests.hooks.common import (
    LAYERS,
    MID,
    POST,
    PROMPTS,
    capture,
    ids_of,
    model,
    plain_logits,
    vector,
)
from tests.tiny import FAMILIES

OFF = EngineOptions(prefix=False, pack=False, stop=False)
SYSTEM = "Be kind and short."


@contextmanager
def _counted(used: hooks.Model) -> Iterator[dict[str, int]]:
    """Count by plain torch hooks: block calls, tokens and passes."""
    found = {"blocks_run": 0, "tokens_computed": 0, "forwards": 0}

    def block(module: object, args: object, out: object) -> None:
        found["blocks_run"] += 1

    def embed(module: object, args: tuple[Tensor], out: object) -> None:
        found["tokens_computed"] += args[0].numel()
        found["forwards"] += 1

    # The norm at the block's beginning: a pass that stops inside a block has run a part of it.
    handles = [
        used.layout.component(f"blocks.{b}.ln1").register_forward_hook(block) for b in range(LAYERS)
    ]
    handles.append(used.hf.get_input_embeddings().register_forward_hook(embed))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    "site",
    [
        "hook_embed",
        "blocks.0.hook_resid_pre",
        "blocks.0.attn.hook_z",
        "blocks.0.hook_resid_post",
        "blocks.2.hook_resid_pre",
        "blocks.2.hook_resid_mid",
        POST,
        "ln_final.hook_out",
    ],
)
@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(batch_rows=3), OFF])
def test_counters_equal_an_independent_count(site: str, options: EngineOptions) -> None:
    encoded = model().encode(PROMPTS, system=SYSTEM)
    model().check()  # runs passes of its own the first time
    read = hooks.Capture(site)
    with _counted(model()) as want, model().hooks(capture=read, options=options) as run:
        run.forward(encoded)
    got = run.stats.as_dict()
    assert {name: got[name] for name in want} == want
    assert got["tokens_asked"] == sum(encoded.lengths)
    assert got["seconds"] > 0


@pytest.mark.parametrize("use_cache", [True, False])
def test_counters_count_generation(use_cache: bool) -> None:
    with _counted(model()) as want, model().hooks() as run:
        run.generate_ids(ids_of([5, 9]), max_new_tokens=4, use_cache=use_cache)
        run.prefill(ids_of([6])).append([[7, 8]])
    got = run.stats.as_dict()
    assert {name: got[name] for name in want} == want


def test_each_saving_saves() -> None:
    encoded = model().encode(PROMPTS, system=SYSTEM)

    def cost(**switches: object) -> hooks.RunStats:
        options = EngineOptions(batch_rows=4, **switches)
        with model().hooks(capture=hooks.Capture(MID), options=options) as run:
            run.forward(encoded)
        return run.stats

    best = cost()
    assert best.tokens_computed < cost(prefix=False).tokens_computed
    assert best.tokens_computed < cost(pack=False).tokens_computed
    assert best.blocks_run < cost(stop=False).blocks_run


@pytest.mark.parametrize("family", list(FAMILIES))
def test_savings_change_no_state(family: str) -> None:
    encoded = model(family).encode(PROMPTS, system=SYSTEM)
    sites = ["blocks.*.hook_resid_post", "blocks.*.hook_mlp_out"]
    for rule in ("last", "template"):
        want = capture(model(family), encoded, sites, at=rule, options=OFF).stack()
        got = capture(model(family), encoded, sites, at=rule).stack()
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
        assert torch.cosine_similarity(got, want, dim=-1).min() > 1 - 1e-6


@pytest.mark.parametrize(
    "edit",
    [
        Add(vector(1), MID),
        Add(vector(1), MID, positions="last"),
        Add(vector(1), MID, positions="after_instruction"),
        hooks.Apply(lambda x: x - x.mean(1, keepdim=True), MID),
    ],
)
def test_savings_change_no_edited_state(edit: hooks.Intervention) -> None:
    encoded = model().encode(["abc", "abd", "xyz"], system=SYSTEM)
    want = capture(model(), encoded, edits=[edit], options=OFF).stack()
    got = capture(model(), encoded, edits=[edit]).stack()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_read_only_prefix_gives_the_same_states_and_keeps_no_key_of_the_pass(family: str) -> None:
    used = model(family)
    beginning, own = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[10, 11, 12], [20, 21, 22]])
    prefix = new_cache(used.hf)
    with torch.no_grad():
        used.hf.base_model(input_ids=beginning, past_key_values=prefix, use_cache=True)
        grown, kept = expand_cache(prefix, 2), read_only(expand_cache(prefix, 2))
        states = [
            used.hf.base_model(
                input_ids=own, past_key_values=cache, use_cache=True
            ).last_hidden_state
            for cache in (grown, kept)
        ]
    assert torch.equal(*states)
    full = {True: 5, False: 8}
    lengths = [layer.get_seq_length() for layer in kept.layers]
    # A sliding window is left as it is; every other layer ends as it began.
    assert lengths == [full[type(layer) is DynamicLayer] for layer in grown.layers]
    assert {layer.get_seq_length() for layer in grown.layers} == {8}
    assert {layer.get_seq_length() for layer in prefix.layers} == {5}


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3"])
def test_rows_that_are_chosen_block_by_block_are_those_chosen_at_once(family: str) -> None:
    """Full attention keeps one row a copy until a block reads it; windows are chosen at once."""
    used = model(family)
    beginnings = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])
    own, rows = torch.tensor([[10, 11, 12], [20, 21, 22], [30, 31, 32]]), [1, 0, 1]
    prefix = new_cache(used.hf)
    with torch.no_grad():
        used.hf.base_model(input_ids=beginnings, past_key_values=prefix, use_cache=True)
        lazy = read_only(prefix, rows)
        states = [
            used.hf.base_model(
                input_ids=own, past_key_values=cache, use_cache=True
            ).last_hidden_state
            for cache in (select_cache(prefix, rows), lazy)
        ]
    assert torch.equal(*states)
    for before, after in zip(prefix.layers, lazy.layers, strict=True):
        assert len(after.keys) == (2 if type(before) is DynamicLayer else 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("rule", ["last", "response", "all"])
def test_logits_equal_the_plain_model(family: str, rule: str) -> None:
    answers = ["Yes", "No!", "", "Well then", "a", "b", "c", "Hm"]
    encoded = model(family).encode(PROMPTS, system=SYSTEM, responses=answers)
    with model(family).hooks(options=EngineOptions(batch_rows=3)) as run:
        got = run.forward(encoded, logits=rule).logits
    assert got is not None
    for row, ids in enumerate(encoded):
        whole, start = plain_logits(model(family), ids), encoded.response_start[row]
        want = {"last": whole[start - 1], "response": whole[start - 1 : -1], "all": whole}[rule]
        torch.testing.assert_close(got[row], want, atol=2e-5, rtol=1e-4)
    if rule == "last":
        assert not torch.allclose(got[0], plain_logits(model(family), encoded.ids[0])[-1])


@contextmanager
def _unembedded(used: hooks.Model) -> Iterator[list[tuple[int, int]]]:
    """Note rows and positions of every call of the unembedding."""
    calls: list[tuple[int, int]] = []
    handle = used.layout.component("unembed").register_forward_hook(
        lambda *call: calls.append(tuple(call[-1].shape[:2]))
    )
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_are_computed_only_where_they_are_asked_for(family: str) -> None:
    used = model(family)
    used.check()  # runs passes of its own the first time
    answers = ["Yes", "No!", "", "Well then", "a", "b", "c", "Hm"]
    encoded = used.encode(PROMPTS, system=SYSTEM, responses=answers)
    options = EngineOptions(stop=False, batch_rows=3)

    def positions(rule: str | None, rows: hooks.Encoded) -> int:
        read = hooks.Capture(MID)
        with _unembedded(used) as calls, used.hooks(capture=read, options=options) as run:
            run.forward(rows, logits=rule)
        return sum(n * width for n, width in calls)

    assert positions(None, encoded) == 0
    assert positions("last", used.encode(PROMPTS, system=SYSTEM)) == len(PROMPTS)
    longest = max(len(answer) for answer in answers)
    assert positions("response", encoded) <= len(PROMPTS) * (longest + 1)
    # Twin: asked for everywhere, they are computed everywhere.
    assert positions("all", encoded) > 4 * positions("response", encoded)


def test_prompts_that_do_not_fit_are_refused() -> None:
    with model().hooks() as run:
        with pytest.raises(PositionError, match="row 1 has 257 tokens.*holds 256"):
            run.forward(ids_of([4, 257]), logits="last")
        with pytest.raises(PositionError, match="no prompts"):
            run.forward(hooks.Encoded.from_ids([]), logits="last")
        assert run.forward(ids_of([256]), logits="last").logits.shape == (1, 300)


def test_batches_keep_to_the_budget_and_hold_each_row_once() -> None:
    lengths = [3, 50, 7, 7, 20, 1, 90, 30]
    for sort in (True, False):
        batches = plan_batches(lengths, budget=60, max_rows=3, sort=sort)
        assert sorted(row for batch in batches for row in batch) == list(range(8))
        for batch in batches:
            assert len(batch) <= 3
            assert len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= 60
    assert plan_batches(lengths, budget=10**6, max_rows=None, sort=False) == [list(range(8))]


def _every_cut(n: int) -> Iterator[list[int]]:
    for inner in range(n):
        for chosen in combinations(range(1, n), inner):
            yield [0, *chosen, n]


@pytest.mark.parametrize("pass_cost", [0, 3, 10**6])
@pytest.mark.parametrize("seed", range(6))
def test_batches_cost_least_among_all_ways_to_cut(seed: int, pass_cost: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, size=9).tolist()
    down = sorted(lengths, reverse=True)

    def costs(sizes: list[tuple[int, int]]) -> int:
        return sum(width * rows for width, rows in sizes) + pass_cost * len(sizes)

    best = min(
        costs(sizes)
        for cuts in _every_cut(9)
        for sizes in [[(down[a], b - a) for a, b in pairwise(cuts)]]
        if all(rows <= 4 and width * rows <= 30 for width, rows in sizes)
    )
    planned = plan_batches(lengths, budget=30, max_rows=4, sort=True, pass_cost=pass_cost)
    found = [(max(lengths[row] for row in batch), len(batch)) for batch in planned]
    assert costs(found) == best


def test_the_prefix_ends_before_any_instruction_does() -> None:
    assert usable_prefix(hooks.Encoded.from_ids([[1, 2, 3, 4, 5, 6]] * 3)) == 5
    assert usable_prefix(hooks.Encoded.from_ids([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7]])) == 5
    assert usable_prefix(hooks.Encoded.from_ids([[1, 2, 3, 4, 5, 6]])) == 0
    assert usable_prefix(hooks.Encoded.from_ids([[1, 2, 3, 4, 5], [9, 2, 3, 4, 5]])) == 0
    twins = hooks.Encoded(((1, 2, 3, 4, 5, 6, 7),) * 2, (6, 5), (7, 7))
    assert usable_prefix(twins) == 4


# Memory runs out (R15)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "accelerator": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "python": lambda: MemoryError(),
}


@contextmanager
def _runs_out(used: hooks.Model, on: Callable[[int, int], bool], kind: str) -> Iterator[list[int]]:
    """Raise inside block 2 where ``on(call, rows)``."""
    seen: list[int] = []

    def fail(module: object, args: tuple[Tensor], kwargs: dict[str, Tensor]) -> None:
        rows = (args[0] if args else kwargs["hidden_states"]).shape[0]
        seen.append(rows)
        if on(len(seen), rows):
            raise ERRORS[kind]()

    layer = used.layout.component("blocks.2")
    handle = layer.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", list(ERRORS))
@pytest.mark.parametrize("call", [1, 2, 3])
def test_running_out_of_memory_once_changes_nothing(kind: str, call: int) -> None:
    encoded = model().encode(PROMPTS, system=SYSTEM)
    options = EngineOptions(batch_rows=4)
    want = capture(model(), encoded, options=options).stack()
    moments, rows = hooks.Moments(), hooks.Rows()
    reads = [hooks.Capture(POST, into=moments), hooks.Capture(POST, into=rows)]
    failing = _runs_out(model(), lambda now, _: now == call, kind)
    with failing, model().hooks(capture=reads, options=options) as run:
        out = run.forward(encoded, logits="last")
    torch.testing.assert_close(rows.stack(), want, atol=1e-5, rtol=1e-5)
    assert moments.count(MID) == len(PROMPTS)
    torch.testing.assert_close(moments.mean(MID), rows[MID].double().mean(0))
    assert out.logits.shape[0] == len(PROMPTS)
    # Call 1 is the prefix, which is given up; a later one is a batch, which is halved.
    assert run.stats.halvings == (0 if call == 1 else 1)


@pytest.mark.parametrize("kind", list(ERRORS))
def test_batches_halve_until_they_fit(kind: str) -> None:
    encoded = ids_of([9, 4, 12, 7, 5, 3, 8])
    want = capture(model(), encoded).stack()
    with _runs_out(model(), lambda _, rows: rows > 2, kind) as seen:
        rows = hooks.Rows()
        with model().hooks(capture=hooks.Capture(POST, into=rows)) as run:
            run.forward(encoded)
    torch.testing.assert_close(rows.stack(), want, atol=1e-5, rtol=1e-5)
    assert run.stats.halvings == sum(count > 2 for count in seen)


def test_generation_halves_too() -> None:
    encoded = ids_of([9, 4, 12, 7])
    with model().hooks() as run:
        want = run.generate_ids(encoded, max_new_tokens=3)
        with _runs_out(model(), lambda _, rows: rows > 1, "cpu"):
            assert run.generate_ids(encoded, max_new_tokens=3) == want
        assert run.stats.halvings == 3


@pytest.mark.parametrize("kind", list(ERRORS))
def test_one_row_that_does_not_fit_is_an_error_with_advice(kind: str) -> None:
    with (
        _runs_out(model(), lambda *_: True, kind),
        model().hooks() as run,
        pytest.raises(OutOfMemoryError, match=r"\(row \d\) in the batch: use a smaller dtype"),
    ):
        run.forward(ids_of([5, 6]), logits="last")


def test_other_errors_are_not_taken_for_memory() -> None:
    def fail(module: object, args: object) -> None:
        raise RuntimeError("shape mismatch")

    handle = model().layout.component("blocks.2").register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shape mismatch"), model().hooks() as run:
        run.forward(ids_of([5, 6]), logits="last")
    handle.remove()
    assert run.stats.halvings == 0


def test_holes_in_the_heap_are_given_back_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its negative twin: a process that has not grown keeps its heap."""
    used, prompts = model("llama"), ids_of([9, 4, 14, 7, 11, 5])
    options = EngineOptions(batch_rows=2, prefix=False)
    trims: list[int] = []
    give_back = hooks.hardware.trim_heap
    monkeypatch.setattr("hooks.hardware.trim_heap", lambda: (trims.append(1), give_back()))
    found = []
    for grown, want in ((1 << 40, 0), (-(1 << 40), 3)):
        monkeypatch.setattr("hooks.hardware._GROWN", grown)
        trims.clear()
        found.append(capture(used, prompts, options=options).stack())
        assert len(trims) == want
    torch.testing.assert_close(*found, atol=0, rtol=0)


class _Keeper:
    """An accumulator that keeps the very tensors it is given, as a user's own may."""

    def __init__(self) -> None:
        self.kept: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def update(
        self, site: str, values: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor
    ) -> None:
        del slots
        self.kept.setdefault(site, []).append((values, rows))


def test_what_a_capture_gave_is_not_written_to_again() -> None:
    """Sites of a kind share memory in a pass; no two passes do, and each kind has its own."""
    used, prompts, into = model("llama"), ids_of([9, 4, 14, 7, 11, 5]), _Keeper()
    sites = ["blocks.*.hook_resid_post", "blocks.*.mlp.hook_post", "blocks.1.attn.hook_z"]
    read = hooks.Capture(sites, into=into)
    with used.hooks(capture=read, options=EngineOptions(batch_rows=2)) as run:
        run.forward(prompts)
    assert {len(parts) for parts in into.kept.values()} == {3}
    for site, parts in into.kept.items():
        alone = capture(used, prompts, site)[site]
        for values, rows in parts:
            torch.testing.assert_close(values, alone[rows], atol=1e-5, rtol=0)


def test_many_states_and_those_unlike_the_first_are_kept_as_they_are() -> None:
    store, first = PassStore(2), torch.ones(3, 4)
    kept = store.keep(first)
    assert torch.equal(kept, first)
    assert kept.data_ptr() != first.data_ptr()
    for other in (torch.ones(3, 5), torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(256, 4)):
        assert store.keep(other) is other
    store.clear()
    wide = torch.full((3, 5), 2.0)
    assert torch.equal(store.keep(wide), wide)
    assert torch.equal(kept, first)
