"""The two axes of AdaSteer, from a model's own behaviour.

    RD_l = mean(h_l | harmful, refused) - mean(h_l | harmful, complied)
    HD_l = mean(h_l | harmless, complied) - mean(h_l | harmful, complied)
                                                        (Zhao et al. 2025, AdaSteer, section 3)

Refused prompts are mostly plain and complied ones mostly wrapped, so pooled means differ by form
as much as by refusal. Vectors that are added are therefore stratified: within a form, then
averaged over forms. The gate reads positions on the pooled ones, in one of two inner products:

    pos(h) = (h - mu) . A v / (v . A v),   A = I       (reading "mean", as in the paper)
                                           A = S^-1    (reading "lda"; Fisher 1936)

with S the shrunk covariance within the classes, so that coordinates which vary with form and topic
count less. Either way the two positions let a logistic regression take the form out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hooks.interventions import unit
from probes.shrinkage import Shrunk
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
    readers: Float[Tensor, "2 d"]
    """A v / (v . A v) of the rejection and of the harmfulness axis."""

    @classmethod
    def of(
        cls,
        block: int,
        origin: Float[Tensor, "d"],
        axes: Float[Tensor, "2 d"],
        within: Shrunk | None = None,
    ) -> Axes:
        """Read along the axes themselves, or with the inner product of ``within``'s inverse.

        Raises:
            PolicyError: an axis is zero, so that no position on it exists.
        """
        wide = axes.double()
        turned = wide if within is None else torch.from_numpy(within.solve(wide.numpy().T).T)
        size = einsum(wide, turned, "line d, line d -> line")
        if not bool((size > 0).all()):
            raise PolicyError(f"block {block}: two classes have equal means; choose another block")
        return cls(block, origin, turned / size[:, None])

    def positions(self, states: Float[Tensor, "row d"]) -> Float[np.ndarray, "row 2"]:
        """Return pos_RD and pos_HD of states: 0 at the origin, 1 at the other class mean."""
        centred = states.double() - self.origin.double()
        return einsum(centred, self.readers.double(), "row d, line d -> row line").numpy()


def axes_at(
    states: Float[Tensor, "block row d"],
    masks: Mapping[str, Mask],
    block: int,
    *,
    shrinkage: float | None = None,
) -> Axes:
    """Return the pooled axes of one block.

    Args:
        states: states of every block.
        masks: rows of the three classes.
        block: which block.
        shrinkage: share of the identity in the covariance of the reading ``lda``, 1 for all but
            Euclidean; None for the reading ``mean``.
    """
    here = states[block]
    refused, complied = masks["refused harmful"], masks["complied harmful"]
    harmless = masks["complied harmless"]
    axes = torch.stack([pooled(here[None], one, complied)[0] for one in (refused, harmless)])
    within = None
    if shrinkage is not None:
        within = Shrunk.fit(_residuals(here, (refused, complied, harmless)), shrinkage)
    return Axes.of(block, here[torch.from_numpy(complied)].mean(dim=0), axes, within)


def _residuals(
    states: Float[Tensor, "row d"], classes: Sequence[Mask]
) -> Float[np.ndarray, "chosen d"]:
    """Return states about their own class mean."""
    parts = [states[torch.from_numpy(rows)].double() for rows in classes]
    return torch.cat([part - part.mean(dim=0) for part in parts]).numpy()


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

        w . (z - m) / s + b = h . u + b',   u = sum_k (w_k / s_k) r_k

    with r_k the axes' readers. ``shift`` is added to the log-odds.
    """
    rate = torch.from_numpy(fit.weight / fit.scale)
    direction = einsum(rate, axes.readers.double(), "line, line d -> d")
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
