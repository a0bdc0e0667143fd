"""Directions and subspaces, removed from everything that is written to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ablation.options import Control
from ablation.reference import Reference
from ablation.ways import Way
from artifacts.errors import InputError
from directions.displace import Displace, random_controls
from hooks import Ablate, Clamp, Model
from hooks.interventions import Intervention


@dataclass(frozen=True, eq=False)
class Span:
    """The span of one or more directions, in blocks ``first`` to ``last``.

        x' = x - a U^T U (x - m)                     (Arditi et al. 2024, eq. 4, with m = 0, a = 1)

    at the input of block ``first`` and at what attention and MLP of each of these blocks add: in
    post-norm families that is behind the post-norm. By linearity the stream behind block ``last``
    then has, along U, the sum of those means (zero with m = 0) and the share 1 - a of the rest.
    Over all blocks with m = 0 it equals weights orthogonalised to U, embedding included, unless
    embeddings are tied: then such weights also lose U in the unembedding, which this leaves alone.

    Clamping acts on the stream itself: at the input, between attention and MLP where the family has
    a state there, and behind each block. Later blocks may write the direction anew.
    """

    name: str
    rows: Float[Tensor, "k d"]
    first: int
    last: int
    beside: Float[Tensor, "m d"] | None = None
    """Directions that the span was made orthogonal to, and that its controls avoid as well."""

    @property
    def where(self) -> str:
        """The blocks, in words."""
        return (
            f"blocks {self.first}-{self.last}" if self.first < self.last else f"block {self.last}"
        )

    @property
    def basis(self) -> Float[Tensor, "k d"]:
        """Orthonormal basis U.

        Raises:
            EditError: a direction of norm zero, or directions that are linearly dependent.
        """
        return Ablate(self.rows).parts()["basis"][0]

    def sites(self, way: Way, model: Model) -> tuple[str, ...]:
        """Give the sites that are edited.

        Raises:
            SiteError: this family does not give one of them.
        """
        every = f"blocks.{self.first}-{self.last}"
        kinds = ["hook_attn_out", "hook_mlp_out"]
        if way.mode == "clamp":
            middle = "hook_resid_mid" in model.served()
            kinds = [*(["hook_resid_mid"] if middle else []), "hook_resid_post"]
        start = f"blocks.{self.first}.hook_resid_pre"
        return model.sites([start, *(f"{every}.{kind}" for kind in kinds)])

    def edits(self, way: Way, seen: Reference, model: Model) -> tuple[Intervention, ...]:
        """Give the interventions that remove the span."""
        self._check_width(model)
        sites = self.sites(way, model)
        if way.mode == "zero":
            return (Ablate(self.rows, sites, amount=way.alpha),)
        if way.mode == "clamp":
            return _clamps(self.basis, sites, seen)
        return tuple(
            Ablate(self.rows, site, amount=way.alpha, center=seen.mean(site)) for site in sites
        )

    def control(
        self, index: int, way: Way, seen: Reference, model: Model, *, how: Control, seed: int
    ) -> tuple[Intervention, ...]:
        """Give a random control: directions drawn uniformly, orthogonal to the span.

            moved:    x' = x - a W^T U (x - m),   removed:  x' = x - a W^T W (x - m)

        W is orthonormal like U, so ``moved`` moves every state exactly as far as the ablation does.
        A clamp's control is always ``removed``: bounds mean something along W only.

        Raises:
            InputError: the site is too narrow for as many directions again.
        """
        basis = self.basis
        other = self._other(basis, index, seed)
        if how == "removed" or way.mode == "clamp":
            return replace(self, rows=other).edits(way, seen, model)
        nothing = torch.zeros(basis.shape[1])
        return tuple(
            Displace(
                read=read,
                write=way.alpha * write,
                value=torch.tensor(0.0),
                center=nothing if way.mode == "zero" else seen.mean(site),
                at=site,
            )
            for site in self.sites(way, model)
            for read, write in zip(basis, other, strict=True)
        )

    def _other(self, basis: Tensor, index: int, seed: int) -> Float[Tensor, "k d"]:
        avoided = basis
        if self.beside is not None:
            avoided = Ablate(torch.cat([basis, self.beside])).parts()["basis"][0]
        k, d = basis.shape
        if len(avoided) + k > d:
            raise InputError(f"{self.name}: {k} of {d} dimensions leave no room for a control")
        drawn = random_controls(avoided, index + 1, block=self.first, seed=seed)[:k, index]
        return Ablate(drawn).parts()["basis"][0]

    def _check_width(self, model: Model) -> None:
        if self.rows.shape[1] != model.d_model:
            raise InputError(
                f"{self.name}: width {self.rows.shape[1]}, but the stream of {model.spec} has "
                f"{model.d_model}; take a direction of a stream site of this model"
            )


def _clamps(
    basis: Float[Tensor, "k d"], sites: tuple[str, ...], seen: Reference
) -> tuple[Intervention, ...]:
    found = []
    for site in sites:
        for unit in basis:
            low, high = seen.bounds(site, unit)
            found.append(Clamp(unit, site, low=low, high=high))
    return tuple(found)
