"""Read one direction or component: prompts, tokens, relevance and masking, each with its control.

read(artifact, "affine_shift", options=ReadOptions(component=1)).lens.high_texts
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

import hooks
from artifacts.artifact import Artifact
from artifacts.errors import InputError
from directions.decompose_causal import prompts_of, require_same
from directions.lens import LensEnds, PromptEnds, extremes, lens
from directions.lrp import require_family
from directions.masking import MaskingEffect, content_tokens, mask_triggers
from directions.read_options import ReadOptions
from directions.relevance import TokenRelevance, token_relevance
from evaluation.judges import find_refusal_tokens
from evaluation.judges.tokens import RefusalTokens
from evaluation.prompts import Prompt, PromptSet
from hooks import Capture, Encoded, Model, Rows
from probes.controls import band, random_units, unsigned
from probes.separation import Estimate, auc, auc_estimate

RANDOM = 99
"""Random directions beside the separation."""
LENS_RANDOM = 19
"""Random directions beside the lens."""


@dataclass(frozen=True)
class Subject:
    """What is read."""

    name: str
    component: int | None
    """From 1; None for the direction itself."""
    site: str
    block: int

    @property
    def title(self) -> str:
        """Name, component and place in words."""
        part = "" if self.component is None else f" C{self.component}"
        return f"{self.name}{part} at blocks.{self.block}.{self.site}"


@dataclass(frozen=True)
class TokenShares:
    """Content tokens of one prompt with their relevance, in units of the coordinate."""

    prompt: int
    """Number among the held-out prompts."""
    value: float
    """The prompt's coordinate."""
    texts: tuple[str, ...]
    relevance: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read; prompts are held out from the fit."""

    subject: Subject
    prompts: tuple[Prompt, ...]
    """Held-out prompts, harmful ones first."""
    separation: Estimate
    """AUC of harmful against harmless prompts along it."""
    separation_random: Estimate
    """The same for random directions, max(A, 1-A): mean and band."""
    ends: PromptEnds
    lens: LensEnds
    lens_random: float
    """Largest score at either end of random directions, the mean over them."""
    examples: tuple[TokenShares, ...] = ()
    words: tuple[tuple[str, float, int], ...] = ()
    """Content tokens of harmful prompts by mean relevance: text, mean, prompts they occur in."""
    gap: float | None = None
    """Largest error of the relevance account."""
    disagreement: float | None = None
    """Difference of the differentiable pass from the model's own."""
    masking: MaskingEffect | None = None
    """On harmful prompts; None where relevance was not asked for."""
    refusal_tokens: tuple[str, ...] = ()


def read(
    artifact: Artifact,
    name: str,
    *,
    model: str | Model | None = None,
    fit: PromptSet | None = None,
    test: PromptSet | None = None,
    options: ReadOptions | None = None,
) -> Reading:
    """Read a direction of an artifact, or one of its components, on the held-out prompts.

    Args:
        artifact: of directions.extract or directions.decompose.
        name: of a direction in it.
        model: the aligned model, loaded or to be loaded; by default the one the artifact names.
        fit: prompts that the artifact was fitted on, where these are not our own.
        test: its held-out prompts.
        options: what to read and how much of it.

    Raises:
        InputError: no such direction, block or component; one not read at the last prompt token;
            another model, prompts, or a family whose relevance is not written.
        JudgeError: no first token tells refusals apart.
    """
    options = options or ReadOptions()
    subject, vector = _find(artifact, name, options)
    split = prompts_of(artifact, fit, test)
    used = _load(artifact, model, options)
    if options.relevance == "on":
        require_family(used)
    said = artifact.manifest.method.get("system", options.system)
    system = said if isinstance(said, str) else None
    rows = (*split.test.harmful, *split.test.harmless)
    encoded = used.encode([prompt.prompt for prompt in rows], system=system)
    states = _states(used, encoded, subject)
    unit = (vector.double() / vector.double().norm()).float()
    n = len(split.test.harmful)
    reading = Reading(
        subject=subject,
        prompts=rows,
        separation=_separation(states, unit, n),
        separation_random=_random_separation(states, n, options.seed),
        ends=extremes(states @ unit, count=options.count),
        lens=lens(used, unit, count=options.count),
        lens_random=_random_lens(used, options.seed),
    )
    if options.relevance == "off":
        return reading
    first = [
        used.encode([p.prompt for p in part], system=system)
        for part in (split.fit.harmful, split.fit.harmless)
    ]
    tokens = find_refusal_tokens(used, *first)
    return _with_relevance(reading, used, encoded, unit, n, tokens, system, options)


