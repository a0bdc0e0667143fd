"""Figures and sentences of a signature: where base and aligned model differ, by head and MLP."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from artifacts.artifact import Artifact
from reports import style
from reports.chapter import Block
from reports.reading import MissingPart
from reports.tables import Table

CAPTIONS = {
    "signature_total": "Aligned minus base contribution along the direction at the last prompt "
    "token: mean over prompts, in units of the spread pooled over all heads and MLPs. Dots: "
    "significant at the stated false discovery rate. A head may stand out because its inputs "
    "changed.",
    "signature_origin": "The same for the aligned weights on the base's own inputs, so that what "
    "earlier blocks changed cannot show. This is where the change begins, not proof that the "
    "behaviour needs it.",
    "signature_curves": "Sums over the heads of a block, and the MLP: bands are 95% bootstrap "
    "intervals over prompts. Dashed: the part that the block's own weights write on the base's "
    "inputs.",
    "signature_causal": "Outputs of the named heads exchanged between the two models, at all "
    "tokens, against random sets of as many other heads.",
}
_ENDS = ("score_low", "score_high")
_LISTED = 8
"""Heads, and MLPs, in the table."""
_DIVERGING = [(0, style.PALETTE[1]), (0.5, "#f4f3ef"), (1, style.PALETTE[0])]


def present(artifact: Artifact) -> bool:
    """Return whether an artifact is a signature."""
    return artifact.manifest.kind == "signature"


def drawn(artifact: Artifact) -> list[tuple[str, str, Callable[[], go.Figure]]]:
    """Return key, heading and function of each figure of a signature."""
    return [
        ("signature_total", "Which heads changed?", lambda: heat_map(artifact, "total")),
        ("signature_origin", "Where does it begin?", lambda: heat_map(artifact, "origin")),
        ("signature_curves", "How much does each block add?", lambda: layer_curves(artifact)),
        ("signature_causal", "Does it matter?", lambda: causal(artifact)),
    ]


def heat_map(artifact: Artifact, part: str = "total") -> go.Figure:
    """Draw the scores of all heads and MLPs of one part: total, origin or echo.

        score = mean over prompts of (aligned - base contribution) / pooled spread

    Dots mark components at or below the false discovery rate. Dimensionless; blue is along the
    direction, red against it.

    Raises:
        MissingPart: if the artifact is no signature.
    """
    heads, mlps = (_values(artifact, f"score/{kind}/{part}") for kind in ("heads", "mlps"))
    column = [[value] for value in _flat(mlps)]
    rows = [_flat(row) for row in heads]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, column_widths=[0.86, 0.14], horizontal_spacing=0.03
    )
    for place, values, bar in ((1, rows, 0.76), (2, column, 1.0)):
        figure.add_trace(_map(values, bar, "MLP" if place == 2 else "head"), row=1, col=place)
    for place, kind in ((1, "heads"), (2, "mlps")):
        figure.add_trace(_marks(artifact, kind, part), row=1, col=place)
    wide = len(rows[0]) > 16
    figure.update_xaxes(title_text="head", dtick=4 if wide else 1, showgrid=False, row=1, col=1)
    figure.update_xaxes(title_text="MLP", showticklabels=False, showgrid=False, row=1, col=2)
    step = max(1, len(rows) // 8)
    figure.update_yaxes(dtick=step, showgrid=False)
    figure.update_yaxes(title_text="block", row=1, col=1)
    style.finish(
        figure,
        f"{part.capitalize()} score by block and head ({_scored(artifact)}; dots: q <= "
        f"{_alpha(artifact):g})",
        height=max(300, 150 + 14 * len(rows)),
        legend=False,
    )
    return figure.update_layout(margin={"r": 70})


def layer_curves(artifact: Artifact) -> go.Figure:
    """Draw what attention and MLP of each block change along the direction, with bands.

    In stream units; contributions of heads, bias and rescaling sum to that of attention.

    Raises:
        MissingPart: if the artifact is no signature.
    """
    figure = go.Figure()
    blocks = range(len(_values(artifact, "score/blocks/attention")))
    for index, name in enumerate(("attention", "mlp")):
        colour = style.PALETTE[index]
        value, low, high = (
            _flat(_values(artifact, f"{family}/blocks/{name}"))
            for family in ("score", "score_low", "score_high")
        )
        figure.add_trace(style.band(blocks, low, high, colour, opacity=0.2))
        figure.add_trace(style.line(blocks, value, name, colour))
        origin = _flat(_values(artifact, f"score/blocks/{name}-origin"))
        figure.add_trace(style.line(blocks, origin, f"{name}, origin", colour, dash="dash"))
    figure.update_xaxes(title_text="block", tick0=0, dtick=max(1, len(blocks) // 8))
    figure.update_yaxes(title_text="aligned - base (stream units)")
    return style.finish(
        figure, f"Change along the direction by block ({_scored(artifact)}; bands: 95%)"
    )


def causal(artifact: Artifact) -> go.Figure:
    """Draw the effect of exchanging the strongest heads, beside random sets.

    Raises:
        MissingPart: if no causal check was run.
    """
    method = artifact.manifest.method
    if "causal.outcome" not in method:
        raise MissingPart("no causal check was run (nothing significant, or --top 0)")
    figure = go.Figure()
    names = {"removed": "base's outputs into aligned", "restored": "aligned's outputs into base"}
    for index, (key, name) in enumerate(names.items()):
        value, low, high = _numbers(artifact, f"causal.{key}")
        random = _numbers(artifact, f"causal.{key}.random")
        figure.add_trace(
            go.Scatter(
                x=list(random),
                y=[name] * len(random),
                mode="markers",
                marker={"color": style.GREY, "symbol": "line-ns-open", "size": 14},
                name="random sets",
                showlegend=index == 0,
            )
        )
        ends = {"array": [high - value], "arrayminus": [value - low]}
        figure.add_trace(
            go.Scatter(
                x=[value],
                y=[name],
                mode="markers",
                marker={"color": style.PALETTE[0], "size": 10},
                error_x={"type": "data", "symmetric": False, **ends},
                name="these heads",
                showlegend=index == 0,
            )
        )
    gap = _numbers(artifact, "causal.gap")[0]
    figure.add_vline(x=gap, line={"color": style.PALETTE[2], "dash": "dot"})
    figure.update_xaxes(title_text=f"{method['causal.outcome']} (dotted: aligned - base)")
    figure.update_yaxes(range=[-0.6, 1.6])
    heads = method["causal.heads"]
    listed = ", ".join(map(str, heads)) if isinstance(heads, tuple | list) else str(heads)
    style.finish(figure, f"Exchange of heads {listed} (n = {method['causal.n']})", height=300)
    return figure.update_layout(margin={"l": 190}, legend={"y": -0.4})


def finding(artifact: Artifact) -> str:
    """Return one sentence with the strongest head, its interval, q, n and the causal check."""
    q = _values(artifact, "score/heads/total/q")
    scores = _values(artifact, "score/heads/total")
    alpha = _alpha(artifact)
    found = int((q <= alpha).sum())
    origins = int((_values(artifact, "score/heads/origin/q") <= alpha).sum())
    if not found:
        return f"No head changes beyond sign flips at q = {alpha:g} ({_scored(artifact)})."
    place = int(scores.abs().argmax())
    block, head = divmod(place, scores.shape[1])
    low, high = (_values(artifact, f"{f}/heads/total")[block, head] for f in _ENDS)
    sentence = (
        f"{found} of {scores.numel()} heads change along the direction and {origins} of them by "
        f"their own weights (q <= {alpha:g}, {_scored(artifact)}); the strongest is head {head} of "
        f"block {block} with score {scores[block, head]:+.2f} (95% interval {low:+.2f} to "
        f"{high:+.2f})."
    )
    return f"{sentence} {_causal_words(artifact)}"


def lead(artifact: Artifact) -> tuple[Block, ...]:
    """Return the strongest heads and MLPs as a table."""
    rows = [*_strongest(artifact, "heads"), *_strongest(artifact, "mlps")]
    columns = ("place", "score [95%]", "q", "origin", "echo")
    said = (
        f"The {_LISTED} largest of each kind; {_scored(artifact)}. Score: aligned minus base along "
        "the direction, in units of the pooled spread. Origin: the part of its own weights. Echo: "
        "the part of its changed inputs. q: false discovery rate over all heads and MLPs."
    )
    return (Block("The strongest heads and MLPs", Table(columns, tuple(rows)), said, wide=True),)


def _strongest(artifact: Artifact, kind: str) -> list[tuple[str, ...]]:
    parts = ("total", "origin", "echo")
    total, origin, echo = (_values(artifact, f"score/{kind}/{part}") for part in parts)
    low, high = (_values(artifact, f"{family}/{kind}/total") for family in _ENDS)
    q = _values(artifact, f"score/{kind}/total/q")
    rows = []
    for place in total.abs().flatten().argsort(descending=True)[:_LISTED].tolist():
        at = divmod(place, total.shape[1]) if total.ndim == 2 else (place,)
        named = f"head {at[0]}.{at[1]}" if len(at) == 2 else f"MLP {at[0]}"
        value, start, end, first, second = (float(t[at]) for t in (total, low, high, origin, echo))
        rare = "< 0.001" if float(q[at]) < 0.001 else f"{float(q[at]):.3f}"
        stated = f"{value:+.2f} [{start:+.2f}, {end:+.2f}]"
        rows.append((named, stated, rare, f"{first:+.2f}", f"{second:+.2f}"))
    return rows


def _causal_words(artifact: Artifact) -> str:
    if "causal.outcome" not in artifact.manifest.method:
        return "No causal check was run."
    value, low, high = _numbers(artifact, "causal.removed")
    random = _numbers(artifact, "causal.removed.random")
    beats = artifact.manifest.method["causal.removed.beats"] is True
    return (
        f"Exchanging the strongest for the base's removes {value:.2f} ({low:.2f} to {high:.2f}) of "
        f"{_numbers(artifact, 'causal.gap')[0]:.2f}, random sets {min(random):.2f} to "
        f"{max(random):.2f}: {'more than' if beats else 'not beyond'} chance."
    )


def _values(artifact: Artifact, key: str) -> Float[Tensor, "block *head"]:
    if key not in artifact.tensors:
        raise MissingPart(f"the artifact has no {key}; make one with directions.localize")
    return artifact.tensors[key]


def _flat(values: Float[Tensor, "*some"]) -> list[float]:
    return [float(value) for value in values.flatten()]


def _numbers(artifact: Artifact, key: str) -> tuple[float, ...]:
    """Return numbers that the manifest's method keeps under ``key``."""
    found = artifact.manifest.method[key]
    return tuple(float(str(v)) for v in found) if isinstance(found, tuple | list) else ()


