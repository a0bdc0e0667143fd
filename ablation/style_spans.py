"""The style direction of a pair: what alignment added to the manner of answers, beside refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ablation.material import evenly
from ablation.options import StyleOptions
from ablation.reference import Reference
from ablation.spans import Span
from ablation.ways import Way
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from evaluation.answering import answer, answer_nll
from evaluation.items import spread
from evaluation.prompts import PromptSet
from hooks import Capture, Model, Moments

CANDIDATES = 8
"""Blocks that are tried."""
_POST = "blocks.*.hook_resid_post"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models, and what each of them answers to the same harmless development requests."""

    base: Model
    aligned: Model
    prompts: PromptSet
    base_texts: tuple[str, ...]
    aligned_texts: tuple[str, ...]


def read_pair(base: Model, aligned: Model, development: PromptSet, options: StyleOptions) -> Pair:
    """Let both models answer the same harmless development requests."""
    asked = evenly(development, options.answers).select(label="harmless")
    found = [
        tuple(a.text for a in answer(model, asked, new_tokens=options.new_tokens).answers)
        for model in (base, aligned)
    ]
    return Pair(base, aligned, asked, *found)


def style_spans(
    artifact: Artifact, pair: Pair, refusal: Mapping[int, Float[Tensor, "d"]], options: StyleOptions
) -> dict[int, Span]:
    """Give the style direction of every candidate block, orthogonal to refusal there.

    Raises:
        InputError: an unknown block, or no difference that is left beside refusal.
    """
    vectors = _from_artifact(artifact) if options.source == "artifact" else _from_responses(pair)
    if options.block is not None and options.block not in vectors:
        raise InputError(f"block {options.block}: the style is known at {sorted(vectors)}")
    tried = [int(b) for b in spread([str(b) for b in sorted(vectors)], CANDIDATES)]
    last = pair.aligned.n_layers - 1
    spans: dict[int, Span] = {}
    for block in tried if options.block is None else [options.block]:
        vector = vectors[block].double()
        beside, avoided = vector, None
        if block in refusal:
            unit = refusal[block].double() / refusal[block].double().norm()
            beside, avoided = vector - (vector @ unit) * unit, unit.float()[None]
        # What rounding leaves of a difference that is all refusal, or of none, is no direction.
        if beside.norm() > 1e-4 * max(float(vector.norm()), 1e-6):
            spans[block] = Span("style", beside.float()[None], 0, last, avoided)
    if not spans:
        raise InputError(
            f"{pair.aligned.spec} and {pair.base.spec} do not differ beside refusal, so there is "
            "no style to remove; check the pair"
        )
    return spans


def pick_style(spans: Mapping[int, Span], pair: Pair, way: Way, seen: Reference) -> int:
    """Choose the block whose removal makes the base's own answers likeliest.

        b* = argmin_b mean_i nll_b(y_i | x_i),   y_i what the base wrote to development request i

    A broken model finds them unlikely, so damage does not win.
    """
    found: dict[int, float] = {}
    for block, span in spans.items():
        with pair.aligned.hooks(edits=span.edits(way, seen, pair.aligned)):
            nll = answer_nll(pair.aligned, pair.prompts, pair.base_texts)
        found[block] = float(np.mean([value for value in nll if value is not None]))
    return min(found, key=lambda block: found[block])


def _from_responses(pair: Pair) -> dict[int, Float[Tensor, "d"]]:
    means = []
    for model, texts in ((pair.base, pair.base_texts), (pair.aligned, pair.aligned_texts)):
        spoken = [(p.prompt, t) for p, t in zip(pair.prompts.prompts, texts, strict=True) if t]
        if not spoken:
            raise InputError(f"{model.spec} answers nothing; give more --new-tokens")
        encoded = model.encode([p for p, _ in spoken], responses=[t for _, t in spoken])
        into = Moments()
        # From the last prompt token on: the states that predict what the model wrote.
        read = [Capture(_POST, at=at, into=into) for at in ("last", "response")]
        with model.hooks(capture=read) as run:
            run.forward(encoded)
        means.append(into)
    base, aligned = means
    sites = [f"blocks.{block}.hook_resid_post" for block in range(pair.aligned.n_layers)]
    return {b: (aligned.mean(site) - base.mean(site)).float() for b, site in enumerate(sites)}


def _from_artifact(artifact: Artifact) -> dict[int, Float[Tensor, "d"]]:
    keys = ("mean/harmless/aligned", "mean/harmless/base")
    blocks = artifact.manifest.method.get("blocks")
    if any(key not in artifact.tensors for key in keys) or not isinstance(blocks, tuple | list):
        raise InputError(
            "the artifact holds no means of harmless prompts in both models; use --source responses"
        )
    moved = artifact.tensors[keys[0]] - artifact.tensors[keys[1]]
    return {int(str(block)): row for block, row in zip(blocks, moved, strict=True)}
