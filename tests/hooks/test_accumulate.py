"""Streaming, in any split, equals one shot; a reservoir is uniform and keeps to its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

import hooks
from hooks.errors import PositionError

SITE = "blocks.0.hook_resid_post"


def _states(n: int, d: int = 5, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    # Far from zero: a formula that subtracts large squares would lose its digits here.
    return torch.randn(n, d, generator=rng, dtype=torch.float64) * 2 + 1000


def _feed(into: hooks.Accumulator, values: Tensor, rows: Tensor | None = None) -> None:
    rows = torch.arange(len(values)) if rows is None else rows
    into.update(SITE, values, rows, torch.zeros_like(rows))


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=8), seed=st.integers(0, 999))
def test_moments_in_any_split_equal_numpy(cuts: Sequence[int], seed: int) -> None:
    values = _states(40, seed=seed)
    into = hooks.Moments(second=True)
    edges = [0, *sorted(set(cuts)), 40]
    for low, high in zip(edges, edges[1:], strict=False):
        _feed(into, values[low:high])
    whole = values.numpy()
    assert into.count(SITE) == 40
    np.testing.assert_allclose(into.mean(SITE), whole.mean(0), rtol=1e-13)
    np.testing.assert_allclose(into.covariance(SITE), np.cov(whole.T, ddof=0), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(into.norm(SITE), np.linalg.norm(whole, axis=1).mean(), rtol=1e-13)


def test_classes_are_kept_apart_by_the_callers_row_numbers() -> None:
    values, classes = _states(30), torch.arange(30) % 3
    into = hooks.Moments(by=classes)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    for part in order.split(7):
        _feed(into, values[part], part)
    for group in range(3):
        assert into.count(SITE, group) == 10
        torch.testing.assert_close(into.mean(SITE, group), values[classes == group].mean(0))
    assert not torch.allclose(into.mean(SITE, 0), values.mean(0), atol=1e-3, rtol=0)


def test_a_covariance_that_was_not_asked_for_is_refused() -> None:
    into = hooks.Moments()
    _feed(into, _states(4))
    with pytest.raises(PositionError, match="second=True"):
        into.covariance(SITE)
    with pytest.raises(KeyError):
        into.mean("blocks.1.hook_resid_post")


def test_a_result_is_a_copy() -> None:
    into = hooks.Moments()
    _feed(into, _states(4))
    into.mean(SITE).zero_()
    assert into.mean(SITE).norm() > 1


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 25), seed=st.integers(0, 999))
def test_paired_moments_equal_the_direct_ones(size: int, seed: int) -> None:
    base, aligned = _states(25, seed=seed), _states(25, seed=seed + 1)
    into = hooks.PairedMoments()
    for x, y in zip(base.split(size), aligned.split(size), strict=True):
        into.update(SITE, x, y)
    x, shift = base.numpy(), (aligned - base).numpy()
    joint = np.cov(np.concatenate([x, shift], axis=1).T, ddof=0)
    second = into.second(SITE)
    assert into.count(SITE) == 25
    np.testing.assert_allclose(into.shift_mean(SITE), shift.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(second["base_base"], joint[:5, :5], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(second["base_shift"], joint[:5, 5:], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(second["shift_shift"], joint[5:, 5:], rtol=1e-8, atol=1e-8)


def test_the_pairing_of_rows_matters_and_must_fit() -> None:
    base, aligned = _states(20), _states(20, seed=1)
    right, wrong = hooks.PairedMoments(), hooks.PairedMoments()
    right.update(SITE, base, aligned)
    wrong.update(SITE, base, aligned.flip(0))
    torch.testing.assert_close(right.shift_mean(SITE), wrong.shift_mean(SITE))
    assert not torch.allclose(right.second(SITE)["base_shift"], wrong.second(SITE)["base_shift"])
    # Where nothing differs, the shift has no moments at all.
    same = hooks.PairedMoments()
    same.update(SITE, base, base)
    assert same.second(SITE)["shift_shift"].abs().max() == 0


def test_rows_come_back_in_the_callers_order() -> None:
    values = _states(12).float()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    rows = hooks.Rows()
    for part in order.split(5):
        _feed(rows, values[part], part)
    assert torch.equal(rows[SITE], values)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_rows_in_any_split_are_the_same(sizes: Sequence[int], seed: int) -> None:
    """Few at a time or many, past the room of one piece of storage, whatever a state's shape."""
    values = _states(sum(sizes) * 6, d=1, seed=seed).float().reshape(-1, 2, 3)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    rows = hooks.Rows()
    for part in order.split(sizes):
        _feed(rows, values[part], part)
        assert len(rows[SITE]) > 0
    assert torch.equal(rows[SITE], values)
    rows[SITE].zero_()
    assert torch.equal(rows[SITE], values)


def test_rows_of_different_lengths_are_a_list_and_cannot_be_stacked() -> None:
    values, rows = _states(5).float(), hooks.Rows()
    rows.update(SITE, values, torch.tensor([1, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 2]))
    found = rows[SITE]
    assert isinstance(found, list)
    assert torch.equal(found[0], values[[1, 2]])
    assert torch.equal(found[1], values[[0, 3, 4]])
    with pytest.raises(PositionError, match="cannot be stacked"):
        rows.stack()


def test_a_reservoir_is_uniform_over_what_it_saw() -> None:
    n, size, runs = 20, 5, 600
    counts = np.zeros(n)
    for seed in range(runs):
        into = hooks.Reservoir(size, seed=seed)
        values = torch.arange(n, dtype=torch.float64)[:, None]
        for part in values.split(6):
            _feed(into, part, torch.arange(len(part)))
        kept = into[SITE].flatten().long().tolist()
        assert len(kept) == len(set(kept)) == size
        assert into.seen(SITE) == n
        counts[kept] += 1
    assert chisquare(counts).pvalue > 0.01
    # The negative twin: keeping the first ones would be seen at once.
    assert chisquare(np.r_[np.full(size, runs), np.zeros(n - size)]).pvalue < 1e-9


def test_a_reservoir_does_not_depend_on_the_split_and_keeps_all_while_there_is_room() -> None:
    values = _states(30)
    one, many, roomy = hooks.Reservoir(7), hooks.Reservoir(7), hooks.Reservoir(99)
    _feed(one, values)
    for part in values.split(4):
        _feed(many, part)
    _feed(roomy, values)
    assert torch.equal(one[SITE], many[SITE])
    assert torch.equal(roomy[SITE], values.float())
    other = hooks.Reservoir(7, seed=1)
    _feed(other, values)
    assert not torch.equal(other[SITE], one[SITE])
