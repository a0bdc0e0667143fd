"""One pass equals two; generate() of Hugging Face under the context equals ours; tokens counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import TextIteratorStreamer

import hooks
import steering
from hooks.errors import SilentEditError
from steering.errors import PolicyError
from steering.laws import Logistic, Step
from steering.policy import Policy, Term
from steering.transition import Transition
from tests.hooks.common import attached, vector
from tests.steering.common import (
    NEW,
    PROMPTS,
    always,
    counted,
    gated,
    greedy,
    middle,
    model,
    plain,
    scores,
    vectors,
)


def padded(encoded: hooks.Encoded) -> dict[str, torch.Tensor]:
    width = max(encoded.lengths)
    return {
        "input_ids": torch.tensor([[2] * (width - len(row)) + list(row) for row in encoded.ids]),
        "attention_mask": torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in encoded.ids]
        ),
    }


def foreign(policy: Policy, encoded: hooks.Encoded = PROMPTS, **options: object) -> list[list[int]]:
    """Call Hugging Face's own generate() under the policy, in three lines."""
    used = model()
    with steering.steer(used, policy):
        out = used.hf.generate(**padded(encoded), max_new_tokens=NEW, pad_token_id=2, **options)
    rows = out[:, max(encoded.lengths) :].tolist()
    return [row[: row.index(2)] if 2 in row else row for row in rows]


def test_a_batch_may_mix_rows_that_are_steered_and_rows_that_are_not() -> None:
    policy = gated(Step(middle()))
    is_open = (scores() > middle()).tolist()
    assert 0 < sum(is_open) < len(is_open)
    steered, clean = always(policy), plain()
    wanted = [steered[row] if now else clean[row] for row, now in enumerate(is_open)]
    assert greedy(policy) == wanted
    assert wanted not in (steered, clean)


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_batches_and_order_do_not_matter(rows: int) -> None:
    policy = gated(Logistic(3.0, -3.0 * middle()))
    options = hooks.EngineOptions(batch_rows=rows)
    found = steering.answer(model(), policy, PROMPTS, max_new_tokens=NEW, options=options)
    assert [list(row) for row in found.ids] == greedy(policy)
    back = list(reversed(range(len(PROMPTS))))
    assert greedy(policy, PROMPTS.select(back)) == [greedy(policy)[row] for row in back]


@pytest.mark.parametrize("law", [Step(0.0), Logistic(3.0, 0.0)])
def test_one_pass_equals_two(law: object) -> None:
    law = Step(middle()) if isinstance(law, Step) else Logistic(3.0, -3.0 * middle())
    policy = gated(law)
    assert policy.late_gate is None
    shares = steering.coefficients(model(), policy, PROMPTS)
    with model().hooks(edits=steering.serve.given_shares(policy, shares)) as run:
        two = run.generate_ids(PROMPTS, max_new_tokens=NEW)
    assert greedy(policy) == two


def test_a_steered_block_before_its_gate_takes_a_second_pass_only_where_the_gate_opens() -> None:
    at = 2
    direction, block_scores = vector(3), scores(block=at)
    cut = float(block_scores.median()) - 1e-4
    policy = gated(Step(cut), steered=(0, 1), gate=at, two_pass=True)
    is_open = block_scores > cut
    assert 0 < int(is_open.sum()) < len(PROMPTS)
    steered, clean = always(policy), plain()
    wanted = [steered[r] if now else clean[r] for r, now in enumerate(is_open.tolist())]
    found = steering.answer(model(), policy, PROMPTS, max_new_tokens=NEW)
    assert [list(row) for row in found.ids] == wanted
    shut = replace(policy.terms[0], gate=replace(policy.terms[0].gate, law=Step(1e9)))
    closed = steering.answer(model(), replace(policy, terms=(shut,)), PROMPTS, max_new_tokens=NEW)
    assert [list(row) for row in closed.ids] == clean
    width = max(PROMPTS.lengths)
    assert closed.stats.tokens_computed <= len(PROMPTS) * (width + NEW - 1)
    assert found.stats.tokens_computed > closed.stats.tokens_computed
    assert direction.norm() > 0
    with pytest.raises(PolicyError, match="steering.answer"), steering.steer(model(), policy):
        pass


