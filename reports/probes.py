"""What a page shows of a probe set: the cross-source matrix, and what probabilities are worth."""

from __future__ import annotations

import plotly.graph_objects as go

from artifacts.artifact import Artifact
from reports import style
from reports.reading import MissingPart

CAPTIONS = {
    "cross_source": "Each cell is one probe on one source: fitted on the row, tested on the "
    "column. The diagonal is tested on other prompts of its own source. A bright diagonal in a "
    "pale field is a probe that reads where a prompt came from, not what it asks.",
    "reliability": "Prompts in bins of equal size by predicted probability, each predicted by a "
    "probe that saw nothing of the prompt's source. On the dashed line probabilities mean what "
    "they say. They hold for requests like these and their share of harmful ones.",
}


def present(artifact: Artifact) -> bool:
    """Return whether the artifact holds probes."""
    return artifact.manifest.kind == "probe-set" and "source_keys" in artifact.manifest.method


def finding(artifact: Artifact) -> str:
    """Return one sentence with the main number of the best probe, and the warnings."""
    method = artifact.manifest.method
    name = max(artifact.names, key=lambda each: _first(method[f"auc.{each}"]))
    auc, shuffled, length = (
        _triple(method[f"{key}.{name}"]) for key in ("auc", "auc_shuffled", "auc_length")
    )
    sentence = (
        f"{name} reads harmful requests of sources that neither it nor its block saw with AUC "
        f"{auc[0]:.3f} (95% interval {auc[1]:.3f} to {auc[2]:.3f}, "
        f"n = {method[f'n_test.{name}']}); shuffled labels reach {shuffled[2]:.3f}, length alone "
        f"{length[0]:.3f}. Over the controls: {method[f'verdict.{name}']}."
    )
    warnings = [method[f"warning.{each}"] for each in artifact.names]
    said = [text for text in warnings if isinstance(text, str)]
    return sentence if not said else f"{sentence} WARNING: {said[0]}."


def cross_source(artifact: Artifact, name: str, block: int | None = None) -> go.Figure:
    """Draw the AUC by fitted and tested source at one block, by default the probe's best.

    Dimensionless, 0.5 is chance. Shows whether what is read in one source can be read in another,
    not that the model uses it.

    Raises:
        MissingPart: the artifact holds no cross-source scores of this probe, or not at this block.
    """
    if not present(artifact) or name not in artifact.manifest.directions:
        raise MissingPart(f"no cross-source matrix of {name}; python -m probes.fit makes one")
    method, blocks = artifact.manifest.method, artifact.manifest.directions[name].blocks
    at = int(str(method[f"best_block.{name}"])) if block is None else block
    if at not in blocks:
        raise MissingPart(f"{name} has no row at block {at}")
    row, keys, names = blocks.index(at), _texts(method["source_keys"]), _texts(method["sources"])
    cells = {
        family: [
            [float(artifact.tensors[f"{family}/{name}/{s}/{t}"][row]) for t in keys] for s in keys
        ]
        for family in ("score", "score_low", "score_high")
    }
    words = [
        [f"{v:.2f}<br>[{low:.2f}, {high:.2f}]" for v, low, high in zip(*columns, strict=True)]
        for columns in zip(*cells.values(), strict=True)
    ]
    heat = go.Heatmap(
        z=cells["score"],
        x=names,
        y=names,
        zmin=0,
        zmax=1,
        colorscale=[(0, style.PALETTE[1]), (0.5, "#f4f3ef"), (1, style.PALETTE[0])],
        text=words,
        texttemplate="%{text}",
        textfont={"color": "#222"},
        hovertemplate="fitted on %{y}, tested on %{x}: %{z:.3f}<extra></extra>",
        colorbar={"title": "AUC", "thickness": 12, "outlinewidth": 0},
        xgap=2,
        ygap=2,
    )
    figure = go.Figure(heat)
    n = sum(artifact.manifest.directions[name].n.values())
    title = f"{name} at block {at}: AUC by source [95%] (n = {n} prompts)"
    style.finish(figure, title, height=240 + 60 * len(names), legend=False)
    figure.update_yaxes(autorange="reversed", title_text="fitted on", showgrid=False)
    figure.update_layout(margin={"l": 150})
    return figure.update_xaxes(title_text="tested on", showgrid=False)


def reliability(artifact: Artifact, name: str) -> go.Figure:
    """Draw the observed share of harmful prompts against the predicted probability, by bin.

    Raises:
        MissingPart: the artifact holds no calibration of this probe.
    """
    key = f"{name}/observed"
    if not present(artifact) or f"score/{key}" not in artifact.tensors:
        raise MissingPart(f"no calibration of {name}; python -m probes.fit makes one")
    x: list[float] = artifact.tensors[f"score/{name}/predicted"].tolist()
    y: list[float] = artifact.tensors[f"score/{key}"].tolist()
    low: list[float] = artifact.tensors[f"score_low/{key}"].tolist()
    high: list[float] = artifact.tensors[f"score_high/{key}"].tolist()
    figure = go.Figure()
    ideal = go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated")
    figure.add_trace(ideal.update(line={"color": style.GREY, "dash": "dash", "width": 1.2}))
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="markers",
            name=name,
            marker={"color": style.PALETTE[0], "size": 8},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [top - value for top, value in zip(high, y, strict=True)],
                "arrayminus": [value - bottom for value, bottom in zip(y, low, strict=True)],
            },
            hovertemplate="predicted %{x:.2f}, observed %{y:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="predicted p(harmful)", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="observed share", range=[-0.02, 1.02])
    method = artifact.manifest.method
    ece, brier, n = method[f"ece.{name}"], method[f"brier.{name}"], method[f"n_test.{name}"]
    return style.finish(
        figure,
        f"Reliability of {name} out of source (n = {n}; bars: 95% Wilson; "
        f"ECE {_first(ece):.3f}, Brier {_first(brier):.3f})",
    )


def _texts(value: object) -> list[str]:
    return [str(part) for part in value] if isinstance(value, tuple | list) else [str(value)]


def _triple(value: object) -> tuple[float, float, float]:
    first, low, high = (float(text) for text in _texts(value))
    return first, low, high


def _first(value: object) -> float:
    return float(str(value[0])) if isinstance(value, tuple | list) else float(str(value))
