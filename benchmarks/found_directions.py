"""What the directions commands find on the reference pair, as numbers for the results page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from artifacts import Artifact, load
from artifacts.errors import NotBeaten, TheodoliteError

TOP = 8


def measure(folder: Path, *, effect_prompts: int) -> dict[str, object]:
    """Run every command with ``--json`` on its defaults; artifacts stay in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = {
        name: folder / f"{name}.safetensors"
        for name in ("directions", "components", "selected", "signature", "probes")
    }
    extracted = _run("directions.extract", "--moments", "rows", "--out", file["directions"])
    decomposed = _run(
        *("directions.decompose", file["directions"], "--out", file["components"]),
        *("--effect-prompts", effect_prompts),
    )
    selected = _run("directions.select", "--out", file["selected"])
    localised = _run("directions.localize", "--out", file["signature"])
    probes = _run("probes.fit", "--out", file["probes"])
    return {
        "seconds": {
            name: part["seconds"]
            for name, part in (
                ("extract", extracted),
                ("decompose", decomposed),
                ("select", selected),
                ("localize", localised),
                ("probes", probes),
            )
        },
        "decompose": {k: decomposed[k] for k in ("spaces", "alpha", "sign_rule", "n")},
        "select": selected,
        "localize": _signature(localised),
        "cosines": cosines({name: load(path) for name, path in file.items() if path.exists()}),
        "probes": _probes(load(file["probes"])),
    }


def _run(module: str, *arguments: object) -> dict[str, object]:
    """Run a command; that it lost to its control is a result as well."""
    command = [sys.executable, "-m", module, *map(str, arguments), "--json"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, NotBeaten.exit_code):
        raise TheodoliteError(f"{module} ended with exit code {done.returncode}")
    return {"exit_code": done.returncode, **json.loads(done.stdout)}


def _signature(found: Mapping[str, object]) -> dict[str, object]:
    kept = {k: found[k] for k in ("along", "over", "alpha", "n", "causal", "dtype")}
    for kind in ("heads", "mlps"):
        rows = found[kind]
        if not isinstance(rows, Sequence):
            raise TypeError(f"localize: {kind} is no list")
        kept[kind] = {
            "n": len(rows),
            "significant": sum(bool(row["significant"]) for row in rows),
            "origin": sum(bool(row["origin"]["significant"]) for row in rows),
            "top": list(rows[:TOP]),
        }
    return kept


def _probes(artifact: Artifact) -> dict[str, object]:
    method = artifact.manifest.method
    return {
        name: {"best_block": method.get(f"best_block.{name}"), "verdict": method[f"verdict.{name}"]}
        for name in artifact.names
        if f"verdict.{name}" in method
    }


def cosines(found: Mapping[str, Artifact]) -> list[dict[str, object]]:
    """Give the cosine between every two directions, at every block that both have."""
    named = {
        "C1 of shift": ("components", "affine_shift"),
        "refusal": ("directions", "refusal"),
        "did": ("directions", "did"),
        "shift": ("directions", "shift"),
        "probe": ("probes", "mass-mean"),
        "selected": ("selected", "selected"),
    }
    rows: dict[str, dict[int, torch.Tensor]] = {}
    for title, (file, name) in named.items():
        artifact = found.get(file)
        if artifact is None or name not in artifact.manifest.directions:
            continue
        blocks = artifact.manifest.directions[name].blocks
        rows[title] = dict(zip(blocks, artifact.direction(name).double(), strict=True))
    titles = list(rows)
    return [
        {
            "first": first,
            "second": second,
            "by_block": {
                str(block): float(
                    torch.cosine_similarity(rows[first][block], rows[second][block], dim=0)
                )
                for block in sorted(rows[first].keys() & rows[second].keys())
            },
        }
        for index, first in enumerate(titles)
        for second in titles[index + 1 :]
    ]
