"""Every site of every proven family equals an independent oracle: plain torch hooks and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import hooks
from hooks.errors import SiteError
from tests.tiny import FAMILIES, HEADS, LAYERS, WIDTH, make_hf, tokenizer

IDS = [[7, 8, 9, 10, 11, 12, 13], [7, 8, 20, 21]]
POST_NORM = {"gemma2", "gemma3", "olmo2"}
Where = Callable[[nn.Module, int], tuple[nn.Module, str]]


def _llama_like() -> dict[str, Where]:
    return {
        "hook_resid_pre": lambda m, b: (m.model.layers[b], "in"),
        "ln1.hook_out": lambda m, b: (m.model.layers[b].input_layernorm, "out"),
        "attn.hook_z": lambda m, b: (m.model.layers[b].self_attn.o_proj, "in"),
        "hook_attn_out": lambda m, b: (m.model.layers[b].self_attn.o_proj, "out"),
        "hook_resid_mid": lambda m, b: (m.model.layers[b].post_attention_layernorm, "in"),
        "mlp.hook_post": lambda m, b: (m.model.layers[b].mlp.down_proj, "in"),
        "hook_mlp_out": lambda m, b: (m.model.layers[b].mlp.down_proj, "out"),
        "hook_resid_post": lambda m, b: (m.model.layers[b], "out"),
    }


def _oracle(family: str) -> dict[str, Where]:
    """Return where a person who knows the family's code would put the hook."""
    sites = _llama_like()
    if family in POST_NORM:
        sites["hook_attn_out"] = lambda m, b: (m.model.layers[b].post_attention_layernorm, "out")
        sites["hook_mlp_out"] = lambda m, b: (m.model.layers[b].post_feedforward_layernorm, "out")
    if family in {"gemma2", "gemma3"}:
        sites["hook_resid_mid"] = lambda m, b: (m.model.layers[b].pre_feedforward_layernorm, "in")
    if family == "olmo2":
        sites["hook_resid_mid"] = lambda m, b: (m.model.layers[b].mlp, "in")
        del sites["ln1.hook_out"]
    if family == "mixtral":
        sites["hook_mlp_out"] = lambda m, b: (m.model.layers[b].mlp, "out")
        del sites["mlp.hook_post"]
    if family == "gpt2":
        return {
            "hook_resid_pre": lambda m, b: (m.transformer.h[b], "in"),
            "ln1.hook_out": lambda m, b: (m.transformer.h[b].ln_1, "out"),
            "attn.hook_z": lambda m, b: (m.transformer.h[b].attn.c_proj, "in"),
            "hook_attn_out": lambda m, b: (m.transformer.h[b].attn.c_proj, "out"),
            "hook_resid_mid": lambda m, b: (m.transformer.h[b].ln_2, "in"),
            "mlp.hook_post": lambda m, b: (m.transformer.h[b].mlp.c_proj, "in"),
            "hook_mlp_out": lambda m, b: (m.transformer.h[b].mlp.c_proj, "out"),
            "hook_resid_post": lambda m, b: (m.transformer.h[b], "out"),
        }
    if family == "gpt_neox":
        return {
            "hook_resid_pre": lambda m, b: (m.gpt_neox.layers[b], "in"),
            "ln1.hook_out": lambda m, b: (m.gpt_neox.layers[b].input_layernorm, "out"),
            "attn.hook_z": lambda m, b: (m.gpt_neox.layers[b].attention.dense, "in"),
            "hook_attn_out": lambda m, b: (m.gpt_neox.layers[b].attention.dense, "out"),
            "mlp.hook_post": lambda m, b: (m.gpt_neox.layers[b].mlp.dense_4h_to_h, "in"),
            "hook_mlp_out": lambda m, b: (m.gpt_neox.layers[b].mlp.dense_4h_to_h, "out"),
            "hook_resid_post": lambda m, b: (m.gpt_neox.layers[b], "out"),
        }
    return sites


