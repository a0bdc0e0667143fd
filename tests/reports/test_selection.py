"""Claims: the figures of a selection show the stored scores, nothing where none was computed, and
the page says what was measured; other artifacts have no such figures.
"""

from __future__ import annotations

import plotly.graph_objects as go
import pytest
import torch

from artifacts import Artifact, MeasureInfo
from reports import report, selection
from reports.reading import MissingPart
from tests.artifacts import making
from tests.reports.planted import planted

STAGE = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
VALUES = {
    "drop": [6.0, 5.0, 7.0],
    "drop_random": [0.1, -0.5, 0.6],
    "rise": [3.0, 2.0, 4.0],
    "rise_random": [0.0, -0.3, 0.4],
}


def chosen() -> Artifact:
    measures = {
        name: MeasureInfo(n=19 if "random" in name else 24, what=name, level=0.95)
        for name in VALUES
    }
    info = making.info(
        blocks=(3,), contrast="refusal", measures=measures, claim="causally necessary"
    )
    tensors = {f"measure/selected/{k}": torch.tensor([v]) for k, v in VALUES.items()}
    tensors["direction/selected"] = torch.ones(1, 48)
    tensors["score/select/stage"] = STAGE
    for index, name in enumerate(("induce", "kl", "bypass")):
        tensors[f"score/select/{name}"] = torch.arange(6.0).reshape(3, 2) / 10 - index
    method = {
        "candidate_blocks": (2, 3, 4),
        "candidate_positions": (-1, -2),
        "block": 3,
        "position": -2,
        "max_kl": 0.1,
        "n_validation_harmful": 12,
        "n_validation_harmless": 11,
    }
    model = making.model("planted", n_layers=12, d_model=48)
    manifest = making.manifest(
        base=None,
        aligned=model,
        directions={"selected": info},
        contrast=("refusal",),
        method=method,
    )
    return Artifact(manifest, tensors)


def test_scores_that_were_not_computed_are_blank_and_the_choice_is_marked() -> None:
    figure = selection.scores(chosen())
    induce, _, kl, _, bypass, star = figure.data
    assert _rounded(induce) == [[0.0, 0.2, None], [0.1, 0.3, 0.5]]
    assert _rounded(kl)[0] == [None, -0.8, None]
    assert _rounded(bypass)[1] == [None, -1.7, None]
    assert (star.x, star.y) == ((3,), ("-2",))
    assert "n = 12 harmful, 11 harmless" in figure.layout.title.text


def _rounded(panel: go.Heatmap) -> list[list[float | None]]:
    return [[None if v is None else round(v, 3) for v in row] for row in panel.z]


def test_effects_stand_beside_the_range_of_their_controls() -> None:
    random, point, *_ = selection.effects(chosen()).data
    assert random.x == pytest.approx((-0.5, 0.6))
    assert point.x == (6.0,)
    assert point.error_x.array == (1.0,)


def test_the_page_says_what_was_measured() -> None:
    page = report(chosen())
    assert page.shown == ("selection_scores", "selection_effects")
    assert "lowers the refusal log-odds of harmful ones by 6.00" in page.finding
    assert "random directions: -0.50 to 0.60" in page.finding


def test_another_artifact_has_no_selection() -> None:
    assert not selection.present(planted())
    for draw in (selection.scores, selection.effects, selection.finding):
        with pytest.raises(MissingPart, match=r"directions\.select"):
            draw(planted())
