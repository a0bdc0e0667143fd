"""Claim: figures draw the numbers of the artifact, exactly, and say so when a part is missing.

The artifact is planted: ``refusal`` separates at block 7 and not at the ends; ``refusal_base`` and
``template_shift`` are noise (tests/reports/planted.py).
"""

from __future__ import annotations

import math

import plotly.graph_objects as go
import pytest
import torch

from artifacts import Artifact, InputError
from reports import figures, reading
from reports.reading import MissingPart
from tests.reports import planted

ARTIFACT = planted.planted()


def trace(figure: go.Figure, name: str) -> go.Scatter:
    return next(found for found in figure.data if found.name == name)


def title(figure: go.Figure) -> str:
    return figure.layout.title.text


def test_separation_draws_value_interval_and_both_controls() -> None:
    figure = figures.separation(ARTIFACT, ["refusal"])
    stored = ARTIFACT.tensors["measure/refusal/auc"]
    assert list(trace(figure, "direction").x) == list(planted.BLOCKS)
    assert list(trace(figure, "direction").y) == stored[:, 0].tolist()
    shuffled = ARTIFACT.tensors["measure/refusal/auc_shuffled"]
    assert list(trace(figure, "shuffled labels").y) == shuffled[:, 0].tolist()
    assert list(trace(figure, "random directions").y) == pytest.approx([0.58] * 12)
    outlines = [list(found.y) for found in figure.data if found.fill == "toself"]
    for tensor in (stored, shuffled, ARTIFACT.tensors["measure/refusal/auc_random"]):
        assert tensor[:, 2].tolist() + tensor[:, 1].tolist()[::-1] in outlines
    assert "AUC" in title(figure)
    assert "95%" in title(figure)
    assert figure.layout.annotations[0].text == "refusal (n = 80)"


def test_separation_has_a_panel_for_each_direction_and_counts_those_it_leaves_out() -> None:
    figure = figures.separation(ARTIFACT)
    assert [panel.text.split()[0] for panel in figure.layout.annotations] == list(planted.NAMES)
    assert sum(found.name == "direction" for found in figure.data) == len(planted.NAMES)
    assert sum(bool(found.showlegend) for found in figure.data) == 4
    tensors = dict(ARTIFACT.tensors)
    directions = dict(ARTIFACT.manifest.directions)
    for index in range(9):
        name = f"copy{index}"
        directions[name] = directions["refusal"]
        for key in [key for key in tensors if "/refusal" in key and "base" not in key]:
            tensors[key.replace("refusal", name)] = tensors[key]
    many = Artifact(ARTIFACT.manifest.model_copy(update={"directions": directions}), tensors)
    figure = figures.separation(many)
    assert len(figure.layout.annotations) == figures.MOST_PANELS
    assert title(figure).endswith("8 of 14 directions")


def test_stability_draws_the_split_half_cosine() -> None:
    figure = figures.stability(ARTIFACT)
    for name in planted.NAMES:
        stored = ARTIFACT.tensors[f"measure/{name}/split_half_cosine"]
        assert list(trace(figure, name).y) == stored[:, 0].tolist()
    assert "n = 128 prompts" in title(figure)


def test_norms_are_relative_to_the_ambient_norm_of_the_same_site() -> None:
    figure = figures.norms(ARTIFACT)
    expected = ARTIFACT.direction("shift").norm(dim=-1) / ARTIFACT.tensors["ambient_norm"]
    assert list(trace(figure, "shift").y) == pytest.approx(expected.tolist(), rel=1e-6)


def moved(name: str, *, position: str, site: str = "hook_resid_post") -> Artifact:
    about = ARTIFACT.manifest.directions[name]
    about = about.model_copy(update={"position": position, "site": site})
    directions = {**ARTIFACT.manifest.directions, name: about}
    return Artifact(
        ARTIFACT.manifest.model_copy(update={"directions": directions}), ARTIFACT.tensors
    )


