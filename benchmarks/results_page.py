"""The page of results on the reference pair, from the measured numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Found = Mapping[str, object]
Rows = Sequence[Mapping[str, object]]


def render(found: Mapping[str, Mapping[str, object]]) -> str:
    """Write the page; a part that was not measured is left out."""
    lines = [
        "# Results on the reference pair",
        "",
        "Written by `python -m benchmarks.results`. The pair is SmolLM2-135M-Instruct (`base`) and "
        "the same model with our refusal adapter (`tuned`): a toy with real weights. Its refusals "
        "are shallow on purpose, and rates on it say nothing about other models.",
    ]
    for name, write in (("answers", _answers), ("capability", _capability), ("judges", _judges)):
        if name in found:
            lines += ["", *write(found[name])]
    return "\n".join(lines) + "\n"


def _answers(part: Found) -> Iterator[str]:
    options = _dict(part["options"])
    settings = _rows(part["settings"])
    yield "## Refusals"
    yield ""
    yield (
        f"Greedy answers of at most {options['new_tokens']} tokens, "
        f"{_dict(settings[0]['model'])['dtype']}, judge `{part['judge']}`, Wilson intervals at "
        f"{_share(part['level'])}. The change is paired by prompt, with a bootstrap interval and "
        "McNemar's exact p. `incoherent` is broken text, which never counts as compliance."
    )
    yield ""
    yield "| requests | base refuses | tuned refuses | change | incoherent: base, tuned |"
    yield "|---|---|---|---|---|"
    rates = {(r["setting"], r["set"], r["label"], r["outcome"]): r for r in _rows(part["rates"])}
    for row in _rows(part["differences"]):
        cell = row["set"], row["label"]
        refused = [_rate(rates["base", *cell, "refused"]), _rate(rates["tuned", *cell, "refused"])]
        broken = [rates[s, *cell, "incoherent"] for s in ("base", "tuned")]
        change = _dict(row["difference"])
        yield (
            f"| {str(row['set']).removeprefix('theodolite-')}, {row['label']} | {refused[0]} "
            f"| {refused[1]} | {change['value']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]"
            f", p {_p(row['p'])} | {broken[0]['hits']}, {broken[1]['hits']} |"
        )
    yield ""
    yield (
        "`test` was never used to choose anything; the recipe's options were chosen on the "
        "`development` sets, so their rates flatter it. `borderline` is benign and looks risky, "
        "`unsafe-twins` is truly harmful in the same words. `test|KIND` puts the requests in a "
        "wrapper (30 wrappers of 13 kinds take turns), `test|prefill-N` begins every answer with "
        "N agreeable tokens without content."
    )


def _capability(part: Found) -> Iterator[str]:
    yield "## Capability"
    yield ""
    yield "| measure | base | tuned | change | n | unit |"
    yield "|---|---|---|---|---|---|"
    base = {row["measure"]: row for row in _rows(part["base"])}
    change = {row["measure"]: row for row in _rows(part["change"])}
    for row in _rows(part["tuned"]):
        name = row["measure"]
        moved = f"{_value(change[name])} ({change[name]['unit']})" if name in change else "-"
        first = _value(base[name]) if name in base else "-"
        yield f"| {name} | {first} | {_value(row)} | {moved} | {row['n']} | {row['unit']} |"
    yield ""
    yield "Intervals are bootstrap (perplexity, KL, changes) or Wilson (shares), at 95%."


def _judges(part: Found) -> Iterator[str]:
    yield "## Judges against people"
    yield ""
    yield (
        "Human labels of the package pyrit: was the request refused? Every outcome but complied "
        "counts as refused. `refusal_extra` was held out; `refusal` was looked at while the "
        "default judge (`combined`) was made. Measured by `python -m evaluation.validate`."
    )
    yield ""
    yield "| judge | answers | n | agreement [95%] | kappa [95%] | missed | false alarms |"
    yield "|---|---|---|---|---|---|---|"
    every = [(name, _rows(_dict(entry)["agreement"])) for name, entry in part.items()]
    for name, agreements in every:
        for row in agreements:
            kappa, sums = _dict(row["kappa"]), _dict(row["confusion"])
            missed = _dict(sums["refused"])["complied"]
            false = sum(int(str(v)) for k, v in _dict(sums["served"]).items() if k != "complied")
            yield (
                f"| {name} | {row['data']} | {kappa['n']} | {_rate(_dict(row['accuracy']))} "
                f"| {_value(kappa)} | {missed} | {false} |"
            )
    yield ""
    yield "| judge | answers | people say | refused | complied | deflected | incoherent |"
    yield "|---|---|---|---|---|---|---|"
    for name, agreements in every:
        for row in agreements:
            for human, counts in _dict(row["confusion"]).items():
                cells = [_dict(counts)[o] for o in _OUTCOMES]
                yield f"| {name} | {row['data']} | {human} | {' | '.join(map(str, cells))} |"
    for name, entry in part.items():
        if _dict(entry)["warning"]:
            yield ""
            yield f"`{name}`: {_dict(entry)['warning']}."


_OUTCOMES = ("refused", "complied", "deflected", "incoherent")


def _dict(value: object) -> Found:
    if not isinstance(value, Mapping):
        raise TypeError(f"results: a {type(value).__name__} where an object was expected")
    return value


def _rows(value: object) -> Rows:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"results: a {type(value).__name__} where a list was expected")
    return [_dict(row) for row in value]


def _share(value: object) -> str:
    return f"{float(str(value)):.0%}"


def _rate(row: Found) -> str:
    low, high = (float(str(row[k])) for k in ("low", "high"))
    hits, n = int(str(row["hits"])), int(str(row["n"]))
    return f"{hits}/{n} = {hits / n:.1%} [{low:.1%}, {high:.1%}]"


def _value(row: Found) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _p(value: object) -> str:
    p = float(str(value))
    return "< 0.001" if p < 1e-3 else f"{p:.3f}"
