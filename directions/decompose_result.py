"""The result of a decomposition, as a notebook wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from jaxtyping import Float32
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.errors import InputError

_METHODS = ("affine", "svd")
_CONTRASTS = ("shift", "template_shift", "did", "naive_shift")
Triple = tuple[float, float, float]
"""Value, low, high."""


@dataclass(frozen=True)
class MeasuredEffect:
    """What an intervention on one component changed, with its controls."""

    value: float
    low: float
    high: float
    controls: tuple[float, float]
    """Least and greatest change under random directions of the same norm."""
    p: float
    n: int
    beats: bool


@dataclass(frozen=True)
class ComponentRow:
    """One component at one block, with everything needed to judge it."""

    number: int
    """1 for the largest."""
    singular_value: float
    null: Triple
    """Mean and band of the same under the null; ``null[2]`` is what a claim must exceed."""
    real: bool
    auc: Triple | None
    """Held-out; None where only moments were known."""
    relation: str | None
    """What it does to the first component: promotes, suppresses, none or itself."""
    effects: Mapping[str, MeasuredEffect]
    """``removed``, ``added``, ``on_c1``; empty where no intervention was run."""

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Components of shifts with their measures; a view of an artifact.

    directions.decompose() -> Decomposition -> .components("affine_shift")   [rows, k, d_model]
    """

    artifact: Artifact
    digest: str
    seconds: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the decompositions: ``affine_shift``, ``svd_did`` and so on."""
        order = [f"{method}_{contrast}" for method in _METHODS for contrast in _CONTRASTS]
        return tuple(sorted(self.artifact.names, key=order.index))

    @property
    def sign_rule(self) -> str:
        """The rule that fixed the signs of all components."""
        return next(iter(self.artifact.manifest.directions.values())).sign_rule

    def components(self, name: str) -> Float32[Tensor, "rows k d_model"]:
        """Return the orthonormal components; row r belongs to ``blocks(name)[r]``."""
        self.artifact.direction(name)
        return self.artifact.tensors[f"component/{name}"]

    def singular_values(self, name: str) -> Float32[Tensor, "rows k"]:
        """Return the singular values of the components, over all fitted prompts."""
        self.artifact.direction(name)
        return self.artifact.tensors[f"singular_values/{name}"]

    def blocks(self, name: str) -> tuple[int, ...]:
        """Return the 0-based blocks of the rows."""
        self.artifact.direction(name)
        return self.artifact.manifest.directions[name].blocks

    def best_block(self, name: str) -> int:
        """Return the block to read, chosen on fitted prompts."""
        return int(str(self.fact(f"best_block.{name}")))

    def ranks(self, name: str) -> tuple[int, ...]:
        """Return the number of components that stand above the null, by block."""
        return tuple(int(str(rank)) for rank in self.series(f"rank.{name}"))

    def real(self, name: str) -> bool:
        """Return whether any component stands above the null, the choice of block paid for."""
        return float(str(self.fact(f"p_any.{name}"))) <= float(str(self.fact("alpha")))

    def dominant(self, name: str) -> bool | None:
        """Return whether removing C1 moves refusal more than its controls; None: not measured."""
        found = self.artifact.manifest.method.get(f"dominant.{name}")
        return found if isinstance(found, bool) else None

    def verdict(self, name: str) -> str:
        """Return in words what stands above the null."""
        return str(self.fact(f"verdict.{name}"))

    def table(self, name: str, block: int | None = None) -> tuple[ComponentRow, ...]:
        """Return the listed components at one block, by default the best.

        Effects belong to the best block and are left out elsewhere.

        Raises:
            InputError: there is no such decomposition, or it has no row at that block.
        """
        best = self.best_block(name)
        at = best if block is None else block
        if at not in self.blocks(name):
            raise InputError(f"{name} has no row at block {at}; it has {self.blocks(name)}")
        row = self.blocks(name).index(at)
        values = self.singular_values(name)[row].tolist()
        return tuple(
            ComponentRow(
                number=number,
                singular_value=value,
                null=self.measure(name, f"null_c{number}", at) or (0.0, 0.0, 0.0),
                real=number <= self.ranks(name)[row],
                auc=self.measure(name, "auc" if number == 1 else f"auc_c{number}", at),
                relation=self._relation(name, number) if at == best else None,
                effects=self._effects(name, number) if at == best else {},
            )
            for number, value in enumerate(values, start=1)
        )

    def measure(self, name: str, measure: str, block: int) -> Triple | None:
        """Return value, low and high of a measure at one block; None where it was not taken."""
        found = self.artifact.tensors.get(f"measure/{name}/{measure}")
        if found is None:
            return None
        value, low, high = found[self.blocks(name).index(block)].tolist()
        return value, low, high

    def fact(self, key: str) -> object:
        """Return one entry of the manifest's ``method``.

        Raises:
            InputError: there is none of this name.
        """
        if key not in self.artifact.manifest.method:
            raise InputError(f"the decomposition has no entry {key!r}; see manifest.method")
        return self.artifact.manifest.method[key]

    def series(self, key: str) -> tuple[object, ...]:
        """Return one entry of ``method`` that has several values, most often one for each block."""
        found = self.fact(key)
        return tuple(found) if isinstance(found, tuple | list) else (found,)

    def at(self, key: str, row: int) -> object:
        """Return the value of one row of :meth:`series`."""
        return self.series(key)[row]

    def _relation(self, name: str, number: int) -> str | None:
        found = self.artifact.manifest.method.get(f"relation.{name}.c{number}")
        return found if isinstance(found, str) else None

    def _effects(self, name: str, number: int) -> dict[str, MeasuredEffect]:
        found: dict[str, MeasuredEffect] = {}
        for part in ("removed", "added", "on_c1"):
            end = f"{name}.c{number}"
            if f"{part}.{end}" not in self.artifact.manifest.method:
                continue
            value, low, high = (float(str(v)) for v in self.series(f"{part}.{end}"))
            least, most = (float(str(v)) for v in self.series(f"{part}_control.{end}"))
            found[part] = MeasuredEffect(
                value=value,
                low=low,
                high=high,
                controls=(least, most),
                p=float(str(self.fact(f"{part}_p.{end}"))),
                n=int(str(self.fact(f"{part}_n.{end}"))),
                beats=self.fact(f"{part}_beats.{end}") is True,
            )
        return found
