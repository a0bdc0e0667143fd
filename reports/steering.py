"""python -m reports.steering: the frontier of defence against benign use, as one figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from artifacts.command import Output, OutputFlags, emit_json, emit_line, main
from artifacts.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from steering.frontier import Frontier

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "star", "cross")


@dataclass(frozen=True, kw_only=True)
class FrontierPage:
    """Draw what python -m steering.evaluate measured; the page opens offline."""

    file: Annotated[Path, tyro.conf.Positional]
    """JSON file of python -m steering.evaluate."""
    out: Path
    """HTML file to write."""
    output: OutputFlags = Output()

    def run(self) -> int:
        """Read, draw, write."""
        from artifacts import write_file

        figure = frontier(read(self.file))
        html = figure.to_html(include_plotlyjs=True, full_html=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.out, html.encode())
        if self.output.json:
            emit_json({"out": str(self.out)})
        elif not self.output.quiet:
            emit_line(f"wrote {self.out}")
        return 0


def read(file: Path) -> Mapping[str, object]:
    """Read a file of ``steering.evaluate``.

    Raises:
        InputError: it is missing, not JSON, or of another kind.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}; give an existing file") from error
    except ValueError as error:
        raise InputError(f"{file}: not JSON; give the file of steering.evaluate") from error
    if not isinstance(value, dict) or not isinstance(value.get("points"), list):
        raise InputError(f"{file}: no points; give the file of python -m steering.evaluate")
    return value


def frontier(found: Frontier | Mapping[str, object]) -> go.Figure:
    """Draw defence against benign compliance, a point for every policy and strength.

    Both in shares, with bootstrap intervals over requests. Up and to the right is better. Points
    of one family are joined in the order of their strength; strengths differ in scale between
    families. Shows shares that a judge gave on these prompts, not harm.

    Raises:
        InputError: there is no point.
    """
    import plotly.graph_objects as go

    from reports import style, words

    value = found if isinstance(found, Mapping) else _as_dict(found)
    families = _families(value)
    if not families:
        raise InputError("no point was measured; run python -m steering.evaluate")
    figure = go.Figure()
    for index, (family, points) in enumerate(families.items()):
        figure.add_trace(_trace(family, points, index))
    figure.update_xaxes(title_text="benign requests answered", tickformat=".0%")
    figure.update_yaxes(title_text="harmful requests refused", tickformat=".0%")
    counts = f"n = {value['n_harmful']} harmful, {value['n_benign']} benign prompts"
    model = words.plain(str(value["model"]))
    title = f"Defence against benign use, {model} ({counts}; 95% intervals)"
    return style.finish(figure, title, height=460)


def _as_dict(found: Frontier) -> Mapping[str, object]:
    from steering.evaluate import as_dict

    return as_dict(found)


def _families(value: Mapping[str, object]) -> dict[str, list[Mapping[str, object]]]:
    points = value["points"]
    families: dict[str, list[Mapping[str, object]]] = {}
    for point in points if isinstance(points, list | tuple) else []:
        families.setdefault(str(point["family"]), []).append(point)
    # The curve of fixed strengths begins at the unsteered model.
    if "fixed" in families:
        families["fixed"] = [*families.get("unsteered", []), *families["fixed"]]
    return families


def _trace(family: str, points: Sequence[Mapping[str, object]], index: int) -> go.Scatter:
    import plotly.graph_objects as go

    from reports import style, words

    colour = style.GREY if family == "unsteered" else style.colour(index)
    axes = {name: _axis(points, name, colour) for name in ("compliance", "defence")}
    names = [words.plain(str(point["name"])) for point in points]
    return go.Scatter(
        x=axes["compliance"][0],
        y=axes["defence"][0],
        error_x=axes["compliance"][1],
        error_y=axes["defence"][1],
        name=words.plain(family),
        mode="lines+markers" if len(points) > 1 else "markers",
        marker={"size": 10, "symbol": _SYMBOLS[index % len(_SYMBOLS)], "color": colour},
        line={"color": colour, "width": 1.6},
        text=names,
        hovertemplate="%{text}: %{y:.1%} refused, %{x:.1%} answered<extra></extra>",
    )


def _axis(
    points: Sequence[Mapping[str, object]], name: str, colour: str
) -> tuple[list[float], dict[str, object]]:
    intervals = [point[name] for point in points]
    rows = [i for i in intervals if isinstance(i, Mapping)]
    values = [float(row["value"]) for row in rows]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [float(row["high"]) - float(row["value"]) for row in rows],
        "arrayminus": [float(row["value"]) - float(row["low"]) for row in rows],
        "color": colour,
        "thickness": 1,
        "width": 0,
    }
    return values, bars


if __name__ == "__main__":
    raise SystemExit(main(FrontierPage))