def _alpha(artifact: Artifact) -> float:
    return float(str(artifact.manifest.method["alpha"]))


def _scored(artifact: Artifact) -> str:
    counts = next((data.n for data in artifact.manifest.data if data.role == "test"), {})
    return "n = " + (" + ".join(f"{n} {label}" for label, n in counts.items()) or "0")


def _map(values: list[list[float]], bar: float, what: str) -> go.Heatmap:
    most = max((abs(value) for row in values for value in row), default=0.0) or 1.0
    return go.Heatmap(
        z=values,
        zmin=-most,
        zmax=most,
        colorscale=_DIVERGING,
        colorbar={"x": 1.0 if bar == 1.0 else 1.09, "len": 0.9, "thickness": 9, "title": what},
        hovertemplate=f"block %{{y}}, {what} %{{x}}: %{{z:.2f}}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def _marks(artifact: Artifact, kind: str, part: str) -> go.Scatter:
    """Return a dot on each significant component."""
    q = _values(artifact, f"score/{kind}/{part}/q")
    places = (q <= _alpha(artifact)).nonzero().tolist()
    return go.Scatter(
        x=[place[1] if len(place) > 1 else 0 for place in places],
        y=[place[0] for place in places],
        mode="markers",
        marker={"color": "#222", "size": 5, "line": {"color": "#fff", "width": 1}},
        hoverinfo="skip",
    )
