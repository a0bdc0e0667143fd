"""Claims: a model that accelerate has placed gives the states, edits and answers of one that it has
not touched; a model of which parts do not fit is refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from transformers.integrations import accelerate as placing

import hooks
from hooks import Add, Capture, Start
from hooks.errors import ModelError
from tests.hooks.common import MID, POST, PROMPTS, attached, capture, logits, vector
from tests.hooks.test_adapters import Case, _config, _switches
from tests.tiny import LAYERS, make_hf, save, tokenizer

V = 2 * vector(1)
FAMILIES = ("llama", "gemma2", "gpt2", "mixtral")


@pytest.fixture(params=FAMILIES)
def placed(request: pytest.FixtureRequest) -> tuple[hooks.Model, hooks.Model]:
    """A model as it is, and one whose every module accelerate moves inputs for."""
    made = make_hf(request.param)
    where = {
        name: "cpu"
        for name, part in made.named_modules()
        if not list(part.children()) or list(part.parameters(recurse=False))
    }
    spread = dispatch_model(make_hf(request.param), where, main_device="cpu", force_hooks=True)
    assert sum(hasattr(part, "_hf_hook") for part in spread.modules()) > 4 * LAYERS
    return hooks.wrap(made, tokenizer()), hooks.wrap(spread, tokenizer())


def test_states_and_edits_are_those_of_the_plain_model(
    placed: tuple[hooks.Model, hooks.Model],
) -> None:
    plain, spread = placed
    encoded = plain.encode(PROMPTS, system="Be kind and short.")
    sites = [POST, "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out", "ln_final.hook_out"]
    for edits in ([], [Add(V, MID, positions="last")]):
        want, got = (capture(used, encoded, sites, edits=edits).stack() for used in placed)
        assert torch.equal(got, want)
    assert spread.check().passed == plain.check().passed
    assert spread.check().errors == plain.check().errors
    assert attached(spread.hf) == attached(plain.hf) == []


def test_answers_and_passes_from_the_middle_are_those_of_the_plain_model(
    placed: tuple[hooks.Model, hooks.Model],
) -> None:
    plain, spread = placed
    encoded = plain.encode(PROMPTS[:4])
    edits = [Add(V, MID, steps="generated")]
    answers, ends = [], []
    for used in placed:
        rows = hooks.Rows()
        with used.hooks(edits=edits) as run:
            answers.append(run.generate_ids(encoded, max_new_tokens=5))
        with used.hooks(capture=Capture(MID, at="all", into=rows)) as run:
            run.forward(encoded)
        with used.hooks(edits=[Add(V, MID)]) as run:
            found = run.forward(encoded, logits="last", start=Start(MID, list(rows[MID])))
        ends.append(found.logits)
    assert answers[0] == answers[1]
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[1], logits(spread, encoded), atol=1e-2)  # the edit was there


def test_a_model_and_a_pair_are_loaded_by_the_map(tmp_path: Path) -> None:
    """On one device the map is that device; an adapter is merged and switched as elsewhere."""
    case = Case(tmp_path, "llama", _config("llama", use_dora=True))
    pair = hooks.load_pair(case.base, case.spec, dtype="float32", device="map")
    _switches(pair, case)
    assert hooks.load(case.base, dtype="float32", device="map").check().passed


@pytest.mark.parametrize("room", [60_000, 150_000])
def test_a_model_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Little memory: accelerate would leave the rest on disk, behind tensors without content."""
    folder = str(save(tmp_path / "model"))
    monkeypatch.setattr(placing, "get_max_memory", lambda *_: {"cpu": room})
    with pytest.raises(ModelError, match=r"\d+ of \d+ weights do not fit .*smaller --dtype"):
        hooks.load(folder, dtype="float32", device="map")
