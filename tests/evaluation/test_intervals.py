"""Claims: rates, means and changes have the intervals of their definitions, over what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from evaluation.errors import JudgeError
from evaluation.intervals import Change, mean_interval, pooled_interval
from evaluation.rates import LEVEL, Rate


def _yes(bits: str) -> list[bool]:
    return [bit == "1" for bit in bits if bit != " "]


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (3, 11), (11, 11), (1, 1), (140, 150)])
def test_a_rate_has_wilsons_interval(hits: int, n: int) -> None:
    z = norm.ppf(0.5 + LEVEL / 2)
    p = hits / n
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = Rate.of([True] * hits + [False] * (n - hits))
    assert (found.hits, found.n, found.value) == (hits, n, p)
    assert found.low == pytest.approx((centre - half) / (1 + z**2 / n), abs=1e-12)
    assert found.high == pytest.approx((centre + half) / (1 + z**2 / n), abs=1e-12)


def test_a_rate_is_written_with_its_count_and_interval() -> None:
    assert str(Rate.of([True] * 3 + [False])) == "3/4 = 75.0% [30.1%, 95.4%]"
    with pytest.raises(JudgeError, match="judge at least one answer"):
        Rate.of([])


def test_a_mean_has_the_percentile_interval_of_means_drawn_again() -> None:
    values = np.random.default_rng(0).exponential(size=25)
    drawn = np.random.default_rng(1).choice(values, (40_000, 25)).mean(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    found = mean_interval(values.tolist())
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)
    assert (found.n, found.n_clusters) == (25, 25)


def test_clusters_are_drawn_whole() -> None:
    """Copies of each value in one cluster add nothing; as items of their own they would."""
    values = np.random.default_rng(2).normal(size=12).tolist()
    names = [f"prompt-{i}" for i in range(12)]
    once = mean_interval(values, clusters=names)
    thrice = mean_interval(values * 3, clusters=names * 3)
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx(
        (once.value, once.low, once.high)
    )
    assert (thrice.n, thrice.n_clusters) == (36, 12)
    alone = mean_interval(values * 3)
    assert alone.high - alone.low < 0.75 * (thrice.high - thrice.low)


def test_clusters_of_different_sizes_weigh_by_their_items() -> None:
    found = mean_interval([1.0, 1.0, 1.0, 0.0], clusters=["a", "a", "a", "b"])
    assert found.value == 0.75
    assert (found.n, found.n_clusters) == (4, 2)
    low, high = pooled_interval(np.array([3.0, 0.0]), np.array([3.0, 1.0]), 0)
    assert (low, high) == (0.0, 1.0)


def test_the_seed_is_that_of_the_draws() -> None:
    values = np.random.default_rng(3).normal(size=9).tolist()
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)
    assert mean_interval(values) == mean_interval(values, seed=0)
    after = [value + 1 for value in values]
    before = np.zeros(9).tolist()
    assert Change.of(before, after) == Change.of(before, after, seed=0)
    assert Change.of(before, after, seed=1) != Change.of(before, after, seed=2)


def test_values_that_all_agree_keep_the_width_that_so_few_clusters_leave() -> None:
    unseen = Rate.of([False] * 5).high
    found = mean_interval([0.25] * 5, bounds=(-1.0, 1.0))
    assert found.low == pytest.approx(0.25 - unseen * 1.25)
    assert found.high == pytest.approx(0.25 + unseen * 0.75)
    without = mean_interval([0.25] * 5)
    assert (without.low, without.high) == (0.25, 0.25)
    # Values that do not agree are drawn again, with bounds as without.
    assert mean_interval([0.0, 0.5, 1.0], bounds=(0.0, 1.0)) == mean_interval([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([1.0], None, "over 1 clusters: give at least 2"),
        ([1.0, 2.0], ["a", "a"], "over 1 clusters"),
        ([1.0, math.nan], None, "item 1: nan is no number"),
        ([math.inf, 1.0], None, "item 0: inf"),
        ([1.0, 2.0], ["a"], "2 values but 1 cluster names"),
    ],
)
def test_what_has_no_interval_is_refused(
    values: list[float], clusters: list[str] | None, message: str
) -> None:
    with pytest.raises(JudgeError, match=message):
        mean_interval(values, clusters=clusters)


def test_a_change_counts_what_moved_and_tests_it_exactly() -> None:
    before, after = _yes("00000 11101"), _yes("11111 01101")
    found = Change.of(before, after)
    assert (found.before, found.after) == (0.4, 0.8)
    assert found.difference.value == pytest.approx(0.4)
    assert (found.gained, found.lost) == (5, 1)
    assert found.p == pytest.approx(2 * binom.cdf(1, 6, 0.5))
    assert Change.of(before, before).p == 1.0
    assert str(found).startswith("+40.0% [")
    assert str(found).endswith(", p = 0.22")


def test_a_change_swapped_is_the_change_mirrored() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.random(30) < 0.3, rng.random(30) < 0.6
    before, after = before.tolist(), after.tolist()
    there, back = Change.of(before, after), Change.of(after, before)
    assert (there.gained, there.lost, there.p) == (back.lost, back.gained, back.p)
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert there.difference.low == pytest.approx(-back.difference.high, abs=0.05)


def test_a_change_of_whole_clusters_is_tested_over_clusters() -> None:
    """Four clusters of three items go up, one goes down, one moves both ways and counts as none."""
    before, after = _yes("000 000 000 000 111 010"), _yes("111 111 111 111 000 100")
    names = [f"c{i // 3}" for i in range(18)]
    found = Change.of(before, after, clusters=names)
    assert (found.gained, found.lost) == (4, 1)
    assert found.p == pytest.approx(2 * binom.cdf(1, 5, 0.5))
    assert (found.difference.n, found.difference.n_clusters) == (18, 6)


def test_a_change_in_which_every_item_agrees_is_not_certain() -> None:
    found = Change.of([False] * 6, [True] * 6)
    assert found.difference.value == found.difference.high == 1
    assert found.difference.low == pytest.approx(1 - 2 * Rate.of([False] * 6).high)


def test_both_sides_need_the_same_items() -> None:
    with pytest.raises(JudgeError, match="change from 2 to 3 items"):
        Change.of([False, True], [False, True, True])
