"""Claims: the figures of a signature draw the stored scores, mark what is significant and nothing
else, and the sentence names the strongest head with its numbers.
"""

from __future__ import annotations

import pytest
import torch

from artifacts import Artifact
from reports import localization
from reports.reading import MissingPart
from tests.artifacts import making

BLOCKS, HEADS = 4, 3
PARTS = ("total", "origin", "echo")
CAUSAL = {
    "causal.outcome": "log-odds of the refusal tokens",
    "causal.heads": ("2.1",),
    "causal.n": 24,
    "causal.gap": (5.0, 4.0, 6.0),
    "causal.removed": (3.0, 2.5, 3.5),
    "causal.removed.random": (0.1, -0.2, 0.4),
    "causal.removed.beats": True,
    "causal.restored": (2.0, 1.5, 2.5),
    "causal.restored.random": (0.0, 0.3),
    "causal.restored.beats": True,
}


def signature(q: dict[tuple[str, int, int], float] | None = None, **method: object) -> Artifact:
    """Head 1 of block 2 is strongest; ``q`` names the significant heads by part, all others 1."""
    rng = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for kind, shape in (("heads", (BLOCKS, HEADS)), ("mlps", (BLOCKS,))):
        for part in PARTS:
            score = 0.1 * torch.randn(*shape, generator=rng)
            if (kind, part) == ("heads", "total"):
                score[2, 1] = -1.5
            tensors |= {
                f"score/{kind}/{part}": score,
                f"score_low/{kind}/{part}": score - 0.2,
                f"score_high/{kind}/{part}": score + 0.2,
                f"score/{kind}/{part}/q": torch.ones(*shape),
            }
    for (part, block, head), value in (q or {}).items():
        tensors[f"score/heads/{part}/q"][block, head] = value
    for name in ("attention", "mlp"):
        score = torch.randn(BLOCKS, generator=rng)
        tensors |= {
            f"score/blocks/{name}": score,
            f"score_low/blocks/{name}": score - 0.5,
            f"score_high/blocks/{name}": score + 0.25,
            f"score/blocks/{name}-origin": score / 2,
        }
    manifest = making.manifest(
        kind="signature", directions={}, contrast=("did",), method={"alpha": 0.05} | method
    )
    return Artifact(manifest, tensors)


def dots(figure: object) -> list[tuple[float, float]]:
    heads = [trace for trace in figure.data if trace.type == "scatter"][0]  # type: ignore[attr-defined]
    return list(zip(heads.x, heads.y, strict=True))


@pytest.mark.parametrize("part", PARTS)
def test_the_heat_map_holds_every_score_of_its_part(part: str) -> None:
    made = signature()
    heads, mlps = localization.heat_map(made, part).data[:2]
    assert torch.equal(torch.tensor(heads.z), made.tensors[f"score/heads/{part}"])
    assert torch.equal(torch.tensor(mlps.z)[:, 0], made.tensors[f"score/mlps/{part}"])
    for trace in (heads, mlps):  # a symmetric scale: white is zero
        assert trace.zmin == -trace.zmax
        assert trace.zmax >= max(abs(value) for row in trace.z for value in row)


def test_dots_mark_what_is_significant_in_this_part_and_nothing_else() -> None:
    made = signature({("total", 2, 1): 0.01, ("total", 0, 2): 0.05, ("origin", 3, 0): 0.02})
    assert sorted(dots(localization.heat_map(made, "total"))) == [(1, 2), (2, 0)]
    assert dots(localization.heat_map(made, "origin")) == [(0, 3)]
    assert dots(localization.heat_map(made, "echo")) == []
    nothing = signature()  # twin: nothing significant, no dot
    assert dots(localization.heat_map(nothing, "total")) == []


def test_layer_curves_have_their_bands_and_the_part_that_is_origin() -> None:
    made = signature()
    figure = localization.layer_curves(made)
    lines = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    outlines = [list(trace.y) for trace in figure.data if trace.fill == "toself"]
    for name in ("attention", "mlp"):
        assert lines[name] == made.tensors[f"score/blocks/{name}"].tolist()
        assert lines[f"{name}, origin"] == made.tensors[f"score/blocks/{name}-origin"].tolist()
        low, high = (made.tensors[f"score_{end}/blocks/{name}"].tolist() for end in ("low", "high"))
        assert high + low[::-1] in outlines
    assert len(outlines) == 2


def test_the_exchange_is_drawn_beside_its_random_sets() -> None:
    figure = localization.causal(signature(**CAUSAL))
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    values = [list(trace.x) for trace in marks]
    assert values == [[0.1, -0.2, 0.4], [3.0], [0.0, 0.3], [2.0]]
    assert list(marks[1].error_x.array) == [0.5] == list(marks[1].error_x.arrayminus)
    assert figure.layout.shapes[0].x0 == 5.0
    with pytest.raises(MissingPart, match="no causal check was run"):
        localization.causal(signature())


def test_the_sentence_names_the_strongest_head_and_what_exchanging_it_did() -> None:
    made = signature({("total", 2, 1): 0.001, ("origin", 2, 1): 0.01}, **CAUSAL)
    said = localization.finding(made)
    assert "1 of 12 heads change along the direction and 1 of them by their own weights" in said
    assert "head 1 of block 2 with score -1.50 (95% interval -1.70 to -1.30)" in said
    assert (
        "removes 3.00 (2.50 to 3.50) of 5.00, random sets -0.20 to 0.40: more than chance" in said
    )
    assert "No causal check was run." in localization.finding(signature({("total", 2, 1): 0.001}))
    assert localization.finding(signature()).startswith("No head changes beyond sign flips")


def test_an_artifact_that_is_no_signature_is_named() -> None:
    plain = making.small()
    assert not localization.present(plain)
    assert localization.present(signature())
    with pytest.raises(
        MissingPart, match="no score/heads/total; make one with directions.localize"
    ):
        localization.heat_map(plain)
