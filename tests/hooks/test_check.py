"""A layout that is wrong is refused with the measured error and never served; a report is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hooks
import hooks.check
from hooks.errors import SiteError
from hooks.layout import Layout
from hooks.weights import View, Weights
from tests.hooks.common import MID, POST, capture, ids_of
from tests.tiny import make_hf, save, tokenizer


def _with_alias(monkeypatch: pytest.MonkeyPatch, kind: str, path: str) -> None:
    real = Layout.__init__

    def wrong(self: Layout, raw: object) -> None:
        real(self, raw)
        self._aliases[kind] = path

    monkeypatch.setattr(Layout, "__init__", wrong)


@pytest.mark.parametrize(
    ("family", "kind", "path", "identity"),
    [
        ("gemma2", "hook_attn_out", "attn.hook_out", "resid_pre [+] attn_out = resid_mid"),
        ("gemma3", "hook_mlp_out", "mlp.hook_out", "resid_mid [+] mlp_out = resid_post"),
        ("olmo2", "hook_attn_out", "attn.hook_out", "resid_pre [+] attn_out = resid_mid"),
        ("llama", "hook_resid_mid", "mlp.hook_in", "resid_mid"),
    ],
)
def test_a_site_before_the_post_norm_is_refused_with_its_error(
    monkeypatch: pytest.MonkeyPatch, family: str, kind: str, path: str, identity: str
) -> None:
    _with_alias(monkeypatch, kind, path)
    wrong = hooks.wrap(make_hf(family), tokenizer())
    report = wrong.check()
    assert not report.passed
    assert kind in report.refusals
    with pytest.raises(
        SiteError, match=f"{kind} is not served: .*{identity}.*relative error [0-9]"
    ):
        wrong.hooks(capture=hooks.Capture(f"blocks.0.{kind}"))
    with pytest.raises(SiteError, match="not served"):
        wrong.hooks(edits=[hooks.Scale(f"blocks.*.{kind}", 0.5)])
    assert kind not in wrong.served()
    # What is right is still served.
    assert capture(wrong, ids_of([5, 7]), POST).stack().isfinite().all()


def test_a_site_that_does_not_fire_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = make_hf("llama")
    layer = raw.model.layers[1]
    real = layer.mlp.forward
    # The block calls its MLP twice, so one capture a pass would be a lie.
    monkeypatch.setattr(
        layer.mlp,
        "forward",
        lambda x: real(x) + 0 * layer.mlp.down_proj(torch.zeros(*x.shape[:-1], 48)),
    )
    report = hooks.wrap(raw, tokenizer()).check()
    assert "fires once" in report.refusals["mlp.hook_post"]
    assert report.errors["mlp.hook_post fires once"] == 1


def test_a_state_that_is_not_finite_fails_the_check() -> None:
    raw = make_hf("llama")
    raw.model.layers[2].mlp.down_proj.weight.data.fill_(float("inf"))
    report = hooks.wrap(raw, tokenizer()).check()
    assert not report.passed


def test_the_check_leaves_the_model_as_it_was() -> None:
    raw = make_hf("llama")
    before = {name: value.clone() for name, value in raw.state_dict().items()}
    hooks.wrap(raw, tokenizer()).check()
    assert all(torch.equal(before[name], value) for name, value in raw.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in raw.modules())


def _reports(root: Path) -> list[Path]:
    return sorted((root / "checks").glob("*.json"))


def test_the_report_is_kept_by_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks.check, "cache_root", lambda: tmp_path / "cache")
    folder = save(tmp_path / "model")
    first = hooks.load(str(folder), dtype="float32").check()
    (path,) = _reports(tmp_path / "cache")
    assert json.loads(path.read_text())["errors"] == first.errors

    def never(view: View) -> hooks.CheckReport:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(hooks.check, "_measure", never)
        assert hooks.load(str(folder), dtype="float32").check() == first
        # Another architecture is another fingerprint.
        deeper = save(tmp_path / "deeper", num_hidden_layers=2)
        with pytest.raises(AssertionError, match="measured again"):
            hooks.load(str(deeper), dtype="float32").check()
    path.write_text("{torn")
    assert hooks.load(str(folder), dtype="float32").check() == first
    assert json.loads(path.read_text())["errors"] == first.errors


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(hooks.check, "cache_root", lambda: tmp_path / "file")
    folder = save(tmp_path / "model")
    assert hooks.load(str(folder), dtype="float32").check().passed


def test_output_weights_refuse_what_is_no_matrix() -> None:
    class Quantised(torch.nn.Module):
        weight = torch.zeros(3)

    with pytest.raises(hooks.errors.InputError, match="cannot be read as a matrix"):
        hooks.output_weights(Quantised(), 4)


def test_views_without_a_report_serve_nothing_that_failed() -> None:
    raw = make_hf("llama")
    view = View(Weights(raw), tokenizer(), adapter=None)
    view.refuse = lambda site: "planted" if site.name == MID else None
    view.require([view.layout.tap_of("hook_resid_post", 0).site])
    with pytest.raises(SiteError, match="planted"):
        view.require([view.layout.tap_of("hook_resid_post", 1).site])
