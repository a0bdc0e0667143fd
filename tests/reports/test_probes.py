"""Claims: the figures draw the stored cross-source scores; what is not stored is said."""

from __future__ import annotations

import pytest

import reports
from artifacts import Artifact
from probes.estimators import maker
from probes.options import Options
from probes.package import Found, Origin, artifact
from probes.protocol import fit_probe
from probes.states import Place
from reports import probes as figures
from reports.reading import MissingPart
from tests.artifacts import making
from tests.probes.planted import task
from tests.reports import planted


@pytest.fixture(scope="module")
def made() -> Artifact:
    what = task(3, n=80, private=4.0)
    model = making.model(n_layers=2, d_model=what.states.shape[-1])
    tokenizer = making.manifest().tokenizer
    assert tokenizer is not None
    place = Place("hook_resid_post", "last", "", what.blocks, what.states)
    found = Found("lda", "lda", place, fit_probe("lda", maker("lda"), what))
    origin = Origin(model, tokenizer, (), "cpu", making.CREATED, ())
    return artifact([found], what.labels, origin, Options(probes=("lda",)))


def test_the_matrix_draws_the_stored_scores(made: Artifact) -> None:
    figure = figures.cross_source(made, "lda", 1)
    (heat,) = figure.data
    assert list(heat.x) == ["s0", "s1", "s2"]
    assert heat.z[0][1] == pytest.approx(float(made.tensors["score/lda/s0/s1"][1]))
    assert min(heat.z[i][i] for i in range(3)) > 0.9 > 0.75 > heat.z[0][1]
    assert "n = 240" in figure.layout.title.text


def test_the_reliability_draws_every_bin(made: Artifact) -> None:
    figure = figures.reliability(made, "lda")
    assert list(figure.data[1].y) == pytest.approx(made.tensors["score/lda/observed"].tolist())
    assert "ECE" in figure.layout.title.text


def test_what_is_not_there_is_said(made: Artifact) -> None:
    with pytest.raises(MissingPart, match="no cross-source matrix of svm"):
        figures.cross_source(made, "svm")
    with pytest.raises(MissingPart, match="no row at block 7"):
        figures.cross_source(made, "lda", 7)
    with pytest.raises(MissingPart, match="probes.fit"):
        figures.reliability(planted.planted(), "refusal")


def test_the_page_of_a_probe_set_shows_them(made: Artifact) -> None:
    page = reports.report(made)
    assert {"separation", "cross_source", "reliability"} <= set(page.shown)
    assert "within-source AUC is high and cross-source is chance" in page.html
