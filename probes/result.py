"""The result of a fit, as a notebook wants it; and reading it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import expit
from torch import Tensor

import artifacts
from artifacts.artifact import Artifact
from artifacts.errors import ArtifactError, InputError
from artifacts.manifest import DirectionInfo, ModelInfo
from probes.separation import Estimate


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Named linear probes with their measures; a view of an artifact.

    p(harmful) = sigmoid(((x - mean) / scale) . weight + bias)

    Probabilities are calibrated for requests like those fitted on and their share of harmful ones.
    A probe shows that the class can be read off the states, not that the model reads it.
    """

    artifact: Artifact
    digest: str
    seconds: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the probes, in the order in which they were asked for, places after that."""
        asked = self._list("probes")
        found = self.artifact.manifest.directions
        return tuple(
            sorted(found, key=lambda n: (n.partition(".")[2], asked.index(n.partition(".")[0])))
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order of both axes of :meth:`matrix`."""
        return self._list("sources")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must be known before a probe is believed."""
        found = (self.artifact.manifest.method.get(f"warning.{name}") for name in self.names)
        return tuple(line for text in found if isinstance(text, str) for line in text.split(" | "))

    def blocks(self, name: str) -> tuple[int, ...]:
        """Return the 0-based blocks of a probe's rows.

        Raises:
            InputError: there is no such probe; the message lists the names.
        """
        return self._info(name).blocks

    def best_block(self, name: str) -> int:
        """Return the block that transfers best between the sources."""
        return int(str(self.fact(name, "best_block")))

    def beats_control(self, name: str) -> bool:
        """Return whether the probe reads the class on sources that it was not fitted on."""
        return self.fact(name, "beats_control") is True

    def verdict(self, name: str) -> str:
        """Return the reason for ``beats_control`` in words."""
        return str(self.fact(name, "verdict"))

    def fact(self, name: str, key: str) -> object:
        """Return one entry of the manifest's ``method`` about a probe.

        Raises:
            InputError: there is no such probe.
        """
        self._info(name)
        return self.artifact.manifest.method[f"{key}.{name}"]

    def triple(self, name: str, key: str) -> tuple[float, float, float]:
        """Return value, low and high of one entry, for example ``auc`` or ``ece``.

        Raises:
            InputError: there is no such probe, or the entry is no estimate.
        """
        value = self.fact(name, key)
        if not isinstance(value, tuple | list) or len(value) != 3:
            raise InputError(f"{key} of {name} is no estimate; try auc, ece or brier")
        first, low, high = (float(str(part)) for part in value)
        return first, low, high

    def matrix(self, name: str, block: int | None = None) -> Estimate:
        """Return the AUC by fitted source (rows) and tested source (columns) at one block.

        The diagonal is held out by folds within the source.

        Raises:
            InputError: there is no such probe, or it has no row at that block.
        """
        row, keys = self._row(name, block), self._list("source_keys")
        ends = [
            np.array(
                [
                    [float(self.artifact.tensors[f"{family}/{name}/{s}/{t}"][row]) for t in keys]
                    for s in keys
                ]
            )
            for family in ("score", "score_low", "score_high")
        ]
        return Estimate(ends[0], ends[1], ends[2], int(str(self.fact(name, "n_test"))), 0.95)

    def predict(
        self, name: str, states: Float[np.ndarray, "n d"], block: int | None = None
    ) -> Float[np.ndarray, "n"]:
        """Give p(harmful) of states read at the probe's site and position; default: best block.

        Raises:
            InputError: there is no such probe or block, or the states have another width.
        """
        row = self._row(name, block)
        weight, bias, mean, scale = (
            self.artifact.tensors[f"probe/{name}/{part}"][row].double().numpy()
            for part in ("weight", "bias", "mean", "scale")
        )
        if states.shape[-1] != len(weight):
            raise InputError(
                f"states of width {states.shape[-1]}, but {name} reads {len(weight)}; read them at "
                f"{self._info(name).site}"
            )
        return np.asarray(expit((states.astype(np.float64) - mean) / scale @ weight + bias))

    def direction(self, name: str) -> Float32[Tensor, "rows d"]:
        """Return weight / scale: the direction of the probe in the units of the states."""
        self._info(name)
        return self.artifact.direction(name)

    def cosines(self, other: Artifact) -> Mapping[str, Mapping[str, float]]:
        """Give the cosine of each probe with another artifact's directions, at the best block.

        Only directions at the probe's site, position and best block are compared.

        Raises:
            InputError: the other artifact is of another model.
        """
        check_model(other, self.artifact.manifest.aligned)
        return {name: self._cosines(name, other) for name in self.names}

    def _cosines(self, name: str, other: Artifact) -> dict[str, float]:
        about, block = self._info(name), self.best_block(name)
        mine = self.direction(name)[self._row(name, block)].double()
        found = {}
        for rival, info in other.manifest.directions.items():
            here = (info.site, info.position) == (about.site, about.position)
            if here and block in info.blocks:
                theirs = other.direction(rival)[info.blocks.index(block)].double()
                found[rival] = float(mine @ theirs / (mine.norm() * theirs.norm()))
        return found

    def _info(self, name: str) -> DirectionInfo:
        found = self.artifact.manifest.directions.get(name)
        if found is None:
            raise InputError(f"no probe {name!r}; there are {', '.join(self.names)}")
        return found

    def _row(self, name: str, block: int | None) -> int:
        blocks = self.blocks(name)
        at = self.best_block(name) if block is None else block
        if at not in blocks:
            raise InputError(f"probe {name} has no row at block {at}; it has {blocks}")
        return blocks.index(at)

    def _list(self, key: str) -> tuple[str, ...]:
        value = self.artifact.manifest.method[key]
        return tuple(map(str, value)) if isinstance(value, tuple | list) else (str(value),)


def load(path: str | Path, *, model: ModelInfo | None = None) -> ProbeSet:
    """Read a probe set back; with ``model`` (``Model.info()``) only if it belongs to that model.

    Raises:
        ArtifactError: the file is damaged, foreign, or holds no probes.
        InputError: it is of another model.
    """
    found = artifacts.load(path)
    if found.manifest.kind != "probe-set":
        raise ArtifactError(f"{path} is a {found.manifest.kind}; give what probes.fit wrote")
    if model is not None:
        check_model(found, model)
    return ProbeSet(found, found.manifest.digest)


def check_model(artifact: Artifact, model: ModelInfo | None) -> None:
    """Refuse an artifact of other weights; the dtype may differ.

    Raises:
        InputError: names what differs.
    """
    theirs = artifact.manifest.aligned or artifact.manifest.base
    if theirs is None or model is None:
        raise InputError("the artifact names no model, so nothing can be compared with it")
    fields = ("config_digest", "weight_digests", "adapter_digest")
    differ = [field for field in fields if getattr(theirs, field) != getattr(model, field)]
    if differ:
        raise InputError(
            f"the artifact is of {theirs.spec}, not of {model.spec} ({', '.join(differ)} differ); "
            "make one of this model"
        )
