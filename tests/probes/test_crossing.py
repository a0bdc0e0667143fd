"""Claims: sources never judge themselves; shared truth is claimed, private truth warned about."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

import probes
from probes.crossing import Scores, matrix, nested, score_block
from probes.estimators import maker
from probes.nulls import judge
from probes.pooled import auc_by_part, auc_gain, mean_auc, null_auc, shuffled_within
from probes.protocol import Fitted, Task, fit_probe
from tests.probes.planted import task

DEFAULT = ("mass-mean", "logistic", "lda")


def _fit(name: str, what: Task) -> Fitted:
    return fit_probe(name, maker(name), what)


def _scores(name: str, what: Task) -> Scores:
    parts = [score_block(maker(name), block, what.labels) for block in what.states]
    return Scores(np.stack([a for a, _ in parts], axis=1), np.stack([r for _, r in parts]))


@pytest.mark.parametrize("k", [2, 3])
def test_every_score_is_that_of_a_probe_fitted_elsewhere(k: int) -> None:
    what = task(0, k=k, shared=1.0)
    labels, states = what.labels, what.states[1].astype(float)
    alone, rest = score_block(maker("lda"), what.states[1], labels)
    here, others = labels.of(1), ~labels.of(1)
    one = maker("lda")().fit(states[here], labels.positive[here])
    np.testing.assert_allclose(alone[1, others], one.decision_function(states[others]))
    every = maker("lda")().fit(states[others], labels.positive[others])
    np.testing.assert_allclose(rest[here], every.decision_function(states[here]))
    fold = here & (labels.fold == 2)
    kept = maker("lda")().fit(states[here & ~fold], labels.positive[here & ~fold])
    np.testing.assert_allclose(alone[1, fold], kept.decision_function(states[fold]))


@pytest.mark.parametrize("name", DEFAULT)
def test_changing_a_source_does_not_change_the_probe_that_is_tested_on_it(name: str) -> None:
    """Not even the block: both are settled by the other sources."""
    what = task(0, shared=1.5)
    before = _scores(name, what)
    chosen = matrix(before, what.labels).chosen()
    here = what.labels.of(0)
    flipped = what.labels.positive.copy()
    flipped[here] = ~flipped[here]
    other = Task(
        what.states,
        what.lengths,
        type(what.labels)(flipped, what.labels.source, what.labels.fold, what.labels.names, True),
        what.blocks,
    )
    after = _scores(name, other)
    assert matrix(after, other.labels).chosen()[0] == chosen[0]
    np.testing.assert_allclose(after.rest[:, here], before.rest[:, here])


def test_the_matrix_holds_the_aucs_of_the_scores() -> None:
    what = task(1, shared=1.0)
    scores, labels = _scores("lda", what), what.labels
    found = matrix(scores, labels)
    here = labels.of(2)
    expected = roc_auc_score(labels.positive[here], scores.alone[0, 1, here])
    assert found.auc.value[0, 2, 1] == pytest.approx(expected)
    folds = [
        roc_auc_score(labels.positive[fold], scores.alone[2, 1, fold]) for fold in labels.folds(2)
    ]
    assert found.auc.value[2, 2, 1] == pytest.approx(np.mean(folds))
    assert (found.auc.low <= found.auc.value).all()
    assert (found.auc.value <= found.auc.high).all()
    off = found.auc.value[~np.eye(3, dtype=bool)].mean(0)
    np.testing.assert_allclose(found.transfer(), off)
    assert nested(scores.rest, np.array([1, 0, 1]), labels)[0] == scores.rest[1, 0]


@pytest.mark.parametrize("name", DEFAULT)
def test_a_shared_direction_is_claimed_at_its_block_without_warning(name: str) -> None:
    found = _fit(name, task(3, n=80, shared=3.0))
    assert found.judged.verdict.beats
    assert found.best == 1
    assert set(found.chosen) == {1}
    assert found.warnings == ()
    assert abs(float(found.judged.auc.value) - norm.cdf(3 / np.sqrt(2))) < 0.04
    # LEACE from the other sources takes out most of it here too.
    assert float(found.erased.value) < 0.75
    assert float(found.within.value) > 0.95


@pytest.mark.parametrize("name", DEFAULT)
def test_a_direction_of_each_source_is_warned_about_and_not_claimed(name: str) -> None:
    found = _fit(name, task(3, n=80, private=4.0))
    assert not found.judged.verdict.beats
    assert (np.diagonal(found.matrix.auc.value[..., 1]) > 0.95).all()
    assert float(found.judged.auc.value) < 0.65
    (warning,) = found.warnings
    assert "within-source AUC is high and cross-source is chance" in warning
    assert "fitted on s0 AUC" in warning
    # Nothing that the others know helps to erase it.
    assert abs(float(found.erased.value) - float(found.within.value)) < 0.1


def test_length_that_separates_as_well_is_no_claim() -> None:
    what = task(4, shared=3.0, length=60)
    found = _fit("lda", what)
    assert float(found.judged.length.value) > 0.99
    assert not found.judged.verdict.beats
    assert "length alone" in found.judged.verdict.reason


@pytest.mark.parametrize("name", DEFAULT)
def test_controls_refitted_on_nothing_are_near_chance(name: str) -> None:
    found = _fit(name, task(5, shared=3.0, refits=19))
    assert abs(found.refits.features.mean() - 0.5) < 0.06
    assert found.refits.shuffled.mean() < float(found.judged.auc.value) - 0.1


@pytest.mark.parametrize(("name", "k"), [("mass-mean", 2), ("lda", 3)])
def test_no_signal_is_claimed_in_at_most_alpha_of_200_seeds(name: str, k: int) -> None:
    """Mass-mean probes of two sources have AUCs that rise and fall as one: the worst case."""
    claims = 0
    for seed in range(200):
        what = task(seed, n=20, d=4, k=k)
        scores = _scores(name, what)
        chosen = matrix(scores, what.labels).chosen()
        verdict = judge(
            what.states, scores.rest, what.lengths, what.labels, chosen, seed=seed
        ).verdict
        claims += verdict.p_shuffled <= verdict.alpha / 2
    assert claims <= 10


def test_mean_auc_weighs_parts_the_same_and_ignores_their_offsets() -> None:
    rng = np.random.default_rng(0)
    positive, part = rng.random(60) < 0.5, np.arange(60) // 20
    scores = rng.normal(size=60) + positive
    here = [roc_auc_score(positive[part == p], scores[part == p]) for p in range(3)]
    found = mean_auc(scores, positive, part)
    assert float(found.value) == pytest.approx(np.mean(here))
    shifted = mean_auc(scores + 100 * part, positive, part)
    assert float(shifted.value) == pytest.approx(float(found.value))
    assert float(auc_by_part(scores, positive, part)) == pytest.approx(np.mean(here))
    together = mean_auc(scores, positive, part, together=True)
    assert together.low < found.low
    assert found.high < together.high


def test_the_interval_of_the_mean_covers_the_truth() -> None:
    """Two parts of 30 with equal AUC Phi(1 / sqrt 2): 400 samples at once."""
    rng = np.random.default_rng(0)
    positive, part = np.arange(60) % 2 == 0, np.arange(60) // 30
    scores = rng.normal(size=(400, 60)) + positive
    truth = norm.cdf(1 / np.sqrt(2))
    for together in (False, True):
        found = mean_auc(scores, positive, part, together=together)
        covered = ((found.low <= truth) & (truth <= found.high)).mean()
        assert covered > 0.93


def test_the_gain_over_a_rival_is_paired() -> None:
    rng = np.random.default_rng(0)
    positive, part = np.arange(80) % 2 == 0, np.arange(80) // 40
    scores = rng.normal(size=80) + positive
    same = auc_gain(scores, 3 * scores + 1, positive, part)
    assert float(same.value) == float(same.low) == float(same.high) == 0
    worse = auc_gain(scores + 3 * positive, rng.normal(size=80), positive, part)
    assert worse.low > 0.2


def test_the_null_is_the_permutation_distribution_and_widest_over_parts() -> None:
    rng = np.random.default_rng(0)
    positive, part = np.arange(40) % 2 == 0, np.arange(40) // 20
    scores = rng.normal(size=40)
    drawn = shuffled_within(positive, part, 400, rng)
    assert (drawn[:, part == 0].sum(1) == 10).all()
    one = np.zeros(40, dtype=int)
    exact = null_auc(scores, drawn, one)
    np.testing.assert_allclose(exact, np.sort(auc_by_part(scores, drawn, one)))
    both = null_auc(scores, drawn, part)
    assert both.std() > 1.2 * auc_by_part(scores, drawn, part).std()
    assert abs(both.mean() - 0.5) < 0.02


def test_a_fold_without_both_classes_is_refused() -> None:
    with pytest.raises(probes.NonFiniteError.__mro__[1], match="needs 2 of each"):
        mean_auc(np.arange(4.0), np.array([True, True, True, False]), np.zeros(4, dtype=int))