def _find(artifact: Artifact, name: str, options: ReadOptions) -> tuple[Subject, Tensor]:
    vectors = artifact.direction(name)
    info = artifact.manifest.directions[name]
    if info.position != "last":
        raise InputError(f"direction {name} was read at {info.position}; this reads the last token")
    best = artifact.manifest.method.get(f"best_block.{name}", info.blocks[-1])
    block = int(str(best)) if options.block is None else options.block
    if block not in info.blocks:
        raise InputError(f"direction {name} has no row at block {block}; it has {info.blocks}")
    row, number = info.blocks.index(block), options.component
    subject = Subject(name, number, info.site, block)
    if number is None:
        return subject, vectors[row]
    components = artifact.tensors.get(f"component/{name}")
    if components is None:
        raise InputError(
            f"direction {name} has no components; make some with python -m directions.decompose"
        )
    if number > components.shape[1]:
        raise InputError(f"component {number} of {name}: there are {components.shape[1]}")
    vector = components[row, number - 1]
    if float(vector.norm()) == 0:
        raise InputError(f"component {number} of {name} is zero at block {block}")
    return subject, vector


def _load(artifact: Artifact, model: str | Model | None, options: ReadOptions) -> Model:
    stated = artifact.manifest.aligned
    if stated is None:
        raise InputError("the artifact names no aligned model, so its directions cannot be read")
    if model is None or isinstance(model, str):
        stream = str(artifact.manifest.method.get("stream", "auto"))
        model = hooks.load(
            model or stated.spec,
            dtype=stated.dtype,  # type: ignore[arg-type]
            device=options.device,
            stream=stream,  # type: ignore[arg-type]
        )
    require_same(model.info(), stated)
    return model


def _states(model: Model, encoded: Encoded, subject: Subject) -> Float[Tensor, "n d"]:
    rows = Rows()
    capture = Capture(f"blocks.{subject.block}.{subject.site}", into=rows)
    with model.hooks(capture=capture) as run:
        run.forward(encoded)
    return rearrange(rows.stack(), "1 n d -> n d")


def _separation(states: Tensor, unit: Tensor, n: int) -> Estimate:
    along = (states.double() @ unit.double()).numpy()
    return auc_estimate(along[None, :n], along[None, n:])


def _random_separation(states: Tensor, n: int, seed: int) -> Estimate:
    units = random_units(RANDOM, states.shape[1], seed=seed)
    along = units @ states.double().numpy().T
    return band(unsigned(auc(along[:, :n], along[:, n:]))[None])


def _random_lens(model: Model, seed: int) -> float:
    units = torch.from_numpy(random_units(LENS_RANDOM, model.d_model, seed=seed)).float()
    ends = [lens(model, unit, count=1) for unit in units]
    return float(np.mean([max(e.high_scores[0], -e.low_scores[0]) for e in ends]))


def _with_relevance(
    reading: Reading,
    model: Model,
    encoded: Encoded,
    unit: Tensor,
    n: int,
    tokens: RefusalTokens,
    system: str | None,
    options: ReadOptions,
) -> Reading:
    ends = dict.fromkeys((*reading.ends.high, *reading.ends.low))
    shown = [row for row in ends if reading.prompts[row].label == "harmless"]
    shown = (shown + [row for row in range(n, len(encoded)) if row not in ends])[: options.examples]
    chosen = [*range(min(n, options.prompts)), *shown]
    part = encoded.select(chosen)
    found = token_relevance(
        model,
        part,
        unit[None],
        block=reading.subject.block,
        site=reading.subject.site,
        attention=options.attention,
    )
    content = content_tokens(model, part, system=system)
    harmful = len(chosen) - len(shown)
    masking = mask_triggers(
        model,
        part[:harmful],
        [row[0] for row in found.tokens[:harmful]],
        content[:harmful],
        tokens,
        count=options.masked,
        draws=options.draws,
        seed=options.seed,
    )
    return replace(
        reading,
        examples=tuple(
            _shares(model, part, found, content, place, chosen[place])
            for place in range(harmful, len(chosen))
        ),
        words=_words(model, part[:harmful], found, content, options.count),
        gap=found.gap,
        disagreement=found.disagreement,
        masking=masking,
        refusal_tokens=tokens.texts,
    )


def _shares(
    model: Model,
    encoded: Encoded,
    found: TokenRelevance,
    content: tuple[tuple[int, ...], ...],
    place: int,
    prompt: int,
) -> TokenShares:
    ids, parts = encoded.ids[place], found.tokens[place][0]
    return TokenShares(
        prompt,
        float(found.value[place, 0]),
        tuple(str(model.tokenizer.decode([ids[i]])) for i in content[place]),
        tuple(float(parts[i]) for i in content[place]),
    )


def _words(
    model: Model,
    encoded: Encoded,
    found: TokenRelevance,
    content: tuple[tuple[int, ...], ...],
    count: int,
) -> tuple[tuple[str, float, int], ...]:
    """Average over the prompts in which a token occurs; those in one prompt only come last."""
    sums: dict[str, list[float]] = {}
    for place, places in enumerate(content[: len(encoded)]):
        here: dict[str, float] = {}
        for i in places:
            text = str(model.tokenizer.decode([encoded.ids[place][i]])).strip().lower()
            here[text] = here.get(text, 0.0) + float(found.tokens[place][0, i])
        for text, value in here.items():
            sums.setdefault(text, []).append(value)
    rows = [(text, float(np.mean(values)), len(values)) for text, values in sums.items()]
    return tuple(sorted(rows, key=lambda row: (row[2] == 1, -row[1]))[:count])
