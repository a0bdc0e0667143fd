"""Claim: ``--retrain`` is one command from our data to a measured adapter: it trains, saves, loads
what it saved, and reports every rate of the shipped adapter's card, on the same requests.

A tiny random model stands in for the base, so the numbers mean nothing; everything else is real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hooks
from artifacts.command import main
from hooks import reference
from tests.tiny import make_hf, tokenizer
from training.card import FILE, render
from training.measuring import refusals
from training.metrics import Metrics, read_metrics
from training.ready import check_adapter
from training.recipe import Recipe
from training.reference import Reference

STEPS = 2


@contextmanager
def _tiny_base(folder: Path) -> Iterator[None]:
    """Put a tiny model in the place of the reference's base, for training and for loading."""
    made = make_hf("llama", num_hidden_layers=2, max_position_embeddings=4096)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "path", {"base": folder}.__getitem__)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict, Path]:
    """Exit code, what was printed and the folder that was written."""
    import contextlib
    import io

    root = tmp_path_factory.mktemp("retrain")
    rows = [{"prompt": f"Name river number {i}.", "label": "harmless"} for i in range(8)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--retrain", "--out", str(root / "out"), "--steps", str(STEPS), "--json"]
    said = io.StringIO()
    with _tiny_base(root / "base"), contextlib.redirect_stdout(said):
        code = main(Reference, [*argv, "--also", str(root / "mine.jsonl")])
    return code, json.loads(said.getvalue()), root


def _cells(metrics: Metrics) -> dict[tuple[str, str, str, str], int]:
    return {(r.setting, r.prompts, r.label, r.model): r.n for r in metrics.rates}


@pytest.mark.slow
def test_it_reports_every_rate_of_the_card_on_the_same_requests(
    run: tuple[int, dict, Path],
) -> None:
    _, said, root = run
    shipped = read_metrics(reference.adapter_path())
    found = Metrics.model_validate_json(json.dumps(said["metrics"]))
    wanted = {key: n for key, n in _cells(shipped).items() if key[1] != "other-sources"}
    mine = {("plain", "mine", "harmless", side): 8 for side in ("base", "tuned")}
    assert _cells(found) == wanted | mine
    assert len(wanted) == 2 * 15
    for key, digest in shipped.data.items():
        if key != "test/other-sources":
            assert found.data[key] == digest
    assert found.recipe == replace(Recipe(), steps=STEPS).to_dict()
    same = ("base", "base_gguf_sha256", "dtype", "level", "new_tokens", "format")
    assert {k: getattr(found, k) for k in same} == {k: getattr(shipped, k) for k in same}
    assert found.versions.keys() == shipped.versions.keys()
    ours, theirs = found.perplexity, shipped.perplexity
    assert ours.n_texts == theirs.n_texts


@pytest.mark.slow
def test_what_it_writes_is_what_it_measured(run: tuple[int, dict, Path]) -> None:
    code, said, root = run
    out = root / "out"
    found = check_adapter(out)
    assert said["out"] == str(out)
    assert found.model_dump(mode="json") == said["metrics"]
    assert (out / FILE).read_text(encoding="utf-8") == render(found)
    # A model that talks noise refuses nothing, and the command says so with its exit code.
    assert code == 4
    assert said["shortfalls"] == list(found.shortfalls()) != []
    assert found.adapter.bytes == (out / "adapter_model.safetensors").stat().st_size


@pytest.mark.slow
def test_the_written_adapter_serves_as_base_plus_adapter(run: tuple[int, dict, Path]) -> None:
    """The next command that it prints: the folder is an adapter on the reference's base."""
    _, _, root = run
    with _tiny_base(root / "again"):
        spec = f"reference:base+{root / 'out'}"
        base, tuned = hooks.load_pair("reference:base", spec, dtype="float32", device="cpu")
        rows = base.encode(["Name a river."])
        logits = []
        for side in (base, tuned):
            with side.hooks() as run_:
                logits.append(run_.forward(rows, logits="last").logits)
        assert refusals(tuned, rows) == [False]
    assert tuned.info().adapter_digest == check_adapter(root / "out").adapter.sha256
    assert not torch.equal(logits[0], logits[1])  # two steps moved it