def test_no_prompt_is_read_twice_where_one_pass_is_enough() -> None:
    options = hooks.EngineOptions(prefix=False, pack=False)
    with model().hooks(options=options) as bare:
        bare.generate_ids(PROMPTS, max_new_tokens=NEW)
    for policy in (
        gated(Logistic(3.0, 0.0)),
        steering.additive(model(), vectors(1), strength=1.0, kind="absolute"),
    ):
        found = steering.answer(model(), policy, PROMPTS, max_new_tokens=NEW, options=options)
        assert found.stats.tokens_computed == bare.stats.tokens_computed


def test_generate_of_hugging_face_reads_each_prompt_once_under_a_policy() -> None:
    used = model()
    with counted(used) as bare:
        used.hf.generate(**padded(PROMPTS), max_new_tokens=NEW, do_sample=False, pad_token_id=2)
    width = max(PROMPTS.lengths)
    assert bare[0] == len(PROMPTS) * width
    for policy in (gated(Logistic(3.0, 0.0)), gated(Step(middle())), gated(Step(1e9))):
        with counted(used) as steered:
            foreign(policy, do_sample=False)
        assert steered[0] == bare[0]
        assert set(steered[1:]) <= {len(PROMPTS)}, "then one token a row and step"


@pytest.mark.parametrize("kind", ["one pass", "two passes", "scans", "additive"])
def test_an_answer_says_what_each_prompt_got_without_reading_it_for_that(kind: str) -> None:
    law = Logistic(3.0, -3.0 * float(scores(block=2).median()), 0.3)
    made = {
        "one pass": lambda: gated(Logistic(3.0, -3.0 * middle(), 0.3)),
        "two passes": lambda: gated(law, steered=(0, 1), gate=2, two_pass=True),
        "scans": lambda: scans(float(by_two_prefills(scans(0.0)).median()) - 1e-5),
        "additive": lambda: steering.additive(model(), vectors(1), strength=1.0, kind="absolute"),
    }
    policy = made[kind]()
    options = hooks.EngineOptions(batch_rows=2, prefix=False)
    with counted(model()) as seen:
        found = steering.answer(model(), policy, PROMPTS, max_new_tokens=NEW, options=options)
    assert sum(seen) == found.stats.tokens_computed
    if kind == "additive":
        assert dict(found.shares) == {}
        return
    want = steering.coefficients(model(), policy, PROMPTS)
    assert set(found.shares) == set(want)
    for name, share in want.items():
        assert len(set(share.tolist())) > 1
        torch.testing.assert_close(found.shares[name], share, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", ["prompt", "generated", "both"])
def test_generate_of_hugging_face_equals_ours(steps: str) -> None:
    policy = steering.additive(model(), vectors(1), strength=1.0, kind="absolute", steps=steps)
    assert foreign(policy, do_sample=False) == greedy(policy)
    assert greedy(policy) != plain()
    assert attached(model().hf) == []


def test_generate_of_hugging_face_keeps_the_gate_of_each_row() -> None:
    for law in (Step(middle()), Logistic(3.0, -3.0 * middle())):
        policy = gated(law)
        assert foreign(policy, do_sample=False) == greedy(policy)
        for row in range(len(PROMPTS)):
            alone = PROMPTS.select([row])
            assert foreign(policy, alone, do_sample=False) == [greedy(policy)[row]]


def test_several_generate_calls_under_one_context_each_decide_anew() -> None:
    policy = gated(Step(middle()))
    used = model()
    with steering.steer(used, policy):
        found = [
            used.hf.generate(
                torch.tensor([list(row)]), max_new_tokens=NEW, do_sample=False, pad_token_id=2
            )[0, len(row) :].tolist()
            for row in PROMPTS.ids
        ]
    cut = [row[: row.index(2)] if 2 in row else row for row in found]
    assert cut == greedy(policy)


def test_sampling_and_several_answers_are_steered_from_the_first_token_on() -> None:
    policy = steering.additive(model(), vectors(1, 2), strength=4.0, kind="absolute")
    alone = PROMPTS.select([1])

    def sampled(with_policy: Policy | None) -> list[list[int]]:
        torch.manual_seed(0)
        more = {"do_sample": True, "num_return_sequences": 64, "top_k": 0}
        if with_policy is not None:
            return foreign(with_policy, alone, **more)
        out = model().hf.generate(**padded(alone), max_new_tokens=NEW, pad_token_id=2, **more)
        return out[:, len(alone.ids[0]) :].tolist()

    with steering.steer(model(), policy) as run:
        p = torch.softmax(run.forward(alone, logits="last").logits[0], dim=-1)
    assert p.max() > 0.02
    likely = int(p.argmax())
    share = sum(row[:1] == [likely] for row in sampled(policy)) / 64
    spread = float(torch.sqrt(p.max() * (1 - p.max()) / 64))
    assert abs(share - float(p.max())) < 4 * spread
    assert len({tuple(row) for row in sampled(policy)}) > 1
    assert sampled(policy) == sampled(policy)
    assert sampled(policy) != sampled(None)


def test_streaming_gives_the_steered_text() -> None:
    policy = gated(Step(-1e9))
    used, alone = model(), PROMPTS.select([1])
    streamer = TextIteratorStreamer(used.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with steering.steer(used, policy):
        used.hf.generate(
            **padded(alone), max_new_tokens=NEW, do_sample=False, pad_token_id=2, streamer=streamer
        )
    want = steering.answer(used, policy, alone, max_new_tokens=NEW).texts[0]
    assert "".join(streamer) == want


def test_a_context_that_steers_nothing_says_so_and_leaves_no_hook() -> None:
    with pytest.raises(SilentEditError), steering.steer(model(), gated(Step(0.0))):
        pass
    with pytest.raises(KeyboardInterrupt), steering.steer(model(), gated(Step(0.0))):
        raise KeyboardInterrupt
    assert attached(model().hf) == []


# SCANS


def scans(threshold: float, size: float = 1.0, blocks: tuple[int, ...] = (1, 2)) -> Policy:
    used = model()
    rows = size * torch.stack(list(vectors(*blocks).values()))
    anchors = torch.stack([vector(40 + block) for block in range(3)])
    transition = Transition((30, 31), (0, 1, 2), anchors, threshold)
    term = Term("scans", blocks, rows, positions="all", steps="both")
    return Policy("scans", (term,), used.info(), used.tokenizer_info(), transition=transition)


def by_two_prefills(policy: Policy) -> torch.Tensor:
    """Score as the original does: read prompt, and prompt with opener, from the beginning."""
    assert policy.transition is not None
    sites = policy.transition.sites
    ends = []
    for more in ((), policy.transition.opener):
        states = hooks.Rows()
        with model().hooks(capture=hooks.Capture(sites, into=states)) as run:
            run.forward(hooks.Encoded.from_ids([[*row, *more] for row in PROMPTS.ids]))
        ends.append(states.stack())
    moved = (ends[0] - ends[1]).transpose(0, 1)
    return policy.transition.score(moved)


def test_the_branch_reads_what_a_second_prefill_would() -> None:
    policy = scans(0.0)
    with steering.serve.scans_context(model(), policy) as (run, branch):
        state, last, moved = steering.transition.moves(run, branch, PROMPTS, (30, 31))
        found = policy.transition.score(moved)
        state.append(last)
    torch.testing.assert_close(found, by_two_prefills(policy), atol=1e-4, rtol=1e-4)


def test_scans_steers_by_the_sign_from_the_last_prompt_token_on() -> None:
    cut = float(by_two_prefills(scans(0.0)).median()) - 1e-5
    policy = scans(cut)
    signs = torch.where(by_two_prefills(policy) > cut, 1.0, -1.0)
    assert len(set(signs.tolist())) == 2
    assert torch.equal(steering.coefficients(model(), policy, PROMPTS)["scans"], signs)
    edits = [
        hooks.Add(row, f"blocks.{block}.hook_resid_post", positions="last", scale=signs)
        for block, row in zip((1, 2), policy.terms[0].vectors, strict=True)
    ]
    with model().hooks(edits=edits) as run:
        wanted = run.generate_ids(PROMPTS, max_new_tokens=NEW)
    assert greedy(policy) == wanted != plain()
    assert greedy(policy.scaled(0.0)) == plain()
    found = steering.answer(model(), policy, PROMPTS, max_new_tokens=NEW)
    width = max(PROMPTS.lengths)
    assert found.stats.tokens_computed <= len(PROMPTS) * (width + 3 + NEW - 1)
    with pytest.raises(PolicyError, match="looks ahead"), steering.steer(model(), policy):
        pass
