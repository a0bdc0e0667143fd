"""``directions.decompose``: an artifact or a pair in, components with their nulls out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from tqdm.auto import tqdm

from artifacts.artifact import Artifact
from artifacts.errors import InputError, TheodoliteError
from artifacts.read import load
from artifacts.write import save
from directions import decompose_causal, decompose_package
from directions.contrasts import Contrast
from directions.decompose_analysis import analysis
from directions.decompose_block import BlockResult
from directions.decompose_options import DecomposeOptions
from directions.decompose_package import Decomposed
from directions.decompose_result import Decomposition
from directions.decompose_source import RowSource, Source, contrasts_of, source_of
from directions.extraction import extract
from directions.options import Options
from directions.ranks import from_environment
from directions.target import target
from evaluation.prompts import PromptSet
from hooks import Model

BY_REFUSAL = (
    "components point so that aligned states of refused prompts (harmful ones whose first token "
    "refuses) lie above those of harmless prompts, by fitted means"
)
BY_CLASS = (
    "components point so that aligned states of harmful prompts lie above those of harmless "
    "prompts, by fitted means"
)


def decompose(
    source: str | Path | Artifact | None = None,
    *,
    base: str | Model = "reference:base",
    aligned: str | Model = "reference:aligned",
    fit: PromptSet | None = None,
    test: PromptSet | None = None,
    out: str | Path | None = None,
    causal: bool | None = None,
    options: DecomposeOptions | None = None,
    extraction: Options | None = None,
) -> Decomposition:
    """Decompose what training added to the states into components, largest first.

        affine:     SVD of X_c B,  B = argmin |D_c - X_c B|^2 + lam |B|^2    (Pan et al. 2025, 3.1)
        shift-svd:  SVD of D,      D = Y - X                                  (their code)

    X are states before, Y after; lam by cross-validation over prompts. A component that stands
    above its null is a direction in which the shift depends on the state (affine) or is not noise
    of independent coordinates (shift-svd). That the model uses it is what an intervention shows.

    Args:
        source: artifact of ``directions.extract``; None extracts from the pair first.
        base: base model, where there is no artifact.
        aligned: aligned model; with an artifact, the one to intervene on if it is a loaded model.
        fit: prompts of both classes: to extract with, or those that the artifact was made of.
        test: held-out prompts, the same.
        out: where to save (``.safetensors``). What was extracted is kept beside it.
        causal: intervene on the components of the best block. None does so where model and prompts
            of the artifact are at hand, and leaves a note where not.
        options: methods, contrasts, components, level.
        extraction: options of the extraction, where there is no artifact.

    Raises:
        InputError: an artifact without rows or moments, too few prompts for the rank asked, rows
            that are not finite, states that are all equal, another model than the artifact's.
    """
    chosen, start = options or DecomposeOptions(), time.perf_counter()
    path = None if out is None else _target(out)
    held = _held(source, (base, aligned), (fit, test), path, chosen, extraction)
    where = source_of(held, seed=chosen.seed)
    contrasts, missing = contrasts_of(where, chosen.contrasts)
    device = (extraction or Options()).device
    given = aligned if source is None or isinstance(aligned, Model) else None
    subject, why = _subject(held, (fit, test), given, device, causal)
    refused = None if subject is None else subject.refused
    found, more = _all(where, contrasts, chosen, refused)
    if subject is not None:
        found = [
            replace(one, effects=decompose_causal.effects(one, subject, where, chosen))
            for one in found
        ]
    by_refusal = refused is not None and isinstance(where, RowSource)
    made = decompose_package.artifact(
        found,
        where,
        chosen,
        sign_rule=BY_REFUSAL if by_refusal else BY_CLASS,
        notes=(*where.notes, *missing, *why, *more),
    )
    stored = _stored(made, path)
    return Decomposition(stored, stored.manifest.digest, time.perf_counter() - start)


def _target(out: str | Path) -> Path:
    with target(out, from_environment()) as path:
        return path


def _held(
    source: str | Path | Artifact | None,
    pair: tuple[str | Model, str | Model],
    data: tuple[PromptSet | None, PromptSet | None],
    path: Path | None,
    options: DecomposeOptions,
    extraction: Options | None,
) -> Artifact:
    """Return the artifact to decompose, extracted first where only a pair is given."""
    if source is not None:
        return source if isinstance(source, Artifact) else load(source)
    names = options.contrasts or ("shift", "template_shift", "did")
    asked = extraction or Options()
    how = replace(
        asked, contrasts=names, moments="rows", seed=options.seed, progress=options.progress
    )
    out = None if path is None else path.with_name(f"{path.stem}.directions.safetensors")
    return extract(*pair, fit=data[0], test=data[1], out=out, options=how).artifact


def _subject(
    held: Artifact,
    data: tuple[PromptSet | None, PromptSet | None],
    aligned: str | Model | None,
    device: str,
    causal: bool | None,
) -> tuple[decompose_causal.Subject | None, tuple[str, ...]]:
    """Return the model to intervene on, or why there is none."""
    if causal is False:
        return None, ("no intervention was run: not asked for",)
    try:
        split = decompose_causal.prompts_of(held, *data)
        model = aligned if aligned is not None else _spec(held)
        return decompose_causal.subject(held, split, model, device=device), ()
    except decompose_causal.Mismatch as error:
        # What the user gave and is not the artifact's is refused; what was merely tried is not.
        if causal or data != (None, None) or aligned is not None:
            raise
        return None, (f"no intervention was run: {error}",)
    except TheodoliteError as error:
        if causal:
            raise
        return None, (f"no intervention was run: {error}",)


def _spec(held: Artifact) -> str:
    if held.manifest.aligned is None:
        raise InputError("the artifact names no aligned model")
    return held.manifest.aligned.spec


def _all(
    source: Source,
    contrasts: Sequence[Contrast],
    options: DecomposeOptions,
    refused: Bool[np.ndarray, "n"] | None,
) -> tuple[list[Decomposed], list[str]]:
    """Decompose every contrast by every method; say what was left out."""
    found: list[Decomposed] = []
    notes: list[str] = []
    analyse = analysis(source, options, refused)
    for method in dict.fromkeys(options.methods):
        for contrast in contrasts:
            name = options.name(method, contrast.name)
            results: dict[int, BlockResult] = {}
            reasons: dict[str, list[int]] = {}
            rows = range(len(source.blocks))
            for row in tqdm(rows, desc=name, disable=not options.progress, leave=False):
                result = analyse(method, contrast, row)
                block = source.blocks[row]
                if isinstance(result, str):
                    reasons.setdefault(result, []).append(block)
                else:
                    results[block] = result
            notes += [
                f"{name}: {reason} at blocks {', '.join(map(str, blocks))}, left out"
                for reason, blocks in reasons.items()
            ]
            if results:
                blocks, kept = tuple(results), tuple(results.values())
                found.append(Decomposed(name, method, contrast.name, blocks, kept))
    if not found:
        raise InputError(f"nothing to decompose: {'; '.join(notes)}")
    return found, notes


def _stored(made: Artifact, path: Path | None) -> Artifact:
    if path is not None:
        save(made, path)
        return load(path)
    with tempfile.TemporaryDirectory() as folder:
        save(made, Path(folder) / "decomposition.safetensors")
        return load(Path(folder) / "decomposition.safetensors")