@contextmanager
def _plain_hooks(model: nn.Module, family: str) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    handles = []
    for kind, where in _oracle(family).items():
        for block in range(LAYERS):
            module, side = where(model, block)
            name = f"blocks.{block}.{kind}"
            if side == "in":

                def before(_: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                    found[name] = (args[0] if args else kwargs["hidden_states"]).clone()

                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            else:

                def after(_: nn.Module, __: tuple, out: object, name: str = name) -> None:
                    found[name] = (out[0] if isinstance(out, tuple) else out).clone()

                handles.append(module.register_forward_hook(after))
    yield found
    for handle in handles:
        handle.remove()


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def _pair(family: str) -> tuple[PreTrainedModel, hooks.Model]:
    raw = make_hf(family)
    return raw, hooks.wrap(raw, tokenizer())


def _run(model: hooks.Model, kinds: list[str], ids: list[list[int]]) -> hooks.Rows:
    rows = hooks.Rows()
    names = [f"blocks.*.{kind}" for kind in kinds]
    with model.hooks(capture=hooks.Capture(names, at="all", into=rows)) as run:
        run.forward(hooks.Encoded.from_ids(ids))
    return rows


def test_every_site_equals_plain_hooks(family: str) -> None:
    raw, model = _pair(family)
    kinds = list(_oracle(family))
    rows = _run(model, kinds, IDS)
    for index, ids in enumerate(IDS):
        with _plain_hooks(raw, family) as oracle, torch.no_grad():
            raw(torch.tensor([ids]))
        for name, want in oracle.items():
            got = rows[name][index]
            torch.testing.assert_close(got.reshape(want[0].shape), want[0], atol=1e-5, rtol=1e-5)


def test_edge_sites_equal_plain_arithmetic(family: str) -> None:
    raw, model = _pair(family)
    rows = hooks.Rows()
    names = ["hook_embed", "ln_final.hook_out", "unembed.hook_out"]
    with model.hooks(capture=hooks.Capture(names, at="all", into=rows)) as run:
        run.forward(hooks.Encoded.from_ids(IDS[:1]), logits="all")
    ids = torch.tensor(IDS[:1])
    with torch.no_grad():
        embedded = raw.get_input_embeddings()(ids)[0]
        final = raw.base_model(ids).last_hidden_state[0]
        logits = raw.get_output_embeddings()(final)
    single = {name: rows[name].reshape(-1, rows[name].shape[-1]) for name in names}
    torch.testing.assert_close(single["hook_embed"], embedded)
    torch.testing.assert_close(single["ln_final.hook_out"], final, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(single["unembed.hook_out"], logits, atol=1e-5, rtol=1e-5)


def test_residual_identities_hold(family: str) -> None:
    _, model = _pair(family)
    kinds = list(_oracle(family))
    rows = _run(model, kinds, IDS)
    for block in range(LAYERS):
        state = {kind: rows[f"blocks.{block}.{kind}"][0] for kind in kinds}
        pre, attn = state["hook_resid_pre"], state["hook_attn_out"]
        mlp, post = state["hook_mlp_out"], state["hook_resid_post"]
        if "hook_resid_mid" in state:
            torch.testing.assert_close(pre + attn, state["hook_resid_mid"], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(state["hook_resid_mid"] + mlp, post, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pre + attn + mlp, post, atol=1e-5, rtol=1e-5)
        # The negative twin: without the MLP the sum is not the output.
        assert not torch.allclose(pre + attn, post, atol=1e-3)


def test_heads_sum_to_the_projection(family: str) -> None:
    _, model = _pair(family)
    rows = _run(model, ["attn.hook_z"], IDS)
    for block in range(LAYERS):
        z = rows[f"blocks.{block}.attn.hook_z"][0]
        assert z.shape[1:] == (HEADS, model.d_head)
        module = model.layout.component(f"blocks.{block}.attn.o")
        weight, bias = hooks.output_weights(module, HEADS)
        assert weight.shape == (HEADS, model.d_head, WIDTH)
        by_head = sum(z[:, head] @ weight[head] for head in range(HEADS))
        whole = module(z.flatten(1))
        torch.testing.assert_close(
            by_head + (0 if bias is None else bias), whole, atol=1e-5, rtol=1e-5
        )
        without_first = sum(z[:, head] @ weight[head] for head in range(1, HEADS))
        assert not torch.allclose(without_first + (0 if bias is None else bias), whole, atol=1e-4)


def test_check_passes_and_serves_what_the_oracle_knows(family: str) -> None:
    report = _pair(family)[1].check()
    assert report.passed, report.refusals
    assert max(report.errors.values()) <= report.tolerance


@pytest.mark.parametrize(
    ("family", "site", "why"),
    [
        ("olmo2", "blocks.0.ln1.hook_out", "no norm before attention"),
        ("gpt_neox", "blocks.0.hook_resid_mid", "in parallel"),
        ("mixtral", "blocks.0.mlp.hook_post", "mixture of experts"),
    ],
)
def test_a_site_the_family_cannot_give_is_refused_before_any_hook(
    family: str, site: str, why: str
) -> None:
    raw, model = _pair(family)
    with pytest.raises(SiteError, match=why):
        model.hooks(capture=hooks.Capture(site))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in raw.modules())


def test_an_architecture_without_names_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    class Unheard(LlamaForCausalLM):
        pass

    raw = Unheard(
        LlamaConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    )
    with pytest.raises(hooks.errors.ModelError, match="no adapter for this architecture"):
        hooks.wrap(raw, tokenizer())
