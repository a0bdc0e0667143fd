"""A forked or rolled-back state continues bit for bit like one that never branched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hooks
from hooks import Add, Gate, Threshold
from hooks.errors import ContextError, PositionError
from tests.hooks.common import MID, ids_of, model, plain_logits, vector

FULL = ("llama", "gpt2", "gpt_neox", "qwen3")
SLIDING = ("mistral", "gemma2", "gemma3")
ONE, TWO, THREE = ([[20, 21, 22]], [[30, 31]], [[40, 41, 42, 43]])
PROMPT = ids_of([18])


def _straight(family: str, *parts: list[list[int]]) -> Tensor:
    with model(family).hooks() as run:
        state = run.prefill(PROMPT)
        for part in parts:
            state.append(part)
    return state.logits


@pytest.mark.parametrize("family", [*FULL, *SLIDING])
def test_forks_and_rollbacks_are_bit_equal_to_never_branching(family: str) -> None:
    with model(family).hooks() as run:
        state = run.prefill(PROMPT)
        start = state.logits
        child = state.fork().append(TWO)
        assert torch.equal(child.logits, _straight_in(run, TWO))
        assert torch.equal(state.logits, start)
        state.append(ONE)
        assert torch.equal(state.logits, _straight_in(run, ONE))
        grandchild = child.fork().append(THREE)
        child.append(ONE)
        assert torch.equal(grandchild.logits, _straight_in(run, TWO, THREE))
        assert torch.equal(child.logits, _straight_in(run, TWO, ONE))
        assert not torch.equal(child.logits, grandchild.logits)
        state.append(THREE).rollback(4).append(TWO)
        assert torch.equal(state.logits, _straight_in(run, ONE, TWO))
        state.rollback(2).rollback(3).append(THREE)
        assert torch.equal(state.logits, _straight_in(run, THREE))


def _straight_in(run: hooks.Run, *parts: list[list[int]]) -> Tensor:
    state = run.prefill(PROMPT)
    for part in parts:
        state.append(part)
    return state.logits


@pytest.mark.parametrize("family", [*FULL, *SLIDING])
def test_a_state_equals_a_pass_over_all_its_tokens(family: str) -> None:
    whole = plain_logits(model(family), [*PROMPT.ids[0], *ONE[0], *THREE[0]])[-1]
    torch.testing.assert_close(_straight(family, ONE, THREE)[0], whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(_straight(family, THREE, ONE)[0], whole, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_rows_of_different_lengths_continue_alone_as_together(family: str) -> None:
    prompts = ids_of([4, 9, 15])
    more = torch.tensor([[20, 21], [22, 23], [24, 25]])
    with model(family).hooks() as run:
        state = run.prefill(prompts).append(more)
    for row in range(3):
        want = plain_logits(model(family), [*prompts.ids[row], *more[row].tolist()])[-1]
        if family == "mistral" and row < 2:
            continue  # padding counts as distance inside a sliding window
        torch.testing.assert_close(state.logits[row], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FULL)
def test_a_fork_copies_no_state_under_full_attention(family: str) -> None:
    with model(family).hooks() as run:
        state = run.prefill(PROMPT)
        child = state.fork()
        for mine, theirs in zip(state._cache.layers, child._cache.layers, strict=True):
            assert mine is not theirs
            assert mine.keys.data_ptr() == theirs.keys.data_ptr()
            assert mine.values.data_ptr() == theirs.values.data_ptr()
        child.append(ONE)
        assert state._cache.get_seq_length() == state.length == 18
        assert child._cache.get_seq_length() == child.length == 21


@pytest.mark.parametrize("family", SLIDING)
def test_a_sliding_window_goes_back_only_to_where_an_append_began(family: str) -> None:
    with model(family).hooks() as run:
        state = run.prefill(PROMPT).append(THREE)
        for tokens in (1, 3, 5):
            with pytest.raises(ContextError, match="not where an append began"):
                state.rollback(tokens)
        assert torch.equal(state.rollback(4).logits, run.prefill(PROMPT).logits)


@pytest.mark.parametrize("family", SLIDING)
def test_two_rolled_back_twins_do_not_share_what_grows(family: str) -> None:
    with model(family).hooks() as run:
        state = run.prefill(PROMPT).append(ONE)
        twin = state.fork()
        state.rollback(3).append(TWO)
        twin.rollback(3).append(THREE)
        assert torch.equal(state.append(ONE).logits, _straight_in(run, TWO, ONE))
        assert torch.equal(twin.append(ONE).logits, _straight_in(run, THREE, ONE))


def test_under_full_attention_any_point_can_be_gone_back_to() -> None:
    with model().hooks() as run:
        state = run.prefill(PROMPT).append(THREE).rollback(2)
        assert torch.isnan(state.logits).all()
        state.append([[42, 43]])
        want = _straight_in(run, [THREE[0][:2]], [[42, 43]])
        torch.testing.assert_close(state.logits, want, atol=1e-6, rtol=1e-6)
        for tokens in (-1, state.length, state.length + 1):
            with pytest.raises(ContextError, match="cannot roll back"):
                state.rollback(tokens)


@pytest.mark.parametrize("more", [[[1], [2]], [[]], [[7], [8], [9]]])
def test_tokens_that_do_not_fit_are_refused(more: object) -> None:
    with model().hooks() as run, pytest.raises(ContextError, match="cannot append"):
        run.prefill(PROMPT).append(more)


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    with model("gpt2").hooks() as run, pytest.raises(PositionError, match="context holds 256"):
        run.prefill(ids_of([257]))


def test_a_state_is_refused_in_contexts_that_did_not_make_it() -> None:
    v = vector(1)
    with model().hooks() as outer:
        state = outer.prefill(PROMPT)
        with model().hooks(edits=[Add(v, MID)]) as inner:
            with pytest.raises(ContextError, match="other hook contexts"):
                state.append(ONE)
            steered = inner.prefill(PROMPT).append(ONE)
        assert torch.equal(state.append(ONE).logits, _straight("llama", ONE))
        with pytest.raises(ContextError, match="other hook contexts|closed"):
            steered.append(ONE)
    assert not torch.allclose(steered.logits, state.logits, atol=1e-3)


def test_each_state_keeps_the_strength_that_its_own_prompt_decided() -> None:
    v, at = vector(3), "blocks.0.hook_resid_post"
    prompts = [ids_of([6], seed) for seed in range(12)]
    with model().hooks(capture=hooks.Capture(at, into=(rows := hooks.Rows()))) as run:
        for index, prompt in enumerate(prompts):
            run.forward(hooks.Encoded.from_ids(prompt.ids))
            del index
    scores = (rows[at].reshape(-1, len(v)) @ (v / v.norm())).tolist()
    high, low = (prompts[scores.index(pick(scores))] for pick in (max, min))
    gate = Gate(v, at, (Add(5 * v, MID),), Threshold((max(scores) + min(scores)) / 2))
    with model().hooks(edits=[gate]) as run:
        alone = run.prefill(high).append(ONE).logits
        first, second = run.prefill(high), run.prefill(low)
        second.append(ONE)
        assert torch.equal(first.append(ONE).logits, alone)
        assert torch.equal(first.fork().append(TWO).logits, first.append(TWO).logits)


@pytest.mark.parametrize("family", [*FULL, *SLIDING])
def test_rows_of_one_past_continue_as_its_forks_do(family: str) -> None:
    tails = [[20], [30], [20]]
    with model(family).hooks() as run:
        state = run.prefill(PROMPT)
        start = state.logits
        many = state.repeat(3).append(tails)
        alone = torch.cat([state.fork().append([tail]).logits for tail in tails])
        torch.testing.assert_close(many.logits, alone, atol=1e-5, rtol=1e-5)
        assert torch.equal(state.logits, start)
        assert not torch.allclose(many.logits[0], many.logits[1], atol=1e-3)


def test_only_a_single_row_is_repeated() -> None:
    with model().hooks() as run:
        for state, rows in ((run.prefill(ids_of([5, 7])), 2), (run.prefill(PROMPT), 0)):
            with pytest.raises(ContextError, match="a state of one row"):
                state.repeat(rows)
