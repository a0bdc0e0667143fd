"""What a component does: to refusal, and to the first component, against norm-matched controls.

    effects = component_effects(model, {"harmful": ..., "harmless": ...}, vectors, block=14,
                                tokens=find_refusal_tokens(...))

One prompt is read once; its last token is then run for all candidates as rows of one batch, each
row with a direction of its own. See ``docs/decisions/021-reading-components.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.errors import InputError
from directions.displace import Aim, Plan, measure, random_controls
from evaluation.intervals import mean_interval
from evaluation.judges.margin import require_tokenizer
from hooks import Capture, Encoded, Model, Moments
from probes.seeds import derive

if TYPE_CHECKING:
    from evaluation.judges.tokens import RefusalTokens

Relation = Literal["promotes", "suppresses", "none", "itself"]
LEAST = 8
"""Fewest prompts of a class."""


@dataclass(frozen=True, kw_only=True)
class EffectOptions:
    """How effects are measured."""

    randoms: int = 19
    """Random directions a component; 19 are the fewest that can reach p = 0.05."""
    alpha: float = 0.05
    """Largest p of an effect that is said to beat its controls."""
    added: bool = True
    """Also set the coordinate of harmless prompts to the harmful mean."""
    site: str = "hook_resid_post"
    """Site kind at which the component lives."""
    seed: int = 0
    """Seed of the controls and of the intervals."""

    def __post_init__(self) -> None:
        """Refuse controls too few to compare with.

        Raises:
            InputError: fewer than 5 controls, or a level outside (0, 1).
        """
        if self.randoms < 5 or not 0 < self.alpha < 1:
            raise InputError(
                f"effects: randoms={self.randoms}, alpha={self.alpha}; give at least 5 random "
                "directions and a level between 0 and 1"
            )


@dataclass(frozen=True, eq=False)
class Target:
    """Where the effect on the first component is read: later than the intervention."""

    block: int
    vector: Float[Tensor, "d"]
    site: str = "hook_resid_post"


@dataclass(frozen=True)
class Effect:
    """A mean paired change over prompts, beside the same change for each control."""

    value: float
    low: float
    high: float
    """Percentile bootstrap over prompts, 95%."""
    n: int
    """Prompts."""
    controls: tuple[float, ...]
    """Mean change under each random direction of the same interventional norm."""
    p: float
    """Share of controls, itself counted, that move as much in either direction."""
    beats: bool
    """True when the interval excludes 0 and p is at most alpha (or, with too few controls to
    reach it, every control moves less)."""

    @property
    def band(self) -> tuple[float, float]:
        """Least and greatest change under a control."""
        return min(self.controls), max(self.controls)


@dataclass(frozen=True)
class ComponentEffect:
    """What interventions on one component do at one block.

    It does not show that the component is the only path: later blocks may rebuild what was removed,
    and other components may carry the same.
    """

    component: int
    """Row of the vectors, 0-based."""
    block: int
    gap: float
    """Mean coordinate of harmful prompts minus that of harmless ones."""
    size: float
    """Mean distance by which harmful prompts were moved."""
    removed: Effect
    """Refusal margin (nats of log-odds) of harmful prompts, coordinate set to the harmless mean."""
    added: Effect | None
    """Refusal margin of harmless prompts, coordinate set to the harmful mean."""
    on_first: Effect | None
    """Projection on the target of harmful prompts, coordinate set to the harmless mean; None where
    no later block exists."""
    relation: Relation
    """``promotes``: without the component the target's projection falls; ``suppresses``: it rises;
    ``none``: not more than under controls."""

    @property
    def dominant(self) -> bool:
        """Whether removing it moves refusal more than norm-matched random directions do."""
        return self.removed.beats


def component_effects(
    model: Model,
    prompts: Mapping[str, Encoded],
    vectors: Float[Tensor, "k d"],
    *,
    block: int,
    tokens: RefusalTokens,
    means: Mapping[str, Float[Tensor, "d"]] | None = None,
    target: Target | None = None,
    options: EffectOptions | None = None,
) -> tuple[ComponentEffect, ...]:
    """Intervene on each component at its block and measure refusal, and the first component later.

        x' = x + (c - (x - m) . v) v          at the last prompt token of one block
        removed: m = harmless mean, c = 0            (harmful prompts)
        added:   m = harmless mean, c = gap          (harmless prompts; gap = (m+ - m) . v)
        control: x' = x + (c - (x - m) . v) u,  u random, orthogonal to every component

    After Pan et al. 2025, section 3.2 (x - alpha v at the last token), with alpha set for each
    prompt by its own coordinate, and at one block. Margin: ``evaluation.judges.margin``.

    Args:
        model: the aligned model.
        prompts: encoded ``harmful`` and ``harmless`` prompts, apart from those of the fit.
        vectors: components, the first one C1; normalised here; its own effect does
            not depend on the sign.
        block: 0-based block of ``options.site``.
        tokens: refusal tokens of this tokenizer.
        means: mean state of ``harmful`` and ``harmless`` prompts of the fit; None takes those of
            ``prompts``.
        target: where and along what the first component is read; by default the first vector,
            half way from ``block`` to the last block.
        options: controls and seed.

    Raises:
        InputError: vectors that do not fit, fewer than 8 prompts of a class, a prompt of one token
            or with a response, a target that is not later.
        SiteError: the block does not exist.
    """
    options = options or EffectOptions()
    require_tokenizer(model, tokens)
    units = _units(model, vectors)
    _check_prompts(prompts)
    site = model.sites(f"blocks.{block}.{options.site}")[0]
    aim = _aim(model, units, block, target)
    center, gaps = _class_means(model, prompts, units, site, means)
    controls = random_controls(units, options.randoms, block=block, seed=options.seed)
    plan = Plan(units, controls, center, site)
    harmful = measure(model, prompts["harmful"], plan, torch.zeros(len(units)), tokens.ids, aim)
    harmless = None
    if options.added:
        harmless = measure(model, prompts["harmless"], plan, gaps, tokens.ids, None)
    found = []
    for k in range(len(units)):
        on_first = None if harmful.along is None else _effect(harmful.along[k], options)
        found.append(
            ComponentEffect(
                component=k,
                block=block,
                gap=float(gaps[k]),
                size=float(harmful.size[k]),
                removed=_effect(harmful.margin[k], options),
                added=None if harmless is None else _effect(harmless.margin[k], options),
                on_first=on_first,
                relation="itself" if k == 0 else _relation(on_first),
            )
        )
    return tuple(found)


def _units(model: Model, vectors: Tensor) -> Float[Tensor, "k d"]:
    k, d = vectors.shape
    norms = vectors.double().norm(dim=-1)
    if d != model.d_model or k == 0 or k >= d - 1:
        raise InputError(
            f"effects of {k} components of width {d}: the model's stream has width "
            f"{model.d_model}; give between 1 and {model.d_model - 2} of them"
        )
    if not torch.isfinite(norms).all() or (norms == 0).any():
        raise InputError("effects: a component has norm zero or is not finite")
    return (vectors.double() / norms[:, None]).float()


def _check_prompts(prompts: Mapping[str, Encoded]) -> None:
    for label in ("harmful", "harmless"):
        rows = prompts.get(label)
        if rows is None or len(rows) < LEAST:
            raise InputError(
                f"effects: {0 if rows is None else len(rows)} {label} prompts; give at least "
                f"{LEAST}"
            )
        if any(start != len(ids) for start, ids in zip(rows.response_start, rows, strict=True)):
            raise InputError(f"effects: {label} prompts hold responses; encode prompts alone")
        if min(rows.lengths) < 2:
            raise InputError(f"effects: a {label} prompt has one token; use the chat template")


def _aim(model: Model, units: Tensor, block: int, target: Target | None) -> Aim | None:
    last = model.n_layers - 1
    if target is None:
        if block >= last:
            return None
        target = Target(block + max(1, (last - block) // 2), units[0])
    if not block < target.block <= last:
        raise InputError(
            f"effects: the target lies at block {target.block}; give one after block {block}, up "
            f"to {last}"
        )
    unit = target.vector.double() / target.vector.double().norm()
    if not torch.isfinite(unit).all() or unit.shape != units[0].shape:
        raise InputError("effects: the target is not a direction of this model's stream")
    return Aim(model.sites(f"blocks.{target.block}.{target.site}")[0], unit)


def _class_means(
    model: Model,
    prompts: Mapping[str, Encoded],
    units: Tensor,
    site: str,
    means: Mapping[str, Tensor] | None,
) -> tuple[Float[Tensor, "d"], Float[Tensor, "k"]]:
    """Return the harmless mean, and the gap of the two means along each component."""
    if means is None:
        found = {}
        for label in ("harmful", "harmless"):
            moments = Moments()
            with model.hooks(capture=Capture(site, into=moments)) as run:
                run.forward(prompts[label])
            found[label] = moments.mean(site)
        means = found
    harmful, harmless = means["harmful"].double(), means["harmless"].double()
    return harmless.float(), (units.double() @ (harmful - harmless)).float()


def _effect(changes: Float[np.ndarray, "c n"], options: EffectOptions) -> Effect:
    interval = mean_interval(changes[0].tolist(), seed=derive("effect", options.seed) % 2**32)
    controls = changes[1:].mean(-1)
    at_least = int((np.abs(controls) >= abs(interval.value)).sum())
    p = (1 + at_least) / (len(controls) + 1)
    level = max(options.alpha, 1 / (len(controls) + 1))
    excludes = interval.low > 0 or interval.high < 0
    return Effect(
        interval.value,
        interval.low,
        interval.high,
        interval.n,
        tuple(controls.tolist()),
        p,
        bool(excludes and p <= level),
    )


def _relation(effect: Effect | None) -> Relation:
    if effect is None or not effect.beats:
        return "none"
    return "promotes" if effect.value < 0 else "suppresses"
