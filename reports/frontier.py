"""The chapter of an evaluation of policies: defence under pressure against benign use."""

from __future__ import annotations

from dataclasses import asdict

from evaluation.intervals import Interval
from reports.chapter import Block, Chapter, Drawing
from reports.shapes import FrontierFile, Gain, Point
from reports.steering import frontier
from reports.tables import NONE, Table

_CAPTION = (
    "Up and to the right is better. Every point is one policy on the same prompts, pooled over all "
    "forms; bars are 95% bootstrap intervals over requests. Points of one family are joined in the "
    "order of their strength. Shares that a judge gave on these prompts, not harm."
)


def chapter(found: FrontierFile, digest: str) -> Chapter:
    """Return what the page says of an evaluation of policies."""
    notes = [f"Forms that a fit has seen: {', '.join(found.forms_seen_in_fit)}."]
    behind = [gain for gain in found.advantages if not gain.ahead]
    if behind:
        notes.append(
            "Not shown to be ahead of fixed strengths at equal benign compliance: "
            f"{', '.join(gain.name for gain in behind)}."
        )
    return Chapter(
        title=f"Steering under pressure: {found.model}",
        finding=finding(found),
        created=found.created,
        source="the evaluation of policies with SHA-256",
        digest=digest,
        claims=(),
        lead=(
            Block("Policies", _policies(found), "Touched: prompts changed at all.", wide=True),
            Block("By set and form: harmful refused, benign answered", _groups(found), wide=True),
        ),
        drawings=(
            Drawing(
                "frontier", "What does defence cost?", _CAPTION, lambda: frontier(asdict(found))
            ),
        ),
        trail=(Block("Provenance", _provenance(found)),),
        notes=(*notes, *filter(None, [found.warning])),
    )


def finding(found: FrontierFile) -> str:
    """Return one sentence with the first adaptive policy, its intervals, n and its control."""
    shares = (
        f"n = {found.n_harmful} harmful and {found.n_benign} benign prompts of "
        f"{found.points[0].defence.n_clusters} and {found.points[0].compliance.n_clusters} requests"
    )
    if not found.advantages:
        return f"No adaptive policy was compared with fixed strengths ({shares})."
    # Baselines come first, the policies that were named on the command line behind them.
    gain = next((g for g in found.advantages if g.name != "hard gate"), found.advantages[0])
    start, point = found.points[0], next(p for p in found.points if p.name == gain.name)
    return (
        f"{gain.name} refuses {_interval(point.defence)} of harmful prompts and answers "
        f"{_interval(point.compliance)} of benign ones; unsteered, the model refuses "
        f"{_interval(start.defence)} and answers {_interval(start.compliance)} ({shares}). Against "
        f"fixed strengths at the same benign compliance that is {_gain(gain)} defence: "
        f"{'ahead of them' if gain.ahead else 'NOT ahead of them'}."
    )


def _policies(found: FrontierFile) -> Table:
    gains = {gain.name: _gain(gain) for gain in found.advantages}
    columns = (
        "policy",
        "harmful refused",
        "benign answered",
        "ahead of fixed by",
        "broken",
        "KL (nats)",
        "perplexity",
        "touched",
    )
    rows = [
        (
            point.name,
            _interval(point.defence),
            _interval(point.compliance),
            gains.get(point.name, NONE),
            f"{point.incoherent:.0%}",
            NONE if point.kl is None else f"{point.kl.value:.3f}",
            NONE if point.perplexity is None else f"x{point.perplexity.value:.3f}",
            f"{point.touched} of {found.n_harmful + found.n_benign}",
        )
        for point in found.points
    ]
    return Table(columns, tuple(rows))


def _groups(found: FrontierFile) -> Table:
    def cell(point: Point, group: str) -> str:
        rate = point.groups.get(group)
        return NONE if rate is None else f"{rate.hits}/{rate.n}"

    names = tuple(dict.fromkeys(group for point in found.points for group in point.groups))
    rows = tuple((group, *(cell(point, group) for point in found.points)) for group in names)
    return Table(("", *(point.name for point in found.points)), rows)


def _provenance(found: FrontierFile) -> Table:
    rows = [
        ("created", found.created),
        ("theodolite", found.tool.version),
        ("judge", found.judge),
        *(
            (
                "prompts",
                f"{one.name} ({', '.join(f'{n} {k}' for k, n in one.n.items())}), {one.digest}",
            )
            for one in found.sets
        ),
    ]
    return Table(("", ""), tuple(rows))


def _interval(share: Interval) -> str:
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _gain(gain: Gain) -> str:
    return f"{gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]"
