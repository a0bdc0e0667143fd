"""From a selection to an artifact: the chosen direction, its measures, and every candidate's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.manifest import DataInfo, DirectionInfo, Manifest, MeasureInfo, Option
from artifacts.provenance import timestamp, tool, versions
from directions.candidates import SITE, Candidates
from directions.contrasts import CONTRASTS
from directions.select_held_out import HeldOutScores
from directions.select_options import SelectOptions
from directions.select_sweep import Candidate, Sweep
from evaluation.judges.tokens import RefusalTokens
from evaluation.prompts import PromptSet
from hooks import Model

NAME = "selected"
STAGES = ("no direction", "induce", "KL", "passed", "chosen")
"""What the numbers in ``score/select/stage`` mean; scores that were not taken are 0."""


@dataclass(frozen=True, eq=False)
class Found:
    """Everything that a selection found."""

    candidates: Candidates
    sweep: Sweep
    best: Candidate
    held_out: HeldOutScores
    tokens: RefusalTokens
    fit: PromptSet
    validation: PromptSet
    test: PromptSet
    parents: tuple[str, ...]
    notes: tuple[str, ...]


def artifact(found: Found, model: Model, options: SelectOptions) -> Artifact:
    """Build the artifact; its one direction has one row, that of the chosen block."""
    best = found.best
    tensors: dict[str, Tensor] = {
        f"direction/{NAME}": found.candidates.vector(best.position, best.block)[None].float()
    }
    for name, one in found.held_out.measures.items():
        tensors[f"measure/{NAME}/{name}"] = torch.tensor([[one.value, one.low, one.high]])
    tensors |= _scores(found)
    manifest = Manifest(
        kind="direction-set",
        created=timestamp(),
        tool=tool(),
        base=None,
        aligned=model.info(),
        tokenizer=model.tokenizer_info(),
        data=_data(found),
        positions="template",
        contrast=("refusal",),
        method=_method(found, options),
        directions={NAME: _info(found)},
        seed=options.seed,
        versions=versions(),
        device=model.device.type,
        parents=found.parents,
        notes=found.notes,
    )
    return Artifact(manifest, tensors)


def _info(found: Found) -> DirectionInfo:
    best = found.best
    return DirectionInfo(
        site=SITE,
        position="last" if best.position == -1 else f"template[{best.position}]",
        blocks=(best.block,),
        norm="raw",
        sign_rule=CONTRASTS["refusal"].sign_rule,
        n=found.candidates.n,
        contrast="refusal",
        claim=found.held_out.claim,
        measures={
            name: MeasureInfo(n=one.n, what=one.what, level=one.level)
            for name, one in found.held_out.measures.items()
        },
    )


def _scores(found: Found) -> Mapping[str, Float32[Tensor, "block position"]]:
    candidates = found.candidates
    shape = len(candidates.blocks), len(candidates.positions)
    names = ("stage", "induce", "kl", "bypass")
    out = {name: torch.zeros(shape) for name in names}
    for row in found.sweep.rows:
        at = candidates.blocks.index(row.block), candidates.positions.index(row.position)
        fell = "no direction" if row.fell == "not finite" else row.fell
        out["stage"][at] = STAGES.index("chosen" if row == found.best else fell)
        for name in names[1:]:
            value = getattr(row, name)
            out[name][at] = 0.0 if value is None else value
    return {f"score/select/{name}": value for name, value in out.items()}


def _data(found: Found) -> tuple[DataInfo, ...]:
    # Validation prompts chose the direction, so they count as fitted on.
    fitted = tuple(
        DataInfo(source=data.source, digest=data.digest, n=data.counts, role="fit")
        for data in (found.fit, found.validation)
    )
    test = found.test
    return (
        *fitted,
        DataInfo(source=test.source, digest=test.digest, n=test.counts, role="test"),
    )


def _method(found: Found, options: SelectOptions) -> dict[str, Option]:
    best, tokens, held = found.best, found.tokens, found.held_out
    return {
        "name": "selection by bypass, induce and KL (Arditi et al. 2024)",
        **options.record(),
        "candidate_positions": found.candidates.positions,
        "candidate_blocks": found.candidates.blocks,
        "stages": STAGES,
        "refusal_token_ids": tokens.ids,
        "refusal_tokens": tokens.texts,
        "n_validation_harmful": found.sweep.n_harmful,
        "n_validation_harmless": found.sweep.n_harmless,
        "position": best.position,
        "block": best.block,
        "validation_bypass": best.bypass,
        "validation_induce": best.induce,
        "validation_kl": best.kl,
        "necessary": held.necessary,
        "sufficient": held.sufficient,
        **{f"fell.{name}": count for name, count in sorted(found.sweep.counts.items())},
    }
