"""The result of an extraction, as a notebook wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.manifest import DirectionInfo


@dataclass(frozen=True)
class Score:
    """One direction at one block, with everything needed to read its main number."""

    name: str
    block: int
    """0-based; the state is that after this block for ``hook_resid_post``."""
    norm: float
    relative_norm: float | None
    """Norm as a share of the aligned state's mean norm there."""
    auc: float
    low: float
    high: float
    auc_shuffled: tuple[float, float, float]
    """Mean and 95% band."""
    auc_random: tuple[float, float, float]
    split_half_cosine: tuple[float, float, float]
    """Value and 95% interval."""
    n_fit: int
    n_test: int


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Named directions with their measures; a view of an artifact.

    directions.extract() -> DirectionSet -> .direction("refusal")  [rows, d_model], not normalised
    """

    artifact: Artifact
    digest: str
    seconds: float
    stats: Mapping[str, float]
    """Counters of the engine, summed over all passes, and of shards."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the directions, in the order in which they were asked for."""
        asked = self._method["contrasts"]
        order = list(asked) if isinstance(asked, tuple | list) else []
        infos = self.artifact.manifest.directions
        return tuple(
            sorted(infos, key=lambda n: (n.partition(".")[2], order.index(infos[n].contrast)))
        )

    @property
    def _method(self) -> Mapping[str, object]:
        return self.artifact.manifest.method

    def direction(self, name: str) -> Float32[Tensor, "rows d_model"]:
        """Return one direction; row r belongs to ``blocks(name)[r]``."""
        return self.artifact.direction(name)

    def blocks(self, name: str) -> tuple[int, ...]:
        """Return the 0-based blocks of a direction's rows.

        Raises:
            InputError: there is no such direction.
        """
        return self._info(name).blocks

    def best_block(self, name: str) -> int:
        """Return the block with the largest held-out AUC (ties: the larger d')."""
        self._info(name)
        return int(str(self._method[f"best_block.{name}"]))

    def beats_control(self, name: str) -> bool:
        """Return whether held-out separation beats shuffled labels and random directions."""
        self._info(name)
        return self._method[f"beats_control.{name}"] is True

    def verdict(self, name: str) -> str:
        """Return the reason for ``beats_control`` in words."""
        self._info(name)
        return str(self._method[f"verdict.{name}"])

    def score(self, name: str, block: int | None = None) -> Score:
        """Return the measures of one direction at one block, by default its best.

        Raises:
            InputError: there is no such direction, or it has no row at that block.
        """
        info = self._info(name)
        at = self.best_block(name) if block is None else block
        if at not in info.blocks:
            raise InputError(f"direction {name} has no row at block {at}; it has {info.blocks}")
        row = info.blocks.index(at)
        norm = float(self.direction(name)[row].double().norm())
        ambient = self._ambient(name, at)
        auc = self._measure(name, "auc", row)
        return Score(
            name=name,
            block=at,
            norm=norm,
            relative_norm=None if ambient is None else norm / ambient,
            auc=auc[0],
            low=auc[1],
            high=auc[2],
            auc_shuffled=self._measure(name, "auc_shuffled", row),
            auc_random=self._measure(name, "auc_random", row),
            split_half_cosine=self._measure(name, "split_half_cosine", row),
            n_fit=sum(info.n.values()),
            n_test=info.measures["auc"].n,
        )

    def table(self) -> tuple[Score, ...]:
        """Return every direction at every block."""
        return tuple(self.score(name, block) for name in self.names for block in self.blocks(name))

    def _info(self, name: str) -> DirectionInfo:
        found = self.artifact.manifest.directions.get(name)
        if found is None:
            raise InputError(f"no direction {name!r}; there are {', '.join(self.names)}")
        return found

    def _measure(self, name: str, measure: str, row: int) -> tuple[float, float, float]:
        value, low, high = self.artifact.tensors[f"measure/{name}/{measure}"][row].tolist()
        return value, low, high

    def _ambient(self, name: str, block: int) -> float | None:
        suffix = name.partition(".")[2]
        blocks = self._method.get(f"blocks.{suffix}" if suffix else "blocks")
        norms = self.artifact.tensors.get(f"ambient_norm/{suffix}" if suffix else "ambient_norm")
        if not isinstance(blocks, tuple | list) or norms is None or block not in blocks:
            return None
        return float(norms[list(blocks).index(block)])
