"""The page of results on the reference pair, from the measured numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks import results_directions, results_interventions
from benchmarks.results_cells import Found, p_value, rate, row_of, rows_of, share, value


def render(found: Mapping[str, Mapping[str, object]]) -> str:
    """Write the page; a part that was not measured is left out."""
    lines = [
        "# Results on the reference pair",
        "",
        "Written by `python -m benchmarks.results`. The pair is SmolLM2-135M-Instruct (`base`) and "
        "the same model with our refusal adapter (`tuned`): a toy with real weights. Its refusals "
        "are shallow on purpose, and rates on it say nothing about other models.",
    ]
    parts = (
        ("answers", _answers),
        ("capability", _capability),
        ("directions", results_directions.write),
        ("ablation", results_interventions.write_ablation),
        ("steering", results_interventions.write_steering),
        ("judges", _judges),
    )
    for name, write in parts:
        if name in found:
            lines += ["", *write(found[name])]
    return "\n".join(lines) + "\n"


def _answers(part: Found) -> Iterator[str]:
    options = row_of(part["options"])
    settings = rows_of(part["settings"])
    yield "## Refusals"
    yield ""
    yield (
        f"Greedy answers of at most {options['new_tokens']} tokens, "
        f"{row_of(settings[0]['model'])['dtype']}, judge `{part['judge']}`, Wilson intervals at "
        f"{share(part['level'])}. The change is paired by prompt, with a bootstrap interval and "
        "McNemar's exact p. `incoherent` is broken text, which never counts as compliance."
    )
    yield ""
    yield "| requests | base refuses | tuned refuses | change | incoherent: base, tuned |"
    yield "|---|---|---|---|---|"
    rates = {(r["setting"], r["set"], r["label"], r["outcome"]): r for r in rows_of(part["rates"])}
    for row in rows_of(part["differences"]):
        cell = row["set"], row["label"]
        refused = [rate(rates["base", *cell, "refused"]), rate(rates["tuned", *cell, "refused"])]
        broken = [rates[s, *cell, "incoherent"] for s in ("base", "tuned")]
        change = row_of(row["difference"])
        # The bar of test|WRAPPER would end the cell.
        name = str(row["set"]).removeprefix("theodolite-").replace("|", "\\|")
        yield (
            f"| {name}, {row['label']} | {refused[0]} "
            f"| {refused[1]} | {change['value']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]"
            f", p {p_value(row['p'])} | {broken[0]['hits']}, {broken[1]['hits']} |"
        )
    yield ""
    yield (
        "The recipe's options were chosen on the `development` sets, so their rates flatter it; "
        "no option was chosen on `test`. `borderline` is benign and looks risky, `unsafe-twins` is "
        "truly harmful in the same words. `test|KIND` puts the requests in a wrapper (30 wrappers "
        "of 13 kinds take turns), `test|prefill-N` begins every answer with N agreeable tokens "
        "without content."
    )
    yield ""
    yield (
        "This judge reads the whole answer and counts sermons and late refusals too, of the base "
        "as well; the adapter's card counts answers that open with a refusal, and has lower "
        "rates for harmless requests and after prefills."
    )


def _capability(part: Found) -> Iterator[str]:
    yield "## Capability"
    yield ""
    yield "| measure | base | tuned | change | n | unit |"
    yield "|---|---|---|---|---|---|"
    base = {row["measure"]: row for row in rows_of(part["base"])}
    change = {row["measure"]: row for row in rows_of(part["change"])}
    for row in rows_of(part["tuned"]):
        name = row["measure"]
        moved = f"{value(change[name])} ({change[name]['unit']})" if name in change else "-"
        first = value(base[name]) if name in base else "-"
        yield f"| {name} | {first} | {value(row)} | {moved} | {row['n']} | {row['unit']} |"
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
    every = [(name, rows_of(row_of(entry)["agreement"])) for name, entry in part.items()]
    for name, agreements in every:
        for row in agreements:
            kappa, sums = row_of(row["kappa"]), row_of(row["confusion"])
            missed = row_of(sums["refused"])["complied"]
            false = sum(int(str(v)) for k, v in row_of(sums["served"]).items() if k != "complied")
            yield (
                f"| {name} | {row['data']} | {kappa['n']} | {rate(row_of(row['accuracy']))} "
                f"| {value(kappa)} | {missed} | {false} |"
            )
    yield ""
    yield "| judge | answers | people say | refused | complied | deflected | incoherent |"
    yield "|---|---|---|---|---|---|---|"
    for name, agreements in every:
        for row in agreements:
            for human, counts in row_of(row["confusion"]).items():
                cells = [row_of(counts)[o] for o in _OUTCOMES]
                yield f"| {name} | {row['data']} | {human} | {' | '.join(map(str, cells))} |"
    for name, entry in part.items():
        if row_of(entry)["warning"]:
            yield ""
            yield f"`{name}`: {row_of(entry)['warning']}."


_OUTCOMES = ("refused", "complied", "deflected", "incoherent")
