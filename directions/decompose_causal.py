"""Interventions on components: the model and the prompts that a decomposition needs for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

import hooks
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.manifest import ModelInfo
from directions.decompose_options import DecomposeOptions
from directions.decompose_package import Decomposed
from directions.decompose_source import LABELS, RowSource, Source
from directions.effects import ComponentEffect, EffectOptions, component_effects
from directions.job import prompts
from directions.split import Split
from evaluation.judges import find_refusal_tokens, margins
from evaluation.judges.tokens import RefusalTokens
from evaluation.prompts import PromptSet
from hooks import Encoded, Model


class Mismatch(InputError):
    """Prompts or a model that are not those of the artifact."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The aligned model with the prompts of an artifact."""

    model: Model
    split: Split
    tokens: RefusalTokens
    """Found on fitted prompts."""
    refused: Bool[np.ndarray, "n"]
    """Fitted prompts that the model refuses by its first token, harmful ones first."""
    system: str | None

    def encoded(self, data: PromptSet) -> dict[str, Encoded]:
        """Return the tokens of each class."""
        return _encoded(self.model, data, self.system)


def prompts_of(
    artifact: Artifact, fit: PromptSet | None = None, test: PromptSet | None = None
) -> Split:
    """Return the prompts that an artifact was extracted with: those given, or our own.

    Raises:
        Mismatch: they are not the artifact's prompts, by digest.
    """
    manifest = artifact.manifest
    found = prompts(fit, test, seed=manifest.seed)
    asked = {data.role: data.digest for data in manifest.data}
    if asked != {"fit": found.fit.digest, "test": found.test.digest}:
        sources = " and ".join(dict.fromkeys(data.source for data in manifest.data))
        raise Mismatch(
            f"the prompts are not those of the artifact (from {sources}): give the same --harmful "
            "and --harmless, or --causal off"
        )
    return found


def subject(artifact: Artifact, split: Split, model: str | Model, *, device: str) -> Subject:
    """Load the aligned model of an artifact and find what it refuses.

    Raises:
        Mismatch: the model is not the artifact's, by digest.
        JudgeError: no first token tells refusals apart.
    """
    manifest = artifact.manifest
    if isinstance(model, str):
        dtype, stream = str(manifest.method["dtype"]), str(manifest.method["stream"])
        model = hooks.load(model, dtype=dtype, device=device, stream=stream)  # type: ignore[arg-type]
    require_same(model.info(), manifest.aligned)
    system = manifest.method.get("system")
    system = system if isinstance(system, str) else None
    rows = _encoded(model, split.fit, system)
    tokens = find_refusal_tokens(model, *(rows[label] for label in LABELS))
    found = np.concatenate([margins(model, rows[label], tokens).numpy() for label in LABELS])
    return Subject(model, split, tokens, found > 0, system)


def require_same(found: ModelInfo, stated: ModelInfo | None) -> None:
    """Refuse a model that is not the one of the artifact.

    Raises:
        Mismatch: its configuration, weights or adapter have another digest; says which.
    """
    if stated is None:
        raise Mismatch("the artifact names no aligned model; use --causal off")
    for what in ("config_digest", "weight_digests", "adapter_digest"):
        if getattr(found, what) != getattr(stated, what):
            raise Mismatch(
                f"{found.spec} is not the model of the artifact ({stated.spec}): "
                f"{what.partition('_')[0]} digests differ; give that model or --causal off"
            )


def effects(
    one: Decomposed, subject: Subject, source: Source, options: DecomposeOptions
) -> tuple[ComponentEffect, ...]:
    """Intervene on the listed components at the best block, on held-out prompts.

    The means that components are moved to are those of fitted prompts.
    """
    row = one.best
    block = one.blocks[row]
    means = None
    if isinstance(source, RowSource):
        aligned = source.read(source.blocks.index(block)).fit["aligned.template"]
        groups = {"harmful": source.fit, "harmless": ~source.fit}
        means = {k: torch.from_numpy(aligned[chosen].mean(0)) for k, chosen in groups.items()}
    return component_effects(
        subject.model,
        _thinned(subject.encoded(subject.split.test), options.effect_prompts),
        torch.from_numpy(one.results[row].space.components[: options.components]).float(),
        block=block,
        tokens=subject.tokens,
        means=means,
        options=EffectOptions(site=source.site, seed=options.seed, alpha=options.alpha),
    )


def _thinned(rows: Mapping[str, Encoded], most: int) -> dict[str, Encoded]:
    """Take prompts at equal steps, so that all categories of a sorted set stay."""
    found = {}
    for label, encoded in rows.items():
        places = np.unique(np.linspace(0, len(encoded) - 1, min(most, len(encoded))).astype(int))
        found[label] = encoded.select(places.tolist())
    return found


def _encoded(model: Model, data: PromptSet, system: str | None) -> dict[str, Encoded]:
    groups = {"harmful": data.harmful, "harmless": data.harmless}
    return {
        label: model.encode([prompt.prompt for prompt in rows], system=system)
        for label, rows in groups.items()
    }
