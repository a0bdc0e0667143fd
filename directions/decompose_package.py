"""From decomposed blocks to an artifact: tensors by key and the manifest that explains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.manifest import Claim, DirectionInfo, Manifest, MeasureInfo, Option
from artifacts.provenance import timestamp, tool, versions
from directions import residual_null as nulls
from directions.decompose_block import BOOTSTRAPS, SPLITS, BlockResult
from directions.decompose_held_out import RANDOM
from directions.decompose_options import DecomposeOptions, MethodName
from probes.ranks import any_place

if TYPE_CHECKING:
    from directions.decompose_source import Source
    from directions.effects import ComponentEffect, Effect


@dataclass(frozen=True, eq=False)
class Decomposed:
    """One contrast decomposed by one method at every block where it is not zero."""

    name: str
    method: MethodName
    contrast: str
    blocks: tuple[int, ...]
    results: tuple[BlockResult, ...]
    effects: tuple[ComponentEffect, ...] = ()
    """Interventions at the best block; empty where no model was at hand."""

    @property
    def best(self) -> int:
        """Row to read: of those with a real component, the best separated on FITTED prompts.

        Chosen without the held-out prompts, so that what they say there is not flattered. Moments
        have no single prompts; there it is the row that stands highest above its null.
        """
        rows = range(len(self.results))
        real = [row for row in rows if self.results[row].test.claimed] or list(rows)
        return max(real, key=lambda row: self._rank(self.results[row]))

    def _rank(self, result: BlockResult) -> tuple[float, float]:
        if result.projections is not None:
            return result.fit_separation
        null = float(np.quantile(result.test.null[0], 1 - result.test.alpha))
        return float(result.test.observed[0]) / null if null else 0.0, 0.0

    @property
    def p_any(self) -> float:
        """p-value of the first component over all blocks."""
        return any_place(
            np.array([result.test.observed[0] for result in self.results]),
            np.stack([result.test.null[0] for result in self.results]),
        )

    @property
    def dominant(self) -> bool | None:
        """Whether removing C1 moves refusal more than its controls; None where not measured."""
        return self.effects[0].dominant if self.effects else None

    def claim(self, alpha: float) -> Claim:
        """Return the strongest statement that was earned, on the first component."""
        result = self.results[self.best]
        if self.p_any > alpha or not result.test.claimed:
            return "none"
        if self.effects:
            removed, added = self.effects[0].removed, self.effects[0].added
            if removed.beats and removed.value < 0:
                return "causally necessary"
            if added is not None and added.beats and added.value > 0:
                return "causally sufficient"
        auc, random = (result.estimates.get(name) for name in ("auc", "auc_random"))
        if auc is None or random is None:
            return "none"
        return "decodable" if auc.low > 0.5 and auc.value > random.high else "none"


def artifact(
    found: Sequence[Decomposed],
    source: Source,
    options: DecomposeOptions,
    *,
    sign_rule: str,
    notes: Sequence[str],
) -> Artifact:
    """Build the artifact of a decomposition; its parent is the artifact that held the states."""
    parent = source.artifact.manifest
    tensors: dict[str, Tensor] = _shared(found, source)
    for one in found:
        tensors |= _tensors(one, options)
    manifest = Manifest(
        kind="direction-set",
        created=timestamp(),
        tool=tool(),
        base=parent.base,
        aligned=parent.aligned,
        tokenizer=parent.tokenizer,
        data=parent.data,
        positions=parent.positions,
        contrast=tuple(dict.fromkeys(one.contrast for one in found)),
        method=_settings(parent) | _method(found, options),
        directions={one.name: _info(one, source, options, sign_rule) for one in found},
        seed=options.seed,
        versions=versions(),
        device="cpu",
        parents=(source.artifact.digest,),
        notes=tuple(notes),
    )
    return Artifact(manifest, tensors)


def _tensors(one: Decomposed, options: DecomposeOptions) -> dict[str, Tensor]:
    name, count = one.name, options.components
    spaces = [result.space for result in one.results]
    values = np.stack(
        [
            np.pad(s.singular_values[:count], (0, max(0, count - len(s.singular_values))))
            for s in spaces
        ]
    )
    components = np.stack([s.components[:count] for s in spaces])
    # The first component at the size of what it explains: root mean square over prompts.
    sizes = np.array([s.singular_values[0] / np.sqrt(s.n) for s in spaces])
    tensors = {
        f"direction/{name}": _single(components[:, 0] * sizes[:, None]),
        f"component/{name}": _single(components),
        f"singular_values/{name}": _single(values),
    }
    for measure in one.results[0].estimates:
        rows = [result.estimates[measure] for result in one.results]
        columns = np.stack([[r.value, r.low, r.high] for r in rows])
        tensors[f"measure/{name}/{measure}"] = _single(columns)
    if one.results[0].projections is not None:
        for side, label in enumerate(("harmful", "harmless")):
            along = [r.projections[side] for r in one.results if r.projections is not None]
            tensors[f"projection/{name}/{label}"] = _single(np.stack(along))
    return tensors


def _shared(found: Sequence[Decomposed], source: Source) -> dict[str, Tensor]:
    """Copy the norms of the states at the blocks that the decompositions have."""
    union = sorted({block for one in found for block in one.blocks})
    rows = [source.blocks.index(block) for block in union]
    tensors = source.artifact.tensors
    return {key: tensors[key][rows] for key in ("ambient_norm", "base_norm") if key in tensors}


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _info(
    one: Decomposed, source: Source, options: DecomposeOptions, sign_rule: str
) -> DirectionInfo:
    first = one.results[0].estimates
    words = describe(one.method)
    return DirectionInfo(
        site=source.site,
        position=source.position,
        blocks=one.blocks,
        norm="raw",
        sign_rule=sign_rule,
        n=source.counts,
        contrast=one.contrast,
        claim=one.claim(options.alpha),
        measures={
            measure: MeasureInfo(
                n=first[measure].n,
                what=words[measure.rstrip("0123456789")],
                level=first[measure].level,
            )
            for measure in first
        },
    )


def describe(method: MethodName) -> Mapping[str, str]:
    """Say in words what each measure is; numbered ones by their name without the number."""
    null = (
        "with shifts dealt to other prompts"
        if method == "affine"
        else "of shifts with random signs, entry by entry (of the first component)"
    )
    return {
        "auc": "held-out AUC of harmful against harmless prompts, aligned states along component 1",
        "auc_c": "the same along a later component",
        "auc_random": f"max(AUC, 1-AUC) of {RANDOM} random directions: mean and band",
        "d_prime": "held-out distance of the classes along component 1 in pooled standard "
        "deviations",
        "r": "held-out share of the shift (about its mean) that the affine map explains",
        "r2_permuted": "the same for maps fitted with shifts dealt to other prompts: mean and band",
        "captured": "held-out share of the shift's energy in the listed components",
        "participation": "participation ratio of the fitted spectrum; interval from prompts drawn "
        "again, the map held",
        "split_half_cosine": "cosine of component 1 between fits on random halves",
        "angle_": "principal angle in degrees between the listed components of random halves",
        "null_c": f"singular value {null}: mean and band; components past the first that fails "
        "repeat its null",
    }


def _settings(parent: Manifest) -> dict[str, Option]:
    """Carry what a reader needs to make the parent's states again."""
    kept = ("allow_mismatch", "dtype", "passes", "split", "stream", "system")
    return {name: parent.method[name] for name in kept if name in parent.method}


