"""What sites look like on reference requests: the means and bounds that removals leave behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from artifacts.errors import InputError
from hooks import Capture, Encoded, Model, Moments, Reservoir

SAMPLE = 256
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Reference:
    """Means of sites over the tokens of reference prompts, and samples where bounds are wanted."""

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
    model: Model, prompts: Encoded, sites: Sequence[str], *, bounds: bool = False
) -> Reference:
    """Read what ``sites`` are on ``prompts``, over all tokens but each prompt's first.

        m(site) = mean over prompts i and tokens t > 0 of x_it       (responses count, if any)

    The first token is left out: many models park a norm there that is hundreds of times that of
    any other token, and one such token in forty would be most of the mean.
    """
    if not sites:
        return NOTHING
    means, kept = Moments(), Reservoir(SAMPLE)
    captures = [Capture(sites, at=behind_first, into=means)]
    if bounds:
        captures.append(Capture(sites, at=behind_first, into=kept))
    with model.hooks(capture=captures) as run:
        run.forward(prompts)
    return Reference(
        {site: means.mean(site).float() for site in means.sites},
        {site: kept[site] for site in kept.sites},
        len(prompts),
    )


def behind_first(
    ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"]
) -> Bool[Tensor, "row token"]:
    """Mean every real token but the first of each row."""
    del ids
    return mask & (mask.cumsum(dim=1) > 1)
