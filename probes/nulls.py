"""What a probe is compared with: labels that mean nothing, features that know nothing, length."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from einops import einsum
from jaxtyping import Float, Float64, Int

from probes.controls import Verdict, beats_control, random_units, unsigned
from probes.crossing import nested
from probes.estimators import Logistic, Maker
from probes.labels import Labels
from probes.pooled import auc_by_part, auc_gain, mean_auc, null_auc, shuffled_within
from probes.seeds import generator
from probes.separation import Estimate, d_prime

SHUFFLES = 199
RANDOM = 99
REFITS = 19
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class ByBlock:
    """Null distributions of the held-out AUC at every block."""

    shuffled: Float[np.ndarray, "block shuffles"]
    """Held-out labels permuted within each source, see :func:`probes.pooled.null_auc`."""
    random: Float[np.ndarray, "block random"]
    """Directions drawn uniformly, each with the better of its two signs."""


@dataclass(frozen=True, eq=False)
class Refits:
    """AUC of the same estimator, fitted again at the chosen blocks."""

    shuffled: Float[np.ndarray, "refits"]
    """On shuffled labels, tested on true ones with the better sign: what fitting alone gives."""
    features: Float[np.ndarray, "refits"]
    """On as many random features, tested on true labels."""


def by_block(
    states: Float[np.ndarray, "block n d"],
    rest: Float[np.ndarray, "block n"],
    labels: Labels,
    *,
    seed: int,
) -> ByBlock:
    """Draw both null distributions at every block."""
    rng = generator("held-out-labels", "probes", seed)
    drawn = shuffled_within(labels.positive, labels.source, SHUFFLES, rng)
    units = random_units(RANDOM, states.shape[-1], seed=seed)
    shuffled = [null_auc(scores, drawn, labels.source) for scores in rest]
    random = [
        unsigned(auc_by_part(units @ block.T, labels.positive, labels.source)) for block in states
    ]
    return ByBlock(np.stack(shuffled), np.stack(random))


def refits(
    make: Maker,
    states: Float[np.ndarray, "block n d"],
    labels: Labels,
    chosen: Int[np.ndarray, "k"],
    *,
    seed: int,
    repeats: int = REFITS,
) -> Refits:
    """Fit again with what should not work, each source being tested at its chosen block."""
    rng = generator("refits", seed)
    labels_drawn = shuffled_within(labels.positive, labels.source, repeats, rng)
    found = np.empty((2, repeats, len(labels.positive)))
    for source in range(labels.k):
        here = labels.of(source)
        rows = states[chosen[source]].astype(np.float64)
        for repeat, shuffled in enumerate(labels_drawn):
            fitted = make().fit(rows[~here], shuffled[~here])
            found[0, repeat, here] = fitted.decision_function(rows[here])
            noise = rng.standard_normal(rows.shape)
            fitted = make().fit(noise[~here], labels.positive[~here])
            found[1, repeat, here] = fitted.decision_function(noise[here])
    auc = auc_by_part(found, labels.positive, labels.source)
    return Refits(unsigned(auc[0]), auc[1])


def length_scores(lengths: Int[np.ndarray, "n"], labels: Labels) -> Float64[np.ndarray, "n"]:
    """Score each row by its number of tokens, the sign being fitted on the other sources."""
    column = np.log(lengths.astype(np.float64))[:, None]
    scores = np.zeros(len(column))
    for source in range(labels.k):
        here = labels.of(source)
        fitted = Logistic().fit(column[~here], labels.positive[~here])
        scores[here] = fitted.decision_function(column[here])
    return scores


@dataclass(frozen=True, eq=False)
class Judged:
    """The held-out AUC at blocks chosen without the tested source, and the verdict on it."""

    auc: Estimate
    shuffled: Float[np.ndarray, "shuffles"]
    random: Float[np.ndarray, "random"]
    length: Estimate
    gain: Estimate
    """AUC above that of the length alone, paired by prompt."""
    verdict: Verdict


def judge(
    states: Float[np.ndarray, "block n d"],
    rest: Float[np.ndarray, "block n"],
    lengths: Int[np.ndarray, "n"],
    labels: Labels,
    chosen: Int[np.ndarray, "k"],
    *,
    seed: int,
) -> Judged:
    """Decide whether a probe reads the class on sources that it was not fitted on.

        beats  iff  p_shuffled <= alpha/2,  p_random <= alpha,  low > 1/2  and  gain's low > 0

    The first condition alone keeps false claims at alpha/2: neither the probe nor its block saw the
    labels of the source it is tested on. See :func:`probes.pooled.null_auc` for that null and
    :func:`probes.beats_control` for the first three.
    """
    scores = nested(rest, chosen, labels)
    positive, source = labels.positive, labels.source
    rng = generator("verdict-labels", "probes", seed)
    drawn = shuffled_within(positive, source, SHUFFLES, rng)
    shuffled = null_auc(scores, drawn, source)
    units = random_units(RANDOM, states.shape[-1], seed=seed)
    taken = states[chosen[source], np.arange(len(source))]
    drawn_scores = einsum(units, taken, "r d, n d -> r n")
    random = unsigned(auc_by_part(drawn_scores, positive, source))
    auc = mean_auc(scores, positive, source, together=True)
    by_length = length_scores(lengths, labels)
    gain = auc_gain(scores, by_length, positive, source)
    value, low, high = (np.atleast_1d(end) for end in (auc.value, auc.low, auc.high))
    row = Estimate(value, low, high, auc.n, auc.level)
    gaps = _gap(drawn_scores, labels)
    verdict = beats_control(
        row, _gap(scores, labels)[None], shuffled[None], random[None], gaps[None], alpha=ALPHA
    )
    if verdict.beats and not gain.low > 0:
        reason = f"length alone separates as well (gain {gain.value:.3f} from {gain.low:.3f})"
        verdict = replace(verdict, beats=False, reason=reason)
    length = mean_auc(by_length, positive, source, together=True)
    return Judged(auc, shuffled, random, length, gain, verdict)


def _gap(scores: Float[np.ndarray, "*batch n"], labels: Labels) -> Float[np.ndarray, "*batch"]:
    """Give the mean d' of the sources, which decides between AUCs of 1."""
    found: list[Float[np.ndarray, "*batch"]] = []
    for source in range(labels.k):
        here = labels.of(source)
        up, down = scores[..., here & labels.positive], scores[..., here & ~labels.positive]
        found.append(d_prime(up, down).value)
    return np.asarray(np.mean(found, axis=0))
