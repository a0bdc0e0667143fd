"""A position rule means the tokens that one finds by hand in the rendered text (R23)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hooks
from hooks.errors import PositionError, SilentEditError
from hooks.positions import check_rule
from tests.hooks.common import LAYERS, MID, PROMPTS, capture, ids_of, model
from tests.tiny import FAMILIES

SYSTEM = "You are kind."
OPTIONS = {
    "one row": hooks.EngineOptions(batch_rows=1),
    "two rows": hooks.EngineOptions(batch_rows=2),
    "seven rows": hooks.EngineOptions(batch_rows=7),
    "sixteen rows": hooks.EngineOptions(batch_rows=16),
    "no packing": hooks.EngineOptions(pack=False, batch_rows=3),
    "no prefix": hooks.EngineOptions(prefix=False),
    "no stop": hooks.EngineOptions(stop=False),
    "nothing": hooks.EngineOptions(prefix=False, stop=False, pack=False, batch_tokens=1),
}


def _by_hand(prompt: str, response: str = "") -> tuple[list[int], int, int]:
    """Return ids, first template token after the instruction, first response token.

    Each special token is one id, each ASCII character one byte token.
    """
    names = {"<|end|>": 0, "<|user|>": 1, "<|assistant|>": 2, "<|system|>": 3}
    one = {token: model().tokenizer.convert_tokens_to_ids(token) for token in names}

    def letters(text: str) -> list[int]:
        return [model().tokenizer.convert_tokens_to_ids("Ġ" if c == " " else c) for c in text]

    head = [one["<|system|>"], *letters(SYSTEM), one["<|end|>"], one["<|user|>"]]
    ids = [*head, *letters(prompt)]
    end = len(ids)
    ids += [one["<|end|>"], one["<|assistant|>"]]
    return ids + letters(response), end, len(ids)


def _everything(ids: list[int]) -> Tensor:
    """Return [token, d]: all states at one site for one row alone, by a plain torch hook."""
    found: list[Tensor] = []
    layer = model().hf.model.layers[1]
    handle = layer.register_forward_hook(lambda *call: found.append(call[-1][0].clone()))
    with torch.no_grad():
        model().hf(torch.tensor([ids]))
    handle.remove()
    return found[0]


def _is_question(ids: Tensor, mask: Tensor) -> Tensor:
    return ids == model().tokenizer.convert_tokens_to_ids("?")


def test_encoding_finds_the_boundaries() -> None:
    responses = [f"No {index}" for index in range(len(PROMPTS))]
    encoded = model().encode(PROMPTS, system=SYSTEM, responses=responses)
    for row, (prompt, response) in enumerate(zip(PROMPTS, responses, strict=True)):
        ids, end, start = _by_hand(prompt, response)
        assert list(encoded.ids[row]) == ids
        assert (encoded.instruction_end[row], encoded.response_start[row]) == (end, start)


@pytest.mark.parametrize("rule", ["last", "template", "after_instruction", "response", "all"])
@pytest.mark.parametrize("responses", [False, True])
def test_rules_equal_indices_found_by_hand(rule: str, responses: bool) -> None:
    answers = [f"Yes{'!' * index}" if responses else "" for index in range(len(PROMPTS))]
    encoded = model().encode(PROMPTS, system=SYSTEM, responses=answers if responses else None)
    if rule == "response" and not responses:
        with pytest.raises(SilentEditError, match="nothing happened"):
            capture(model(), encoded, MID, at=rule)
        return
    got = capture(model(), encoded, MID, at=rule)[MID]
    for row, prompt in enumerate(PROMPTS):
        ids, end, start = _by_hand(prompt, answers[row])
        meant = {
            "last": [start - 1],
            "template": [start - 2, start - 1],
            "after_instruction": range(end, len(ids)),
            "response": range(start, len(ids)),
            "all": range(len(ids)),
        }[rule]
        want = _everything(ids)[list(meant)]
        torch.testing.assert_close(got[row].reshape(want.shape), want, atol=1e-5, rtol=1e-5)


def test_last_is_not_the_last_response_token() -> None:
    plain = capture(model(), model().encode(PROMPTS), MID)[MID]
    answered = model().encode(PROMPTS, responses=["abc"] * len(PROMPTS))
    torch.testing.assert_close(capture(model(), answered, MID)[MID], plain, atol=1e-5, rtol=1e-5)
    whole = capture(model(), answered, MID, at="response")[MID]
    assert not torch.allclose(whole[:, -1], plain, atol=1e-2)


def test_a_callable_means_what_it_says() -> None:
    asks = [prompt for prompt in PROMPTS if "?" in prompt]
    got = capture(model(), model().encode(asks, system=SYSTEM), MID, at=_is_question)[MID]
    for row, prompt in enumerate(asks):
        ids, end, _ = _by_hand(prompt)
        torch.testing.assert_close(got[row], _everything(ids)[end - 1], atol=1e-5, rtol=1e-5)
    silent = model().encode(["Name a river."], system=SYSTEM)
    with pytest.raises(SilentEditError, match="nothing happened"):
        capture(model(), silent, MID, at=_is_question)


@pytest.mark.parametrize("wrong", [lambda _, mask: mask.long(), lambda _, mask: mask[:, 1:]])
def test_a_callable_of_another_shape_or_type_is_refused(wrong: object) -> None:
    with pytest.raises(PositionError, match="position callable returned"):
        capture(model(), ids_of([4, 6]), MID, at=wrong)


@pytest.mark.parametrize("rule", ["lsat", "LAST", ""])
def test_a_rule_that_does_not_exist_is_refused(rule: str) -> None:
    with pytest.raises(PositionError, match="choose from last"):
        check_rule(rule, "both")
    with pytest.raises(PositionError, match="step rule"):
        check_rule("last", "prompts")
    check_rule("last", "prompt")


def test_template_rule_without_a_template_is_refused() -> None:
    with pytest.raises(PositionError, match="no template tail"):
        capture(model(), ids_of([4, 6]), MID, at="template")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_padded_equals_unpadded(family: str) -> None:
    encoded = ids_of([3, 17, 9, 30, 1])
    kinds = ["blocks.*.hook_resid_post", "blocks.*.hook_attn_out", "ln_final.hook_out"]
    together = capture(model(family), encoded, kinds).stack()
    for row in range(len(encoded)):
        alone = capture(model(family), encoded[row : row + 1], kinds).stack()
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize("name", list(OPTIONS))
def test_batching_changes_nothing(family: str, name: str) -> None:
    encoded = model().encode(PROMPTS * 2, system=SYSTEM)
    want = _reference(family, encoded)
    got = capture(model(family), encoded, options=OPTIONS[name]).stack()
    _same(got, want)


def _reference(family: str, encoded: hooks.Encoded) -> Tensor:
    rows = [capture(model(family), encoded[i : i + 1]).stack() for i in range(len(PROMPTS))]
    return torch.cat(rows * 2, dim=1)


def _same(got: Tensor, want: Tensor) -> None:
    assert (got - want).abs().max() <= 1e-5 * want.abs().max().clamp_min(1)
    assert torch.cosine_similarity(got, want, dim=-1).min() >= 1 - 1e-6


def test_row_order_changes_nothing_but_the_order() -> None:
    encoded = model().encode(PROMPTS, system=SYSTEM)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    straight = capture(model(), encoded, at="template").stack()
    mixed = capture(model(), encoded.select(order), at="template").stack()
    _same(mixed, straight[:, order])
    assert not torch.allclose(mixed, straight, atol=1e-2)


def test_moments_of_equal_activations_are_equal_however_they_arrive() -> None:
    states = capture(model(), model().encode(PROMPTS, system=SYSTEM)).stack()
    whole = hooks.Moments(second=True)
    rows = torch.arange(len(PROMPTS))
    whole.update("x", states[1], rows, torch.zeros_like(rows))
    for size in (1, 2, 7):
        parts = hooks.Moments(second=True)
        for piece in rows.flip(0).split(size):
            parts.update("x", states[1][piece], piece, torch.zeros_like(piece))
        torch.testing.assert_close(parts.mean("x"), whole.mean("x"), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(
            parts.covariance("x"), whole.covariance("x"), atol=1e-12, rtol=1e-12
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_raw_forward_captures_the_last_real_token(side: str) -> None:
    tokenizer = model().tokenizer
    texts = list(PROMPTS[:4])
    batch = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False
    )
    batch.pop("token_type_ids", None)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    rows = hooks.Rows()
    with model().hooks(capture=hooks.Capture(MID, into=rows)), torch.no_grad():
        model().hf(**batch, position_ids=positions)
    for row, text in enumerate(texts):
        want = _everything(tokenizer(text)["input_ids"])[-1]
        torch.testing.assert_close(rows[MID][row], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", ["template", "after_instruction", "response"])
def test_a_raw_forward_has_no_boundaries_and_says_so(rule: str) -> None:
    with (
        pytest.raises(PositionError, match="needs the prompt's boundaries"),
        model().hooks(capture=hooks.Capture(MID, at=rule)),
        torch.no_grad(),
    ):
        model().hf(torch.tensor([[7, 8, 9]]))


def test_rows_keep_the_order_of_sites() -> None:
    rows = capture(model(), ids_of([4, 6]))
    assert rows.sites == tuple(f"blocks.{block}.hook_resid_post" for block in range(LAYERS))
