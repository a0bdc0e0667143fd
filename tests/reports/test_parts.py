"""Claims: components are drawn beside their controls, and chapters list what was measured."""

from __future__ import annotations

import pytest
import torch

from artifacts import Artifact
from reports import decomposition, localization, report, selection
from reports.reading import MissingPart
from tests.artifacts import making
from tests.reports.planted import planted
from tests.reports.test_selection import chosen

SCORES = torch.tensor([[0.1, -2.0], [0.5, 1.0]])


def components(*, acted: bool = True) -> Artifact:
    method: dict[str, object] = {"rank.affine": (2, 2)}
    if acted:
        method |= {
            "removed.affine.c1": (-4.0, -5.0, -3.0),
            "removed_control.affine.c1": (-0.5, 0.25),
            "removed_beats.affine.c1": True,
            "removed_n.affine.c1": 8,
            "removed.affine.c2": (0.1, -0.1, 0.3),
            "removed_control.affine.c2": (-0.2, 0.4),
            "removed_beats.affine.c2": False,
            "added.affine.c1": (3.0, 2.0, 4.0),
            "added_control.affine.c1": (-0.1, 0.1),
            "added_beats.affine.c1": True,
        }
    info = making.info(blocks=(0, 1), contrast="shift", measures={})
    manifest = making.manifest(directions={"affine": info}, contrast=("shift",), method=method)
    values = torch.tensor([[9.0, 3.0], [8.0, 2.0]])
    tensors = {"direction/affine": torch.ones(2, 6), "singular_values/affine": values}
    return Artifact(manifest, tensors)


def test_each_component_stands_beside_its_own_random_directions() -> None:
    figure = decomposition.effects(components())
    first, second, removed, random, added = figure.data
    assert (list(first.x), list(first.y)) == ([-0.5, 0.25], ["C1", "C1"])
    assert list(second.x) == [-0.2, 0.4]
    assert list(removed.x) == [-4.0, 0.1]
    assert removed.error_x.arrayminus == pytest.approx([1.0, 0.2])
    assert list(removed.marker.symbol) == ["circle", "circle-open"], "C2 is not beyond its controls"
    assert (list(random.x), list(added.x)) == ([-0.1, 0.1], [3.0])
    assert "n = 8" in figure.layout.title.text


def test_components_without_interventions_have_no_such_figure() -> None:
    assert "component_effects" in report(components()).shown
    bare = components(acted=False)
    assert "component_effects" not in report(bare).shown
    with pytest.raises(MissingPart, match="effect-prompts"):
        decomposition.effects(bare)


def test_a_single_direction_has_no_angles_to_draw_or_to_miss() -> None:
    page = report(components())
    assert not {"cosine_curves", "cosine_map"} & set(page.shown)
    assert not [text for text in page.missing if "angle" in text]
    assert {"cosine_curves", "cosine_map"} <= set(report(planted()).shown)


def signature() -> Artifact:
    tensors = {"direction/did": torch.ones(2, 6)}
    for kind, total in (("heads", SCORES), ("mlps", SCORES[:, 0])):
        for part, share in (("total", 1.0), ("origin", 0.25), ("echo", 0.75)):
            tensors[f"score/{kind}/{part}"] = share * total
            tensors[f"score/{kind}/{part}/q"] = torch.where(total.abs() > 0.4, 1e-5, 0.2)
        for family, shift in (("score_low", -0.5), ("score_high", 0.5)):
            tensors[f"{family}/{kind}/total"] = total + shift
    info = making.info(blocks=(0, 1), contrast="did", measures={}, claim="none")
    method = {"alpha": 0.05, "over": "both"}
    manifest = making.manifest(
        kind="signature", directions={"did": info}, contrast=("did",), method=method
    )
    return Artifact(manifest, tensors)


def test_a_signature_lists_its_strongest_places_first() -> None:
    (block,) = localization.lead(signature())
    assert block.table.rows[0] == ("head 0.1", "-2.00 [-2.50, -1.50]", "< 0.001", "-0.50", "-1.50")
    assert [row[0] for row in block.table.rows] == [
        "head 0.1",
        "head 1.1",
        "head 1.0",
        "head 0.0",
        "MLP 1",
        "MLP 0",
    ]
    assert block.table.rows[-1][2] == "0.200"


def test_a_selection_lists_every_measure_with_its_controls() -> None:
    (block,) = selection.lead(chosen())
    assert [row[0] for row in block.table.rows] == ["drop", "rise"]
    drop = block.table.rows[0]
    assert drop[:4] == ("drop", "6 [5, 7]", "-0.50 to 0.60 (19)", "24")