def _method(found: Sequence[Decomposed], options: DecomposeOptions) -> dict[str, Option]:
    method: dict[str, Option] = {
        "name": "decomposition",
        "methods": tuple(options.methods),
        "components": options.components,
        "alpha": options.alpha,
        "most": options.most,
        "folds": options.folds,
        "tau": tuple(options.tau),
        "permutations": nulls.PERMUTATIONS,
        "flips": nulls.FLIPS,
        "twins": nulls.TWINS,
        "spectra": nulls.SPECTRA,
        "half_splits": SPLITS,
        "bootstraps": BOOTSTRAPS,
        "best_block_rule": "largest AUC of component 1 on fitted prompts among blocks with a real "
        "component; from moments: highest above its null",
    }
    for one in found:
        method |= _of_name(one, options)
    return method


def _of_name(one: Decomposed, options: DecomposeOptions) -> dict[str, Option]:
    name, rows = one.name, one.results
    method: dict[str, Option] = {
        f"blocks.{name}": one.blocks,
        f"best_block.{name}": one.blocks[one.best],
        f"rank.{name}": tuple(row.test.claimed for row in rows),
        f"rank_capped.{name}": tuple(row.test.capped for row in rows),
        f"p_first.{name}": tuple(row.test.p[0] for row in rows),
        f"p_any.{name}": one.p_any,
        f"participation.{name}": tuple(row.shape.participation for row in rows),
        f"mean_cosine.{name}": tuple(row.shape.mean_cosine for row in rows),
        f"mean_share.{name}": tuple(row.shape.mean_share for row in rows),
        f"verdict.{name}": verdict(one, options.alpha),
    }
    if one.method == "affine":
        method[f"penalty.{name}"] = tuple(row.space.penalty for row in rows)
    for tau in options.tau:
        method[f"k.{tau}.{name}"] = tuple(row.shape.effective[tau] for row in rows)
        for end, part in (("mean", 0), ("low", 1), ("high", 2)):
            method[f"k.{tau}.null_{end}.{name}"] = tuple(
                row.shape.effective_null[tau][part] for row in rows
            )
    for effect in one.effects:
        method |= _of_effect(f"{name}.c{effect.component + 1}", effect)
    if one.dominant is not None:
        method[f"dominant.{name}"] = one.dominant
    return method


def _of_effect(where: str, effect: ComponentEffect) -> dict[str, Option]:
    parts: dict[str, Effect | None] = {
        "removed": effect.removed,
        "added": effect.added,
        "on_c1": effect.on_first,
    }
    found: dict[str, Option] = {f"relation.{where}": effect.relation, f"gap.{where}": effect.gap}
    for part, measured in parts.items():
        if measured is not None:
            found[f"{part}.{where}"] = (measured.value, measured.low, measured.high)
            found[f"{part}_control.{where}"] = measured.band
            found[f"{part}_p.{where}"] = measured.p
            found[f"{part}_n.{where}"] = measured.n
            found[f"{part}_beats.{where}"] = measured.beats
    return found


def verdict(one: Decomposed, alpha: float) -> str:
    """Say in one sentence whether there is a component, and what it does."""
    against = "permuted pairings" if one.method == "affine" else "random signs"
    if one.p_any > alpha:
        return f"no component stands above {against} (p = {one.p_any:.3f} over all blocks)"
    row = one.results[one.best]
    more = "at least " if row.test.capped else ""
    start = (
        f"{more}{row.test.claimed} components stand above {against} at block "
        f"{one.blocks[one.best]} (p = {one.p_any:.3f} over all blocks)"
    )
    if one.dominant is None:
        return f"{start}; no intervention was run, so none is called dominant"
    word = "moves" if one.dominant else "does not move"
    return f"{start}; removing C1 {word} refusal more than random directions of its norm"
