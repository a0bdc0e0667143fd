"""Ablation equals weights orthogonalised to the direction: untied, tied, and behind post-norms.

The weights are built here, in memory, to have something to compare with; nothing else builds them.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hooks
from ablation.reference import NOTHING
from ablation.spans import Span
from ablation.ways import Way
from hooks import Ablate
from tests.hooks.common import LAYERS, POST, PROMPTS, capture, logits, model, vector
from tests.tiny import make_hf, tokenizer

V = vector(1)
U = V / V.norm()
ALL = Span("v", V[None], 0, LAYERS - 1)
ZERO = Way("zero")


def _edits(used: hooks.Model, span: Span = ALL) -> list[hooks.Intervention]:
    return list(span.edits(ZERO, NOTHING, used))


def _without(weight: Tensor, along: Tensor) -> None:
    """Remove ``along`` from the outputs of an [out, in] matrix, in place."""
    weight -= torch.outer(along, along @ weight)


def _writers(raw: nn.Module) -> list[nn.Module]:
    return [m for layer in raw.model.layers for m in (layer.self_attn.o_proj, layer.mlp.down_proj)]


def _orthogonal(family: str, *, tied: bool) -> hooks.Model:
    raw = make_hf(family, tie_word_embeddings=tied)
    with torch.no_grad():
        embed = raw.get_input_embeddings().weight
        embed -= torch.outer(embed @ U, U)
        for module in _writers(raw):
            _without(module.weight, U)
            if module.bias is not None:
                module.bias -= (module.bias @ U) * U
    return hooks.wrap(raw, tokenizer())


def _plain(family: str, *, tied: bool) -> hooks.Model:
    return hooks.wrap(make_hf(family, tie_word_embeddings=tied), tokenizer())


def _close(got: object, want: object) -> bool:
    return torch.allclose(got, want, atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "phi3"])
def test_untied_weights_give_the_logits_of_the_ablation(family: str) -> None:
    plain, encoded = _plain(family, tied=False), model().encode(PROMPTS)
    want = logits(_orthogonal(family, tied=False), encoded)
    assert _close(logits(plain, encoded, _edits(plain)), want)
    assert not _close(logits(plain, encoded), want)
    part = Span("v", V[None], 1, LAYERS - 1)
    # Without the embedding and block 0 something is left for the attention of block 0 to read.
    assert not _close(logits(plain, encoded, _edits(plain, part)), want)


def test_tied_weights_also_lose_the_direction_in_the_unembedding() -> None:
    plain, encoded = _plain("llama", tied=True), model().encode(PROMPTS)
    want = logits(_orthogonal("llama", tied=True), encoded)
    edits = _edits(plain)
    assert not _close(logits(plain, encoded, edits), want)
    assert _close(logits(plain, encoded, [*edits, Ablate(V, "ln_final.hook_out")]), want)
    stream = capture(_orthogonal("llama", tied=True), encoded, POST).stack()
    torch.testing.assert_close(
        capture(plain, encoded, POST, edits=edits).stack(), stream, atol=1e-4, rtol=1e-4
    )


def _post_norms(raw: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [
        (layer, norm, module)
        for layer in raw.model.layers
        for norm, module in (
            ("post_attention_layernorm", layer.self_attn.o_proj),
            ("post_feedforward_layernorm", layer.mlp.down_proj),
        )
    ]


def test_behind_post_norms_the_projector_is_exact_and_follows_the_norm() -> None:
    raw = make_hf("gemma2", tie_word_embeddings=False)
    projector = nn.Linear(len(U), len(U), bias=False).requires_grad_(False)
    projector.weight.copy_(torch.eye(len(U)) - torch.outer(U, U))
    with torch.no_grad():
        embed = raw.get_input_embeddings().weight
        embed -= torch.outer(embed @ U, U)
    for layer, norm, _ in _post_norms(raw):
        setattr(layer, norm, nn.Sequential(getattr(layer, norm), projector))
    plain, encoded = _plain("gemma2", tied=False), model().encode(PROMPTS)
    width = [tokens for tokens in encoded.ids]
    with torch.no_grad():
        want = torch.stack([raw(torch.tensor([list(ids)])).logits[0, -1] for ids in width])
    assert _close(logits(plain, encoded, _edits(plain)), want)
    assert not _close(logits(plain, encoded), want)


@pytest.mark.parametrize("gain", [True, False])
def test_post_norm_weights_must_be_orthogonal_to_the_direction_times_the_gain(gain: bool) -> None:
    raw = make_hf("gemma2", tie_word_embeddings=False)
    with torch.no_grad():
        embed = raw.get_input_embeddings().weight
        embed -= torch.outer(embed @ U, U)
        for layer, norm, module in _post_norms(raw):
            along = (1 + getattr(layer, norm).weight) * U if gain else U
            _without(module.weight, along / along.norm())
    stream = capture(hooks.wrap(raw, tokenizer()), model().encode(PROMPTS), POST).stack()
    left = float((stream @ U).abs().max())
    assert left < 1e-4 if gain else left > 1e-2
    ablated = capture(model("gemma2"), model().encode(PROMPTS), POST, edits=_edits(model("gemma2")))
    assert float((ablated.stack() @ U).abs().max()) < 1e-4


@pytest.mark.parametrize("family", ["gemma3", "olmo2", "gpt2", "gpt_neox", "mixtral", "qwen3"])
def test_nothing_is_left_in_the_stream_of_any_family(family: str) -> None:
    used = model(family)
    found = capture(used, used.encode(PROMPTS), POST, at="all", edits=_edits(used))
    for site in found.sites:
        for row in found[site]:
            assert float((row @ U).abs().max()) < 1e-4
    plain = capture(used, used.encode(PROMPTS), POST)
    assert float((plain.stack() @ U).abs().max()) > 1e-2