@pytest.mark.parametrize(
    ("key", "position", "site"),
    [
        ("ambient_norm/hook_resid_post.p-2", "template[-2]", "hook_resid_post"),
        ("ambient_norm/hook_resid_post.p-2", "p-2", "hook_resid_post"),
        ("ambient_norm/hook_mlp_out", "last", "hook_mlp_out"),
        ("ambient_norm/hook_mlp_out.p-1", "last", "hook_mlp_out"),
    ],
)
def test_norms_never_borrow_the_ambient_norm_of_another_place(
    key: str, position: str, site: str
) -> None:
    artifact = moved("shift", position=position, site=site)
    assert reading.relative_norm(artifact, "shift") is None  # only the other place has one
    assert reading.relative_norm(artifact, "refusal") is None  # and whose it is cannot be told
    sited = Artifact(artifact.manifest, {**artifact.tensors, key: torch.full((12,), 2.0)})
    expected = (ARTIFACT.direction("shift").norm(dim=-1) / 2).tolist()
    assert reading.relative_norm(sited, "shift") == pytest.approx(expected, rel=1e-6)
    plain = reading.relative_norm(ARTIFACT, "refusal")
    assert reading.relative_norm(sited, "refusal") == plain


def test_norms_of_a_direction_that_leaves_out_blocks_use_the_rows_of_its_own_blocks() -> None:
    about = ARTIFACT.manifest.directions["did"].model_copy(update={"blocks": (6, 9)})
    directions = {**ARTIFACT.manifest.directions, "did": about}
    tensors = {k: v[[6, 9]] if "/did" in k else v for k, v in ARTIFACT.tensors.items()}
    fewer = Artifact(ARTIFACT.manifest.model_copy(update={"directions": directions}), tensors)
    whole = reading.relative_norm(ARTIFACT, "did")
    assert whole is not None
    assert reading.relative_norm(fewer, "did") == (whole[6], whole[9])


def test_cosines_agree_with_torch_in_curves_and_map() -> None:
    curves = figures.cosine_curves(ARTIFACT, "refusal")
    left, right = ARTIFACT.direction("refusal"), ARTIFACT.direction("did")
    expected = torch.nn.functional.cosine_similarity(left, right, dim=-1)
    assert list(trace(curves, "did").y) == pytest.approx(expected.tolist(), abs=1e-6)
    assert expected[planted.BEST] > 0.5 > abs(expected[0])  # the plant is there, and only there
    assert f"|cos| < {1.96 / math.sqrt(planted.D):.3f}" in title(curves)

    (heat,) = figures.cosine_map(ARTIFACT, "refusal", planted.BEST).data
    names = list(heat.x)
    assert names[0] == "refusal"
    assert names == list(heat.y)
    z = torch.tensor(heat.z)
    assert torch.equal(z, z.T)
    assert z.diag().tolist() == [1.0] * 5
    assert z[0, names.index("did")].item() == pytest.approx(expected[planted.BEST].item(), abs=1e-6)


def test_cosines_use_only_blocks_that_both_directions_have() -> None:
    tensors = dict(ARTIFACT.tensors)
    about = ARTIFACT.manifest.directions["did"]
    directions = {
        **ARTIFACT.manifest.directions,
        "did": about.model_copy(update={"blocks": (6, 7)}),
    }
    for key in [key for key in tensors if "/did" in key]:
        tensors[key] = tensors[key][6:8]
    fewer = Artifact(ARTIFACT.manifest.model_copy(update={"directions": directions}), tensors)
    whole = reading.cosine(ARTIFACT, "refusal", "did")
    assert reading.cosine(fewer, "refusal", "did") == {6: whole[6], 7: whole[7]}
    names = list(figures.cosine_map(fewer, "refusal", 3).data[0].x)
    assert "did" not in names


def test_projection_draws_every_prompt_once() -> None:
    figure = figures.projection(ARTIFACT, "refusal", planted.BEST)
    for group in ("harmful", "harmless"):
        stored = ARTIFACT.tensors[f"projection/refusal/{group}"][planted.BEST].tolist()
        histogram = trace(figure, f"{group} (n = 40)")
        assert list(histogram.x) == stored
        (points,) = [f for f in figure.data if f.type == "scatter" and f.y[0] == group]
        assert list(points.x) == stored
        low, high = histogram.xbins.start, histogram.xbins.end
        assert low <= min(stored) <= max(stored) <= high
    assert "block 7 (n = 40 harmful, n = 40 harmless)" in title(figure)


