"""Claims: components are counted up to the first failure; with nothing there the level is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from artifacts.errors import InputError
from probes.ranks import any_place, claim_rank


def test_the_count_stops_at_the_first_component_below_its_null() -> None:
    null = np.arange(99.0)
    values = [200.0, 150.0, 50.0, 500.0]
    asked: list[int] = []

    def stage(number: int) -> tuple[float, np.ndarray]:
        asked.append(number)
        return values[number], null

    found = claim_rank(stage, most=4, alpha=0.05)
    assert found.claimed == 2
    assert asked == [0, 1, 2]
    assert found.p == (0.01, 0.01, 0.5)
    assert not found.capped
    assert claim_rank(stage, most=2, alpha=0.05).capped


def test_too_few_draws_for_the_level_are_refused() -> None:
    with pytest.raises(InputError, match="at least 99"):
        claim_rank(lambda _: (1.0, np.zeros(50)), most=1, alpha=0.01)


def test_exchangeable_statistics_are_claimed_at_the_level_and_not_more() -> None:
    """1000 seeds, any heavy-tailed statistic: the count stays within its binomial bound."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_cauchy((1000, 100)) ** 2
    claims = sum(
        claim_rank(lambda _, r=row: (float(r[0]), r[1:]), most=1, alpha=0.05).claimed
        for row in drawn
    )
    assert binom.ppf(0.001, 1000, 0.05) <= claims <= binom.ppf(0.999, 1000, 0.05)


def test_the_choice_of_the_best_place_is_paid_for() -> None:
    """20 places of very different scale, nothing there: the smallest p would be claimed often."""
    rng = np.random.default_rng(1)
    scale = np.geomspace(1e-3, 1e3, 20)[:, None]
    p, least = [], []
    for _ in range(400):
        values = rng.gamma(4, size=(20, 100)) * scale
        p.append(any_place(values[:, 0], values[:, 1:]))
        least.append((1 + (values[:, 1:] >= values[:, :1]).sum(1)).min() / 100)
    claims = sum(value <= 0.05 for value in p)
    assert claims <= binom.ppf(0.999, 400, 0.05)
    assert sum(value <= 0.05 for value in least) > 3 * claims
    values = rng.gamma(4, size=(20, 100))
    values[7, 0] = 100
    assert any_place(values[:, 0], values[:, 1:]) == pytest.approx(0.01)
