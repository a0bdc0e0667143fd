"""Attention heads and hidden units of the MLP, set to zero or to their mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ablation.options import Control
from ablation.reference import Reference
from ablation.ways import Way
from artifacts.errors import InputError
from hooks import Ablate, Model, Scale
from hooks.interventions import Intervention
from probes.seeds import generator


@dataclass(frozen=True)
class Parts:
    """Heads or units, as pairs of block and index.

        z' = z - a (z - m)               for every chosen head (its whole z) or unit (its number)

    with m = 0 or the reference mean. Heads are read before the output projection, one for each
    query head also under grouped-query attention; units are the input of the MLP's output
    projection. Shows what the model does without them, not what they compute.
    """

    kind: Literal["heads", "units"]
    chosen: tuple[tuple[int, int], ...]

    @property
    def where(self) -> str:
        """The parts, in words."""
        shown = " ".join(f"{block}.{index}" for block, index in self.chosen[:8])
        more = len(self.chosen) - 8
        return f"{self.kind} {shown}" + (f" and {more} more" if more > 0 else "")

    @property
    def by_block(self) -> Mapping[int, tuple[int, ...]]:
        """Indices of each block."""
        blocks = sorted({block for block, _ in self.chosen})
        return {b: tuple(sorted(i for block, i in self.chosen if block == b)) for b in blocks}

    def sites(self, way: Way, model: Model) -> tuple[str, ...]:
        """Give the sites that are edited, after a check that the parts exist.

        Raises:
            InputError: no parts, or a block, head or unit that the model does not have.
            SiteError: this family does not give the site.
        """
        del way
        many = self._many(model)
        if not self.chosen:
            raise InputError(f"no {self.kind} were chosen; name them as BLOCK.INDEX")
        for block, index in self.chosen:
            if not 0 <= block < model.n_layers:
                raise InputError(
                    f"{self.kind} {block}.{index}: {model.spec} has blocks 0 to "
                    f"{model.n_layers - 1}"
                )
            if not 0 <= index < many:
                raise InputError(
                    f"{self.kind} {block}.{index}: {model.spec} has {self.kind} 0 to {many - 1} in "
                    "each block"
                )
        return model.sites([self._site(block) for block in self.by_block])

    def edits(self, way: Way, seen: Reference, model: Model) -> tuple[Intervention, ...]:
        """Give the interventions that remove the parts."""
        self.sites(way, model)
        found: list[Intervention] = []
        for block, indices in self.by_block.items():
            site = self._site(block)
            mean = seen.mean(site) if way.mode == "mean" else None
            if self.kind == "units":
                found.append(_without_units(site, indices, self._many(model), way, mean))
            elif mean is None:
                found.append(Scale(site, 1 - way.alpha, heads=indices))
            else:
                found += [_to_mean(site, head, mean, way) for head in indices]
        return tuple(found)

    def control(
        self, index: int, way: Way, seen: Reference, model: Model, *, how: Control, seed: int
    ) -> tuple[Intervention, ...]:
        """Remove as many other parts of the same blocks, drawn at random.

        Where a block has too few others, the draw is from all of its parts.

        Raises:
            InputError: a block of which every part was chosen.
        """
        del how
        return self.other(index, self._many(model), seed).edits(way, seen, model)

    def other(self, index: int, many: int, seed: int) -> Parts:
        """Draw the index-th random set; ``many`` is the number of parts in a block."""
        drawn: list[tuple[int, int]] = []
        for block, indices in self.by_block.items():
            if len(indices) == many:
                raise InputError(
                    f"all {many} {self.kind} of block {block} are chosen, so there are no others "
                    "to compare with; choose fewer"
                )
            others = [part for part in range(many) if part not in indices]
            pool = others if len(others) >= len(indices) else list(range(many))
            rng = generator("parts", self.kind, block, index, seed)
            picked = rng.choice(pool, size=len(indices), replace=False)
            drawn += [(block, int(part)) for part in sorted(picked)]
        return Parts(self.kind, tuple(drawn))

    def _many(self, model: Model) -> int:
        return model.n_heads if self.kind == "heads" else (model.d_mlp or 0)

    def _site(self, block: int) -> str:
        return f"blocks.{block}." + ("attn.hook_z" if self.kind == "heads" else "mlp.hook_post")


def _to_mean(site: str, head: int, mean: Float[Tensor, "head d"], way: Way) -> Intervention:
    whole = torch.eye(mean.shape[1])
    return Ablate(whole, site, amount=way.alpha, center=mean[head], heads=(head,))


def _without_units(
    site: str, indices: tuple[int, ...], many: int, way: Way, mean: Tensor | None
) -> Intervention:
    axes = torch.zeros(len(indices), many)
    axes[torch.arange(len(indices)), list(indices)] = 1
    return Ablate(axes, site, amount=way.alpha, center=mean)
