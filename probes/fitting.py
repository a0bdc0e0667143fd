"""Fit probes on a model's states: rows in, an artifact and its view out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import hooks
from artifacts.artifact import Artifact
from artifacts.names import check_target
from artifacts.provenance import timestamp
from artifacts.write import save
from hooks import Model
from probes.estimators import maker
from probes.labels import labels_of
from probes.options import Options
from probes.package import Found, Origin, artifact, source_keys
from probes.protocol import Task, fit_probe
from probes.result import ProbeSet
from probes.rows import Request, rows_of, settle, shipped
from probes.states import Place, read_states


def fit(
    model: str | Model = "reference:aligned",
    requests: Iterable[Request] | None = None,
    *,
    out: str | Path | None = None,
    options: Options | None = None,
) -> ProbeSet:
    """Fit linear probes for harmful requests at every block, each judged on sources it never saw.

    Every source is held out once: probes are fitted on the others, at a block that the others
    choose, and tested on it. The saved probes are then fitted on all sources. Shows at most that
    the class is decodable in a way that carries over between these sources.

    Args:
        model: a specification for ``hooks.load`` or a loaded model.
        requests: rows with prompt, label and source; by default those that theodolite ships.
        out: a .safetensors file to write; None writes nothing.
        options: which probes, where, and the seed.

    Raises:
        InputError: a class or a source that is too small, a file name that cannot be written.
        NonFiniteError: states or weights that are not finite; nothing is written.
    """
    start = time.perf_counter()
    chosen = options or Options()
    path = None if out is None else check_target(Path(out))
    rows, notes = settle(shipped() if requests is None else rows_of(requests))
    labels = labels_of(rows, seed=chosen.seed)
    source_keys(labels.names)
    loaded = (
        hooks.load(model, dtype=chosen.dtype, device=chosen.device, stream=chosen.stream)
        if isinstance(model, str)
        else model
    )
    places, lengths = read_states(loaded, rows, chosen)
    origin = Origin(
        model=loaded.info(),
        tokenizer=loaded.tokenizer_info(),
        rows=rows,
        device=loaded.device.type,
        created=timestamp(),
        notes=notes,
    )
    tasks = [
        Task(place.states, lengths, labels, place.blocks, chosen.seed, chosen.refits)
        for place in places
    ]
    made = artifact(_fit_all(places, tasks, chosen), labels, origin, chosen)
    return _finish(made, path, start)


def _fit_all(places: Sequence[Place], tasks: Sequence[Task], options: Options) -> list[Found]:
    from tqdm.auto import tqdm

    found = []
    for place, task in zip(places, tasks, strict=True):
        for probe in dict.fromkeys(options.probes):
            name = place.name(probe)
            bar = partial(tqdm, desc=name, unit="block", disable=not options.progress)
            found.append(
                Found(name, probe, place, fit_probe(name, maker(probe), task, progress=bar))
            )
    return found


def _finish(made: Artifact, path: Path | None, start: float) -> ProbeSet:
    digest = made.digest if path is None else save(made, path)
    return ProbeSet(made, digest, time.perf_counter() - start)
