"""A decomposition in words and numbers, for the table and for ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from directions.decompose_result import ComponentRow, Decomposition

SPACE_COLUMNS = ("space", "block", "real", "rank at 50% 90%", "PR [95%]", "R2 of shift [95%]")
SPACE_LEGEND = (
    "block: best separated on fitted prompts among those with a real component. real: components "
    "above their null, tested in order.",
    "rank: components for that share of the energy (null in brackets). PR: participation ratio.",
    "R2: held out, of the shift about its mean (in brackets: maps of permuted pairs).",
)
COMPONENT_COLUMNS = ("", "singular value", "AUC [95%]", "removed", "added", "on C1")
COMPONENT_LEGEND = (
    "singular value: over all fitted prompts (null's upper end in brackets). AUC: held-out harmful "
    "against harmless prompts.",
    "removed, added: change of the refusal margin (nats) of harmful prompts moved to the harmless "
    "mean along the component, and of harmless ones moved to the harmful mean (in brackets: random "
    "directions of the same norm; * beats them). on C1: what the component does to C1 later.",
)


def title(result: Decomposition) -> str:
    """Return the title of the table of spaces."""
    manifest = result.artifact.manifest
    pair = " and ".join(model.spec for model in (manifest.base, manifest.aligned) if model)
    n = sum(next(iter(manifest.directions.values())).n.values())
    return f"What training added, {pair}: fitted on {n} prompts"


def space(result: Decomposition, name: str) -> tuple[str, ...]:
    """Return the row of one decomposition at its best block."""
    block = result.best_block(name)
    row = result.blocks(name).index(block)
    capped = result.at(f"rank_capped.{name}", row) is True
    ranks = [_rank(result, name, tau, row) for tau in _two(result)]
    spread = result.measure(name, "participation", block)
    ratio = float(str(result.at(f"participation.{name}", row)))
    share, null = (result.measure(name, what, block) for what in ("r2", "r2_permuted"))
    return (
        name,
        str(block),
        f"{result.ranks(name)[row]}{'+' if capped else ''}",
        "  ".join(ranks),
        f"{ratio:.1f}" if spread is None else f"{ratio:.1f} {spread[1]:.1f}-{spread[2]:.1f}",
        "-"
        if share is None
        else f"{share[0]:.2f} {share[1]:.2f}-{share[2]:.2f}"
        + ("" if null is None else f" ({null[2]:.2f})"),
    )


def component_title(result: Decomposition, name: str) -> str:
    """Return the title of the table of components."""
    dominant = result.dominant(name)
    words = {True: "C1 is dominant", False: "C1 is not dominant", None: "not intervened on"}
    return f"{name}, block {result.best_block(name)}: {words[dominant]}"


def components(result: Decomposition, name: str) -> list[tuple[str, ...]]:
    """Return the rows of the listed components at the best block."""
    return [
        (
            f"C{row.number}",
            f"{row.singular_value:.4g} ({row.null[2]:.4g})",
            "-" if row.auc is None else f"{row.auc[0]:.2f} {row.auc[1]:.2f}-{row.auc[2]:.2f}",
            _effect(row, "removed"),
            _effect(row, "added"),
            row.relation or "-",
        )
        for row in result.table(name)
    ]


def summary(result: Decomposition, out: str | Path) -> Mapping[str, object]:
    """Return what ``--json`` prints."""
    manifest = result.artifact.manifest
    return {
        "out": str(out),
        "digest": result.digest,
        "parents": list(manifest.parents),
        "n": {data.role: dict(data.n) for data in manifest.data},
        "seconds": round(result.seconds, 3),
        "sign_rule": result.sign_rule,
        "alpha": manifest.method["alpha"],
        "spaces": {name: _space_summary(result, name) for name in result.names},
        "notes": list(manifest.notes),
    }


def _space_summary(result: Decomposition, name: str) -> dict[str, object]:
    block = result.best_block(name)
    row = result.blocks(name).index(block)
    measures = result.artifact.manifest.directions[name].measures
    return {
        "best_block": block,
        "blocks": list(result.blocks(name)),
        "rank": list(result.ranks(name)),
        "p_any": result.fact(f"p_any.{name}"),
        "real": result.real(name),
        "dominant": result.dominant(name),
        "claim": result.artifact.manifest.directions[name].claim,
        "verdict": result.verdict(name),
        "effective_rank": {
            str(tau): {
                "value": result.at(f"k.{tau}.{name}", row),
                "null": [result.at(f"k.{tau}.null_{e}.{name}", row) for e in _BAND],
            }
            for tau in result.series("tau")
        },
        "participation_ratio": result.at(f"participation.{name}", row),
        "measures": {
            measure: {
                "value_low_high": list(result.measure(name, measure, block) or ()),
                "n": info.n,
                "what": info.what,
            }
            for measure, info in measures.items()
        },
        "components": [component.as_dict() for component in result.table(name)],
    }


_BAND = ("mean", "low", "high")


def _two(result: Decomposition) -> tuple[object, ...]:
    """Return the shares nearest to one half and to nine tenths."""
    shares = [float(str(tau)) for tau in result.series("tau")]
    return tuple(min(shares, key=lambda share: abs(share - wanted)) for wanted in (0.5, 0.9))


def _rank(result: Decomposition, name: str, tau: object, row: int) -> str:
    low, high = (
        float(str(result.at(f"k.{tau}.null_{end}.{name}", row))) for end in ("low", "high")
    )
    band = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f}-{high:.0f}"
    return f"{result.at(f'k.{tau}.{name}', row)} ({band})"


def _effect(row: ComponentRow, what: str) -> str:
    found = row.effects.get(what)
    if found is None:
        return "-"
    low, high = found.controls
    mark = " *" if found.beats else ""
    return f"{found.value:+.2f} ({low:+.2f} to {high:+.2f}){mark}"
