"""The part on directions of the results page."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.results_cells import Found, number, p_value, row_of, rows_of, three

_TAUS = ("0.5", "0.8", "0.9")


def write(part: Found) -> Iterator[str]:
    """Give the lines; every number is one that a command printed."""
    yield "## Directions"
    yield ""
    yield (
        "Found by `directions.extract`, `decompose`, `select`, `localize` and `probes.fit` on "
        "their defaults; prompts to fit and to test on are of different categories. Block numbers "
        "are 0-based."
    )
    spaces = row_of(row_of(part["decompose"])["spaces"])
    for lines in (
        _ranks(spaces),
        _components(spaces),
        _cosines(part),
        _selected(row_of(part["select"])),
        _signature(row_of(part["localize"])),
        _probes(row_of(part["probes"])),
    ):
        yield ""
        yield from lines


def _ranks(spaces: Found) -> Iterator[str]:
    yield "### How many components are real"
    yield ""
    yield (
        "| shift | best block | real components there (by block) | p of any | "
        + " | ".join(f"rank at {tau} (null)" for tau in _TAUS)
        + " | participation ratio | held-out R2 of the shift (permuted) |"
    )
    yield "|---|---|---|---|" + "---|" * len(_TAUS) + "---|---|"
    for name, found in spaces.items():
        space = row_of(found)
        measures = row_of(space["measures"])
        blocks, ranks = (list(map(int, _list(space[k]))) for k in ("blocks", "rank"))
        best = int(number(space["best_block"]))
        cells = [_rank(row_of(row_of(space["effective_rank"])[tau])) for tau in _TAUS]
        yield (
            f"| {name} | {best} | {ranks[blocks.index(best)]} ({min(ranks)} to {max(ranks)}) "
            f"| {p_value(space['p_any'])} | {' | '.join(cells)} "
            f"| {_measure(measures, 'participation', 1)} "
            f"| {_measure(measures, 'r2', 2)} ({_upper(measures, 'r2_permuted')}) |"
        )


def _rank(row: Found) -> str:
    _, low, high = (number(x) for x in _list(row["null"]))
    return f"{row['value']} ({low:.0f} to {high:.0f})"


def _measure(measures: Found, name: str, digits: int) -> str:
    if name not in measures:
        return "-"
    return three(_list(row_of(measures[name])["value_low_high"]), digits)


def _upper(measures: Found, name: str) -> str:
    if name not in measures:
        return "-"
    return f"up to {number(_list(row_of(measures[name])['value_low_high'])[2]):.2f}"


def _components(spaces: Found) -> Iterator[str]:
    yield "### Which components act"
    yield ""
    yield (
        "Removed: change of the refusal margin (nats) of harmful prompts moved to the harmless "
        "mean along the component; added: of harmless ones moved to the harmful mean; in brackets "
        "the range of norm-matched random directions, `*` beyond them. `C1` is dominant only if it "
        "beats its controls."
    )
    yield ""
    columns = ("shift, block", "component", "singular value (null)", "AUC [95%]", "removed")
    yield "| " + " | ".join((*columns, "added", "on C1")) + " |"
    yield "|---|---|---|---|---|---|---|"
    for name, found in spaces.items():
        space = row_of(found)
        for row in rows_of(space["components"]):
            null = number(_list(row["null"])[2])
            auc = "-" if row["auc"] is None else three(_list(row["auc"]), 2)
            yield (
                f"| {name}, {space['best_block']} | C{row['number']} "
                f"| {number(row['singular_value']):.3g} ({null:.3g}) | {auc} "
                f"| {_effect(row, 'removed')} | {_effect(row, 'added')} "
                f"| {row['relation'] or '-'} |"
            )
    for name, found in spaces.items():
        space = row_of(found)
        yield ""
        said = {True: "is", False: "is not", None: "was not shown to be"}[_flag(space["dominant"])]
        yield f"- `{name}`: C1 {said} dominant. {space['verdict']}"


def _effect(row: Found, what: str) -> str:
    found = row_of(row["effects"]).get(what)
    if found is None:
        return "-"
    effect = row_of(found)
    low, high = (number(x) for x in _list(effect["controls"]))
    mark = " *" if effect["beats"] else ""
    return f"{number(effect['value']):+.2f} ({low:+.2f} to {high:+.2f}){mark}"


def _cosines(part: Found) -> Iterator[str]:
    yield "### Do they agree"
    yield ""
    rows = rows_of(part["cosines"])
    shown = (5, 10, 15, 20, 25, 29)
    yield "| cosine | " + " | ".join(f"block {b}" for b in shown) + " | largest (block) |"
    yield "|---|" + "---|" * (len(shown) + 1)
    for row in rows:
        values = {int(k): number(v) for k, v in row_of(row["by_block"]).items()}
        if not values:
            continue
        cells = [f"{values[b]:+.2f}" if b in values else "-" for b in shown]
        peak = max(values, key=lambda b: abs(values[b]))
        yield (
            f"| {row['first']}, {row['second']} | {' | '.join(cells)} "
            f"| {values[peak]:+.2f} ({peak}) |"
        )


def _selected(found: Found) -> Iterator[str]:
    yield "### The refusal direction chosen by what it does"
    yield ""
    chosen = found.get("selected")
    if not isinstance(chosen, dict):
        yield f"No candidate passed the filters; of {found['candidates']} fell: {found['counts']}."
        return
    yield (
        f"Of {found['candidates']} candidates, block {chosen['block']}, position "
        f"{chosen['position']}; claim: {found['claim']}. Counts by filter: {found['counts']}."
    )
    yield ""
    yield "| measure on test prompts | value [95%] | n |"
    yield "|---|---|---|"
    for name, row in row_of(found["measures"]).items():
        measure = row_of(row)
        cell = three([measure[k] for k in ("value", "low", "high")], 2)
        yield f"| {name} | {cell} | {measure['n']} |"


def _signature(found: Found) -> Iterator[str]:
    yield "### Where the signature sits"
    yield ""
    yield (
        f"Contribution of aligned minus base along `{found['along']}`, in units of the pooled "
        f"spread; origin: the aligned weights on the base's inputs. False discovery rate "
        f"{found['alpha']}."
    )
    yield ""
    yield "| place | score [95%] | q | origin | echo |"
    yield "|---|---|---|---|---|"
    for kind, title in (("heads", "head"), ("mlps", "MLP")):
        part = row_of(found[kind])
        for row in rows_of(part["top"]):
            place = f"{title} {row['block']}"
            place += "" if row["head"] is None else f".{row['head']}"
            origin, echo = row_of(row["origin"]), row_of(row["echo"])
            yield (
                f"| {place} | {three([row['score'], row['low'], row['high']], 2)} "
                f"| {p_value(row['q'])} | {number(origin['score']):+.2f} "
                f"| {number(echo['score']):+.2f} |"
            )
    yield ""
    for kind in ("heads", "mlps"):
        part = row_of(found[kind])
        yield (
            f"- {part['significant']} of {part['n']} {kind} are significant, {part['origin']} as "
            "origin."
        )
    if found["causal"] is not None:
        yield from _exchange(row_of(found["causal"]))


def _exchange(found: Found) -> Iterator[str]:
    heads = ", ".join(".".join(map(str, _list(head))) for head in _list(found["heads"]))
    for name, what in (("removed", "base's outputs into aligned"), ("restored", "the reverse")):
        patch = row_of(found[name])
        effect = row_of(patch["effect"])
        random = [number(x) for x in _list(patch["random"])]
        yield (
            f"- Heads {heads}, {what}: {found['outcome']} changes by "
            f"{three([effect[k] for k in ('value', 'low', 'high')], 2)} (n = {found['n']}); random "
            f"sets {min(random):+.2f} to {max(random):+.2f}; "
            f"{'beyond' if patch['beats'] else 'not beyond'} them."
        )


def _probes(found: Found) -> Iterator[str]:
    yield "### Probes across sources"
    yield ""
    for name, row in found.items():
        probe = row_of(row)
        yield f"- `{name}`, block {probe['best_block']}: {probe['verdict']}"


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _list(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"results: a {type(value).__name__} where a list was expected")
    return list(value)
