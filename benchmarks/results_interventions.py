"""The parts on ablation and steering of the results page."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.results_cells import Found, number, p_value, rate, row_of, rows_of, value


def write_ablation(part: Found) -> Iterator[str]:
    """Write what removing refusal, and removing style, does."""
    yield "## Ablation"
    yield ""
    yield from _refusal(row_of(part["refusal"]))
    if "style" in part:
        yield ""
        yield from _style(row_of(part["style"]))


def write_steering(part: Found) -> Iterator[str]:
    """Write the fits' own checks and the frontier."""
    found = row_of(part["frontier"])
    yield "## Steering"
    yield ""
    yield (
        f"`steering.evaluate`, judge `{found['judge']}`: {found['n_harmful']} harmful and "
        f"{found['n_benign']} benign prompts, each request in every form; intervals at 95% from "
        "a bootstrap over requests. Defence: harmful requests not answered. Compliance: benign "
        "requests answered. KL (nats) and perplexity on benign answers of the unsteered model."
    )
    yield ""
    yield "| policy | defence | benign compliance | broken | KL | perplexity | prompts steered |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows_of(found["points"]):
        shares = [_share(row_of(row[k])) for k in ("defence", "compliance")]
        cost = ["-", "-"]
        if row["kl"] is not None:
            cost = [f"{number(row_of(row['kl'])['value']):.3f}"]
            cost += [f"x{number(row_of(row['perplexity'])['value']):.3f}"]
        yield (
            f"| {row['name']} | {shares[0]} | {shares[1]} | {number(row['incoherent']):.0%} "
            f"| {cost[0]} | {cost[1]} | {row['touched']} |"
        )
    yield ""
    yield (
        "Defence beyond the upper envelope of the unsteered model and all fixed strengths, at the "
        "policy's own benign compliance (paired bootstrap):"
    )
    yield ""
    for gain in rows_of(found["advantages"]):
        ahead = "ahead" if gain["ahead"] else "not shown to be ahead"
        yield f"- {gain['name']}: {_signed(gain)}: {ahead}"
    yield ""
    names = [str(row["name"]) for row in rows_of(found["points"])]
    yield "| set and form | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    groups = [row_of(row["groups"]) for row in rows_of(found["points"])]
    for group in groups[0]:
        cells = [row_of(one[group]) for one in groups]
        counts = [f"{cell['hits']}/{cell['n']}" for cell in cells]
        yield f"| {str(group).replace('|', ', ')} | " + " | ".join(counts) + " |"
    yield ""
    yield "Of harmful requests those refused, of benign ones those answered."


def _refusal(part: Found) -> Iterator[str]:
    about, verdict = row_of(part["about"]), row_of(part["verdict"])
    n = row_of(about["n"])
    yield (
        f"{about['name']} read at block {about['block']}, removed in {about['where']} "
        f"(`{about['mode']}`); {n['harmful']} harmful and {n['harmless']} harmless requests, judge "
        f"`{about['judge']}`; shares with Wilson, means with bootstrap intervals at 95%. Margin: "
        "log-odds of the refusal tokens at the first answer token. `random`: each state moved as "
        "far, along random directions."
    )
    yield ""
    yield (
        "| setting | harmful refused | answered | harmless refused | broken | margin, harmful "
        "| margin, harmless | KL first, later | perplexity |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows_of(part["rows"]):
        yield _row(row)
    yield ""
    claim = "no claim" if part["claim"] == "none" else part["claim"]
    yield f"Claim: {claim}; {verdict['reason']}, rank p = {p_value(verdict['p_rank'])}."
    compared = [row for row in rows_of(part["rows"]) if row["role"] == "comparison"]
    if compared:
        yield ""
        yield "| other way | what | change of the harmful margin | under its own random controls |"
        yield "|---|---|---|---|"
    for row in compared:
        own = [number(x) for x in _list(row["control_margins"])]
        moved = _signed(row_of(row_of(row["change"])["margin_harmful"]), digits=2)
        yield f"| {row['name']} | {row['what']} | {moved} | {min(own):+.2f} to {max(own):+.2f} |"


def _row(row: Found) -> str:
    first, later = row["kl_first"], row["kl_continuation"]
    kl = "-"
    if first is not None and later is not None:
        kl = f"{number(row_of(first)['value']):.3f}, {number(row_of(later)['value']):.3f}"
    ratio = ""
    if row["change"] is not None:
        ratio = f" (x{number(row_of(row_of(row['change'])['perplexity'])['value']):.2f})"
    margins = [_signed(row_of(row[f"margin_{k}"]), digits=1) for k in ("harmful", "harmless")]
    broken = row_of(row["incoherent"])
    return (
        f"| {row['name']} | {rate(row_of(row['harmful']))} | {rate(row_of(row['answered']))} "
        f"| {rate(row_of(row['harmless']))} | {broken['hits']}/{broken['n']} | {margins[0]} "
        f"| {margins[1]} | {kl} | {number(row_of(row['perplexity'])['value']):.1f}{ratio} |"
    )


def _style(part: Found) -> Iterator[str]:
    about, verdict = row_of(part["about"]), row_of(part["verdict"])
    n = row_of(about["n"])
    yield (
        f"Style: aligned minus base, less what lies along {about['refusal']}, read at block "
        f"{about['block']}; {n['harmful']} harmful and {n['harmless']} harmless requests. The "
        "score is the mean share of four marks that a harmless answer has."
    )
    yield ""
    yield "| setting | openers | hedges | lists | disclaimers | score | words |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows_of(part["styles"]):
        style = row_of(row["style"])
        marks = [rate(row_of(style[mark])) for mark in ("opener", "hedge", "list", "disclaimer")]
        words = number(row_of(style["words"])["value"])
        yield (
            f"| {row['name']} | {' | '.join(marks)} | {value(row_of(style['score']))} "
            f"| {words:.0f} |"
        )
    yield ""
    yield (
        f"Aligned against base, score {_signed(row_of(verdict['signature']))}. "
        f"{'Holds' if part['holds'] else 'Fails'}: {verdict['reason']}."
    )


def _signed(row: Found, digits: int = 3) -> str:
    middle, low, high = (number(row[k]) for k in ("value", "low", "high"))
    return f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _share(row: Found) -> str:
    middle, low, high = (number(row[k]) for k in ("value", "low", "high"))
    return f"{middle:.1%} [{low:.1%}, {high:.1%}]"


def _list(found: object) -> list[object]:
    if not isinstance(found, list | tuple):
        raise TypeError(f"results: a {type(found).__name__} where a list was expected")
    return list(found)
