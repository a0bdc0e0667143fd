"""Claims: ranks and ratios have closed forms, ignore scale, and bootstrap without refitting."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.errors import InputError
from probes.spectrum import effective_rank, participation_estimate, participation_ratio


def test_equal_values_have_full_rank_and_one_value_has_rank_one() -> None:
    equal, one = np.ones(10), np.eye(10)[0]
    assert [int(effective_rank(equal, tau)) for tau in (0.1, 0.5, 0.95, 1.0)] == [1, 5, 10, 10]
    assert int(effective_rank(one, 1.0)) == 1
    assert participation_ratio(equal) == pytest.approx(10)
    assert participation_ratio(one) == pytest.approx(1)


def test_nothing_has_rank_zero() -> None:
    assert int(effective_rank(np.zeros(4), 0.9)) == 0
    assert float(participation_ratio(np.zeros(4))) == 0


def test_scale_order_and_batch_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(5, 12))
    mixed = rng.permuted(values * 1e-30, axis=1)
    for tau in (0.3, 0.9):
        assert (effective_rank(values, tau) == effective_rank(mixed, tau)).all()
        assert int(effective_rank(values[3], tau)) == int(effective_rank(values, tau)[3])
    np.testing.assert_allclose(participation_ratio(values), participation_ratio(mixed))


@pytest.mark.parametrize("tau", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(tau: float) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1"):
        effective_rank(np.ones(3), tau)


@pytest.mark.parametrize("centred", [True, False])
def test_the_gram_form_is_the_ratio_of_the_singular_values(centred: bool) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(30, 8)) * np.arange(1, 9) + 3
    found = participation_estimate(rows @ rows.T, centred=centred, seed=0)
    used = rows - rows.mean(0) if centred else rows
    expected = participation_ratio(np.linalg.svd(used, compute_uv=False))
    assert float(found.value) == pytest.approx(float(expected))
    assert found.low < found.value < found.high


def test_the_bootstrap_is_that_of_rows_drawn_again() -> None:
    """An oracle that resamples the rows themselves, decomposed each time, has the same spread."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(60, 6)) * np.array([4, 2, 1, 1, 1, 1])
    found = participation_estimate(rows @ rows.T, centred=True, seed=0, bootstraps=2000)
    drawn = []
    for _ in range(1000):
        part = rows[rng.integers(0, 60, 60)]
        drawn.append(float(participation_ratio(np.linalg.svd(part - part.mean(0))[1])))
    width = float(np.subtract(*np.quantile(drawn, [0.975, 0.025])))
    assert float(found.high - found.low) == pytest.approx(width, rel=0.12)


def test_one_row_has_no_interval() -> None:
    with pytest.raises(InputError, match="needs 2 rows"):
        participation_estimate(np.ones((1, 1)), centred=False, seed=0)
