"""What cannot be carried out is refused in one line, before anything is changed or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hooks
import steering
from artifacts.command import main
from artifacts.errors import InputError
from steering.errors import PolicyError
from steering.evaluate import Evaluate
from steering.fit import Fit
from steering.generate import Generate
from steering.laws import Logistic, Step
from steering.policy import Policy, Term
from tests.hooks.common import attached, ids_of, vector
from tests.hooks.common import model as other_model
from tests.steering.common import PROMPTS, WIDTH, gated, model, plain, vectors
from tests.steering.talking import Place, build
from tests.steering.test_serving import scans

# Wrappers are made of words that the tiny tokenizer does not know.
pytestmark = pytest.mark.filterwarnings("ignore:tokenizer .* unknown to the vocabulary")

CONTEXT = 256


@contextmanager
def refused(used: hooks.Model, words: str) -> Iterator[None]:
    """Demand a typed refusal of one line that leaves the model as it was, hooks and answers."""
    hooks_before, answers = attached(used.hf), _answers(used)
    with pytest.raises(InputError, match=words) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert attached(used.hf) == hooks_before
    assert _answers(used) == answers


def _answers(used: hooks.Model) -> list[list[int]]:
    """Generate without any context: what a hook or a half-applied edit would change."""
    row = torch.tensor([list(PROMPTS.ids[0])])
    return used.hf.generate(row, max_new_tokens=3, do_sample=False, pad_token_id=2).tolist()


def _generate(used: hooks.Model, policy: Policy, encoded: hooks.Encoded) -> None:
    with steering.steer(used, policy):
        ids = torch.tensor([list(row) for row in encoded.ids])
        used.hf.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=2)


USES: dict[str, Callable[[hooks.Model, Policy, hooks.Encoded], object]] = {
    "answer": lambda m, p, e: steering.answer(m, p, e, max_new_tokens=3),
    "steer": _generate,
    "coefficients": steering.coefficients,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_policy_for_another_model_is_refused(use: str, family: str) -> None:
    stranger = other_model(family, 1)
    alone = PROMPTS.select([0])
    for policy in (gated(Logistic(1.0, 0.0)), gated(Step(0.0)).scaled(0.0)):
        with refused(stranger, "this policy is for in memory .* not for in memory"):
            USES[use](stranger, policy, alone)
    changed = replace(
        gated(Step(-1e9)),
        tokenizer=model().tokenizer_info().model_copy(update={"chat_template_digest": "0" * 64}),
    )
    with refused(model(), r"chat template 000000000000\), not for"):
        USES[use](model(), changed, alone)


def test_a_policy_follows_neither_weights_nor_template_that_change_under_it() -> None:
    used = hooks.wrap(other_model("llama", 7).hf, hooks_tokenizer())
    policy = steering.additive(used, vectors(1), strength=1.0, kind="absolute")
    steering.answer(used, policy, PROMPTS, max_new_tokens=1)
    used.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with refused(used, "chat template"):
        steering.answer(used, policy, PROMPTS, max_new_tokens=1)


def hooks_tokenizer() -> object:
    from tests.tiny import make_tokenizer

    return make_tokenizer()


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf")])
def test_a_strength_that_is_not_finite_is_refused(strength: float) -> None:
    for make in (
        lambda: steering.additive(model(), vectors(1), strength=strength, kind="absolute"),
        lambda: steering.additive(model(), vectors(1), strength=strength, ambient={1: 1.0}),
        lambda: gated(Step(0.0)).scaled(strength),
        lambda: Term("x", (1,), torch.full((1, WIDTH), strength)),
        lambda: steering.FitOptions(strengths=(strength,)),
        lambda: steering.answer(model(), gated(Step(0.0)).scaled(strength), PROMPTS),
    ):
        with refused(model(), "finite"):
            make()


def test_a_strength_at_which_states_overflow_is_refused_while_the_model_runs() -> None:
    whole = torch.full((1, WIDTH), 3e38)
    term = Term("once", (1,), whole)
    policy = replace(SERVED["additive"](), terms=(term, replace(term, name="twice")))
    with refused(model(), "returned a number that is not finite"):
        steering.answer(model(), policy, PROMPTS, max_new_tokens=2)
    with refused(model(), "returned a number that is not finite"):
        _generate(model(), policy, PROMPTS.select([0]))


def test_a_steered_block_before_its_gate_is_refused_where_one_pass_must_do() -> None:
    for make in (
        lambda: gated(Step(0.0), steered=(0, 1)),
        lambda: gated(Step(0.0), steered=(1, 2), gate=2),
        lambda: gated(Step(0.0), steered=(2,), gate=2),
    ):
        with refused(model(), "before its gate"):
            make()
    late = gated(Step(0.0), steered=(0, 1), gate=2, two_pass=True)
    with refused(model(), "takes two passes: serve this policy with steering.answer"):
        _generate(model(), late, PROMPTS.select([0]))
    assert len(steering.answer(model(), late, PROMPTS, max_new_tokens=2).ids) == len(PROMPTS)


def test_a_direction_of_the_wrong_width_is_refused() -> None:
    wide, narrow = {1: vector(0, WIDTH + 1)}, {1: vector(0, 1)}
    for given, width in ((wide, WIDTH + 1), (narrow, 1)):
        with refused(model(), f"a direction of width {width}, but in memory has width {WIDTH}"):
            steering.additive(model(), given, strength=1.0, kind="absolute")
    term = gated(Step(0.0)).terms[0]
    gate = replace(term.gate, direction=vector(0, WIDTH + 1))
    with refused(model(), f"width {WIDTH + 1}"):
        replace(gated(Step(0.0)), terms=(replace(term, gate=gate),))


def test_other_policies_that_mean_nothing_are_refused() -> None:
    cases = (
        (lambda: steering.additive(model(), {}, strength=1.0), "no block"),
        (lambda: steering.additive(model(), vectors(9), strength=1.0, kind="absolute"), "block 9"),
        (lambda: steering.additive(model(), vectors(1), strength=1.0), "ambient norm of block 1"),
        (lambda: Term("x", (1, 1), torch.ones(2, 4)), "name each once"),
        (lambda: Term("x", (1, 2), torch.ones(1, 4)), "one row for each"),
    )
    for make, words in cases:
        with refused(model(), words):
            make()


SERVED = {
    "one pass": lambda: gated(Step(0.0)),
    "two passes": lambda: gated(Step(0.0), steered=(0,), two_pass=True),
    "scans": lambda: scans(0.0),
    "additive": lambda: steering.additive(model(), vectors(1), strength=1.0, kind="absolute"),
}


@pytest.mark.parametrize("kind", SERVED)
def test_a_prompt_longer_than_the_context_is_refused(kind: str) -> None:
    policy = SERVED[kind]()
    words = f"row 1 has {CONTEXT - 1} tokens and 4 more are asked for, the model's context holds"
    with refused(model(), words):
        steering.answer(model(), policy, ids_of([9, CONTEXT - 1]), max_new_tokens=4)
    with refused(model(), "no prompts were given"):
        steering.answer(model(), policy, PROMPTS.select([]), max_new_tokens=4)
    with refused(model(), "max_new_tokens is 0; ask for 1 at least"):
        steering.answer(model(), policy, PROMPTS, max_new_tokens=0)
    fits = steering.answer(model(), policy, ids_of([9, CONTEXT - 4]), max_new_tokens=4)
    assert len(fits.ids) == 2


def test_a_prompt_longer_than_the_context_is_refused_in_your_own_generate_too() -> None:
    policy = SERVED["additive"]()
    with refused(model(), f"row 0 has {CONTEXT + 1} tokens, the model's context holds {CONTEXT}"):
        _generate(model(), policy, ids_of([CONTEXT + 1]))
    long, short = ids_of([CONTEXT + 1]), ids_of([5])
    with steering.steer(model(), policy) as run:
        with pytest.raises(InputError, match="context holds"):
            model().hf(torch.tensor([list(long.ids[0])]))
        # The context goes on as if nothing had happened.
        found = run.generate_ids(short, max_new_tokens=3)
    want = steering.answer(model(), policy, short, max_new_tokens=3)
    assert found == [list(row) for row in want.ids]
    # Padding is no prompt.
    ids = torch.tensor([[2] * CONTEXT + list(short.ids[0])])
    mask = torch.tensor([[0] * CONTEXT + [1] * 5])
    with steering.steer(model(), policy):
        out = model().hf.generate(
            ids, attention_mask=mask, max_new_tokens=3, do_sample=False, pad_token_id=2
        )
    assert out[0, CONTEXT + 5 :].tolist()[: len(found[0])] == found[0]


def test_what_fails_between_two_tokens_leaves_the_model_as_it_was() -> None:
    before, clean, used = attached(model().hf), plain(), model()
    passed: list[int] = []

    def fail(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        passed.append(ids.shape[1])
        if len(passed) == 2:
            raise KeyboardInterrupt
        return scores

    with pytest.raises(KeyboardInterrupt), steering.steer(used, gated(Step(-1e9))):
        used.hf.generate(
            torch.tensor([[7, 8, 9]]), max_new_tokens=4, logits_processor=[fail], pad_token_id=2
        )
    assert passed == [3, 4]
    assert attached(used.hf) == before
    assert plain() == clean


# The commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return build(tmp_path_factory.mktemp("short"), context=40)


@pytest.fixture(scope="module")
def policy(place: Place) -> Path:
    used, out = place.load(), place.folder / "p.safetensors"
    steering.save(
        steering.additive(used, {1: vector(1, used.d_model)}, strength=1.0, kind="absolute"), out
    )
    return out


def _fails(
    command: type, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(command, arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


CPU = ("--dtype", "float32", "--device", "cpu", "--quiet")


def test_generate_refuses_what_it_cannot_do_in_one_line(
    place: Place, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = build(tmp_path / "other", answers=1.0).model
    asked = [str(policy), *CPU, "--prompt", "paint a wall", "--new-tokens", "4"]
    cases = (
        ([*asked, "--model", other], "this policy is for"),
        ([*asked, "--strength", "nan"], "strength is not finite"),
        ([*asked, "--strength", "inf"], "strength is not finite"),
        ([*asked, "--new-tokens", "0"], "max_new_tokens is 0"),
        ([*asked, "--prompt", "paint " * 60], "the model's context holds 40"),
        ([*asked, "--new-tokens", "400"], "400 more are asked for, the model's context holds 40"),
        ([str(policy), *CPU], "no prompts: give --prompt TEXT or --file FILE"),
        ([str(policy), *CPU, "--file", str(tmp_path / "none.txt")], "none.txt"),
        ([place.file("harmful.jsonl"), *asked[1:]], "harmful.jsonl"),
    )
    for arguments, words in cases:
        _fails(Generate, arguments, words, capsys)


def test_fit_and_evaluate_refuse_prompts_that_the_context_does_not_hold(
    place: Place, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    long = ("--forms", "plain", "many-shot", "--quiet")
    _fails(Fit, place.fit(out / "p.safetensors", *long), "the model's context holds 40", capsys)
    _fails(Evaluate, place.evaluate(policy, out / "f.json", *long), "context holds 40", capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("strengths", "words"),
    [
        ({"refuses": 0.0}, "take a model that refuses the harmful ones and answers the others"),
        ({"answers": -9.0}, "this model refuses (almost) everything here: add forms"),
        ({"answers": 1.0}, "add forms that get past it with --forms"),
        ({"answers": 5.0}, "take an aligned model, or steer along a direction you have"),
    ],
    ids=["refuses nothing", "refuses everything", "refuses all harm", "refuses hardly any"],
)
def test_a_model_without_one_of_the_classes_is_refused_with_advice(
    strengths: dict[str, float], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = build(tmp_path / "place", **strengths), tmp_path / "new"
    _fails(Fit, place.fit(out / "p.safetensors", "--quiet"), words, capsys)
    assert not out.exists()


def test_fit_refuses_blocks_before_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = build(tmp_path / "place"), tmp_path / "new"
    early = place.fit(out / "p.safetensors", "--gate-block", "1", "--blocks", "1", "2", "--quiet")
    _fails(Fit, early, "before its gate", capsys)
    _fails(Fit, place.fit(out / "p", "--gate-block", "2", "--quiet"), "gate block 2", capsys)
    _fails(Fit, place.fit(out / "p", "--blocks", "7", "--quiet"), "block 7", capsys)
    assert not out.exists()


def test_policy_errors_are_input_errors() -> None:
    assert issubclass(PolicyError, InputError)
    assert PolicyError.exit_code == 2
