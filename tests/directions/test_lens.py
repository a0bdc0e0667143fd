"""Both ends of a component: what the logits do, and which prompts lie there."""

from __future__ import annotations

import pytest
import torch

import hooks
from artifacts.errors import InputError
from directions.lens import extremes, final_gain, lens, lens_scores
from tests.hooks.common import model, plain_logits, vector
from tests.tiny import make_hf, tokenizer


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt_neox", "qwen3", "olmo2"])
def test_scores_are_the_derivative_of_the_logits_at_a_fixed_norm(family: str) -> None:
    """Independent oracle: the model's own final norm and unembedding, its statistics held."""
    used, v = model(family), vector(3)
    norm, unembed = used.layout.component("ln_final"), used.hf.get_output_embeddings()
    x = vector(4)
    # x + h and x - h have equal statistics where h is orthogonal to x and to ones.
    h = v - v.mean()
    centred = x - x.mean()
    h = h - centred * (h @ centred) / (centred @ centred)
    with torch.no_grad():
        up, down = (unembed(norm((centred + s * h)[None]))[0] for s in (1, -1))
        rms = (centred + h).square().mean().sqrt()
    torch.testing.assert_close((up - down) / 2 * rms, lens_scores(used, h), atol=2e-4, rtol=2e-3)


def test_the_direction_of_a_token_reads_as_that_token() -> None:
    used = model()
    weight = used.hf.get_output_embeddings().weight
    gain, centres = final_gain(used)
    assert not centres
    torch.testing.assert_close(gain, used.hf.model.norm.weight.detach(), atol=1e-4, rtol=1e-4)
    row = (weight[70] - weight.mean(0)) / gain  # least other tokens, most token 70
    found = lens(used, row, count=5)
    assert found.high[0] == 70
    assert found.high_texts[0] == used.tokenizer.decode([70])
    assert list(found.high_scores) == sorted(found.high_scores, reverse=True)
    assert found.high_scores[0] > 3


def test_a_turned_sign_exchanges_the_ends_and_scale_does_nothing() -> None:
    v = vector(5)
    plain, turned, scaled = lens(model(), v), lens(model(), -v), lens(model(), 100 * v)
    assert plain.high == turned.low and plain.low == turned.high
    assert plain.low_scores == pytest.approx([-s for s in turned.high_scores], abs=1e-5)
    assert scaled.high == plain.high
    assert scaled.high_scores == pytest.approx(plain.high_scores, abs=1e-4)


def test_what_is_added_to_every_token_is_seen_by_none() -> None:
    """Centred over the vocabulary: a shift of all logits changes no reading."""
    made = make_hf("llama", tie_word_embeddings=False)
    v = vector(6)
    before = lens(hooks.wrap(made, tokenizer()), v)
    with torch.no_grad():
        made.lm_head.weight.add_(vector(7)[None])
    after = lens(hooks.wrap(made, tokenizer()), v)
    assert after.high == before.high
    assert after.high_scores == pytest.approx(before.high_scores, abs=1e-3)


def test_the_lens_of_the_last_state_orders_tokens_as_the_logits_do() -> None:
    used, ids = model(), [20, 21, 22, 23]
    from tests.hooks.common import capture

    rows = hooks.Encoded.from_ids([ids])
    state = capture(used, rows, "blocks.3.hook_resid_post")["blocks.3.hook_resid_post"][0]
    found = lens(used, state, count=5)
    want = plain_logits(used, ids)[-1].argsort(descending=True)[:5].tolist()
    assert list(found.high) == want


def test_ends_of_projections() -> None:
    found = extremes(torch.tensor([0.5, -2.0, 3.0, 0.5, 1.0]), count=3)
    assert found.high == (2, 4, 0) and found.high_values == (3.0, 1.0, 0.5)
    assert found.low == (1, 0, 3) and found.low_values == (-2.0, 0.5, 0.5)
    assert len(extremes(torch.arange(4.0)).high) == 4


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="width 31"):
        lens(model(), vector(1, 31))
    with pytest.raises(InputError, match="norm 0"):
        lens(model(), torch.zeros(32))
    with pytest.raises(InputError, match="0 projections"):
        extremes(torch.zeros(0))
    with pytest.raises(InputError, match="all finite"):
        extremes(torch.tensor([1.0, float("nan")]))
