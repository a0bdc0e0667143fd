"""The chapter of a steering policy: how strong it may be, and its check on held-out requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from artifacts.artifact import Artifact
from artifacts.manifest import Option
from reports import style
from reports.chapter import Block
from reports.reading import MissingPart
from reports.tables import NONE, Table

_TITLES = {
    "adasteer": "AdaSteer",
    "scans": "SCANS",
    "hard-gate": "A hard gate",
    "additive": "A fixed strength",
}
CAPTIONS = {
    "policy_range": "Each point is one strength (the length of what is added over the mean length "
    "of the states), on the requests that chose it, so its shares are optimistic; the table above "
    "is on others. Open points break a limit: the dashed lines, or benign prompts lost. Costs "
    "are measured on the unsteered model's own benign answers. Dotted: the strength that was "
    "taken, the weakest safe one that refuses about as much as any.",
    "policy_threshold": "Share of prompts above each threshold of the transition score. Dotted: "
    "the threshold that was taken.",
}
_RANGE, _CURVE = "adasteer/table/range", "adasteer/table/threshold"


def present(artifact: Artifact) -> bool:
    """Return whether an artifact is a steering policy."""
    return artifact.manifest.kind == "steering-policy"


def finding(artifact: Artifact) -> str:
    """Return one sentence with the held-out check, its intervals and n."""
    facts = artifact.manifest.method
    method = str(facts.get("method"))
    start = f"{_TITLES.get(method, method)} at strength {_number(facts, 'strength', '.3g')}"
    if "check.n_harmful" not in facts:
        return f"{start} was not checked on held-out requests, so it is no evidence yet."
    gate = ""
    if "gate_auc" in facts:
        place = f"block {facts['gate_block']}" if "gate_block" in facts else "the branch"
        gate = (
            f" Its gate at {place} tells the harmful prompts that it is for from harmless ones "
            f"with AUC {_span(facts, 'gate_auc', '.3f')} (n = {facts['gate_auc_n']})."
        )
    passed = facts.get("check.passed") is True
    verdict = "it passed its check" if passed else "it FAILED its check and was saved by force"
    return (
        f"{start} makes the first token refuse {_share(facts, 'harmful', 'after')} of held-out "
        f"harmful prompts instead of {_share(facts, 'harmful', 'before')}"
        f"{_change(facts, 'harmful')}, and {_share(facts, 'benign', 'after')} of benign ones "
        f"instead of {_share(facts, 'benign', 'before')}{_change(facts, 'benign')}; "
        f"{verdict}.{gate}"
    )


def lead(artifact: Artifact) -> tuple[Block, ...]:
    """Return the check and the terms of a policy as tables.

    Raises:
        ArtifactError: the policy lacks a part.
    """
    checked = "First tokens of requests that chose nothing, all their forms; each its own control."
    blocks = [Block("What is added, where, to whom", _terms(artifact), wide=True)]
    if "check.n_harmful" in artifact.manifest.method:
        blocks.insert(0, Block("Check before it was saved", _check(artifact), checked, wide=True))
    return tuple(blocks)


def drawn(artifact: Artifact) -> Sequence[tuple[str, str, Callable[[], go.Figure]]]:
    """Return key, heading and function of each figure of a policy."""
    figures: list[tuple[str, str, Callable[[], go.Figure]]] = [
        ("policy_range", "How strong may it be?", lambda: safe_range(artifact))
    ]
    if _CURVE in artifact.tensors:
        figures.append(("policy_threshold", "Which threshold?", lambda: threshold(artifact)))
    return figures


def safe_range(artifact: Artifact) -> go.Figure:
    """Draw refused shares, KL and perplexity by strength, with their limits.

    Shares of first tokens that refuse; KL in nats a token and the ratio of perplexities on benign
    answers.

    Raises:
        MissingPart: the policy holds no range.
    """
    if _RANGE not in artifact.tensors or artifact.tensors[_RANGE].shape[-1] != 6:
        raise MissingPart("the policy holds no safe range; fit it with python -m steering.fit")
    facts = artifact.manifest.method
    columns: list[list[float]] = artifact.tensors[_RANGE].T.tolist()
    strengths, *shares, kl, perplexity, safe = columns
    figure = make_subplots(
        rows=1,
        cols=3,
        column_widths=[0.44, 0.28, 0.28],
        horizontal_spacing=0.08,
        subplot_titles=["refused at the first token", "KL (nats a token)", "perplexity, ratio"],
    )
    looks = (("harmful", style.PALETTE[1]), ("benign", style.PALETTE[0]))
    for (name, colour), values in zip(looks, shares, strict=True):
        figure.add_trace(_curve(strengths, values, safe, colour, f"{name} prompts"), row=1, col=1)
    for column, (values, limit) in enumerate(
        ((kl, "option.max_kl"), (perplexity, "option.max_perplexity")), start=2
    ):
        figure.add_trace(_curve(strengths, values, safe, style.PALETTE[5]), row=1, col=column)
        if isinstance(facts.get(limit), int | float):
            figure.add_trace(_level(strengths, float(str(facts[limit]))), row=1, col=column)
    if isinstance(facts.get("strength"), int | float):
        figure.add_vline(x=facts["strength"], line={"color": style.GREY, "dash": "dot"})
    figure.update_xaxes(type="log", title_text="strength", tickvals=strengths, tickformat="~g")
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", col=1)
    n = _sizes(facts)
    return style.finish(figure, f"Safe range (n = {n} prompts that chose the strength)")


def threshold(artifact: Artifact) -> go.Figure:
    """Draw which share of harmful and of harmless prompts lies above each threshold.

    Raises:
        MissingPart: the policy has no such curve; only SCANS has one.
    """
    if _CURVE not in artifact.tensors or artifact.tensors[_CURVE].shape[-1] != 3:
        raise MissingPart("the policy has no threshold curve; only SCANS has one")
    columns: list[list[float]] = artifact.tensors[_CURVE].T.tolist()
    cuts, harmful, harmless = columns
    facts, figure = artifact.manifest.method, go.Figure()
    looks = (("harmful", style.PALETTE[1], harmful), ("harmless", style.PALETTE[0], harmless))
    for name, colour, values in looks:
        figure.add_trace(
            go.Scatter(
                x=cuts,
                y=values,
                mode="lines",
                name=f"{name} prompts",
                line={"color": colour, "width": 2},
                hovertemplate="threshold %{x:.3f}: %{y:.1%}<extra>" + name + "</extra>",
            )
        )
    if isinstance(facts.get("threshold"), int | float):
        figure.add_vline(x=facts["threshold"], line={"color": style.GREY, "dash": "dot"})
    figure.update_xaxes(title_text="transition score")
    figure.update_yaxes(title_text="share above", tickformat=".0%", range=[-0.03, 1.03])
    n = _sizes(facts)
    return style.finish(figure, f"Threshold of the branch (n = {n} prompts)", height=340)


def _sizes(facts: Mapping[str, Option]) -> str:
    harmful, benign = (_number(facts, f"range.n_{name}", "d") for name in ("harmful", "benign"))
    return f"{harmful} harmful, {benign} benign"


def _curve(
    x: Sequence[float], y: Sequence[float], safe: Sequence[float], colour: str, name: str = ""
) -> go.Scatter:
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers",
        name=name,
        showlegend=bool(name),
        line={"color": colour, "width": 1.6},
        marker={
            "size": 9,
            "color": colour,
            "symbol": ["circle" if ok else "circle-open" for ok in safe],
        },
        hovertemplate="strength %{x:.3g}: %{y:.4g}<extra>" + name + "</extra>",
    )


def _level(x: Sequence[float], y: float) -> go.Scatter:
    return go.Scatter(
        x=[min(x), max(x)],
        y=[y, y],
        mode="lines",
        line={"color": style.GREY, "dash": "dash", "width": 1.2},
        showlegend=False,
        hovertemplate="limit %{y:.3g}<extra></extra>",
    )


def _check(artifact: Artifact) -> Table:
    facts = artifact.manifest.method
    rows = [
        (
            f"{name} refused",
            _share(facts, name, "before"),
            _share(facts, name, "after"),
            _span(facts, f"check.{name}_change", "+.1%", value=_moved(facts, name)),
            f"{facts[f'check.n_{name}']} of {facts.get(f'check.n_requests_{name}', '?')} requests",
        )
        for name in ("harmful", "benign")
    ]
    answers = f"{facts.get('check.n_answers', '?')} answers"
    costs = [("KL, nats a token", "kl", ".4f"), ("perplexity, ratio", "perplexity_ratio", ".4f")]
    rows += [(w, NONE, NONE, _span(facts, f"check.{key}", f), answers) for w, key, f in costs]
    return Table(("", "unsteered", "steered", "change or cost [95%]", "n"), tuple(rows))


def _terms(artifact: Artifact) -> Table:
    from steering.store import from_artifact

    rows = []
    for term in from_artifact(artifact).terms:
        norms = term.vectors.norm(dim=-1)
        gate = "none: every prompt" if term.gate is None else f"block {term.gate.block}"
        law = NONE if term.gate is None else type(term.gate.law).__name__.lower()
        blocks = f"{min(term.blocks)} to {max(term.blocks)} ({len(term.blocks)})"
        places = f"{term.positions} positions, {term.steps}"
        size = f"{float(norms.min()):.3g} to {float(norms.max()):.3g}"
        rows.append((term.name, blocks, size, gate, law, places))
    columns = ("term", "steered blocks", "norm added", "gate", "law", "tokens")
    return Table(columns, tuple(rows))


def _share(facts: Mapping[str, Option], name: str, when: str) -> str:
    return _number(facts, f"check.{name}_refused_{when}", ".1%")


def _moved(facts: Mapping[str, Option], name: str) -> float:
    before, after = (facts[f"check.{name}_refused_{when}"] for when in ("before", "after"))
    return float(str(after)) - float(str(before))


def _change(facts: Mapping[str, Option], name: str) -> str:
    said = _span(facts, f"check.{name}_change", "+.1%", value=_moved(facts, name))
    return f" (change {said}, n = {facts[f'check.n_{name}']})"


def _span(facts: Mapping[str, Option], key: str, form: str, *, value: float | None = None) -> str:
    """Return ``value [low, high]``; a policy of an older version has no interval, and says so."""
    said = _number(facts, key, form) if value is None else format(value, form)
    if f"{key}_low" not in facts:
        return f"{said}, no interval kept"
    return f"{said} [{_number(facts, f'{key}_low', form)}, {_number(facts, f'{key}_high', form)}]"


def _number(facts: Mapping[str, Option], key: str, form: str) -> str:
    value = facts.get(key)
    whole = isinstance(value, int)
    return format(value, form) if whole or (isinstance(value, float) and form != "d") else NONE
