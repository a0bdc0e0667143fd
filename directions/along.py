"""The direction along which contributions are read: fitted here, or taken from an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.manifest import DirectionInfo, ModelInfo
from artifacts.read import load
from directions.collect import Source
from directions.contrasts import ALIGNED, Contrast, cells_of
from hooks import Encoded, Model
from probes import resampling

_SHARD = 128
_ZERO = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Along:
    """A direction for each block; a head's contribution is read at the output of its block."""

    name: str
    contrast: str
    rows: Float64[Tensor, "rows d"]
    blocks: tuple[int, ...]
    """The block of each row; empty where there is no direction at all."""
    site: str
    sign_rule: str
    n: dict[str, int]
    """Prompts by class that it was fitted on."""
    parent: str | None = None
    """Digest of the artifact that it came from."""

    def units(self, n_layers: int, d: int) -> Float64[Tensor, "block d"]:
        """Return one unit row for each block, zero where there is no direction.

        A direction of a single row serves all blocks.
        """
        found = torch.zeros(n_layers, d, dtype=torch.float64)
        if self.blocks:
            unit = self.rows / self.rows.norm(dim=-1, keepdim=True)
            found[list(range(n_layers)) if len(self.blocks) == 1 else list(self.blocks)] = unit
        return found

    def missing(self, n_layers: int) -> tuple[int, ...]:
        """Return the blocks without a direction."""
        if len(self.blocks) == 1:
            return ()
        return tuple(block for block in range(n_layers) if block not in self.blocks)


def fitted(
    base: Model,
    aligned: Model,
    encoded: Mapping[str, Encoded],
    harmful: Bool[np.ndarray, "n"],
    contrast: Contrast,
    *,
    seed: int,
) -> Along:
    """Fit a contrast at the output of every block.

        v_b = sum_i w_i y_i                                     (see directions.contrasts)

    Blocks where it is zero within rounding are left out; a pair without a difference gives a
    direction without blocks.

    Raises:
        InputError: a class has fewer than 2 prompts.
    """
    sites = aligned.sites("blocks.*.hook_resid_post")
    source = Source(base, aligned, encoded, cells_of((contrast,)), sites, "last", 1)
    weights = resampling.plan(
        harmful, paired=contrast.paired, seed=seed, shuffles=0, splits=0, bootstraps=0
    ).fit_weights()
    n, norms = len(harmful), np.zeros(len(sites))
    found = np.zeros((len(sites), aligned.d_model))
    for start in range(0, n, _SHARD):
        rows = range(start, min(start + _SHARD, n))
        states, _ = source.shard(rows)
        for place, site in enumerate(sites):
            cells = {cell: states[f"{cell}/{site}"][:, 0].double().numpy() for cell in source.cells}
            found[place] += weights[rows.start : rows.stop] @ contrast.values(cells)
            norms[place] += np.linalg.norm(cells[ALIGNED], axis=1).sum() / n
    kept = np.flatnonzero(np.linalg.norm(found, axis=1) > _ZERO * norms)
    return Along(
        name=contrast.name,
        contrast=contrast.name,
        rows=torch.from_numpy(found[kept]),
        blocks=tuple(kept.tolist()),
        site="hook_resid_post",
        sign_rule=contrast.sign_rule,
        n={"harmful": int(harmful.sum()), "harmless": int((~harmful).sum())},
    )


def given(spec: str, base: ModelInfo, aligned: ModelInfo) -> Along:
    """Take ``ARTIFACT:NAME`` from a file.

    Raises:
        InputError: not of that form, no such direction, one of another width, or of other weights.
        ArtifactError: a file that cannot be trusted.
    """
    file, _, name = spec.rpartition(":")
    if not file or not name:
        raise InputError(f"--along {spec!r}: write ARTIFACT:NAME, a file and a direction in it")
    artifact = load(file)
    rows = artifact.direction(name).double()
    info = artifact.manifest.directions[name]
    if rows.shape[1] != aligned.d_model:
        raise InputError(
            f"--along {spec}: the direction has width {rows.shape[1]} (site {info.site}), the "
            f"models have d_model {aligned.d_model}; nothing is broadcast"
        )
    _require_same(spec, artifact, {"base": base, "aligned": aligned})
    return _along(name, info, rows, artifact)


def _along(name: str, info: DirectionInfo, rows: Tensor, artifact: Artifact) -> Along:
    return Along(
        name=name,
        contrast=info.contrast,
        rows=rows,
        blocks=info.blocks,
        site=info.site,
        sign_rule=info.sign_rule,
        n=dict(info.n),
        parent=artifact.manifest.digest,
    )


def _require_same(spec: str, artifact: Artifact, models: Mapping[str, ModelInfo]) -> None:
    recorded = {"base": artifact.manifest.base, "aligned": artifact.manifest.aligned}
    for role, model in models.items():
        known = recorded[role]
        if known is None:
            continue
        for field in ("config_digest", "weight_digests", "adapter_digest"):
            if getattr(known, field) != getattr(model, field):
                raise InputError(
                    f"--along {spec}: it was made from other weights ({role} model {known.spec}, "
                    f"{field} differs from that of {model.spec}); extract it from this pair"
                )
