"""Whether a probe's probabilities mean what they say, and making them mean it.

    p = sigmoid(a z + b),   a > 0                                            (Platt 1999)

``a`` and ``b`` are fitted on scores of rows that the probe did not see. Calibration holds for
requests like those it was measured on and for their share of harmful ones, not for others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binomtest

from probes.errors import NonFiniteError
from probes.seeds import generator
from probes.separation import Estimate

BINS = 10
_RESAMPLES = 500
_FLAT = 1e-3
"""Least slope, as a share of one over the scores' spread: flat scores stay ordered."""
Loss = Callable[
    [Float[np.ndarray, "2"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]],
    tuple[float, Float[np.ndarray, "2"]],
]


@dataclass(frozen=True)
class Platt:
    """A map from scores to probabilities."""

    slope: float
    offset: float

    def __call__(self, scores: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Give p of each score."""
        return np.asarray(expit(self.slope * scores + self.offset))


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far held-out probabilities are from the outcomes."""

    brier: Estimate
    """Mean of (p - y)^2."""
    ece: Estimate
    """Expected calibration error: mean |observed - predicted| over bins, weighted by rows."""
    ece_chance: Estimate
    """What the error would be if every p were exactly right: its mean and band at this n."""
    predicted: Float[np.ndarray, "bin"]
    """Mean p of each bin; bins hold the same number of rows."""
    observed: Estimate
    """Share of harmful rows in each bin with its Wilson interval."""
    counts: Int[np.ndarray, "bin"]


def log_loss(
    at: Float[np.ndarray, "2"], scores: Float[np.ndarray, "n"], targets: Float[np.ndarray, "n"]
) -> tuple[float, Float[np.ndarray, "2"]]:
    """Give the mean negative log-likelihood of slope and offset, and its gradient."""
    z = at[0] * scores + at[1]
    slack = expit(z) - targets
    loss = float(np.mean(np.logaddexp(0, z) - targets * z))
    return loss, np.array([np.mean(slack * scores), np.mean(slack)])


def platt(
    scores: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], *, loss: Loss = log_loss
) -> Platt:
    """Fit slope and offset to held-out scores.

        min_{a > 0, b}  -sum_i t_i log p_i + (1 - t_i) log(1 - p_i)
        t = (n_1 + 1) / (n_1 + 2) for harmful rows, 1 / (n_0 + 2) for others   (Platt 1999, 2.2)

    The targets stop short of 0 and 1, so that scores which separate perfectly get a finite slope.
    The slope cannot turn negative: held-out scores that run the wrong way give a probe that is
    nearly silent, not one that is turned round.

    Raises:
        NonFiniteError: the loss or its gradient is not finite; names the step.
    """
    n_up, n_down = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (n_up + 1) / (n_up + 2), 1 / (n_down + 2))
    spread = float(np.std(scores)) or 1.0
    centre = float(np.mean(scores))
    scaled = (scores - centre) / spread
    step = -1

    def checked(at: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        nonlocal step
        step += 1
        value, gradient = loss(at, scaled, targets)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            raise NonFiniteError("calibration: loss or gradient is not finite", step=step)
        return value, gradient

    bounds = [(_FLAT, None), (None, None)]
    found = minimize(checked, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds)
    slope = float(found.x[0]) / spread
    return Platt(slope, float(found.x[1]) - slope * centre)


def calibration(
    p: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], *, seed: int, level: float = 0.95
) -> Calibration:
    """Measure held-out probabilities against the outcomes.

        Brier = mean (p - y)^2 (Brier 1950);  ECE = sum_b (n_b / n) |mean y - mean p| in bin b
                                                                  (Naeini et al. 2015)

    Intervals are percentile bootstraps over rows; each bin's is Wilson's. ECE is above 0 even for
    perfect probabilities because bins are finite: compare it with ``ece_chance``.
    """
    rng = generator("calibration", seed)
    y = positive.astype(np.float64)
    bins = np.array_split(np.argsort(p, kind="stable"), min(BINS, max(1, len(p) // 8)))
    number = np.empty(len(p), dtype=np.intp)
    for index, rows in enumerate(bins):
        number[rows] = index
    drawn = rng.integers(len(p), size=(_RESAMPLES, len(p)))
    ideal = rng.random((_RESAMPLES, len(p))) < p
    error = _ece(p[None], y[None], number[None])
    boot = _ece(p[drawn], y[drawn], number[drawn])
    chance = _ece(np.broadcast_to(p, ideal.shape), ideal, np.broadcast_to(number, ideal.shape))
    hits = [int(y[rows].sum()) for rows in bins]
    wilson = [
        binomtest(hit, len(rows)).proportion_ci(level, method="wilson")
        for hit, rows in zip(hits, bins, strict=True)
    ]
    counts = np.array([len(rows) for rows in bins])
    return Calibration(
        brier=_interval(float(np.mean((p - y) ** 2)), ((p - y) ** 2)[drawn].mean(1), len(p), level),
        ece=_interval(float(error[0]), boot, len(p), level),
        ece_chance=_interval(float(chance.mean()), chance, _RESAMPLES, level),
        predicted=np.array([p[rows].mean() for rows in bins]),
        observed=Estimate(
            np.array(hits) / counts,
            np.array([w.low for w in wilson]),
            np.array([w.high for w in wilson]),
            len(p),
            level,
        ),
        counts=counts,
    )


def _ece(
    p: Float[np.ndarray, "repeat n"],
    y: Float[np.ndarray, "repeat n"] | Bool[np.ndarray, "repeat n"],
    number: Int[np.ndarray, "repeat n"],
) -> Float[np.ndarray, "repeat"]:
    total = np.zeros(len(p))
    for index in range(int(number.max()) + 1):
        total += np.abs(((y - p) * (number == index)).sum(1))
    return total / p.shape[1]


def _interval(value: float, drawn: Float[np.ndarray, "repeat"], n: int, level: float) -> Estimate:
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(np.asarray(value), np.asarray(low), np.asarray(high), n, level)
