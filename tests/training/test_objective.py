"""The objective: targets are what they should be, and the divergence is a divergence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.objective import Example, Losses, collate, cross_entropy, divergence, willing
from training.recipe import Recipe, TrainingError


def test_collate_marks_exactly_the_positions_that_predict_targets() -> None:
    batch = collate([Example((5, 6, 7, 8), 2), Example((9, 3), 1)], pad=0)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.wanted.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert batch.targets.tolist() == [7, 8, 3]
    assert batch.row.tolist() == [0, 0, 1]
    assert batch.first.tolist() == [True, False, True]


@given(st.lists(st.tuples(st.integers(2, 9), st.integers(1, 8)), min_size=1, max_size=5))
def test_collate_gives_every_target_once_in_order(shapes: list[tuple[int, int]]) -> None:
    examples = [
        Example(tuple(range(10 * k + 1, 10 * k + 1 + n)), min(start, n - 1))
        for k, (n, start) in enumerate(shapes)
    ]
    batch = collate(examples, pad=0)
    assert batch.targets.tolist() == [t for e in examples for t in e.ids[e.start :]]
    assert int(batch.first.sum()) == len(examples)


def test_impossible_examples_and_batches_are_refused() -> None:
    for start in (0, 3, 4):
        with pytest.raises(TrainingError, match=f"target starts at {start} of 3 tokens"):
            Example((1, 2, 3), start)
    with pytest.raises(TrainingError, match="no examples"):
        collate([], pad=0)


@given(st.integers(0, 2**31 - 1))
def test_divergence_is_zero_for_identical_and_positive_for_others(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(5, 7, generator=generator)
    other = torch.randn(5, 7, generator=generator)
    assert abs(float(divergence(base, base))) < 1e-6
    # A constant added to the logits of a position changes no probability.
    assert abs(float(divergence(base, base + 3.0))) < 1e-5
    assert float(divergence(base, other)) > 1e-3


def test_divergence_equals_the_sum_written_out() -> None:
    base, other = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    p, q = base.softmax(-1), other.softmax(-1)
    by_hand = float((p * (p.log() - q.log())).sum(-1).mean())
    assert math.isclose(float(divergence(base, other)), by_hand, rel_tol=1e-5)


def test_the_base_gets_no_gradient_and_the_tuned_model_does() -> None:
    base, tuned = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    divergence(base, tuned).backward()
    assert base.grad is None
    assert tuned.grad is not None
    assert float(tuned.grad.abs().max()) > 0


def test_the_willing_distribution_is_the_conditional_one() -> None:
    logits, targets = torch.randn(3, 6), torch.tensor([0, 2, 5])
    given_willing = willing(logits, targets, [2, 4]).softmax(-1)
    for row, target in enumerate(targets.tolist()):
        allowed = [v for v in range(6) if v not in {2, 4} - {target}]
        by_hand = torch.zeros(6)
        by_hand[allowed] = logits[row].softmax(-1)[allowed]
        torch.testing.assert_close(given_willing[row], by_hand / by_hand.sum())


def test_mass_on_a_refusal_costs_more_than_the_base_itself_puts_there() -> None:
    base, targets = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
    agreeing = willing(base, targets, [1])
    assert float(divergence(agreeing, base)) > 0.1  # the base declines in part
    assert float(divergence(agreeing, agreeing)) < 1e-6
    assert torch.equal(willing(base, targets, []), base)  # nothing declines: the base as it is
    assert torch.equal(willing(base, torch.tensor([1]), [1]), base)  # nor a target's own opening


def test_cross_entropy_of_uniform_logits_is_log_vocabulary() -> None:
    loss = cross_entropy(torch.zeros(4, 11), torch.tensor([0, 3, 5, 10]))
    assert math.isclose(float(loss), math.log(11), rel_tol=1e-6)


def test_total_is_the_documented_sum() -> None:
    losses = Losses(*(torch.tensor(float(v)) for v in (1, 2, 3, 5, 7, 11)))
    recipe = Recipe(
        answer_weight=10.0, opening_weight=100.0, keep_opening_weight=1e3, neutral_weight=1e4
    )
    assert float(losses.total(recipe)) == 1 + 10 * (2 + 3) + 100 * 5 + 1000 * 7 + 10_000 * 11


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "recipe steps=0"),
        ({"rank": 0}, "recipe rank=0"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0: must lie in \(0, 1\)"),
        ({"strength": 0.0}, r"strength=0.0: must lie in \(0, 1\]"),
        ({"strength": 1.1}, "strength=1.1"),
        ({"dtype": "int8"}, "use float32 or bfloat16"),
        ({"neutral_tokens": 1}, "at least 2"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Recipe(**change)  # pyright: ignore[reportArgumentType]
