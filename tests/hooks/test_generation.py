"""Steered generation with the KV cache equals generation without it; prompt and generated tokens
are told apart, in our loop and in a raw ``generate()`` inside the context."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, TextStreamer

import hooks
from hooks import Ablate, Add, Capture, Gate, Scale, Threshold, generation
from hooks.errors import ContextError, PositionError, SiteError
from tests.hooks.common import MID, PROMPTS, capture, ids_of, logits, model, vector
from tests.tiny import FAMILIES as EVERY_FAMILY
from tests.tiny import make_hf, make_tokenizer

V = vector(1) * 2
NEW = 7
FAMILIES = ("llama", "gpt2", "mistral", "gemma2")


def _greedy(
    family: str,
    edits: list[object],
    encoded: hooks.Encoded,
    *,
    use_cache: bool = True,
    rows: int = 16,
) -> list[list[int]]:
    options = hooks.EngineOptions(batch_rows=rows)
    with model(family).hooks(edits=edits, options=options) as run:
        return run.generate_ids(encoded, max_new_tokens=NEW, use_cache=use_cache)


def _by_hand(family: str, ids: tuple[int, ...], steps: str) -> list[int]:
    """Return the continuation of one row by full passes, the edit made by a plain torch hook."""
    used = model(family)
    layer = used.layout.component("blocks.1")
    now = list(ids)

    def steer(module: object, args: object, out: object) -> object:
        state = out[0] if isinstance(out, tuple) else out
        where = torch.arange(state.shape[1])
        mask = {"prompt": where < len(ids), "generated": where >= len(ids), "both": where >= 0}
        new = state + V * mask[steps][:, None]
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handle = layer.register_forward_hook(steer)
    for _ in range(NEW):
        with torch.no_grad():
            now.append(int(used.hf(torch.tensor([now])).logits[0, -1].argmax()))
        if now[-1] == 2:
            now.pop()
            break
    handle.remove()
    return now[len(ids) :]


@pytest.mark.parametrize("steps", ["prompt", "generated", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_changes_nothing_and_is_computed_once(family: str, steps: str) -> None:
    encoded = model(family).encode(PROMPTS, system="Be brief and kind.")
    found, computed = [], []
    for prefix in (True, False):
        edits = [Add(V, MID, steps=steps), Ablate(V, "blocks.0.hook_resid_post", steps=steps)]
        options = hooks.EngineOptions(prefix=prefix, batch_rows=2)
        with model(family).hooks(edits=edits, options=options) as run:
            found.append(run.generate_ids(encoded, max_new_tokens=NEW))
        computed.append(run.stats.tokens_computed)
    assert found[0] == found[1]
    # Padding behind the prefix would count as distance in the short windows of these two.
    assert (computed[0] < computed[1]) == (family not in ("mistral", "gemma2"))


@pytest.mark.parametrize("steps", ["prompt", "generated", "both"])
@pytest.mark.parametrize("family", list(EVERY_FAMILY))
def test_the_cache_changes_nothing(family: str, steps: str) -> None:
    encoded = ids_of([5, 14, 9])
    edits = [Add(V, MID, steps=steps)]
    cached = _greedy(family, edits, encoded)
    assert cached == _greedy(family, edits, encoded, use_cache=False)
    assert cached == _greedy(family, edits, encoded, rows=1)
    assert cached == [_by_hand(family, row, steps) for row in encoded]
    assert cached != _greedy(family, [Add(-V, MID, steps=steps)], encoded)


@pytest.mark.parametrize("rule", ["last", "template", "after_instruction", "all"])
def test_positions_mean_the_same_with_and_without_the_cache(rule: str) -> None:
    encoded = model().encode(PROMPTS[:3])
    edits = [Add(V, MID, positions=rule)]
    assert _greedy("llama", edits, encoded) == _greedy("llama", edits, encoded, use_cache=False)


def test_a_callable_sees_the_ids_of_generated_tokens() -> None:
    encoded, seen = ids_of([5, 5]), []

    def every(ids: Tensor, mask: Tensor) -> Tensor:
        seen.append(ids.shape[1])
        return torch.ones_like(mask)

    edits = [Add(V, MID, positions=every)]
    assert _greedy("llama", edits, encoded) == _greedy("llama", [Add(V, MID)], encoded)
    assert seen[:2] == [5, 1]


def test_prompt_edits_steer_the_first_new_token_and_generated_ones_do_not() -> None:
    encoded = ids_of([6, 11, 4, 8])
    plain = torch.stack([row for row in logits(model(), encoded)]).argmax(-1).tolist()
    steered = logits(model(), encoded, [Add(V, MID)]).argmax(-1).tolist()
    assert plain != steered

    def first(steps: str) -> list[int]:
        with model().hooks(edits=[Add(V, MID, steps=steps)]) as run:
            rows = run.generate_ids(encoded, max_new_tokens=2)
        return [row[0] if row else 2 for row in rows]

    assert first("prompt") == steered
    assert first("both") == steered
    assert first("generated") == plain


def _raw(edits: list[object], encoded: hooks.Encoded, **more: object) -> list[list[int]]:
    config = GenerationConfig(
        max_new_tokens=NEW, pad_token_id=2, eos_token_id=2, **{"do_sample": False, **more}
    )
    ids = torch.tensor([list(row) for row in encoded])
    with model().hooks(edits=edits):
        full = model().hf.generate(ids, generation_config=config)
    new = full[:, ids.shape[1] :].tolist()
    return [row[: row.index(2)] if 2 in row else row for row in new]


@pytest.mark.parametrize("steps", ["prompt", "generated", "both"])
def test_a_raw_generate_in_the_context_equals_ours(steps: str) -> None:
    encoded = ids_of([9, 9, 9])
    edits = [Add(V, MID, steps=steps)]
    assert _raw(edits, encoded) == _greedy("llama", edits, encoded)


def test_a_raw_generate_without_a_cache_is_refused_where_steps_matter() -> None:
    encoded = ids_of([9])
    with pytest.raises(ContextError, match="cannot be told apart"):
        _raw([Add(V, MID, steps="prompt")], encoded, use_cache=False)
    everywhere = [Add(V, MID)]
    assert _raw(everywhere, encoded, use_cache=False) == _greedy("llama", everywhere, encoded)


def test_sampling_and_streaming_work_under_a_context(capsys: pytest.CaptureFixture[str]) -> None:
    encoded = ids_of([9])

    def sample(edits: list[object], seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return _raw(edits, encoded, do_sample=True, temperature=3.0)

    edits = [Add(V, MID, steps="generated")]
    assert sample(edits, 1) == sample(edits, 1)
    assert sample(edits, 1) != sample(edits, 2)
    config = GenerationConfig(max_new_tokens=NEW, pad_token_id=2, eos_token_id=2)
    streamer = TextStreamer(model().tokenizer, skip_prompt=True)
    with model().hooks(edits=edits):
        model().hf.generate(
            torch.tensor([list(encoded.ids[0])]), generation_config=config, streamer=streamer
        )
    want = model().tokenizer.decode(_greedy("llama", edits, encoded)[0])
    assert want.strip() in capsys.readouterr().out


def test_scales_of_rows_follow_their_rows_through_sorted_batches() -> None:
    encoded, scales = ids_of([4, 17, 8, 12]), torch.tensor([0.0, 1.0, -1.0, 2.0])
    together = _greedy("llama", [Add(V, MID, scale=scales)], encoded, rows=2)
    for row in range(4):
        alone = _greedy("llama", [Add(V, MID, scale=float(scales[row]))], encoded[row : row + 1])
        assert together[row] == alone[0]
    assert together != _greedy("llama", [Add(V, MID, scale=scales.flip(0))], encoded, rows=2)


def test_text_is_the_decoded_continuation() -> None:
    encoded = model().encode(PROMPTS[:2])
    with model().hooks(edits=[Add(V, MID)]) as run:
        texts = run.generate(encoded, max_new_tokens=NEW)
        new = run.generate_ids(encoded, max_new_tokens=NEW)
    assert texts == [model().tokenizer.decode(ids, skip_special_tokens=True) for ids in new]


def test_what_cannot_be_continued_is_refused() -> None:
    with model().hooks() as run:
        with pytest.raises(ContextError, match="ask for 1 at least"):
            run.generate_ids(ids_of([4]), max_new_tokens=0)
        with pytest.raises(ContextError, match="hold responses already"):
            run.generate_ids(model().encode(["Hi"], responses=["Yes"]), max_new_tokens=2)
        with pytest.raises(PositionError, match="row 1 has 250 tokens and 7 more"):
            run.generate_ids(ids_of([5, 250]), max_new_tokens=7)
        assert len(run.generate_ids(ids_of([5, 249]), max_new_tokens=7)) == 2


def _ending_early() -> tuple[hooks.Model, hooks.Encoded, list[list[int]]]:
    """Return a model whose end token is one that only some rows write, early."""
    encoded = ids_of([5, 9, 7, 12])
    free = hooks.wrap(make_hf("llama", eos_token_id=299), make_tokenizer())
    free.hf.generation_config.eos_token_id = 299
    with free.hooks() as run:
        answers = run.generate_ids(encoded, max_new_tokens=NEW)
    for row in answers:
        for token in row[1:-2]:
            if any(token not in other for other in answers):
                free.hf.generation_config.eos_token_id = token
                return free, encoded, answers
    raise AssertionError("no token ends one row only")


def test_what_follows_an_end_token_is_neither_returned_nor_captured() -> None:
    used, encoded, free = _ending_early()
    end = used.hf.generation_config.eos_token_id
    want = [row[: row.index(end)] if end in row else row for row in free]
    rows = hooks.Rows()
    read = Capture(MID, at="all", steps="generated", into=rows)
    with used.hooks(capture=read) as run:
        assert run.generate_ids(encoded, max_new_tokens=NEW) == want
    # The last token of a full-length answer is never read by the model.
    counts = [len(row) - (len(row) == NEW) for row in want]
    got = rows[MID]
    assert [len(part) for part in got] == counts
    assert len(set(counts)) > 1


@pytest.mark.parametrize("stride", [1, 2, 3, NEW])
def test_rows_that_have_ended_leave_the_batch_and_nothing_else_changes(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, encoded, free = _ending_early()
    end = used.hf.generation_config.eos_token_id
    want = [row[: row.index(end)] if end in row else row for row in free]
    monkeypatch.setattr(generation, "_STRIDE", stride)
    computed = []
    for pack in (True, False):
        with used.hooks(options=hooks.EngineOptions(pack=pack, prefix=False)) as run:
            assert run.generate_ids(encoded, max_new_tokens=NEW) == want
        computed.append(run.stats.tokens_computed)
    assert (computed[0] < computed[1]) == (stride < NEW)


@pytest.mark.parametrize("steps", ["prompt", "generated", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_looking_for_ended_answers_changes_no_steered_token(
    family: str, steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = ids_of([5, 14, 9, 7, 11])
    edits: list[object] = [Add(V, MID, steps=steps)]
    whole = _greedy(family, edits, encoded)
    # An end token that half of the rows write somewhere.
    end = sorted(row[len(row) // 2] for row in whole)[2]
    config = model(family).hf.generation_config
    monkeypatch.setattr(config, "eos_token_id", end)
    monkeypatch.setattr(generation, "_STRIDE", 2)
    want = [row[: row.index(end)] if end in row else row for row in whole]
    assert _greedy(family, edits, encoded) == want


@pytest.mark.parametrize("use_cache", [True, False])
def test_captures_in_generation_equal_a_pass_over_the_whole(use_cache: bool) -> None:
    encoded = ids_of([5, 9, 7])
    rows = hooks.Rows()
    with model().hooks(capture=Capture(MID, at="all", into=rows)) as run:
        new = run.generate_ids(encoded, max_new_tokens=NEW, use_cache=use_cache)
    whole = [[*ids, *more][: len(ids) + NEW - 1] for ids, more in zip(encoded, new, strict=True)]
    want = capture(model(), hooks.Encoded.from_ids(whole), MID, at="all")[MID]
    for got, state in zip(rows[MID], want, strict=True):
        torch.testing.assert_close(got, state, atol=1e-5, rtol=1e-5)


# Gates


AT = "blocks.0.hook_resid_post"


def _gated(at_median: float) -> list[object]:
    return [Gate(V, AT, (Add(V, "blocks.2.hook_resid_post"),), Threshold(at_median))]


def _scores(encoded: hooks.Encoded) -> Tensor:
    return capture(model(), encoded, AT)[AT] @ (V / V.norm())


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_a_gate_decides_at_the_last_prompt_token_and_holds(rows: int) -> None:
    encoded = ids_of([5, 14, 9, 11])
    scores = _scores(encoded)
    middle = float(scores.median()) + 1e-6
    is_open = (scores > middle).tolist()
    assert any(is_open)
    assert not all(is_open)
    got = _greedy("llama", _gated(middle), encoded, rows=rows)
    steered = _greedy("llama", [Add(V, "blocks.2.hook_resid_post")], encoded)
    plain = _greedy("llama", [], encoded)
    want = [steered[i] if now else plain[i] for i, now in enumerate(is_open)]
    assert got == want
    assert want != plain
    assert want != steered
    without = _greedy_uncached(_gated(middle), encoded)
    assert got == without


def _greedy_uncached(edits: list[object], encoded: hooks.Encoded) -> list[list[int]]:
    return _greedy("llama", edits, encoded, use_cache=False)


def test_a_gated_pass_equals_the_open_and_the_closed_rows_run_apart() -> None:
    encoded = ids_of([5, 14, 9, 11])
    scores = _scores(encoded)
    middle = float(scores.median()) + 1e-6
    got = logits(model(), encoded, _gated(middle))
    both = (
        logits(model(), encoded),
        logits(model(), encoded, [Add(V, "blocks.2.hook_resid_post")]),
    )
    for row, score in enumerate(scores.tolist()):
        torch.testing.assert_close(got[row], both[score > middle][row], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(got[row], both[score <= middle][row], atol=1e-2)


def test_an_affine_gate_scales_each_row() -> None:
    encoded = ids_of([5, 14, 9, 11])
    strength = hooks.Affine(0.5, 0.1, low=-10.0, high=10.0)
    gate = Gate(V, AT, (Add(V, MID), Scale("blocks.2.hook_resid_post", 0.5)), strength)
    s = 0.5 * _scores(encoded) + 0.1
    got = capture(model(), encoded, MID, edits=[gate])[MID]
    plain = capture(model(), encoded, MID)[MID]
    torch.testing.assert_close(got, plain + s[:, None] * V, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("site", [AT, "blocks.0.hook_resid_mid", "hook_embed", "blocks.*"])
def test_a_gate_behind_its_edit_is_refused(site: str) -> None:
    with pytest.raises(SiteError, match="comes before its gate"):
        model().hooks(edits=[Gate(V, AT, (Ablate(V, site),), Threshold(0.0))])
    with pytest.raises(SiteError, match="a gate reads one site"):
        model().hooks(edits=[Gate(V, "blocks.*", (Ablate(V, MID),), Threshold(0.0))])
    with pytest.raises(hooks.errors.EditError, match="no edits to guard"):
        Gate(V, AT, (), Threshold(0.0))


def test_a_strength_that_is_not_one_finite_number_a_row_is_refused() -> None:
    for wrong in (lambda s: s[:1], lambda s: s * float("nan")):
        gate = Gate(V, AT, (Add(V, MID),), wrong)
        with (
            pytest.raises(hooks.errors.EditContractError, match="strength must be finite"),
            model().hooks(edits=[gate]) as run,
        ):
            run.forward(ids_of([5, 6]), logits="last")
