"""Everything that is settled before the first pass: models, prompts, tokens, configuration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import hooks
from artifacts.errors import InputError
from artifacts.manifest import ModelInfo, TokenizerInfo
from artifacts.provenance import tool, versions
from directions.assemble import harmful_mask
from directions.collect import Source, encode
from directions.contrasts import Contrast, cells_of, resolve
from directions.ledger import Config
from directions.options import Options
from directions.ranks import Ranks
from directions.shards import Role, shard_rows
from directions.split import Split, given, split
from evaluation.catalogue import shipped
from evaluation.prompts import PromptSet
from hooks import Model


@dataclass(frozen=True)
class Facts:
    """What is known of the models, for when they are gone."""

    base: ModelInfo
    aligned: ModelInfo
    tokenizer: TokenizerInfo
    device: str
    n_layers: int
    slots: int
    """Tokens read from each prompt."""

    @classmethod
    def of(cls, source: Source) -> Facts:
        """Write down the facts of a pair."""
        base, aligned = source.base, source.aligned
        return cls(
            base.info(),
            aligned.info(),
            aligned.tokenizer_info(),
            aligned.device.type,
            aligned.n_layers,
            source.slots,
        )


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that is settled before the first pass."""

    source: Source | None
    """The models and their tokens; None once the passes are done."""
    facts: Facts
    split: Split
    contrasts: tuple[Contrast, ...]
    options: Options
    config: Config
    notes: tuple[str, ...]

    @property
    def shards(self) -> tuple[tuple[range, ...], int]:
        """Prompt numbers of every shard, and how many shards are for the fit."""
        sizes = len(self.split.fit), len(self.split.test)
        return shard_rows(*sizes, self.options.shard_size)


def prompts(fit: PromptSet | None, test: PromptSet | None, *, seed: int) -> Split:
    """Settle which prompts are fitted and tested on.

    Raises:
        InputError: a class is too small.
    """
    if test is None:
        return split(fit or shipped("test"), seed=seed)
    return given(fit or shipped("test"), test)


def prepare(
    base: str | Model, aligned: str | Model, data: Split, options: Options, ranks: Ranks
) -> Job:
    """Load the models and encode the prompts.

    Raises:
        InputError: models that cannot be compared, a tokenizer without chat template, a prompt that
            is too long, a site that this family cannot give.
    """
    pair, notes = load_models(base, aligned, options, ranks)
    contrasts = resolve(options.resolved_contrasts())
    raw = any(contrast.raw for contrast in contrasts)
    rows = (*data.fit.prompts, *data.test.prompts)
    with _warnings_as_notes() as warned:
        encoded = encode(*pair, rows, raw=raw, system=options.system)
    slots = 1 if options.positions == "last" else encoded["template"].template_length
    if slots == 0:
        raise InputError("positions template: the chat template ends with the instruction")
    sites = pair[1].sites([f"blocks.*.{site}" for site in options.sites])
    joint = choose_passes(*pair, options)
    options = replace(options, passes="joint" if joint else "apart")
    cells = cells_of(contrasts)
    source = Source(*pair, encoded, cells, sites, options.positions, slots, joint=joint)
    if options.contrasts is None and options.positions != "last":
        notes = (*notes, "contrasts with raw prompts left out: they have no template tokens")
    facts = Facts.of(source)
    config = _config(source, facts, data, options)
    return Job(source, facts, data, contrasts, options, config, (*notes, *data.notes, *warned))


def choose_passes(base: Model, aligned: Model, options: Options) -> bool:
    """Return whether both models are read in one pass.

    Raises:
        InputError: it was asked for and this pair cannot be.
    """
    if options.passes == "apart" or options.stream == "model":
        return False
    reason = hooks.why_not_joint(base, aligned)
    if reason is not None and options.passes == "joint":
        raise InputError(f"--passes joint: {reason}; use --passes auto")
    return reason is None


def load_models(
    base: str | Model, aligned: str | Model, options: Options, ranks: Ranks
) -> tuple[tuple[Model, Model], tuple[str, ...]]:
    """Load what is not loaded, and hold the two against each other.

    Returns:
        The pair, and notes on what ``allow_mismatch`` let through.

    Raises:
        ModelError: a model that cannot be loaded, or two that cannot be compared.
        TokenizerError: different tokenizers or chat templates, unless allowed.
    """
    device = ranks.device(options.device)
    if isinstance(base, str) and isinstance(aligned, str):
        pair = hooks.load_pair(
            base,
            aligned,
            dtype=options.dtype,
            device=device,
            allow_mismatch=options.allow_mismatch,
            stream=options.stream,
        )
    else:
        loaded = [
            hooks.load(model, dtype=options.dtype, device=device, stream=options.stream)
            if isinstance(model, str)
            else model
            for model in (base, aligned)
        ]
        pair = (loaded[0], loaded[1])
    found = hooks.check_pair(*pair, allow_mismatch=options.allow_mismatch)
    if not found:
        return pair, ()
    return pair, (
        f"{' and '.join(found)} of base and aligned differ, allowed by --allow-mismatch; both "
        "models read the tokens of the aligned model's",
    )


def _config(source: Source, facts: Facts, data: Split, options: Options) -> Config:
    record = {k: list(v) if isinstance(v, tuple) else v for k, v in options.record().items()}
    return {
        "options": record,
        "base": facts.base.model_dump(mode="json"),
        "aligned": facts.aligned.model_dump(mode="json"),
        "tokenizer": facts.tokenizer.model_dump(mode="json"),
        "fit": data.fit.digest,
        "test": data.test.digest,
        "cells": list(source.cells),
        "slots": facts.slots,
        "device": facts.device,
        "stream": str(source.aligned.stream_dtype).removeprefix("torch."),
        "tool": tool().version,
        "versions": dict(versions()),
    }


def roles(job: Job, path: Callable[[int], Path]) -> tuple[Role, Role]:
    """Return the shards of the fit and of the test prompts."""
    shards, n_fit = job.shards
    found = []
    for data, part in ((job.split.fit, shards[:n_fit]), (job.split.test, shards[n_fit:])):
        offset = part[0].start
        numbers = range(n_fit) if data is job.split.fit else range(n_fit, len(shards))
        found.append(
            Role(
                tuple(path(number) for number in numbers),
                tuple(slice(rows.start - offset, rows.stop - offset) for rows in part),
                harmful_mask([prompt.label for prompt in data.prompts]),
            )
        )
    return found[0], found[1]


@contextmanager
def _warnings_as_notes() -> Iterator[list[str]]:
    """Turn what the tokenizer layer warns of into notes of the artifact."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += dict.fromkeys(str(warning.message) for warning in caught)
