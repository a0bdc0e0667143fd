"""The two axes of AdaSteer, from a model's own behaviour.

    RD_l = mean(h_l | harmful, refused) - mean(h_l | harmful, complied)
    HD_l = mean(h_l | harmless, complied) - mean(h_l | harmful, complied)
                                                        (Zhao et al. 2025, AdaSteer, section 3)

Refused prompts are mostly plain and complied ones mostly wrapped, so pooled means differ by form
as much as by refusal. Vectors that are added are therefore stratified: within a form, then
averaged over forms. The gate reads the pooled ones, whose two coordinates let a logistic
regression take the form out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hooks.interventions import unit
from probes.separation import auc
from steering.errors import PolicyError
from steering.laws import Logistic
from steering.policy import Reading

Mask = Bool[np.ndarray, "row"]
INVERSE_PENALTY = 1.0
"""scikit-learn's C on standardised coordinates."""


def pooled(
    states: Float[Tensor, "block row d"], first: Mask, second: Mask
) -> Float[Tensor, "block d"]:
    """Return the difference of class means."""
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    return states[:, a].mean(dim=1) - states[:, b].mean(dim=1)


def stratified(
    states: Float[Tensor, "block row d"], first: Mask, second: Mask, forms: Sequence[str]
) -> Float[Tensor, "block d"]:
    """Return the difference of class means within forms, averaged over forms.

        v = sum_f w_f (mean_{1,f} - mean_{2,f}) / sum_f w_f,   w_f = n_1f n_2f / (n_1f + n_2f)

    the least-squares estimate with one intercept for each form.

    Raises:
        PolicyError: no form has prompts of both classes.
    """
    names = np.array(forms)
    total, found = 0.0, torch.zeros_like(states[:, 0])
    for form in dict.fromkeys(forms):
        one, two = first & (names == form), second & (names == form)
        n, m = int(one.sum()), int(two.sum())
        if n and m:
            weight = n * m / (n + m)
            found = found + weight * pooled(states, one, two)
            total += weight
    if total == 0:
        raise PolicyError(
            f"no form among {', '.join(dict.fromkeys(forms))} has prompts of both classes: add "
            "forms that the model refuses sometimes, with --forms"
        )
    return found / total


def project(
    vectors: Float[Tensor, "block d"], onto: Float[Tensor, "block d"]
) -> Float[Tensor, "block d"]:
    """Return what of each row lies along the other's."""
    along = einsum(vectors, onto, "block d, block d -> block")
    return (along / onto.square().sum(dim=-1))[:, None] * onto


@dataclass(frozen=True, eq=False)
class Axes:
    """The two axes at one block, and where a state lies on them."""

    block: int
    origin: Float[Tensor, "d"]
    """Mean of the complied harmful states."""
    rejection: Float[Tensor, "d"]
    harmfulness: Float[Tensor, "d"]

    def positions(self, states: Float[Tensor, "row d"]) -> Float[np.ndarray, "row 2"]:
        """Return pos_RD and pos_HD of states: 0 at the origin, 1 at the other class mean.

        pos = (h - mu) . v / |v|^2
        """
        centred = states.double() - self.origin.double()
        both = torch.stack([self.rejection, self.harmfulness]).double()
        along = einsum(centred, both, "row d, line d -> row line")
        return (along / both.square().sum(dim=-1)).numpy()


def axes_at(states: Float[Tensor, "block row d"], masks: dict[str, Mask], block: int) -> Axes:
    """Return the pooled axes of one block."""
    here = states[block : block + 1]
    refused, complied = masks["refused harmful"], masks["complied harmful"]
    return Axes(
        block,
        here[0][torch.from_numpy(complied)].mean(dim=0),
        pooled(here, refused, complied)[0],
        pooled(here, masks["complied harmless"], complied)[0],
    )


@dataclass(frozen=True, eq=False)
class Fit:
    """A logistic regression on standardised positions."""

    mean: Float[np.ndarray, "k"]
    scale: Float[np.ndarray, "k"]
    weight: Float[np.ndarray, "k"]
    bias: float

    def logit(self, positions: Float[np.ndarray, "row k"]) -> Float[np.ndarray, "row"]:
        """Return the log-odds of the positive class."""
        return (positions - self.mean) / self.scale @ self.weight + self.bias


def fit_logistic(
    positions: Float[np.ndarray, "row k"], positive: Mask, *, c: float = INVERSE_PENALTY
) -> Fit:
    """Fit P(positive | positions), classes weighted to count the same.

        log P / (1 - P) = w . (z - m) / s + b

    The penalty keeps the weights finite where the classes separate.

    Raises:
        PolicyError: one class only.
    """
    if positive.all() or not positive.any():
        raise PolicyError(
            f"logistic regression on {len(positive)} prompts of one class: give both classes"
        )
    mean, scale = positions.mean(axis=0), positions.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000)
    model.fit((positions - mean) / scale, positive)
    return Fit(mean, scale, model.coef_[0].astype(np.float64), float(np.ravel(model.intercept_)[0]))


def as_reading(axes: Axes, fit: Fit, shift: float = 0.0, *, floor: float = 0.1) -> Reading:
    """Turn a regression on positions into what the registry's gate reads: one direction.

        w . (z - m) / s + b = h . u + b',   u = sum_k (w_k / s_k) v_k / |v_k|^2

    ``shift`` is added to the log-odds.
    """
    rows = torch.stack([axes.rejection, axes.harmfulness]).double()
    rate = torch.from_numpy(fit.weight / fit.scale) / rows.square().sum(dim=-1)
    direction = einsum(rate, rows, "line, line d -> d")
    norm = float(direction.norm())
    if norm == 0:
        raise PolicyError(f"block {axes.block}: the regression found no direction; choose another")
    centre = float((fit.weight * fit.mean / fit.scale).sum())
    bias = fit.bias - centre - float(axes.origin.double() @ direction) + shift
    wide = unit(direction, "gate").float()
    return Reading(axes.block, wide, Logistic(norm, bias, floor))


def cross_validated(
    positions: Float[np.ndarray, "row k"], positive: Mask, *, folds: int = 4
) -> Float[np.ndarray, "row"]:
    """Return the log-odds of each row from a fit that has not seen it."""
    order = np.argsort(positive, kind="stable")
    fold = np.empty(len(positive), dtype=np.int64)
    fold[order] = np.arange(len(positive)) % folds
    found = np.zeros(len(positive))
    for number in range(folds):
        here = fold == number
        found[here] = fit_logistic(positions[~here], positive[~here]).logit(positions[here])
    return found


def separation(positions: Float[np.ndarray, "row 2"], positive: Mask) -> float:
    """Return the AUC of cross-validated log-odds."""
    logit = cross_validated(positions, positive)
    return float(auc(logit[positive], logit[~positive]))
