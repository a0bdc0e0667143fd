"""``directions.extract``: two models and prompts in, directions with measures and controls out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from artifacts.artifact import Artifact
from artifacts.errors import InputError
from artifacts.provenance import timestamp
from artifacts.read import load
from artifacts.write import save
from directions import moments, package
from directions.assemble import Assembler, Extracted, Place, PlaceMeans, places
from directions.contrasts import cells_of
from directions.job import Job, prepare, prompts, roles
from directions.ledger import Ledger
from directions.options import Options
from directions.ranks import Ranks, joined
from directions.result import DirectionSet
from directions.target import lock, run_folder, target
from evaluation.prompts import PromptSet
from hooks import Model
from hooks.hardware import release_memory, trim_heap

_Item = TypeVar("_Item")


def extract(
    base: str | Model = "reference:base",
    aligned: str | Model = "reference:aligned",
    *,
    fit: PromptSet | None = None,
    test: PromptSet | None = None,
    out: str | Path | None = None,
    options: Options | None = None,
) -> DirectionSet:
    """Extract the directions in which an aligned model differs from its base.

        v(contrast, block) = mean-difference of last-token states       (see directions.contrasts)

    Each model reads each prompt once per rendering. Directions are fitted on some sources or
    categories of prompts and measured on others. They show what is linearly *decodable*; that a
    model uses a direction is shown by ``ablation`` and ``steering``, not here.

    Args:
        base: folder, hub id, ``reference:base``, or a loaded model.
        aligned: the same for the aligned model; ``BASE+ADAPTER`` shares the base's weights.
        fit: prompts of both classes; None takes theodolite's own. Without ``test`` they are split.
        test: prompts to measure on; what ``fit`` has too is dropped.
        out: where to save the artifact (``.safetensors``); a run folder beside it makes the
            extraction resumable. None keeps the result in memory.
        options: everything else.

    Raises:
        InputError: models, prompts or options that cannot be used, or a pair without a difference.
        LockedError: another process is extracting to the same file.
        SystemFailure: the file system or memory fails.
    """
    chosen = options or Options()
    start = time.perf_counter()
    with joined() as ranks, target(out, ranks) as path, lock(path, ranks):
        job = prepare(base, aligned, prompts(fit, test, seed=chosen.seed), chosen, ranks)
        release_memory()
        ledger = Ledger(run_folder(path), job.config, rank=ranks.rank)
        with ranks.together():
            created = ledger.start(timestamp()) if ranks.first else ""
        done = frozenset(ledger.entries())
        with ranks.together():
            _collect(job, ledger, ranks, skip=done)
        job = replace(job, source=None)
        # What follows reads shards only; models that nobody else holds make room for it.
        release_memory()
        stats = _stats(ledger, resumed=len(done))
        with ranks.together():
            if ranks.first:
                found = _assemble(job, ledger, created)
                trim_heap()  # writing needs two copies of the tensors at once
                save(found, path)
                del found
        if ranks.first and not chosen.keep_shards:
            ledger.remove()
        stored = load(path)
        return DirectionSet(stored, stored.manifest.digest, time.perf_counter() - start, stats)


def _collect(job: Job, ledger: Ledger, ranks: Ranks, *, skip: frozenset[int]) -> None:
    source, (shards, _) = job.source, job.shards
    if source is None:
        raise ValueError("the models are gone: collect before they are let go")
    mine = [i for i in range(len(shards)) if ranks.mine(i) and i not in skip]
    for shard in _progress(mine, "prompts", job.options.progress and ranks.first):
        states, stats = source.shard(shards[shard])
        ledger.commit(shard, states, len(shards[shard]), stats)
        # Before the next shard, so that memory is that of one.
        del states
        trim_heap()


def _assemble(job: Job, ledger: Ledger, created: str) -> Artifact:
    fit, test = roles(job, ledger.path)
    assembler = Assembler(job.contrasts, fit, test, job.facts.n_layers, job.options.seed)
    found: list[Extracted] = []
    means: list[PlaceMeans] = []
    all_places = list(places(job.options.sites, job.facts.slots))
    for place in _progress(all_places, "places", job.options.progress):
        more, mean = assembler.run(place)
        found += more
        means += [mean] if more else []
    if not found:
        raise InputError(
            "base and aligned give the same states for every prompt and the classes have equal "
            "means: there is no direction to save; check --base and --aligned"
        )
    notes = (*job.notes, *_missing(job, all_places, found))
    blocks = package.shared_blocks(found, found[0].place.suffix)
    n, d = len(fit.harmful), found[0].vectors.shape[1]
    cells = cells_of(job.contrasts)
    states = len(cells) * (n + len(test.harmful))
    kind, note = moments.choose(job.options.moments, n=n, d=d, blocks=len(blocks), states=states)
    unsuffixed = [mean.place for mean in means if not mean.place.suffix]
    kept = moments.tensors(kind, (fit, test), unsuffixed[0], blocks, cells) if unsuffixed else {}
    origin = package.Origin(
        base=job.facts.base,
        aligned=job.facts.aligned,
        tokenizer=job.facts.tokenizer,
        split=job.split,
        device=job.facts.device,
        created=created,
        notes=(*notes, *([note] if note else [])),
    )
    return package.artifact(found, means, kept, origin, job.options)


def _missing(job: Job, wanted: Sequence[Place], found: Sequence[Extracted]) -> list[str]:
    names = {direction.name for direction in found}
    every = [place.name(contrast.name) for place in wanted for contrast in job.contrasts]
    return [
        f"{name}: zero within float32 rounding at all {job.facts.n_layers} blocks, so "
        "there is no such direction"
        for name in every
        if name not in names
    ]


def _stats(ledger: Ledger, *, resumed: int) -> dict[str, float]:
    entries = ledger.entries()
    total: Counter[str] = Counter()
    for entry in entries.values():
        total.update(entry.stats)
    return {
        **total,
        "shards": len(entries),
        "shards_resumed": resumed,
        "orphans_removed": ledger.orphans,
    }


def _progress(items: Sequence[_Item], what: str, on: bool) -> Iterator[_Item]:
    from tqdm.auto import tqdm

    return iter(tqdm(items, desc=what, disable=not on, leave=False))
