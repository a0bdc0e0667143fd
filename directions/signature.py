"""The result of a localisation, as a notebook wants it: a view of a ``signature`` artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from jaxtyping import Float32
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from directions.origin import Part
from directions.patching import CausalCheck


@dataclass(frozen=True)
class Share:
    """One part of what a component changed: all of it, its origin or its echo."""

    score: float
    """Mean difference in units of the spread pooled over all components."""
    low: float
    high: float
    """95% bootstrap interval over prompts, within classes."""
    p: float
    """Sign-flip p-value, two-sided."""
    q: float
    """Benjamini-Hochberg over all heads and MLPs."""
    significant: bool
    difference: float
    """Mean difference in stream units."""


@dataclass(frozen=True)
class Component:
    """One head, or one MLP (``head`` is None)."""

    block: int
    head: int | None
    total: Share
    origin: Share
    """What its own weights changed, on the base's inputs."""
    echo: Share
    """What changed because its inputs had."""
    base: float
    """Mean contribution along the direction in the base model, stream units."""
    aligned: float
    """The same in the aligned model."""
    random: float
    """95th percentile of |score| along random directions."""
    refusal: tuple[float, float, float] | None
    """Change of its direct attribution to the refusal tokens' logit, with interval."""

    @property
    def name(self) -> str:
        """BLOCK.HEAD, or BLOCK.mlp."""
        return f"{self.block}.{'mlp' if self.head is None else self.head}"


@dataclass(frozen=True, eq=False)
class Signature:
    """Which heads and MLPs write the difference between base and aligned model.

    directions.localize() -> Signature -> .heads[0]
    """

    artifact: Artifact
    digest: str
    seconds: float
    stats: Mapping[str, float]
    """Counters of the engine, summed over all passes."""
    causal: CausalCheck | None
    """None where it was left out or nothing was significant."""

    @cached_property
    def heads(self) -> tuple[Component, ...]:
        """All heads, the strongest total score first."""
        return self._components("heads")

    @cached_property
    def mlps(self) -> tuple[Component, ...]:
        """All MLPs, the strongest total score first."""
        return self._components("mlps")

    @property
    def n(self) -> dict[str, int]:
        """Scored prompts by class."""
        return dict(next(d.n for d in self.artifact.manifest.data if d.role == "test"))

    @property
    def alpha(self) -> float:
        """False discovery rate."""
        return float(str(self.artifact.manifest.method["alpha"]))

    @property
    def gap(self) -> float:
        """Largest relative error of: the contributions sum to what attention adds."""
        return float(str(self.artifact.manifest.method["largest_gap"]))

    def significant(self, part: Part = "total") -> tuple[Component, ...]:
        """Return heads and MLPs whose ``part`` is significant, heads first."""
        both = (*self.heads, *self.mlps)
        return tuple(item for item in both if getattr(item, part).significant)

    def scores(self, kind: str = "heads", part: Part = "total") -> Float32[Tensor, "block *head"]:
        """Return the scores of ``heads`` [block, head] or ``mlps`` [block]."""
        return self._tensor(f"score/{kind}/{part}")

    def _tensor(self, key: str) -> Tensor:
        if key not in self.artifact.tensors:
            raise InputError(f"this signature has no {key}")
        return self.artifact.tensors[key]

    def _components(self, kind: str) -> tuple[Component, ...]:
        shape = self._tensor(f"score/{kind}/total").shape
        found = [self._component(kind, place) for place in product(*map(range, shape))]
        return tuple(sorted(found, key=lambda item: -abs(item.total.score)))

    def _component(self, kind: str, place: tuple[int, ...]) -> Component:
        def at(key: str) -> float:
            return float(self._tensor(key)[place])

        logit = f"{kind}/refusal"
        known = f"score/{logit}" in self.artifact.tensors
        total, origin, echo = (
            _share(at, kind, part, self.alpha) for part in ("total", "origin", "echo")
        )
        return Component(
            block=place[0],
            head=place[1] if len(place) > 1 else None,
            total=total,
            origin=origin,
            echo=echo,
            base=at(f"score/{kind}/base"),
            aligned=at(f"score/{kind}/aligned"),
            random=at(f"score/{kind}/random"),
            refusal=(at(f"score/{logit}"), at(f"score_low/{logit}"), at(f"score_high/{logit}"))
            if known
            else None,
        )


def _share(at: Callable[[str], float], kind: str, part: Part, alpha: float) -> Share:
    key = f"{kind}/{part}"
    q = at(f"score/{key}/q")
    return Share(
        score=at(f"score/{key}"),
        low=at(f"score_low/{key}"),
        high=at(f"score_high/{key}"),
        p=at(f"p_value/{key}"),
        q=q,
        significant=q <= alpha,
        difference=at(f"score/{key}/difference"),
    )
