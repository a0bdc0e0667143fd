"""Claims: a law is its equation, and numbers that make none are refused."""

from __future__ import annotations

import math

import pytest
import torch

from steering.errors import PolicyError
from steering.laws import Logistic, Step

SCORES = torch.tensor([-3.0, -1.0, 0.0, 0.5, 4.0])


def test_the_share_is_the_logistic_function_above_the_floor() -> None:
    share = Logistic(2.0, -1.0, floor=0.0)(SCORES)
    want = [1 / (1 + math.exp(-(2 * s - 1))) for s in SCORES.tolist()]
    torch.testing.assert_close(share, torch.tensor(want))
    clipped = Logistic(2.0, -1.0, floor=0.3)(SCORES)
    torch.testing.assert_close(clipped, torch.where(share < 0.3, 0.0, share))
    assert clipped[1] == 0
    assert clipped[3] > 0.3


def test_small_shares_are_exactly_zero_by_default_and_one_at_the_floor_stays() -> None:
    assert Logistic(1.0, 0.0).floor == 0.1
    assert Logistic(1.0, 0.0)(torch.tensor([-2.3]))[0] == 0  # sigma = 0.091
    assert Logistic(1.0, 0.0)(torch.tensor([-2.1]))[0] > 0.1  # sigma = 0.109
    assert Logistic(1.0, 0.0, floor=0.5)(torch.tensor([0.0]))[0] == 0.5


def test_a_step_is_all_or_what_is_below() -> None:
    torch.testing.assert_close(Step(0.5)(SCORES), torch.tensor([0.0, 0, 0, 0, 1]))
    torch.testing.assert_close(Step(0.0, -1.0)(SCORES), torch.tensor([-1.0, -1, -1, 1, 1]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    for make in (
        lambda: Logistic(bad, 0.0),
        lambda: Logistic(0.0, bad),
        lambda: Step(bad),
        lambda: Step(0.0, bad),
    ):
        with pytest.raises(PolicyError, match="finite"):
            make()


def test_a_floor_outside_its_range_is_refused() -> None:
    for floor in (-0.01, 1.0, 1.5):
        with pytest.raises(PolicyError, match="from 0 to below 1"):
            Logistic(1.0, 0.0, floor=floor)
    assert Logistic(1.0, 0.0, floor=0.0).floor == 0
    assert Logistic(1.0, 0.0, floor=0.99).floor == 0.99