@pytest.mark.parametrize(
    ("dropped", "draw", "message"),
    [
        ("measure/refusal/auc", lambda a: figures.separation(a), "no separation was measured"),
        ("measure/x/split_half_cosine", lambda a: figures.stability(a), "no split-half"),
        ("ambient_norm", lambda a: figures.norms(a), "no ambient_norm"),
        ("projection/", lambda a: figures.projection(a, "refusal", 7), "no projections"),
    ],
)
def test_missing_parts_are_named(dropped: str, draw: object, message: str) -> None:
    assert callable(draw)
    draw(ARTIFACT)  # twin: with the part there is a figure
    with pytest.raises(MissingPart, match=message):
        draw(planted.without(ARTIFACT, dropped))


def test_wrong_names_and_blocks_are_named() -> None:
    with pytest.raises(InputError, match="no direction 'refsal'"):
        figures.cosine_curves(ARTIFACT, "refsal")
    with pytest.raises(MissingPart, match="no row at block 99"):
        figures.projection(ARTIFACT, "refusal", 99)
    alone = Artifact(
        ARTIFACT.manifest.model_copy(
            update={"directions": {"did": ARTIFACT.manifest.directions["did"]}}
        ),
        ARTIFACT.tensors,
    )
    with pytest.raises(MissingPart, match="the only direction"):
        figures.cosine_curves(alone, "did")


def test_the_verdict_is_at_the_best_block_and_against_the_controls_there() -> None:
    found = reading.verdict(ARTIFACT, "refusal")
    assert found is not None
    assert found.block == int(ARTIFACT.tensors["measure/refusal/auc"][:, 0].argmax())
    assert found.beaten
    assert [control for control, _ in found.controls] == ["auc_shuffled", "auc_random"]
    noise = reading.verdict(planted.planted(signal=False), "refusal")  # twin: nothing planted
    assert noise is not None
    assert not noise.beaten
    for high, beaten in ((0.90, True), (0.999, False)):  # one control above is enough to fail
        band = planted.interval(torch.full((12,), high - 0.05), 0.05)
        raised = {**ARTIFACT.tensors, "measure/refusal/auc_random": band}
        found = reading.verdict(Artifact(ARTIFACT.manifest, raised), "refusal")
        assert found is not None
        assert found.beaten is beaten
    without = planted.without(ARTIFACT, "measure/x/auc_shuffled", "measure/x/auc_random")
    unchecked = reading.verdict(without, "refusal")
    assert unchecked is not None
    assert not unchecked.beaten  # no control, no claim


def test_ties_go_to_the_larger_distance_then_to_the_earlier_block() -> None:
    tied = dict(ARTIFACT.tensors)
    tied["measure/refusal/auc"] = planted.interval(torch.ones(12), 0.0)
    artifact = Artifact(ARTIFACT.manifest, tied)
    found = reading.verdict(artifact, "refusal")
    assert found is not None
    assert found.block == 0
    about = ARTIFACT.manifest.directions["refusal"]
    gap = about.measures["auc"].model_copy(update={"what": "distance"})
    about = about.model_copy(update={"measures": {**about.measures, "d_prime": gap}})
    directions = {**ARTIFACT.manifest.directions, "refusal": about}
    tied["measure/refusal/d_prime"] = planted.interval(torch.arange(12.0).fmod(5), 0.0)
    artifact = Artifact(ARTIFACT.manifest.model_copy(update={"directions": directions}), tied)
    found = reading.verdict(artifact, "refusal")
    assert found is not None
    assert found.block == 4


def test_block_axes_have_whole_blocks() -> None:
    for figure in (figures.separation(ARTIFACT), figures.norms(ARTIFACT)):
        assert isinstance(figure.layout.xaxis.dtick, int)
        assert figure.layout.xaxis.tick0 == 0


def test_drawing_changes_nothing() -> None:
    before = ARTIFACT.digest
    figures.separation(ARTIFACT)
    figures.cosine_map(ARTIFACT, "refusal", 3)
    figures.projection(ARTIFACT, "did", 3)
    assert ARTIFACT.digest == before
