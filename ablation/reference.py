"""What sites look like on reference requests: the means and bounds that removals leave behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.errors import InputError
from hooks import Capture, Encoded, Model, Moments, Reservoir
from hooks.positions import PositionName

SAMPLE = 256
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Reference:
    """Means of sites over tokens of reference prompts, and samples where bounds are wanted."""

    means: Mapping[str, Float[Tensor, "*feature"]]
    samples: Mapping[str, Float[Tensor, "sample d"]]
    n: int
    """Prompts."""

    def mean(self, site: str) -> Float[Tensor, "*feature"]:
        """Give the mean state at ``site``.

        Raises:
            InputError: the site was not observed.
        """
        if site not in self.means:
            raise InputError(f"{site}: no reference mean; observe this site first")
        return self.means[site]

    def bounds(self, site: str, unit: Float[Tensor, "d"]) -> tuple[float, float]:
        """Give the central 95% of the coordinate along ``unit`` at ``site``."""
        along = self.samples[site].double() @ unit.double()
        tail = (1 - LEVEL) / 2
        low, high = torch.quantile(along, torch.tensor([tail, 1 - tail], dtype=along.dtype))
        return float(low), float(high)


NOTHING = Reference({}, {}, 0)
"""For removals that need no reference."""


def observe(
    model: Model,
    prompts: Encoded,
    sites: Sequence[str],
    *,
    at: Sequence[PositionName] = ("last",),
    bounds: bool = False,
) -> Reference:
    """Read what ``sites`` are on ``prompts``, at the tokens that ``at`` means.

        m(site) = mean over prompts i and tokens t of x_it

    By default at the last prompt token, where the answer is decided and directions are read. Other
    tokens have other means: over all of them the mean is that of the template's first token, whose
    norm is hundreds of times that of any other in many models.
    """
    if not sites:
        return NOTHING
    means, kept = Moments(), Reservoir(SAMPLE)
    captures = [Capture(sites, at=rule, into=means) for rule in at]
    if bounds:
        captures += [Capture(sites, at=rule, into=kept) for rule in at]
    with model.hooks(capture=captures) as run:
        run.forward(prompts)
    return Reference(
        {site: means.mean(site).float() for site in means.sites},
        {site: kept[site] for site in kept.sites},
        len(prompts),
    )
