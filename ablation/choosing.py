"""From names and options to the thing that is removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ablation.material import texts_of
from ablation.options import Options
from ablation.parts import Parts
from ablation.reference import NOTHING, Reference, observe
from ablation.spans import Span
from ablation.ways import Target, Way
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from evaluation.divergence import kl
from evaluation.items import spread
from evaluation.judges.margin import at_last_position, margins
from evaluation.judges.tokens import RefusalTokens
from evaluation.prompts import PromptSet
from hooks import Model

CANDIDATES = 10
"""Blocks that are tried."""
PROMPTS = 24
"""Development prompts of each class on which they are tried."""
REFERENCE = 64
"""Harmless development prompts behind a reference mean."""


@dataclass(frozen=True, eq=False)
class Picker:
    """What is needed to try a direction of one block after another."""

    model: Model
    tokens: RefusalTokens
    development: PromptSet
    way: Way


def target(
    artifact: Artifact, names: Sequence[str], options: Options, picker: Picker
) -> tuple[Target, int | None]:
    """Give what is removed, and the block at which its directions were read.

    Raises:
        InputError: unknown names, a block that the direction lacks, parts that do not exist.
    """
    model = picker.model
    if options.kind == "heads" or options.kind == "units":
        chosen = options.chosen() or ranked(artifact, names, options, model)
        found = Parts(options.kind, chosen)
        found.sites(picker.way, model)
        return found, None
    first, last = options.span(model.n_layers)
    blocks = _blocks(artifact, names, options, model)
    spans = {
        block: Span(" + ".join(names), rows_of(artifact, names, block, options), first, last)
        for block in blocks
    }
    if len(blocks) == 1:
        return spans[blocks[0]], blocks[0]
    tried = [int(block) for block in spread([str(b) for b in blocks], CANDIDATES)]
    block = pick({block: spans[block] for block in tried}, picker)
    return spans[block], block


def rows_of(
    artifact: Artifact, names: Sequence[str], block: int, options: Options
) -> Float[Tensor, "k d"]:
    """Give the directions of ``names`` at ``block``, or the first ``rank`` components of one."""
    rows = []
    for name in names:
        row = artifact.manifest.directions[name].blocks.index(block)
        if options.rank is None:
            rows.append(artifact.direction(name)[row : row + 1])
            continue
        components = artifact.tensors.get(f"component/{name}")
        have = 0 if components is None else components.shape[1]
        if components is None or options.rank > have:
            raise InputError(
                f"rank {options.rank}: {name} has {have} components in this artifact; decompose it "
                "with more, or give several names"
            )
        rows.append(components[row, : options.rank])
    return torch.cat(rows).float()


def ranked(
    artifact: Artifact, names: Sequence[str], options: Options, model: Model
) -> tuple[tuple[int, int], ...]:
    """Take the ``top`` heads or units of a score [block, part] in the artifact.

    Raises:
        InputError: no such score, or one of another shape; names those that fit.
    """
    many = model.n_heads if options.kind == "heads" else model.d_mlp
    fitting = {
        key.removeprefix("score/"): tensor
        for key, tensor in artifact.tensors.items()
        if key.startswith("score/") and tuple(tensor.shape) == (model.n_layers, many)
    }
    if len(names) != 1 or names[0] not in fitting:
        raise InputError(
            f"no score {' '.join(names)!r} over {options.kind} in this artifact (it has "
            f"{', '.join(sorted(fitting)) or 'none'}); name them with --{options.kind} BLOCK.INDEX"
        )
    score = fitting[names[0]]
    order = score.flatten().argsort(descending=True)[: options.top].tolist()
    return tuple(sorted((place // score.shape[1], place % score.shape[1]) for place in order))


def pick(spans: dict[int, Span], picker: Picker) -> int:
    """Choose the block whose direction is effective at the least cost, on development prompts.

        drop_b = mean_harmful (margin_clean - margin_b),   cost_b = mean_harmless KL_first(clean, b)
        b* = argmin { cost_b : drop_b >= max drop / 2 }

    Test prompts have no say. It is a choice among the blocks tried, not the best there is.
    """
    model, first = picker.model, next(iter(spans.values()))
    seen = look(picker, [(first, picker.way)])
    harmful = model.encode(texts_of(picker.development, "harmful", PROMPTS))
    harmless = model.encode(texts_of(picker.development, "harmless", PROMPTS))

    def plain(logits: Tensor) -> Tensor:
        return logits

    before = float(margins(model, harmful, picker.tokens).mean())
    clean = at_last_position(model, harmless, plain)
    drops: dict[int, float] = {}
    costs: dict[int, float] = {}
    for block, span in spans.items():
        with model.hooks(edits=span.edits(picker.way, seen, model)) as run:
            after = float(margins(model, harmful, picker.tokens, run=run).mean())
            changed = at_last_position(model, harmless, plain, run=run)
        drops[block] = before - after
        costs[block] = float(kl(clean, changed).mean())
    enough = [block for block in spans if drops[block] >= max(drops.values()) / 2]
    return min(enough or list(spans), key=lambda block: costs[block])


def look(picker: Picker, wanted: Sequence[tuple[Target, Way]]) -> Reference:
    """Observe the sites of removals that need a reference, once, on harmless development prompts.

    Clamps need bounds, of all sites then.
    """
    needed = [(target, way) for target, way in wanted if way.mode != "zero"]
    if not needed:
        return NOTHING
    sites = {site: None for target, way in needed for site in target.sites(way, picker.model)}
    bounds = any(way.mode == "clamp" for _, way in needed)
    texts = texts_of(picker.development, "harmless", REFERENCE)
    return observe(picker.model, picker.model.encode(texts), tuple(sites), bounds=bounds)


def variants(chosen: Target, way: Way, n_layers: int) -> tuple[tuple[str, Target, Way], ...]:
    """Give what ``--compare`` sets beside the ablation: other ways, half of it, parts of the depth.

    Thirds of the blocks are compared in the ablation's own way.
    """
    modes = ("zero", "mean", "clamp") if isinstance(chosen, Span) else ("zero", "mean")
    found: list[tuple[str, Target, Way]] = [
        (mode, chosen, Way(mode)) for mode in modes if Way(mode) != way
    ]
    if way.mode != "clamp" and way.alpha == 1:
        found.append((f"{way.mode}, half", chosen, replace(way, alpha=0.5)))
    if isinstance(chosen, Span):
        edges = [part * n_layers // 3 for part in range(4)]
        for first, end in zip(edges, edges[1:], strict=False):
            if end > first and (first, end - 1) != (chosen.first, chosen.last):
                part = replace(chosen, first=first, last=end - 1)
                found.append((f"{way.mode}, {part.where}", part, way))
    return tuple(found)


def _blocks(
    artifact: Artifact, names: Sequence[str], options: Options, model: Model
) -> tuple[int, ...]:
    """Give the blocks at which all names have a direction of the stream's width."""
    if options.kind == "direction" and len(names) != 1:
        raise InputError(f"--kind direction takes one name, not {len(names)}; use --kind subspace")
    if options.kind == "subspace" and len(names) == 1 and options.rank is None:
        raise InputError("--kind subspace needs --rank K, or several names")
    if options.rank is not None and len(names) != 1:
        raise InputError("--rank takes the components of one name; give one")
    known = artifact.manifest.directions
    common = set(range(model.n_layers))
    for name in names:
        width = artifact.direction(name).shape[1]
        if width != model.d_model:
            raise InputError(
                f"{name}: width {width} (site {known[name].site}), but the stream of {model.spec} "
                f"has {model.d_model}; nothing is broadcast"
            )
        common &= set(known[name].blocks)
    blocks = tuple(sorted(common))
    if options.block is not None and options.block not in blocks:
        raise InputError(
            f"block {options.block}: {' and '.join(names)} have rows at {_listed(blocks)}"
        )
    return blocks if options.block is None else (options.block,)


def _listed(blocks: Sequence[int]) -> str:
    return ", ".join(str(block) for block in blocks) or "no common block"
