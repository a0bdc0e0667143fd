"""Every edit equals its closed form at the site, at the tokens and heads meant and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hooks
from hooks import Ablate, Add, Apply, Clamp, Scale, SetCoordinate
from hooks.errors import EditError
from tests.hooks.common import LAYERS, MID, POST, PROMPTS, WIDTH, capture, logits, model, vector
from tests.tiny import HEADS, make_hf, tokenizer

V = vector(1)
U = V / V.norm()
W = vector(2, 2, WIDTH)


def _prompts(n: int = 4) -> hooks.Encoded:
    return model().encode(PROMPTS[:n])


def _states(edits: list[object], site: str = MID, at: str = "all") -> list[Tensor]:
    return list(capture(model(), _prompts(), site, at=at, edits=edits)[site])


def _projector(rows: Tensor) -> Tensor:
    return torch.linalg.pinv(rows) @ rows


def _clamped(x: Tensor) -> Tensor:
    return x + ((x @ U).clamp(-0.3, 0.2) - x @ U)[:, None] * U


FORMS = {
    "add": (Add(V, MID), lambda x: x + V),
    "add scaled": (Add(V, MID, scale=-2.5), lambda x: x - 2.5 * V),
    "ablate": (Ablate(V, MID), lambda x: x - (x @ U)[:, None] * U),
    "ablate subspace": (Ablate(W, MID), lambda x: x - x @ _projector(W)),
    "ablate centred": (
        Ablate(V, MID, center=vector(3)),
        lambda x: x - ((x - vector(3)) @ U)[:, None] * U,
    ),
    "ablate a part": (Ablate(V, MID, amount=0.3), lambda x: x - 0.3 * (x @ U)[:, None] * U),
    "set": (SetCoordinate(V, MID, value=1.5), lambda x: x + (1.5 - x @ U)[:, None] * U),
    "clamp": (Clamp(V, MID, low=-0.3, high=0.2), _clamped),
    "scale": (Scale(MID, 0.25), lambda x: 0.25 * x),
    "apply": (Apply(torch.tanh, MID), torch.tanh),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_edits_equal_their_closed_form(name: str) -> None:
    edit, form = FORMS[name]
    for before, after in zip(_states([]), _states([edit]), strict=True):
        torch.testing.assert_close(after, form(before), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("name", list(FORMS))
def test_what_comes_before_an_edit_stays_bit_equal(name: str) -> None:
    before = _states([], "blocks.0.hook_resid_post")
    after = _states([FORMS[name][0]], "blocks.0.hook_resid_post")
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    last = f"blocks.{LAYERS - 1}.hook_resid_post"
    late, moved = _states([], last), _states([FORMS[name][0]], last)
    assert not torch.allclose(late[0], moved[0], atol=1e-4)


def test_ablation_is_idempotent_and_leaves_nothing() -> None:
    once, twice = _states([Ablate(V, MID)]), _states([Ablate(V, MID), Ablate(V, MID)])
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
        assert (one @ U).abs().max() < 1e-5
    assert (_states([Ablate(vector(4), MID)])[0] @ U).abs().max() > 1e-2


def test_adding_and_taking_away_is_nothing_and_sign_is_linear() -> None:
    plain = _states([])
    for now, then in zip(_states([Add(V, MID), Add(-V, MID)]), plain, strict=True):
        torch.testing.assert_close(now, then, atol=1e-5, rtol=1e-5)
    up, down = _states([Add(V, MID, scale=2.0)]), _states([Add(-V, MID, scale=-2.0)])
    assert all(torch.equal(a, b) for a, b in zip(up, down, strict=True))
    assert not torch.allclose(up[0], _states([Add(-V, MID, scale=2.0)])[0], atol=0.1)


def test_ablation_does_not_depend_on_sign_length_or_basis() -> None:
    want = _states([Ablate(W, MID)])
    turned = torch.tensor([[0.6, -0.8], [0.8, 0.6]]) @ W * 7
    for now, then in zip(_states([Ablate(turned, MID)]), want, strict=True):
        torch.testing.assert_close(now, then, atol=1e-5, rtol=1e-4)


def _by_row(row: int | None) -> dict[str, object]:
    many, scales = vector(5, 4, WIDTH), torch.tensor([0.5, -1.0, 2.0, 0.0])
    pick = slice(None) if row is None else row
    return {
        "add": Add(many[pick], MID, scale=scales[pick] if row is None else float(scales[row])),
        "ablate": Ablate(many[pick], MID, by_row=row is None),
        "ablate amount": Ablate(V, MID, amount=scales if row is None else float(scales[row])),
        "set": SetCoordinate(many[pick], MID, value=1.0),
        "clamp": Clamp(many[pick], MID, low=0.0),
        "scale": Scale(MID, scales if row is None else float(scales[row])),
    }


@pytest.mark.parametrize("name", list(_by_row(None)))
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_data_for_each_row_equals_a_loop_over_rows(name: str, rows: int) -> None:
    encoded = _prompts()
    options = hooks.EngineOptions(batch_rows=rows)
    together = capture(model(), encoded, edits=[_by_row(None)[name]], options=options).stack()
    for row in range(4):
        alone = capture(model(), encoded[row : row + 1], edits=[_by_row(row)[name]]).stack()
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=1e-5, rtol=1e-5)


def test_another_number_of_rows_is_refused() -> None:
    with pytest.raises(EditError, match="has 3 rows, 4 prompts were given"):
        capture(model(), _prompts(), edits=[Add(vector(1, 3, WIDTH), MID)])
    with pytest.raises(EditError, match="has 1 rows, 4 prompts"):
        capture(model(), _prompts(), edits=[Add(V, MID, scale=torch.ones(1))])


@pytest.mark.parametrize("rule", ["last", "template", "after_instruction", "all"])
@pytest.mark.parametrize("site", [MID, "blocks.1.hook_resid_mid", "blocks.1.attn.hook_z"])
def test_only_the_meant_tokens_change(rule: str, site: str) -> None:
    encoded = _prompts()
    edit = Scale(site, 3.0, positions=rule)
    before = capture(model(), encoded, site, at="all")[site]
    after = capture(model(), encoded, site, at="all", edits=[edit])[site]
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        end, length = encoded.instruction_end[row], len(encoded.ids[row])
        first = {"last": length - 1, "template": end, "after_instruction": end, "all": 0}[rule]
        assert torch.equal(new[:first], old[:first])
        assert not torch.isclose(new[first:], old[first:], atol=1e-6).all(-1).any()


def test_steps_choose_prompt_or_nothing_in_a_single_pass() -> None:
    both = _states([Add(V, MID)])
    prompt = _states([Add(V, MID, steps="prompt")])
    assert all(torch.equal(a, b) for a, b in zip(both, prompt, strict=True))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "mixtral"])
def test_removing_a_head_subtracts_what_it_writes(family: str) -> None:
    used, encoded = model(family), _prompts()
    z, out = "blocks.1.attn.hook_z", "blocks.1.hook_attn_out"
    before = capture(used, encoded, [z, out], at="last")
    after = capture(used, encoded, out, edits=[Scale(z, 0.0, heads=(1, 3))])
    weight, _ = hooks.output_weights(used.layout.component("blocks.1.attn.o"), HEADS)
    written = sum(before[z][:, head] @ weight[head] for head in (1, 3))
    torch.testing.assert_close(after[out], before[out] - written, atol=1e-5, rtol=1e-5)
    other = sum(before[z][:, head] @ weight[head] for head in (0, 3))
    assert not torch.allclose(after[out], before[out] - other, atol=1e-3)


def test_a_direction_in_one_head_leaves_the_other_heads_bit_equal() -> None:
    z, v = "blocks.1.attn.hook_z", vector(6, model().d_head)
    before = capture(model(), _prompts(), z)[z]
    after = capture(model(), _prompts(), z, edits=[Add(v, z, heads=(2,))])[z]
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    torch.testing.assert_close(after[:, 2], before[:, 2] + v)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "olmo2", "gpt2", "mixtral"])
def test_an_edit_between_attention_and_mlp_reaches_both_branches(family: str) -> None:
    used, encoded = model(family), _prompts()
    names = [f"blocks.1.{kind}" for kind in ("hook_resid_mid", "hook_mlp_out", "hook_resid_post")]
    before = capture(used, encoded, names)
    after = capture(used, encoded, names, edits=[Add(V, names[0])])
    torch.testing.assert_close(after[names[0]], before[names[0]] + V, atol=1e-5, rtol=1e-5)
    # The residual branch: the block's output is the edited middle plus the MLP's answer to it.
    torch.testing.assert_close(
        after[names[2]], after[names[0]] + after[names[1]], atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(after[names[1]], before[names[1]], atol=1e-4)


def test_the_edited_middle_equals_a_llama_block_written_by_hand() -> None:
    layer, ids = model().hf.model.layers[1], list(_prompts().ids[0])
    found: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, a: found.update(pre=a[0])),
        layer.self_attn.register_forward_hook(lambda *call: found.update(attn=call[-1][0])),
    ]
    with torch.no_grad():
        model().hf(torch.tensor([ids]))
        mid = found["pre"] + found["attn"] + V
        want = mid + layer.mlp(layer.post_attention_layernorm(mid))
    for handle in handles:
        handle.remove()
    edit = Add(V, "blocks.1.hook_resid_mid")
    got = capture(model(), _prompts()[:1], MID, at="all", edits=[edit])[MID]
    torch.testing.assert_close(got[0], want[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "llama"])
def test_what_attention_adds_is_written_behind_the_post_norm(family: str) -> None:
    used, encoded, mid = model(family), _prompts(), "blocks.1.hook_resid_mid"
    before = capture(used, encoded, mid)[mid]
    after = capture(used, encoded, mid, edits=[Add(V, "blocks.1.hook_attn_out")])[mid]
    torch.testing.assert_close(after - before, V.expand_as(before), atol=1e-5, rtol=1e-5)


def _orthogonalised(family: str) -> hooks.Model:
    """Return the model with the direction removed from every matrix that writes to the stream."""
    raw = make_hf(family, tie_word_embeddings=False)
    with torch.no_grad():
        embed = raw.get_input_embeddings().weight
        embed -= (embed @ U)[:, None] * U
        for layer in raw.model.layers:
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                module.weight -= torch.outer(U, U @ module.weight)
    return hooks.wrap(raw, tokenizer())


WRITERS = ["hook_embed", "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out"]


def test_ablating_every_writer_equals_orthogonal_weights() -> None:
    plain = hooks.wrap(make_hf("llama", tie_word_embeddings=False), tokenizer())
    encoded, edits = _prompts(), [Ablate(V, WRITERS)]
    want = logits(_orthogonalised("llama"), encoded)
    got = logits(plain, encoded, edits)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(plain, encoded), want, atol=1e-2)
    fewer = logits(plain, encoded, [Ablate(V, WRITERS[:2])])
    assert not torch.allclose(fewer, want, atol=1e-3)


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_with_post_norms_ablated_writers_leave_nothing_in_the_stream(family: str) -> None:
    edits = [Ablate(V, WRITERS)]
    found = capture(model(family), _prompts(), POST, edits=edits).stack()
    assert (found @ U).abs().max() < 1e-4
    # Before the norm is not what enters the stream: weights alone would leave something.
    raw = _orthogonalised(family)
    assert (capture(raw, _prompts(), POST).stack() @ U).abs().max() > 1e-2


@pytest.mark.parametrize("site", [MID, "blocks.1.hook_resid_mid", "blocks.1.hook_resid_pre"])
def test_a_capture_before_edits_sees_the_state_before_them(site: str) -> None:
    plain = capture(model(), _prompts(), site)[site]
    before = capture(model(), _prompts(), site, edits=[Add(V, site)], when="before")[site]
    after = capture(model(), _prompts(), site, edits=[Add(V, site)])[site]
    torch.testing.assert_close(before, plain, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(after, plain + V, atol=1e-5, rtol=1e-5)


def test_inputs_are_not_changed_and_the_precision_of_the_model_stays() -> None:
    direction, scale = V.clone(), torch.tensor([1.0, 2.0, 3.0, 4.0])
    edit = Add(direction, MID, scale=scale)
    capture(model(), _prompts(), edits=[edit, Ablate(direction.double(), MID)])
    assert torch.equal(direction, V)
    assert scale.tolist() == [1, 2, 3, 4]
    half = hooks.wrap(make_hf("llama").to(torch.bfloat16), tokenizer())
    found = capture(half, _prompts(), MID, edits=[Ablate(V, MID)])[MID]
    assert (found @ U).abs().max() < 0.02 * found.norm(dim=-1).max()


@pytest.mark.parametrize("site", ["blocks.1.hook_resid_mid", MID])
def test_in_bfloat16_tokens_not_meant_stay_bit_equal(site: str) -> None:
    half = hooks.wrap(make_hf("llama").to(torch.bfloat16), tokenizer())
    before = capture(half, _prompts(), site, at="all")[site]
    edit = Scale(site, 3.0, positions="last")
    after = capture(half, _prompts(), site, at="all", edits=[edit])[site]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:-1], new[:-1])
        assert not torch.equal(old[-1], new[-1])
