"""Which prompts a direction is fitted on and which it is tested on; they never overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from artifacts.errors import InputError
from evaluation.prompts import Prompt, PromptSet, deduplicate, normalise
from probes.seeds import derive

MIN_PER_SIDE = 4
"""Prompts of each class that fit and test need after splitting and dropping duplicates."""
_HASH_SHARE = 0.4


@dataclass(frozen=True)
class Split:
    """Fit and test prompts, and how they were told apart."""

    fit: PromptSet
    test: PromptSet
    rule: str
    """given, source, category or hash."""
    dropped: int
    """Duplicates dropped."""
    notes: tuple[str, ...]


def join(harmful: PromptSet, harmless: PromptSet) -> PromptSet:
    """Join two sets of one class each; ids that occur in both get their label as a prefix."""
    common = {p.id for p in harmful.prompts} & {p.id for p in harmless.prompts}
    both = harmful + harmless
    if not common:
        return both
    rows = tuple(replace(p, id=f"{p.label}:{p.id}") if p.id in common else p for p in both.prompts)
    return replace(both, prompts=rows)


def given(fit: PromptSet, test: PromptSet) -> Split:
    """Use the user's own fit and test sets, less duplicates.

    Raises:
        InputError: a class is too small once duplicates are dropped.
    """
    return _checked(fit, test, "given", 0)


def split(prompts: PromptSet, *, seed: int) -> Split:
    """Hold out whole sources; where there is one source, whole categories; else a hash share.

    Whole groups are held out, in an order that depends on ``seed`` and the group's name alone,
    while they hold at most half of a class. Where both classes have the same groups, the same
    groups are held out of both. The hash share depends on the prompt's text and ``seed``, not on
    its place in the file.

    Raises:
        InputError: a class is too small to be split.
    """
    unique, _, dropped = deduplicate(prompts, replace(prompts, prompts=()))
    readers: dict[str, Callable[[Prompt], str | None]] = {
        "source": lambda prompt: prompt.source,
        "category": lambda prompt: prompt.category,
    }
    for rule, read in readers.items():
        held_out = _held_out(unique, read, seed)
        if held_out is not None:
            fit, test = _partition(unique, held_out)
            return _checked(fit, test, rule, dropped)
    fit, test = _partition(unique, _by_hash(unique, seed))
    result = _checked(fit, test, "hash", dropped)
    note = (
        "one source and one category only: fit and test prompts are a random split of the same "
        "kind, so held-out numbers do not show transfer; give --test-harmful and --test-harmless"
    )
    return replace(result, notes=(*result.notes, note))


def _held_out(
    prompts: PromptSet, read: Callable[[Prompt], str | None], seed: int
) -> frozenset[str] | None:
    """Return the ids of whole groups to hold out, None where the groups do not allow it."""
    classes = {
        "harmful": _groups(prompts.harmful, read),
        "harmless": _groups(prompts.harmless, read),
    }
    if any(len(groups) < 2 for groups in classes.values()):
        return None
    shared = set(classes["harmful"]) == set(classes["harmless"])
    chosen: set[str] = set()
    if shared:
        keys = _choose(
            {k: tuple(len(groups[k]) for groups in classes.values()) for k in classes["harmful"]},
            seed,
        )
        for groups in classes.values():
            chosen.update(p.id for key in keys for p in groups[key])
    else:
        for groups in classes.values():
            keys = _choose({key: (len(rows),) for key, rows in groups.items()}, seed)
            chosen.update(p.id for key in keys for p in groups[key])
    fit, test = _partition(prompts, frozenset(chosen))
    small = min(*fit.counts.values(), *test.counts.values()) < MIN_PER_SIDE
    return None if small else frozenset(chosen)


def _choose(sizes: Mapping[str, tuple[int, ...]], seed: int) -> list[str]:
    """Take groups in hashed order while every class keeps at least half of its prompts."""
    totals = [sum(column) for column in zip(*sizes.values(), strict=True)]
    taken = [0] * len(totals)
    keys: list[str] = []
    for key in sorted(sizes, key=lambda name: derive("hold-out", seed, name)):
        after = [a + b for a, b in zip(taken, sizes[key], strict=True)]
        if all(2 * n <= total for n, total in zip(after, totals, strict=True)):
            taken, keys = after, [*keys, key]
    return keys


def _groups(
    prompts: Iterable[Prompt], read: Callable[[Prompt], str | None]
) -> dict[str, list[Prompt]]:
    found: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        found.setdefault(read(prompt) or "", []).append(prompt)
    return found


def _by_hash(prompts: PromptSet, seed: int) -> frozenset[str]:
    chosen: set[str] = set()
    for rows in (prompts.harmful, prompts.harmless):
        order = sorted(rows, key=lambda p: derive("hold-out", seed, normalise(p.prompt)))
        chosen.update(p.id for p in order[: round(_HASH_SHARE * len(order))])
    return frozenset(chosen)


def _partition(prompts: PromptSet, held_out: frozenset[str]) -> tuple[PromptSet, PromptSet]:
    fit = tuple(p for p in prompts.prompts if p.id not in held_out)
    test = tuple(p for p in prompts.prompts if p.id in held_out)
    return replace(prompts, prompts=fit), replace(prompts, prompts=test)


def _checked(fit: PromptSet, test: PromptSet, rule: str, dropped: int) -> Split:
    fit, test, more = deduplicate(fit, test)
    for role, rows in (("fit", fit), ("test", test)):
        for label, n in rows.counts.items():
            if n < MIN_PER_SIDE:
                raise InputError(
                    f"{rows.name}: {n} {label} prompts to {role} on, after {dropped + more} "
                    f"duplicates were dropped; at least {MIN_PER_SIDE} are needed, so give more"
                )
    count = dropped + more
    notes = (f"{count} duplicate prompts dropped",) if count else ()
    return Split(fit, test, rule, count, notes)
