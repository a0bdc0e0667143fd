"""The chapter of judged answers: what each setting refuses, paired, with what it can still do."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from reports import style, words
from reports.chapter import Block, Chapter, Drawing
from reports.shapes import Answered, Answers, Moved
from reports.tables import NONE, Table, side_by_side

_CAPTION = (
    "Share of answers judged as refusals, with Wilson intervals. The same prompts under every "
    "setting. Prompts that only look risky are harmless: refusing them is over-refusal. Broken "
    "text is neither refused nor complied; see the table."
)
_ALONE = (
    "No capability was measured in this run, and a broken model refuses, too; "
    "python -m evaluation.run --capability measures it."
)
_OUTCOMES = ("refused", "complied", "deflected", "incoherent")
_SYMBOLS = ("circle-open", "circle", "diamond", "square")


def chapter(found: Answers, digest: str) -> Chapter:
    """Return what the page says of judged answers."""
    settings = [setting.name for setting in found.settings]
    lead = [Block("What is answered", _outcomes(found), wide=True)]
    if found.differences:
        said = "Prompt by prompt; p by McNemar's exact test, not corrected for the number of rows."
        lead.append(Block("Change of refusals", _changes(found), said))
    if found.capability:
        lead.append(Block("Capability", _capability(found)))
    edits = [f"{one.name}: {len(one.edits)} edits." for one in found.settings if one.edits]
    return Chapter(
        title=f"Answers: {words.listed(settings)}",
        finding=finding(found),
        created=found.created,
        source="the judged answers with SHA-256",
        digest=digest,
        claims=(),
        lead=tuple(lead),
        drawings=(Drawing("refused", "What is refused?", _CAPTION, lambda: refused(found)),),
        trail=(
            Block("Provenance", _provenance(found)),
            Block("Models", side_by_side({one.name: one.model for one in found.settings})),
            Block(
                "Options of the run",
                Table(("option", "value"), tuple((k, str(v)) for k, v in found.options.items())),
            ),
        ),
        notes=tuple(
            [*filter(None, [found.warning]), *edits, *([] if found.capability else [_ALONE])]
        ),
    )


def finding(found: Answers) -> str:
    """Return one sentence with the first set's refusals, their intervals, n and the change."""
    first, last = found.settings[0].name, found.settings[-1].name
    prompts = found.rates[0].set
    parts = []
    for label in ("harmful", "harmless"):
        rates = {r.setting: r for r in _refusals(found) if (r.set, r.label) == (prompts, label)}
        if last not in rates:
            continue
        said = f"{last} refuses {rates[last]} of {label} requests"
        moved = _change(found, prompts, label, last)
        if first != last and first in rates and moved is not None:
            said += f", {first} {rates[first]} (paired change {_signed(moved)})"
        parts.append(said)
    return f"On {_short(prompts)}: {'; '.join(parts)}."


def refused(found: Answers) -> go.Figure:
    """Draw the share of refusals by set, class and setting, with Wilson intervals."""
    figure = go.Figure()
    places = list(dict.fromkeys((rate.set, rate.label) for rate in found.rates))
    names = [words.plain(f"{_short(prompts)}, {label}") for prompts, label in places]
    for index, setting in enumerate(found.settings):
        rates = {(r.set, r.label): r for r in _refusals(found) if r.setting == setting.name}
        # Settings lie beside one another, so that their intervals do not cover each other.
        aside = 0.3 * (index - (len(found.settings) - 1) / 2) / max(1, len(found.settings) - 1)
        shown = [(row + aside, rates[at]) for row, at in enumerate(places) if at in rates]
        figure.add_trace(_points(shown, setting.name, index))
    figure.update_xaxes(range=[-0.03, 1.03], tickformat=".0%", title_text="refused")
    figure.update_yaxes(
        tickvals=list(range(len(places))), ticktext=names, range=[len(places) - 0.5, -0.5]
    )
    counts = sorted({rate.n for rate in found.rates})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    title = f"Refused, by set and class (n = {n} each; judge {words.plain(found.judge)})"
    style.finish(figure, title, height=190 + 46 * len(places))
    return figure.update_layout(margin={"l": 190}, legend={"y": -0.55 / (1 + 0.3 * len(places))})


def _points(shown: Sequence[tuple[float, Answered]], name: str, index: int) -> go.Scatter:
    rates = [rate for _, rate in shown]
    return go.Scatter(
        x=[rate.value for rate in rates],
        y=[place for place, _ in shown],
        mode="markers",
        name=words.plain(name),
        marker={
            "color": style.PALETTE[(5, 1, 0, 2)[index % 4]],
            "size": 10,
            "symbol": _SYMBOLS[index % len(_SYMBOLS)],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [rate.high - rate.value for rate in rates],
            "arrayminus": [rate.value - rate.low for rate in rates],
            "thickness": 1.2,
            "width": 3,
            "color": style.GREY,
        },
        text=[f"{rate.hits} of {rate.n}" for rate in rates],
        hovertemplate="%{text}, %{x:.1%}<extra></extra>",
    )


def _refusals(found: Answers) -> list[Answered]:
    return [rate for rate in found.rates if rate.outcome == "refused"]


def _change(found: Answers, prompts: str, label: str, end: str) -> Moved | None:
    wanted = (prompts, label, end)
    return next((m for m in found.differences if (m.set, m.label, m.end) == wanted), None)


def _signed(moved: Moved) -> str:
    d = moved.difference
    return f"{d.value:+.0%} [{d.low:+.0%}, {d.high:+.0%}]"


def _outcomes(found: Answers) -> Table:
    cells = {(r.set, r.label, r.setting, r.outcome): r for r in found.rates}
    rows = []
    places = dict.fromkeys(key[:2] for key in cells)
    for prompts, label, setting in (
        (*place, one.name) for place in places for one in found.settings
    ):
        own = [cells.get((prompts, label, setting, outcome)) for outcome in _OUTCOMES]
        first, *rest = own
        others = (NONE if rate is None else f"{rate.hits}" for rate in rest)
        n = str(next(rate.n for rate in own if rate is not None)) if any(own) else NONE
        stated = NONE if first is None else str(first)
        rows.append((f"{_short(prompts)}, {label}", setting, stated, *others, n))
    columns = ("prompts", "setting", "refused [95%]", *_OUTCOMES[1:], "n")
    return Table(columns, tuple(rows))


def _changes(found: Answers) -> Table:
    rows = [
        (
            f"{_short(moved.set)}, {moved.label}",
            f"{moved.start} to {moved.end}",
            _signed(moved),
            f"{moved.p:.2g}",
            str(moved.difference.n),
        )
        for moved in found.differences
    ]
    return Table(("prompts", "settings", "change [95%]", "p", "n"), tuple(rows))


def _capability(found: Answers) -> Table:
    rows = [
        (
            one.setting,
            row.measure,
            f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]",
            str(row.n),
            row.unit,
        )
        for one in found.capability
        for row in one.measures
    ]
    return Table(("setting", "measure", "value [95%]", "n", "unit"), tuple(rows))


def _provenance(found: Answers) -> Table:
    rows = [("created", found.created), ("theodolite", found.tool.version), ("judge", found.judge)]
    for one in found.sets:
        counts = ", ".join(f"{n} {label}" for label, n in one.n.items() if n)
        rows.append(("prompts", f"{one.name} ({counts}), {one.digest}"))
    return Table(("", ""), tuple(rows))


def _short(name: str) -> str:
    return name.removeprefix("theodolite-")
