"""Relevance adds up to what it explains, and is what the rules say."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

import hooks
from artifacts.errors import InputError
from directions.lrp import FAMILIES, Tracer
from directions.relevance import token_relevance
from directions.relevance_flow import component_relevance
from hooks.encoded import left_pad
from hooks.errors import SiteError
from tests.directions.reading import HARMFUL, model
from tests.hooks.common import PROMPTS, attached, capture, ids_of, vector
from tests.tiny import FAMILIES as TINY
from tests.tiny import make_hf, tokenizer

WRITTEN = ("llama", "mistral", "qwen2", "qwen3")
NO_BIAS = ("llama", "mistral", "qwen3")
LAST = 3


def three() -> torch.Tensor:
    return vector(1, 3, 32)


@pytest.mark.parametrize("family", WRITTEN)
def test_the_differentiable_pass_is_the_models_own(family: str) -> None:
    """Padded rows, every block, past the sliding window of 12 tokens."""
    used = model(family)
    rows = used.encode(PROMPTS)
    batch = left_pad(rows.ids, pad=0, offset=0)
    tracer = Tracer(used)
    shared, x = tracer.start(batch, "attnlrp")
    own = capture(used, rows, "blocks.*.hook_resid_post")
    middle = capture(used, rows, "blocks.*.hook_resid_mid")
    for block in range(used.n_layers):
        mid = tracer.middle(block, x, shared)[:, -1]
        x = tracer.block(block, x, shared)
        for name, got in (("mid", mid), ("post", x[:, -1])):
            kept = middle if name == "mid" else own
            want = kept[f"blocks.{block}.hook_resid_{name}"]
            torch.testing.assert_close(got.detach(), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", NO_BIAS)
def test_relevance_is_conserved_without_biases(family: str) -> None:
    """Values only: all of it reaches the tokens. AttnLRP: the rest is the softmaxes' own."""
    used = model(family)
    rows = used.encode(HARMFUL[:3])
    for attention in ("values", "attnlrp"):
        found = token_relevance(used, rows, three(), block=LAST, attention=attention)
        assert found.gap < 1e-3
        assert found.bias.abs().max() == 0
        sums = torch.stack([part.sum(-1) for part in found.tokens])
        if attention == "values":
            assert found.softmax.abs().max() == 0
            torch.testing.assert_close(sums, found.value, atol=1e-4, rtol=1e-3)
        else:
            assert found.softmax.abs().max() > 1e-2
            assert not torch.allclose(sums, found.value, rtol=1e-1)


def test_biases_take_their_share() -> None:
    made = make_hf("qwen2")
    used = hooks.wrap(made, tokenizer())
    rows = used.encode(HARMFUL[:2])
    found = token_relevance(used, rows, three(), block=LAST)
    assert found.gap < 1e-3
    assert found.bias.abs().max() > 1e-2


