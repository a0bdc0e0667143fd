"""From what was found to an artifact: tensors by key and the manifest that explains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.manifest import (
    DataInfo,
    DirectionInfo,
    Manifest,
    MeasureInfo,
    ModelInfo,
    Option,
    TokenizerInfo,
)
from artifacts.provenance import tool, versions
from directions.assemble import Extracted, PlaceMeans
from directions.measure import BOOTSTRAPS, LEVEL, RANDOM, SHUFFLES, SPLITS, describe
from directions.options import Options
from directions.split import Split
from probes.seeds import generator

PROJECTIONS = 512
"""Held-out prompts of each group whose projections are stored."""


@dataclass(frozen=True)
class Origin:
    """Where the states came from."""

    base: ModelInfo
    aligned: ModelInfo
    tokenizer: TokenizerInfo
    split: Split
    device: str
    created: str
    notes: tuple[str, ...]


def artifact(
    found: Sequence[Extracted],
    means: Sequence[PlaceMeans],
    moments: Mapping[str, Float[Tensor, "rows _ _"]],
    origin: Origin,
    options: Options,
) -> Artifact:
    """Build the artifact; its digest is that of its content, ``created`` included."""
    tensors: dict[str, Tensor] = dict(moments)
    for direction in found:
        tensors |= _direction_tensors(direction, options.seed)
    for place in means:
        tensors |= _place_tensors(place, shared_blocks(found, place.place.suffix))
    manifest = Manifest(
        kind="direction-set",
        created=origin.created,
        tool=tool(),
        base=origin.base,
        aligned=origin.aligned,
        tokenizer=origin.tokenizer,
        data=_data(origin.split),
        positions=options.positions,
        contrast=tuple(dict.fromkeys(direction.contrast.name for direction in found)),
        method=_method(found, origin.split, options),
        directions={d.name: _info(d, origin.split) for d in found},
        seed=options.seed,
        versions=versions(),
        device=origin.device,
        notes=(*origin.notes, *(note for d in found for note in _left_out(d))),
    )
    return Artifact(manifest, tensors)


def shared_blocks(found: Sequence[Extracted], suffix: str) -> tuple[int, ...]:
    """Return the blocks of ``mean``, ``ambient_norm``, ``rows`` and ``second`` at one place.

    They are those of the direction with the most blocks there, so that a row count means one
    thing; ``manifest.method["blocks{.suffix}"]`` repeats them.
    """
    here = [d.blocks for d in found if d.place.suffix == suffix]
    return max(here or [d.blocks for d in found], key=len)


def _direction_tensors(direction: Extracted, seed: int) -> dict[str, Tensor]:
    name = direction.name
    tensors = {f"direction/{name}": torch.from_numpy(direction.vectors)}
    for measure in describe(direction.contrast):
        estimate = direction.estimate(measure)
        columns = np.stack([estimate.value, estimate.low, estimate.high], axis=1)
        tensors[f"measure/{name}/{measure}"] = torch.from_numpy(columns.astype(np.float32))
    for side, group in enumerate(direction.contrast.groups):
        values = np.stack([held.projections[side] for held in direction.held_out])
        chosen = _sample(values.shape[1], seed)
        tensors[f"projection/{name}/{group}"] = torch.from_numpy(
            values[:, chosen].astype(np.float32)
        )
    return tensors


def _sample(n: int, seed: int) -> list[int]:
    """Choose the prompts whose projections are kept, the same ones for every direction."""
    if n <= PROJECTIONS:
        return list(range(n))
    order = generator("projections", n, seed).permutation(n)
    return sorted(order[:PROJECTIONS].tolist())


def _place_tensors(means: PlaceMeans, blocks: Sequence[int]) -> dict[str, Tensor]:
    end = f"/{means.place.suffix}" if means.place.suffix else ""
    tensors: dict[str, Tensor] = {}
    for model, rows, norm in (
        ("aligned", means.aligned, "ambient_norm"),
        ("base", means.base, "base_norm"),
    ):
        norms = np.array([rows[block].norm for block in blocks], dtype=np.float32)
        tensors[f"{norm}{end}"] = torch.from_numpy(norms)
        for label in ("harmful", "harmless"):
            stacked = np.stack([rows[block].mean[label] for block in blocks])
            tensors[f"mean/{label}/{model}{end}"] = torch.from_numpy(stacked.astype(np.float32))
    return tensors


def _info(direction: Extracted, split: Split) -> DirectionInfo:
    return DirectionInfo(
        site=direction.place.site,
        position=direction.place.position,
        blocks=direction.blocks,
        norm="raw",
        sign_rule=direction.contrast.sign_rule,
        n=split.fit.counts,
        contrast=direction.contrast.name,
        claim="decodable" if direction.verdict.beats else "none",
        measures={
            measure: MeasureInfo(
                n=direction.estimate(measure).n, what=what, level=direction.estimate(measure).level
            )
            for measure, what in describe(direction.contrast).items()
        },
    )


def _data(split: Split) -> tuple[DataInfo, ...]:
    return (
        DataInfo(source=split.fit.source, digest=split.fit.digest, n=split.fit.counts, role="fit"),
        DataInfo(
            source=split.test.source, digest=split.test.digest, n=split.test.counts, role="test"
        ),
    )


def _method(found: Sequence[Extracted], split: Split, options: Options) -> dict[str, Option]:
    method: dict[str, Option] = {
        **options.record(),
        "name": "mean difference",
        "split": split.rule,
        "shuffles": SHUFFLES,
        "random_directions": RANDOM,
        "half_splits": SPLITS,
        "bootstraps": BOOTSTRAPS,
        "level": LEVEL,
    }
    for direction in found:
        verdict, name = direction.verdict, direction.name
        end = f".{direction.place.suffix}" if direction.place.suffix else ""
        method[f"blocks{end}"] = shared_blocks(found, direction.place.suffix)
        method[f"best_block.{name}"] = direction.blocks[verdict.best]
        method[f"beats_control.{name}"] = verdict.beats
        method[f"p_shuffled.{name}"] = verdict.p_shuffled
        method[f"p_random.{name}"] = verdict.p_random
        method[f"alpha.{name}"] = verdict.alpha
        method[f"verdict.{name}"] = verdict.reason
    return method


def _left_out(direction: Extracted) -> tuple[str, ...]:
    if not direction.left_out:
        return ()
    blocks = ", ".join(str(block) for block in direction.left_out)
    return (
        f"{direction.name}: zero within float32 rounding at {len(direction.left_out)} blocks "
        f"({blocks}), which are left out",
    )
