"""What ablation and steering do to the reference pair, as numbers for the results page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from artifacts.errors import NotBeaten, TheodoliteError
from benchmarks.results_cells import Found, row_of, rows_of

POLICIES = {
    "adasteer": (),
    "adasteer-orthogonal": ("--hd", "orthogonal"),
    "scans": ("--method", "scans"),
}
"""Name of a policy's file, and the options of its fit."""


def ablation(folder: Path, *, limit: int) -> dict[str, object]:
    """Remove refusal and style, beside their controls; files that lie in ``folder`` are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    source = _made(folder / "directions.safetensors", "directions.extract", "--moments", "rows")
    sizes = ("--limit", limit)
    refusal = _made(folder / "ablated.json", "ablation.run", source, "--compare", *sizes)
    style = _made(folder / "style.json", "ablation.style", source, *sizes)
    return {
        "refusal": {k: _read(refusal)[k] for k in _ABLATION},
        "style": _without_answers({k: _read(style)[k] for k in _STYLE}),
    }


def steering(folder: Path, *, limit: int) -> dict[str, object]:
    """Fit every policy and put all on one frontier; files that lie in ``folder`` are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    fitted = {}
    for name, options in POLICIES.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            fitted[name] = _run("steering.fit", *options, "--out", path)
    kept = [folder / f"{name}.safetensors" for name in POLICIES]
    kept = [path for path in kept if path.exists()]
    frontier = _made(folder / "frontier.json", "steering.evaluate", *kept, "--limit", limit)
    return {"frontier": _read(frontier), "fits": fitted}


_ABLATION = ("about", "rows", "verdict", "claim", "notes", "seconds")
_STYLE = ("about", "rows", "styles", "capability", "verdict", "holds", "notes", "seconds")


def _made(path: Path, module: str, *arguments: object) -> Path:
    if not path.exists():
        _run(module, *arguments, "--out", path)
    return path


def _run(module: str, *arguments: object) -> dict[str, object]:
    """Run a command; that it lost to its control is a result as well."""
    command = [sys.executable, "-m", module, *map(str, arguments), "--json"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, NotBeaten.exit_code):
        raise TheodoliteError(f"{module} ended with exit code {done.returncode}")
    return {"exit_code": done.returncode, **(json.loads(done.stdout) if done.stdout else {})}


def _read(path: Path) -> Found:
    return row_of(json.loads(path.read_text(encoding="utf-8")))


def _without_answers(style: Mapping[str, object]) -> dict[str, object]:
    """Drop the score of every single answer; the means and intervals stay."""
    rows = [
        {**row, "style": {k: v for k, v in row_of(row["style"]).items() if k != "each"}}
        for row in rows_of(style["styles"])
    ]
    return {**style, "styles": rows}
