"""What an ablation works with: the artifact, the model it belongs to, and which prompts are new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import artifacts
import hooks
from ablation.options import Common
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.manifest import ModelInfo
from directions.result import DirectionSet
from directions.split import split
from evaluation.catalogue import shipped
from evaluation.items import spread
from evaluation.judges.tokens import MIN_PROMPTS
from evaluation.prompts import Label, Prompt, PromptSet
from evaluation.sets import load_set
from hooks import Model

_WEIGHTS = ("config_digest", "weight_digests", "adapter_digest")
LABELS: tuple[Label, Label] = ("harmful", "harmless")


def open_artifact(given: str | Path | Artifact | DirectionSet) -> Artifact:
    """Load and verify an artifact, or take one that is in memory.

    Raises:
        ArtifactError: the file is damaged, or its digest is not that of its content.
    """
    if isinstance(given, DirectionSet):
        return given.artifact
    return given if isinstance(given, Artifact) else artifacts.load(Path(given))


def open_model(
    given: str | Model | None, artifact: Artifact, options: Common
) -> tuple[Model, tuple[str, ...]]:
    """Load the model and say where it is not one that the artifact was made from.

    Raises:
        InputError: another model, without ``allow_mismatch``, or no model at all.
    """
    manifest = artifact.manifest
    stated = [info for info in (manifest.aligned, manifest.base) if info is not None]
    if given is None and not stated:
        raise InputError("the artifact names no model; give --model")
    model = given if isinstance(given, Model) else None
    if model is None:
        spec = given if isinstance(given, str) else stated[0].spec
        model = hooks.load(spec, dtype=options.dtype, device=options.device, stream=options.stream)
    found = mismatch(model.info(), stated)
    if found and not options.allow_mismatch:
        raise InputError(
            f"{model.spec} is not the model of the artifact ({stated[0].spec}): "
            f"{', '.join(found)}; give that model, or --allow-mismatch"
        )
    return model, found


def mismatch(mine: ModelInfo, stated: list[ModelInfo]) -> tuple[str, ...]:
    """Name what differs from the first of ``stated``; nothing if any of them is the same model."""
    differing = [
        tuple(f"{part} differs" for part in _WEIGHTS if getattr(mine, part) != getattr(one, part))
        for one in stated
    ]
    return differing[0] if differing and all(differing) else ()


def test_prompts(
    given: PromptSet | None, artifact: Artifact, options: Common
) -> tuple[PromptSet, tuple[str, ...]]:
    """Choose the prompts to measure on, ``limit`` of each class, and say what is known of them.

    ``auto`` takes our own set; where the artifact was fitted on part of it, the other part.

    Raises:
        InputError: a class has fewer than 8 prompts.
    """
    fitted = {data.digest for data in artifact.manifest.data if data.role == "fit"}
    known = False
    if given is not None:
        prompts = given
    elif options.prompts != "auto":
        prompts = load_set(options.prompts)
    else:
        own = split(shipped("test"), seed=artifact.manifest.seed)
        known = own.fit.digest in fitted
        prompts = own.test if known else shipped("test")
    if prompts.digest in fitted:
        raise InputError(
            f"{prompts.name}: the artifact was fitted on these prompts; give others with --prompts"
        )
    unsure = "that no prompt was also fitted on cannot be told from the artifact's digests"
    notes = () if known else (unsure,)
    return evenly(_both(prompts, "--prompts"), options.limit), notes


def development_prompts(given: PromptSet | None, options: Common) -> PromptSet:
    """Give the prompts on which tokens, means and the block are found."""
    return _both(given or load_set(options.development), "--development")


def require_new(prompts: PromptSet, development: PromptSet) -> None:
    """Refuse prompts that are measured on and also developed on.

    Raises:
        InputError: they share a prompt.
    """
    known = {p.prompt for p in development.prompts}
    shared = [p.id for p in prompts.prompts if p.prompt in known]
    if shared:
        raise InputError(
            f"{len(shared)} prompts are in {prompts.name} and in {development.name} (first: "
            f"{shared[0]}): fit and test must differ; give another --prompts or --development"
        )


def evenly(prompts: PromptSet, limit: int) -> PromptSet:
    """Keep ``limit`` prompts of each class, evenly spaced; all of them for 0."""
    if limit == 0:
        return prompts
    kept: set[str] = set()
    for label in LABELS:
        kept.update(spread([p.id for p in prompts.select(label=label).prompts], limit))
    return replace(prompts, prompts=tuple(p for p in prompts.prompts if p.id in kept))


def texts_of(prompts: PromptSet, label: Label, limit: int) -> tuple[str, ...]:
    """Give at most ``limit`` prompts of a class as text, evenly spaced."""
    found: tuple[Prompt, ...] = prompts.select(label=label).prompts
    return tuple(spread([p.prompt for p in found], limit))


def _both(prompts: PromptSet, option: str) -> PromptSet:
    for label in LABELS:
        if prompts.counts[label] < MIN_PROMPTS:
            raise InputError(
                f"{prompts.name}: {prompts.counts[label]} {label} prompts; {option} needs at least "
                f"{MIN_PROMPTS} of each class"
            )
    return prompts
