"""From tested contributions to a ``signature`` artifact: tensors by key, and their manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64
from torch import Tensor

from artifacts.artifact import Artifact
from artifacts.manifest import (
    DataInfo,
    DirectionInfo,
    Manifest,
    ModelInfo,
    Option,
    TokenizerInfo,
)
from artifacts.provenance import timestamp, tool, versions
from directions.along import Along
from directions.localize_options import LocalizeOptions
from directions.origin import PARTS, SIDES, Part, Scalars
from directions.patching import CausalCheck, Patch
from directions.significance import LEVEL, Resamples, Tested, assess, unit_of
from evaluation.intervals import Interval
from evaluation.prompts import PromptSet

_BAND = 0.95
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""A change below this share of the stream's norm is rounding of float32, and counts as none."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything measured, ready to be stored."""

    tensors: dict[str, Tensor]
    tested: dict[Part, Tested]
    shape: tuple[int, int]
    """Blocks and heads."""
    unit: float
    """Stream units of one score."""

    def strongest(self, count: int, alpha: float) -> tuple[tuple[int, int], ...]:
        """Return the strongest significant heads as (block, head)."""
        blocks, heads = self.shape
        found = self.tested["total"]
        score, q = (part[: blocks * heads] for part in (np.abs(found.score), found.q))
        order = [index for index in np.argsort(-score, kind="stable") if q[index] <= alpha]
        return tuple((int(index) // heads, int(index) % heads) for index in order[:count])


@dataclass(frozen=True)
class Facts:
    """What the manifest says of where the numbers came from."""

    base: ModelInfo
    aligned: ModelInfo
    tokenizer: TokenizerInfo
    device: str
    learned: PromptSet
    """Prompts that fixed the direction and the refusal tokens, and of the causal check."""
    scored: PromptSet
    notes: tuple[str, ...]


def tables(scalars: Scalars, resamples: Resamples, *, alpha: float, seed: int) -> Tables:
    """Test all components and lay the numbers out by key.

    Raises:
        InputError: too few prompts.
    """
    _, blocks, heads = scalars.heads["total"].shape
    floor = _ROUNDING * np.concatenate([np.repeat(scalars.stream, heads), scalars.stream])
    parts: dict[Part, Float64[np.ndarray, "n m"]] = {}
    for part in PARTS:
        change = _flat(scalars.heads[part], scalars.mlps[part])
        parts[part] = np.where(np.abs(change) > floor, change, 0.0)
    tested = assess(parts, resamples, alpha=alpha, seed=seed)
    unit = unit_of(parts["total"], resamples)
    tensors: dict[str, Tensor] = {}
    for key, values in (*_by_part(tested), *_controls(scalars, resamples, unit)):
        tensors |= _split(key, values, blocks, heads)
    tensors |= _curves(scalars, resamples)
    return Tables(tensors, tested, (blocks, heads), unit)


def artifact(
    found: Tables,
    along: Along,
    facts: Facts,
    options: LocalizeOptions,
    method: Mapping[str, Option],
    causal: CausalCheck | None,
) -> Artifact:
    """Build the artifact."""
    tensors = dict(found.tensors)
    infos: dict[str, DirectionInfo] = {}
    if along.blocks:
        tensors[f"direction/{along.name}"] = along.rows.float()
        infos[along.name] = DirectionInfo(
            site=along.site,
            position="last",
            blocks=along.blocks,
            norm="raw",
            sign_rule=along.sign_rule,
            n=along.n,
            contrast=along.contrast,
            claim="none",
            measures={},
        )
    manifest = Manifest(
        kind="signature",
        created=timestamp(),
        tool=tool(),
        base=facts.base,
        aligned=facts.aligned,
        tokenizer=facts.tokenizer,
        data=(_data(facts.learned, "fit"), _data(facts.scored, "test")),
        positions="last",
        contrast=(along.contrast,),
        method={**options.record(), **method, **_unit(found), **_causal(causal)},
        directions=infos,
        seed=options.seed,
        versions=versions(),
        device=facts.device,
        parents=() if along.parent is None else (along.parent,),
        notes=facts.notes,
    )
    return Artifact(manifest, tensors)


def _data(prompts: PromptSet, role: str) -> DataInfo:
    return DataInfo(
        source=prompts.source,
        digest=prompts.digest,
        n={label: count for label, count in prompts.counts.items() if count},
        role="fit" if role == "fit" else "test",
    )


def _flat(
    heads: Float64[np.ndarray, "n block head"], mlps: Float64[np.ndarray, "n block"]
) -> Float64[np.ndarray, "n m"]:
    return np.concatenate([rearrange(heads, "n b h -> n (b h)"), mlps], axis=1)


def _split(
    key: str, values: Float64[np.ndarray, "m"], blocks: int, heads: int
) -> dict[str, Tensor]:
    """Cut heads and MLPs apart again; ``{}`` in the key becomes their name."""
    cut = blocks * heads
    single = torch.from_numpy(values.astype(np.float32))
    return {
        key.format("heads"): rearrange(single[:cut], "(b h) -> b h", b=blocks).contiguous(),
        key.format("mlps"): single[cut:].clone(),
    }


def _by_part(tested: Mapping[Part, Tested]) -> Iterator[tuple[str, Float64[np.ndarray, "m"]]]:
    for part, found in tested.items():
        yield f"score/{{}}/{part}", found.score
        yield f"score_low/{{}}/{part}", found.low
        yield f"score_high/{{}}/{part}", found.high
        yield f"p_value/{{}}/{part}", found.p
        yield f"score/{{}}/{part}/q", found.q
        yield f"score/{{}}/{part}/difference", found.difference


def _controls(
    scalars: Scalars, resamples: Resamples, unit: float
) -> Iterator[tuple[str, Float64[np.ndarray, "m"]]]:
    """Give both models' own contributions, random directions, and the refusal tokens' logit."""
    for side in SIDES:
        direct = _flat(scalars.direct_heads[side], scalars.direct_mlps[side])
        yield f"score/{{}}/{side}", resamples.weights @ direct
    random = rearrange(scalars.random_heads, "b h k -> (b h) k")
    random = np.abs(np.concatenate([random, scalars.random_mlps]))
    yield "score/{}/random", np.quantile(random, _BAND, axis=1) / unit
    if not scalars.logit_heads:
        return
    before, after = (_flat(scalars.logit_heads[s], scalars.logit_mlps[s]) for s in SIDES)
    change = resamples.mean(after - before)
    for family, values in zip(("score", "score_low", "score_high"), change, strict=True):
        yield f"{family}/{{}}/refusal", values
    yield "score/{}/refusal/aligned", resamples.weights @ after


def _curves(scalars: Scalars, resamples: Resamples) -> dict[str, Tensor]:
    """What attention, MLP, bias and rescaling change at each block, in stream units."""
    heads = scalars.heads
    lines = {
        "attention": heads["total"].sum(-1) + scalars.bias + scalars.rescaling,
        "attention-origin": heads["origin"].sum(-1),
        "mlp": scalars.mlps["total"],
        "mlp-origin": scalars.mlps["origin"],
        "bias": scalars.bias,
        "rescaling": scalars.rescaling,
    }
    tensors: dict[str, Tensor] = {}
    for name, values in lines.items():
        for family, column in zip(
            ("score", "score_low", "score_high"), resamples.mean(values), strict=True
        ):
            tensors[f"{family}/blocks/{name}"] = torch.from_numpy(column.astype(np.float32))
    return tensors


def _unit(found: Tables) -> dict[str, Option]:
    return {
        "unit": found.unit,
        "level": LEVEL,
        "test": "sign flips of paired differences, joint over heads; Benjamini-Hochberg",
    }


def _causal(check: CausalCheck | None) -> dict[str, Option]:
    if check is None:
        return {}
    return {
        "causal.heads": tuple(f"{block}.{head}" for block, head in check.heads),
        "causal.outcome": check.outcome,
        "causal.n": check.n,
        "causal.gap": _three(check.gap),
        **_patch("causal.removed", check.removed),
        **_patch("causal.restored", check.restored),
    }


def _patch(name: str, patch: Patch) -> dict[str, Option]:
    return {
        name: _three(patch.effect),
        f"{name}.random": patch.random,
        f"{name}.excess": _three(patch.excess),
        f"{name}.beats": patch.beats,
    }


def _three(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high
