"""Steering the reference pair under generate() of Hugging Face, as a notebook would do it."""

from __future__ import annotations

from functools import cache
from threading import Thread

import pytest
import torch
from transformers import TextIteratorStreamer, TextStreamer

import hooks
import steering
from artifacts.errors import TheodoliteError
from evaluation.catalogue import shipped
from evaluation.judges.tokens import RefusalTokens, find_refusal_tokens
from evaluation.wrappers import press
from steering.axes import fit_logistic
from steering.policy import Policy, Reading, Term
from tests.hooks.common import attached

pytestmark = [pytest.mark.real, pytest.mark.slow]

BLOCK, STEERED = 18, (19, 20, 21, 22)
NEW = 8


@cache
def model() -> hooks.Model:
    try:
        return hooks.load("reference:aligned", dtype="float32", device="cpu")
    except TheodoliteError as error:
        pytest.skip(f"no reference pair here: {error}")


@cache
def known() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states after every block of 16 harmful and 16 harmless requests."""
    few = shipped("development").select(limit=16)
    states = hooks.Rows()
    with model().hooks(capture=hooks.Capture(into=states)) as run:
        run.forward(model().encode([p.prompt for p in (*few.harmful, *few.harmless)]))
    found = states.stack()
    return found[:, :16], found[:, 16:]


def directions() -> dict[int, torch.Tensor]:
    harmful, harmless = known()
    return {block: (harmful - harmless)[block].mean(0) for block in STEERED}


@cache
def additive(strength: float = 0.5, steps: str = "both") -> Policy:
    norms = {block: float(known()[0][block].norm(dim=-1).mean()) for block in STEERED}
    return steering.additive(model(), directions(), strength=strength, ambient=norms, steps=steps)


@cache
def gated() -> Policy:
    """Return the same vectors behind a gate that is fitted to the two classes at one block."""
    harmful, harmless = (part[BLOCK] for part in known())
    direction = harmful.mean(0) - harmless.mean(0)
    direction = direction / direction.norm()
    score = (torch.cat([harmful, harmless]) @ direction).numpy()[:, None]
    fit = fit_logistic(score, torch.arange(32).numpy() < 16)
    slope = float(fit.weight[0] / fit.scale[0])
    law = steering.Logistic(slope, fit.bias - slope * float(fit.mean[0]), floor=0.3)
    term = Term("rejection", STEERED, additive().terms[0].vectors, Reading(BLOCK, direction, law))
    return Policy("adasteer", (term,), model().info(), model().tokenizer_info())


@cache
def tokens() -> RefusalTokens:
    few = shipped("development").select(limit=24)
    return find_refusal_tokens(model(), few.select(label="harmful"), few.select(label="harmless"))


def asked(kind: str = "plain") -> list[str]:
    """Return three harmful and three harmless requests that nothing was fitted on, by turns."""
    few = shipped("test").select(limit=3)
    few = few if kind == "plain" else press(few, kind)
    pairs = zip(few.harmful, few.harmless, strict=True)
    return [prompt.prompt for pair in pairs for prompt in pair]


def inputs(prompts: list[str]) -> dict[str, torch.Tensor]:
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    model().tokenizer.padding_side = "left"
    batch = model().tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def generate(policy: Policy | None, prompts: list[str], **options: object) -> list[list[int]]:
    """Generate with Hugging Face, in three lines where there is a policy."""
    batch = inputs(prompts)
    pad = {"pad_token_id": model().tokenizer.pad_token_id, "max_new_tokens": NEW}
    if policy is None:
        out = model().hf.generate(**batch, **pad, **options)
    else:
        with steering.steer(model(), policy):
            out = model().hf.generate(**batch, **pad, **options)
    return out[:, batch["input_ids"].shape[1] :].tolist()


def text(ids: list[int]) -> str:
    return str(model().tokenizer.decode(ids, skip_special_tokens=True))


def test_a_batch_of_benign_and_harmful_requests_is_steered_row_by_row() -> None:
    """Harmful requests in a wrapper are steered, some into another answer; where the gate is shut,
    a benign one keeps its answer to the token.
    """
    prompts = asked("code-completion")
    clean = generate(None, prompts, do_sample=False)
    steered = generate(gated(), prompts, do_sample=False)
    shares = steering.coefficients(model(), gated(), prompts)["rejection"]
    shut = [index for index, share in enumerate(shares) if share == 0]
    assert shares[0::2].min() > 0.3
    assert 0 < len(shut) < len(prompts)
    assert set(shut) <= {1, 3, 5}
    assert [steered[k] for k in shut] == [clean[k] for k in shut], "a shut gate changes nothing"
    assert any(a != b for a, b in zip(steered[0::2], clean[0::2], strict=True))
    ours = steering.answer(model(), gated(), prompts, max_new_tokens=NEW)
    assert [text(row) for row in steered] == list(ours.texts)
    assert attached(model().hf) == []


def test_the_first_new_token_is_steered() -> None:
    prompts = asked()[1::2]
    options = {"output_logits": True, "return_dict_in_generate": True, "do_sample": False}

    def first(policy: Policy | None) -> torch.Tensor:
        batch = inputs(prompts)
        if policy is None:
            return model().hf.generate(**batch, max_new_tokens=1, **options).logits[0]
        with steering.steer(model(), policy):
            return model().hf.generate(**batch, max_new_tokens=2, **options).logits[0]

    inside = list(tokens().ids)

    def mass(logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(-1)[:, inside].sum(-1)

    clean, steered, later = first(None), first(additive()), first(additive(steps="generated"))
    assert (mass(clean) < 0.1).all()
    assert (mass(steered) > 0.9).all(), "benign requests are refused from the first token on"
    # The control: what only generated tokens get cannot reach the first of them.
    torch.testing.assert_close(later, clean, atol=1e-4, rtol=1e-4)
    with model().hooks(edits=additive().edits()) as run:
        ours = run.forward(model().encode(prompts), logits="last").logits
    torch.testing.assert_close(steered, ours, atol=1e-2, rtol=1e-3)


def test_sampling_repeats_with_its_seed_and_differs_from_the_unsteered_model() -> None:
    prompts = asked()[1:2]

    def sampled(policy: Policy | None, seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return generate(policy, prompts, do_sample=True, temperature=1.0, num_return_sequences=4)

    steered = sampled(additive(0.2), 0)
    assert steered == sampled(additive(0.2), 0)
    assert steered != sampled(additive(0.2), 1)
    assert steered != sampled(None, 0)
    assert sampled(additive(0.0), 0) == sampled(None, 0), "strength 0 samples the very same tokens"
    assert len({tuple(row) for row in sampled(None, 0)}) > 1


def test_streams_give_the_steered_text_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    (prompt,) = asked()[1:2]
    (want,) = steering.answer(model(), additive(), [prompt], max_new_tokens=NEW).texts
    options = {"skip_prompt": True, "skip_special_tokens": True}
    generate(
        additive(), [prompt], do_sample=False, streamer=TextStreamer(model().tokenizer, **options)
    )
    assert capsys.readouterr().out == f"{want}\n"
    streamer = TextIteratorStreamer(model().tokenizer, timeout=60, **options)
    more = {"do_sample": False, "streamer": streamer}
    worker = Thread(target=generate, args=(additive(), [prompt]), kwargs=more)
    worker.start()
    pieces = list(streamer)
    worker.join()
    assert "".join(pieces) == want
    assert len(pieces) > 1, "it comes before the end"
    assert want != text(generate(None, [prompt], do_sample=False)[0])
    assert attached(model().hf) == []
