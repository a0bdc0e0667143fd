"""A state scores many tokens as one by one, holds strengths, and its rows can be taken apart."""

from __future__ import annotations

import pytest
import torch

from hooks import Add, Gate
from hooks.errors import ContextError
from tests.hooks.common import MID, ids_of, model, vector

V = 3 * vector(5)
MORE = torch.tensor([[20, 21, 22], [30, 31, 32], [40, 41, 42]])
PROMPTS = ids_of([9, 14, 6])


def _gate(strength: float) -> Gate:
    add = Add(V, MID, steps="generated")
    return Gate(V, "hook_embed", (add,), lambda score: torch.full_like(score, strength))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_scoring_many_tokens_equals_reading_them_one_by_one(family: str) -> None:
    prompts = ids_of([9, 9, 9]) if family == "gemma2" else PROMPTS
    with model(family).hooks(edits=[Add(V, MID, steps="generated")]) as run:
        state = run.prefill(prompts)
        one = state.fork()
        wanted = [one.append(MORE[:, step : step + 1]).logits for step in range(3)]
        found = state.score(MORE)
    torch.testing.assert_close(found, torch.stack(wanted, dim=1), atol=1e-4, rtol=1e-4)
    assert torch.equal(state.logits, found[:, -1])


def test_a_held_strength_equals_a_gate_that_gave_it() -> None:
    with model().hooks(edits=_gate(0.0)) as run:
        state = run.prefill(PROMPTS)
        shut = state.fork().append(MORE).logits
        held = state.fork().hold(torch.tensor([0.0, 1.0, -0.5])).append(MORE).logits
        again = state.fork().append(MORE).logits
    assert torch.equal(shut, again), "the strength of a fork is its own"
    for row, strength in enumerate((0.0, 1.0, -0.5)):
        with model().hooks(edits=_gate(strength)) as run:
            wanted = run.prefill(PROMPTS).append(MORE).logits[row]
        torch.testing.assert_close(held[row], wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(held[1], shut[1], atol=1e-2)


def test_selected_rows_go_on_as_among_the_others() -> None:
    with model().hooks(edits=_gate(1.0)) as run:
        state = run.prefill(PROMPTS)
        part = state.select([2, 0])
        wanted = state.fork().append(MORE).logits[[2, 0]]
        torch.testing.assert_close(part.append(MORE[[2, 0]]).logits, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(state.append(MORE).logits[[2, 0]], wanted)


def test_what_a_state_cannot_do_is_refused() -> None:
    with model().hooks() as run:
        state = run.prefill(PROMPTS)
        with pytest.raises(ContextError, match="no gate"):
            state.hold(torch.zeros(3))
        for rows in ([], [3], [-1]):
            with pytest.raises(ContextError, match="has 0 to 2"):
                state.select(rows)
    with model().hooks(edits=_gate(1.0)) as run:
        state = run.prefill(PROMPTS)
        for wrong in (torch.zeros(2), torch.full((3,), float("nan"))):
            with pytest.raises(ContextError, match="one finite number"):
                state.hold(wrong)
        state.append(MORE)
