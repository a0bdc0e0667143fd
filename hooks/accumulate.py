"""Where captures go: moments, paired moments, rows, or a reservoir.

An accumulator takes ``update(site, values, rows, slots)``: ``values`` are the captured states of
the chosen tokens, ``rows`` the caller's prompt numbers and ``slots`` the token's place within its
row's chosen tokens. Sums are kept in float64 on the CPU; merging is exact in a fixed order.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from hooks.errors import PositionError
from hooks.storage import KeptStates


@runtime_checkable
class Accumulator(Protocol):
    """What a capture writes into."""

    def update(
        self,
        site: str,
        values: Float[Tensor, "token *feature"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Take the states of one site from one forward pass."""
        ...


class Rows:
    """Keep every captured state as float32 on the CPU; memory grows with the prompts."""

    def __init__(self) -> None:
        """Start empty."""
        self._parts: dict[str, KeptStates] = {}

    def update(
        self,
        site: str,
        values: Float[Tensor, "token *feature"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Put the states of one site behind those that came before."""
        del slots
        self._parts.setdefault(site, KeptStates()).add(values, rows)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the captured sites, in the order of the forward pass."""
        return tuple(self._parts)

    def __getitem__(self, site: str) -> Tensor | list[Tensor]:
        """Return the states of ``site`` in the order of the prompts.

        [prompt, *feature] for one token a prompt, [prompt, slot, *feature] for a fixed number, and
        a list of [token, *feature] where the numbers differ.
        """
        values, rows = self._parts[site].whole()
        # Within a prompt, tokens came in their order, pass by pass; slots restart in each pass.
        order = torch.argsort(rows, stable=True)
        counts = torch.bincount(rows)
        counts = counts[counts > 0]
        values = values[order]
        if (counts != counts[0]).any():
            return list(values.split(counts.tolist()))
        if counts[0] == 1:
            return values
        return rearrange(values, "(row slot) ... -> row slot ...", slot=int(counts[0]))

    def stack(self) -> Float[Tensor, "site row *feature"]:
        """Stack the sites.

        Raises:
            PositionError: prompts gave different numbers of tokens.
        """
        parts = [self[name] for name in self.sites]
        if any(isinstance(part, list) for part in parts):
            raise PositionError("rows of different lengths cannot be stacked; read them by site")
        return torch.stack([part for part in parts if isinstance(part, Tensor)])


class Moments:
    """Mean, count and mean norm of each site's states, optionally by class and with covariance.

    mean_{a+b} = mean_a + (n_b / (n_a + n_b)) (mean_b - mean_a)        (Chan et al. 1979, 2.1)
    """

    def __init__(self, *, by: Int[Tensor, "row"] | None = None, second: bool = False) -> None:
        """``by`` gives the class number of each of the caller's rows; ``second`` adds scatter."""
        self._by = by
        self._second = second
        self._state: dict[tuple[str, int], _Running] = {}

    def update(
        self,
        site: str,
        values: Float[Tensor, "token *feature"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Add the states of one site."""
        del slots
        wide = values.double()
        groups = self._by[rows] if self._by is not None else torch.zeros_like(rows)
        for group in groups.unique().tolist():
            running = self._state.setdefault((site, group), _Running(self._second))
            running.update(wide[groups == group])

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the captured sites, in the order of the forward pass."""
        return tuple(dict.fromkeys(name for name, _ in self._state))

    def count(self, site: str, group: int = 0) -> int:
        """Return the number of states seen at ``site`` for one class."""
        return self._state[site, group].n

    def mean(self, site: str, group: int = 0) -> Float[Tensor, "*feature"]:
        """Return the mean state, float64."""
        return self._state[site, group].mean.clone()

    def norm(self, site: str, group: int = 0) -> float:
        """Return the mean Euclidean norm of the states."""
        return self._state[site, group].norm

    def covariance(self, site: str, group: int = 0) -> Float[Tensor, "d d"]:
        """Return the covariance with divisor n (the maximum-likelihood one), float64."""
        running = self._state[site, group]
        if running.scatter is None:
            raise PositionError("Moments(second=True) is needed for a covariance")
        return running.scatter / running.n


class _Running:
    """Count, mean, mean norm and scatter about the mean of a stream of vectors."""

    def __init__(self, second: bool) -> None:
        self.n = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.norm = 0.0
        self.scatter: Tensor | None = torch.zeros((), dtype=torch.float64) if second else None

    def update(self, values: Float[Tensor, "token *feature"]) -> None:
        total = self.n + len(values)
        mean = values.mean(0)
        shift = mean - self.mean
        if self.scatter is not None:
            centred = values - mean
            within = einsum(centred, centred, "token a, token b -> a b")
            between = einsum(shift, shift, "a, b -> a b") if shift.ndim else torch.zeros(())
            self.scatter = self.scatter + within + between * (self.n * len(values) / total)
        self.mean = self.mean + shift * (len(values) / total)
        norms = values.flatten(1).norm(dim=1).sum().item()
        self.norm = (self.norm * self.n + norms) / total
        self.n = total


class PairedMoments:
    """Moments of the paired difference between two models' states of the same prompts.

        D = Y - X, row by row; keeps mean(D), cov(D), cov(X), cov(X, D)

    with ``X`` from the base and ``Y`` from the aligned model, all centred (the affine map's
    intercept), float64, divisor n. Memory is three d x d matrices a site, whatever n is.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._state: dict[str, _Running] = {}

    def update(
        self, site: str, base: Float[Tensor, "row d"], aligned: Float[Tensor, "row d"]
    ) -> None:
        """Add prompts; row i of both is the same prompt.

        Raises:
            PositionError: the two do not pair up.
        """
        if base.shape != aligned.shape:
            raise PositionError(
                f"{site}: {tuple(base.shape)} base states cannot pair with {tuple(aligned.shape)}"
            )
        wide = base.double()
        joint = torch.cat([wide, aligned.double() - wide], dim=1)
        self._state.setdefault(site, _Running(True)).update(joint)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites seen."""
        return tuple(self._state)

    def count(self, site: str) -> int:
        """Return the number of pairs seen."""
        return self._state[site].n

    def shift_mean(self, site: str) -> Float[Tensor, "d"]:
        """Return mean(Y - X), float64."""
        mean = self._state[site].mean
        return mean[len(mean) // 2 :].clone()

    def second(self, site: str) -> dict[str, Float[Tensor, "d d"]]:
        """Return the centred second moments ``base_base``, ``base_shift`` and ``shift_shift``."""
        running = self._state[site]
        if running.scatter is None or running.scatter.ndim != 2:
            raise PositionError(f"{site}: no pairs were given")
        d = len(running.mean) // 2
        joint = running.scatter / running.n
        return {
            "base_base": joint[:d, :d].clone(),
            "base_shift": joint[:d, d:].clone(),
            "shift_shift": joint[d:, d:].clone(),
        }


class Reservoir:
    """Keep a uniform random sample of at most ``size`` states a site (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, *, seed: int = 0) -> None:
        """``size`` states a site at most, drawn with ``seed``."""
        self._size = size
        self._seed = seed
        self._seen: dict[str, int] = {}
        self._kept: dict[str, list[Tensor]] = {}
        self._rng: dict[str, torch.Generator] = {}

    def update(
        self,
        site: str,
        values: Float[Tensor, "token *feature"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Offer the states of one site to the sample."""
        del rows, slots
        kept = self._kept.setdefault(site, [])
        rng = self._rng.setdefault(site, torch.Generator().manual_seed(self._seed))
        for value in values.float():
            seen = self._seen.get(site, 0)
            self._seen[site] = seen + 1
            if len(kept) < self._size:
                kept.append(value.clone())
                continue
            place = int(torch.randint(seen + 1, (), generator=rng))
            if place < self._size:
                kept[place] = value.clone()

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the captured sites, in the order of the forward pass."""
        return tuple(self._kept)

    def seen(self, site: str) -> int:
        """Return how many states were offered."""
        return self._seen[site]

    def __getitem__(self, site: str) -> Float[Tensor, "sample *feature"]:
        """Return the sample of one site."""
        return torch.stack(self._kept[site])
