"""Claims: with a known write among noise the right component comes first, all planted ones are
found, nothing is claimed where nothing was planted; scores add; intervals cover.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, nct, norm, t

from artifacts.errors import InputError
from directions.significance import Resamples, assess, unit_of

N = 48
HARMFUL = np.arange(N) < N // 2


def _test(d: np.ndarray, seed: int, alpha: float = 0.05):
    resamples = Resamples.draw(HARMFUL[: len(d)], repeats=200, seed=seed)
    return assess({"total": d}, resamples, alpha=alpha, seed=seed)["total"]


def effect_at_power(power: float, level: float) -> float:
    """The shift, in standard deviations, at which a two-sided paired t-test has this power."""
    bar = t.ppf(1 - level / 2, N - 1)

    def excess(d: float) -> float:
        shift = d * np.sqrt(N)
        return nct.sf(bar, N - 1, shift) - power  # the far tail is nothing at such power

    return float(brentq(excess, 0.05, 1.2))


# The oracle knows the component, so its level is that of one test; among many components the noise
# alone reaches higher, which no method can help. The oracle of the large model pays for the choice.
@pytest.mark.parametrize(
    ("m", "level"), [(4 * 4 + 4, 0.05), (30 * 9 + 30, 0.05 / 300)], ids=["tiny", "135M"]
)
def test_the_planted_component_comes_first_where_an_oracle_would_find_it(
    m: int, level: float
) -> None:
    delta, first = effect_at_power(0.99, level), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        d, true = rng.standard_normal((N, m)), int(rng.integers(m))
        d[:, true] += delta * rng.choice([-1, 1])
        weights = Resamples.draw(HARMFUL, repeats=1, seed=0).weights
        first += int(np.argmax(np.abs(weights @ d)) == true)
    assert first >= 95


def test_several_planted_components_are_found_and_come_first() -> None:
    delta, exact, found = effect_at_power(0.99, 0.05 / 20), 0, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        d = rng.standard_normal((N, 20))
        true = set(rng.choice(20, 3, replace=False).tolist())
        d[:, list(true)] += delta
        tested = _test(d, seed)
        exact += set(np.argsort(-np.abs(tested.score))[:3].tolist()) == true
        found += sum(tested.q[j] <= 0.05 for j in true)
    assert exact >= 95
    assert found >= 0.97 * 300


@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["alike", "unlike"])
def test_nothing_is_claimed_where_there_is_only_noise(spread: float) -> None:
    seeds, claims = 200, 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        scales = np.exp(rng.uniform(0, np.log(spread), 20)) if spread > 1 else 1.0
        d = rng.standard_normal((N, 20)) * scales
        claims += bool((_test(d, seed).q <= 0.05).any())
    assert claims <= binom.ppf(0.999, seeds, 0.05)


def test_an_identical_copy_has_scores_of_zero_and_no_claim() -> None:
    tested = _test(np.zeros((N, 20)), 0)
    assert (tested.score == 0).all()
    assert (tested.p == 1).all()
    assert (tested.q == 1).all()


def test_scores_add_as_contributions_do() -> None:
    rng = np.random.default_rng(0)
    d = rng.standard_normal((N, 20)) + 0.3
    resamples = Resamples.draw(HARMFUL, repeats=200, seed=0)
    tested = assess({"total": d}, resamples, alpha=0.05, seed=0)["total"]
    unit = unit_of(d, resamples)
    np.testing.assert_allclose(tested.score.sum() * unit, (resamples.weights @ d).sum())
    np.testing.assert_allclose(tested.difference, tested.score * unit)


def test_scores_do_not_depend_on_units_or_order() -> None:
    rng = np.random.default_rng(1)
    d = rng.standard_normal((N, 20)) + 0.3
    want = _test(d, 0)
    for changed in (1e-4 * d, d[np.r_[0:24][::-1].tolist() + np.r_[24:48][::-1].tolist()]):
        np.testing.assert_allclose(_test(changed, 0).score, want.score, atol=1e-12)


def test_classes_weigh_the_same_whatever_their_sizes() -> None:
    harmful = np.arange(40) < 10
    d = np.where(harmful, 2.0, 4.0)[:, None] + np.zeros((40, 20))
    d += 1e-6 * np.random.default_rng(0).standard_normal(d.shape)
    resamples = Resamples.draw(harmful, repeats=200, seed=0)
    np.testing.assert_allclose(resamples.mean(d)[0], 3.0, atol=1e-5)
    one = Resamples.draw(np.ones(40, dtype=bool), repeats=200, seed=0)
    np.testing.assert_allclose(one.weights, 1 / 40)


def test_intervals_cover_the_truth() -> None:
    hits, trials = 0, 400
    for seed in range(trials // 20):
        rng = np.random.default_rng(seed)
        d = rng.standard_exponential((N, 20))  # skewed, mean 1
        _, low, high = Resamples.draw(HARMFUL, repeats=1000, seed=seed).mean(d)
        hits += int(((low <= 1) & (high >= 1)).sum())
    assert hits >= 0.90 * trials
    assert hits <= trials - norm.ppf(0.975)  # nor are they endless


def test_too_few_prompts_for_the_number_of_heads_are_refused() -> None:
    d = np.random.default_rng(0).standard_normal((8, 20))
    with pytest.raises(InputError, match="8 scored prompts .* at least 10 must be scored"):
        _test(d, 0)
    _test(np.random.default_rng(0).standard_normal((10, 20)), 0)
