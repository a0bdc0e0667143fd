"""Claims: sign flips equal their definition and keep their level; Benjamini-Hochberg equals its
step-up definition and keeps the false discovery rate, also where tests depend on each other.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, permutation_test

from artifacts.errors import InputError
from probes.multiple import benjamini_hochberg, least_pairs, repeats_for, sign_flip_p


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _step_up(p: np.ndarray, alpha: float) -> np.ndarray:
    """As the paper states it: reject the k smallest, k the last i with p_(i) <= i alpha / m."""
    order = np.argsort(p)
    under = np.flatnonzero(p[order] <= alpha * np.arange(1, len(p) + 1) / len(p))
    rejected = np.zeros(len(p), dtype=bool)
    if len(under):
        rejected[order[: under[-1] + 1]] = True
    return rejected


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_adjusted_values_reject_what_the_step_up_procedure_rejects(alpha: float) -> None:
    for seed in range(20):
        p = _rng(seed).random(60) ** 3
        q = benjamini_hochberg(p)
        assert np.array_equal(q <= alpha, _step_up(p, alpha))
        assert (q >= p).all()


def test_adjustment_keeps_shape_and_does_not_depend_on_order() -> None:
    p = _rng(0).random((5, 7))
    q = benjamini_hochberg(p)
    assert q.shape == p.shape
    order = _rng(1).permutation(35)
    np.testing.assert_allclose(benjamini_hochberg(p.ravel()[order]), q.ravel()[order])


@pytest.mark.parametrize("bad", [[], [0.2, np.nan], [-0.1], [1.1]])
def test_what_is_no_probability_is_refused(bad: list[float]) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        benjamini_hochberg(np.array(bad, dtype=np.float64))


def test_few_pairs_are_enumerated_exactly() -> None:
    values = _rng(2).standard_normal((7, 3)) + 0.4
    weights = np.array([1.0, 2, 1, 1, 3, 1, 1])
    signs = np.array(list(product([-1, 1], repeat=7)))
    drawn = np.abs(signs @ (values * weights[:, None]))
    seen = np.abs((values * weights[:, None]).sum(0))
    want = (drawn >= seen - 1e-9).mean(0)
    got = sign_flip_p(values, repeats=9_999, seed=0, weights=weights)
    np.testing.assert_allclose(got, want)


def test_the_exact_test_equals_scipys() -> None:
    values = _rng(3).standard_normal((8, 1)) + 0.5
    oracle = permutation_test(
        (values[:, 0], np.zeros(8)),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    got = sign_flip_p(values, repeats=9_999, seed=0)
    np.testing.assert_allclose(got, oracle.pvalue)


def test_random_flips_agree_with_all_of_them() -> None:
    values = _rng(4).standard_normal((12, 6)) + np.linspace(0, 0.8, 6)
    exact = sign_flip_p(values, repeats=9_999, seed=0)
    drawn = sign_flip_p(values, repeats=2_000, seed=0)
    assert (np.abs(exact - drawn) < 4 * np.sqrt(exact * (1 - exact) / 2_000) + 1e-3).all()


def test_scale_sign_and_order_do_not_matter() -> None:
    values = _rng(5).standard_normal((10, 4)) + 0.5
    want = sign_flip_p(values, repeats=9_999, seed=0)
    np.testing.assert_allclose(sign_flip_p(-1e-6 * values, repeats=9_999, seed=1), want)
    np.testing.assert_allclose(sign_flip_p(values[::-1].copy(), repeats=9_999, seed=0), want)


def test_what_never_changes_is_no_evidence() -> None:
    values = np.zeros((40, 2))
    values[:, 1] = 1e-3
    p = sign_flip_p(values, repeats=9_999, seed=0)
    assert p[0] == 1
    assert p[1] == 1e-4  # the smallest that 9,999 flips can give


@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.array([[1.0], [np.nan]])])
def test_differences_that_are_no_numbers_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="finite"):
        sign_flip_p(bad, repeats=99, seed=0)


def _correlated(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Heavy-tailed noise in which neighbouring columns share half of their variance."""
    own, shared = rng.standard_t(4, (n, m)), np.repeat(rng.standard_t(4, (n, m // 10)), 10, axis=1)
    return own + shared


def test_nothing_planted_nothing_claimed() -> None:
    seeds, alpha = 200, 0.05
    claims = 0
    for seed in range(seeds):
        values = _correlated(_rng(seed), 24, 60)
        p = sign_flip_p(values, repeats=2_399, seed=seed)
        claims += bool((benjamini_hochberg(p) <= alpha).any())
    assert claims <= binom.ppf(0.999, seeds, alpha)


def test_the_false_discovery_rate_holds_beside_true_effects() -> None:
    seeds, alpha = 100, 0.1
    shares, found = [], []
    for seed in range(seeds):
        values = _correlated(_rng(1_000 + seed), 40, 60)
        values[:, :12] += 2.0
        q = benjamini_hochberg(sign_flip_p(values, repeats=2_399, seed=seed))
        claimed = q <= alpha
        shares.append(claimed[12:].sum() / max(claimed.sum(), 1))
        found.append(claimed[:12].mean())
    assert np.mean(shares) <= alpha * 48 / 60 + 3 * np.std(shares) / np.sqrt(seeds)
    assert np.mean(found) > 0.9


def test_one_true_effect_among_many_can_pass() -> None:
    for tests in (16, 300, 5_000):
        need = least_pairs(tests, alpha=0.05)
        assert 2.0 ** (1 - need) <= 0.05 / tests < 2.0 ** (2 - need)
        assert tests / (repeats_for(tests, alpha=0.05) + 1) <= 0.05