@pytest.mark.parametrize("attention", ["attnlrp", "values"])
def test_all_components_at_once_equal_one_by_one(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, rows = model(), model().encode(HARMFUL[:3])
    many = token_relevance(used, rows, three(), block=2, attention=attention)
    monkeypatch.setattr("directions.relevance.SEEDS", 2)
    pairs = token_relevance(used, rows, three(), block=2, attention=attention)
    for index, one in enumerate(three()):
        alone = token_relevance(used, rows, one[None], block=2, attention=attention)
        for row in range(3):
            for found in (many, pairs):
                torch.testing.assert_close(
                    found.tokens[row][index], alone.tokens[row][0], atol=1e-5, rtol=1e-4
                )


@pytest.mark.parametrize("components", [1, 7, 40])
def test_the_forward_pass_is_shared_by_all_components(
    components: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks run once a batch, whether one component is attributed or forty."""
    real, ran = Tracer.block, []

    def counted(self: Tracer, number: int, *args: object) -> torch.Tensor:
        ran.append(number)
        return real(self, number, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Tracer, "block", counted)
    used = model()
    token_relevance(used, used.encode(HARMFUL[:3]), vector(1, components, 32), block=LAST)
    assert ran == [0, 1, 2, 3]


def test_batch_order_and_padding_change_nothing() -> None:
    used = model()
    rows = used.encode(PROMPTS)
    together = token_relevance(used, rows, three(), block=2)
    turned = token_relevance(used, rows.select(range(len(rows))[::-1]), three(), block=2)
    for row in range(len(rows)):
        alone = token_relevance(used, rows[row : row + 1], three(), block=2)
        assert together.tokens[row].shape == (3, rows.lengths[row])
        for other in (alone.tokens[0], turned.tokens[len(rows) - 1 - row]):
            torch.testing.assert_close(together.tokens[row], other, atol=1e-5, rtol=1e-3)


def test_sign_turns_relevance_and_scale_does_not_matter() -> None:
    used, rows = model(), model().encode(HARMFUL[:2])
    plain = token_relevance(used, rows, three(), block=1)
    turned = token_relevance(used, rows, -5 * three(), block=1)
    torch.testing.assert_close(turned.value, -plain.value)
    torch.testing.assert_close(turned.tokens[0], -plain.tokens[0])


def test_before_the_first_block_all_relevance_is_the_last_tokens() -> None:
    used, rows = model(), model().encode(HARMFUL[:2])
    found = token_relevance(used, rows, three(), block=0, site="hook_resid_pre")
    weight = used.hf.get_input_embeddings().weight
    units = three() / three().norm(dim=-1, keepdim=True)
    for row, ids in enumerate(rows):
        assert found.tokens[row][:, :-1].abs().max() == 0
        torch.testing.assert_close(found.tokens[row][:, -1], units @ weight[ids[-1]])


def test_a_planted_token_is_the_most_relevant_one() -> None:
    """One token's embedding alone carries the direction, and one head copies it to the end."""
    made = make_hf("llama")
    direction = torch.eye(32)[0]
    with torch.no_grad():
        for layer in made.model.layers:
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.zero_()
        first = made.model.layers[0].self_attn
        made.model.embed_tokens.weight[:, 0] = 0
        made.model.embed_tokens.weight[60, 0] = 4.0
        first.q_proj.weight.zero_()  # uniform attention: the copy is a mean over the tokens
        first.v_proj.weight.zero_()
        first.v_proj.weight[0, 0] = 1.0
        first.o_proj.weight[0, 0] = 1.0
    used = hooks.wrap(made, tokenizer())
    ids = [30, 31, 60, 32, 33, 34]
    rows = hooks.Encoded.from_ids([ids, [30, 31, 35, 32, 33, 34]])
    found = token_relevance(used, rows, direction[None], block=0, attention="values")
    assert found.tokens[0][0].argmax() == 2
    assert found.tokens[0][0, 2] == pytest.approx(float(found.value[0, 0]), rel=1e-4)
    assert found.value[0, 0] > 0.1
    assert found.tokens[1].abs().max() < 1e-6  # the twin without the token


def test_the_rules_by_hand_on_one_attention_head() -> None:
    """An independent oracle: relevances written out for a single block, softmax rule included."""
    config = TINY["llama"]()
    config.num_hidden_layers, config.num_attention_heads = 1, 1
    config.num_key_value_heads, config.head_dim = 1, 32
    torch.manual_seed(3)
    made = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
        made.model.layers[0].mlp.down_proj.weight.zero_()
    used = hooks.wrap(made, tokenizer())
    rows = ids_of([5])
    unit = vector(2) / vector(2).norm()
    found = token_relevance(used, rows, unit[None], block=0)
    layer = made.model.layers[0]
    with torch.no_grad():
        x = made.model.embed_tokens.weight[list(rows.ids[0])]
        rms = layer.input_layernorm(x)
        cos, sin = made.model.rotary_emb(x[None], torch.arange(5)[None])

        def turn(y: torch.Tensor) -> torch.Tensor:
            left, right = y.chunk(2, -1)
            return y * cos[0] + torch.cat([-right, left], -1) * sin[0]

        wq, wk, wv, wo = (
            getattr(layer.self_attn, f"{name}_proj").weight for name in ("q", "k", "v", "o")
        )
        q, k, v = turn(rms @ wq.T), turn(rms @ wk.T), rms @ wv.T
        z = (q @ k.T / 32**0.5)[-1]
        s = z.softmax(-1)
        # Seed on the last row of attention output; half to values, half to attention weights.
        r_head = (wo.T @ unit)[None] * v * s[:, None]
        r_value_token = r_head.sum(-1) / 2
        r_s = r_head.sum(-1) / 2
        r_z = z * (r_s - s * r_s.sum())
        want = r_value_token + r_z / 2  # half of every product q . k goes to the key's token
        want[-1] += r_z.sum() / 2 + x[-1] @ unit  # the other half to the query's, and the skip
        absorbed = r_s.sum() - r_z.sum()
    torch.testing.assert_close(found.tokens[0][0], want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.softmax[0, 0], absorbed, atol=1e-5, rtol=1e-4)


def test_relevance_between_components_adds_up() -> None:
    used, rows = model("qwen3"), model("qwen3").encode(HARMFUL[:4])
    for earlier in (2, 0):
        found = component_relevance(
            used, rows, three(), vector(5, 4, 32), block=3, source_block=earlier
        )
        parts = found.flow.sum(-1) + found.rest + found.elsewhere + found.softmax + found.bias
        torch.testing.assert_close(parts, found.value, atol=1e-4, rtol=1e-3)
        assert found.n == 4 and found.flow.shape == (3, 4)


def test_a_full_basis_leaves_no_rest_and_a_silent_block_passes_components_on() -> None:
    made = make_hf("llama")
    with torch.no_grad():
        made.model.layers[2].self_attn.o_proj.weight.zero_()
        made.model.layers[2].mlp.down_proj.weight.zero_()
    used = hooks.wrap(made, tokenizer())
    rows = used.encode(HARMFUL[:3])
    basis = torch.linalg.qr(vector(6, 32, 32)).Q.T
    found = component_relevance(used, rows, basis[:3], basis, block=2)
    assert found.rest.abs().max() < 1e-4
    assert found.elsewhere.abs().max() < 1e-6
    torch.testing.assert_close(found.flow[:, :3].diagonal(), found.value, atol=1e-4, rtol=1e-3)
    off = found.flow - torch.nn.functional.pad(torch.diag(found.value), (0, 29))
    assert off.abs().max() < 1e-4


def test_an_adapter_and_other_precisions_are_read_as_they_run() -> None:
    low = hooks.wrap(make_hf("llama").to(torch.bfloat16), tokenizer())
    rows = low.encode(HARMFUL[:2])
    found = token_relevance(low, rows, three(), block=LAST)
    assert found.gap < 1e-3
    assert 0 < found.disagreement < 0.1
    exact = token_relevance(model(), rows, three(), block=LAST)
    assert exact.disagreement < 1e-5


def test_the_model_is_left_as_it_was() -> None:
    used = model()
    before, weights = attached(used.hf), [p.clone() for p in used.hf.parameters()]
    token_relevance(used, used.encode(HARMFUL[:1]), three(), block=1)
    assert attached(used.hf) == before
    for now, then in zip(used.hf.parameters(), weights, strict=True):
        assert now.grad is None and torch.equal(now, then)


def test_other_families_and_bad_input_are_refused() -> None:
    for family in set(TINY) - set(WRITTEN):
        with pytest.raises(InputError, match=f"{type(model(family).hf).__name__} is not among"):
            Tracer(model(family))
    assert {type(model(family).hf).__name__ for family in WRITTEN} == set(FAMILIES)
    used = model()
    rows = used.encode(HARMFUL[:2])
    with pytest.raises(InputError, match="width 31"):
        token_relevance(used, rows, torch.ones(1, 31), block=0)
    with pytest.raises(InputError, match="norm zero or is not finite"):
        token_relevance(used, rows, torch.zeros(1, 32), block=0)
    with pytest.raises(InputError, match="hook_attn_out: choose from"):
        token_relevance(used, rows, three(), block=0, site="hook_attn_out")
    with pytest.raises(SiteError, match="blocks 0 to 3"):
        token_relevance(used, rows, three(), block=4)
    with pytest.raises(InputError, match="no prompts"):
        token_relevance(used, rows[:0], three(), block=0)
    with pytest.raises(InputError, match="hold responses"):
        token_relevance(used, used.encode(["a"], responses=["b"]), three(), block=0)
    with pytest.raises(InputError, match="from block 2 to block 2"):
        component_relevance(used, rows, three(), three(), block=2, source_block=2)
    with pytest.raises(InputError, match="linearly dependent"):
        component_relevance(used, rows, three(), torch.ones(2, 32), block=2)


def test_a_variant_that_computes_otherwise_is_refused() -> None:
    made = make_hf("llama")
    for layer in made.model.layers:
        layer.self_attn.scaling = 1.0
    used = hooks.wrap(made, tokenizer())
    with pytest.raises(InputError, match="differs from"):
        token_relevance(used, used.encode(HARMFUL[:2]), three(), block=LAST)
