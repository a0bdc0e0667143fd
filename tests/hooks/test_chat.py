"""A chat template is rendered once and found out by rendering; a hostile one ends in one line."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hooks import chat
from hooks.errors import TokenizerError
from tests.tiny import TEMPLATE, make_tokenizer, tokenizer

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def _one_line(template: str | None, why: str, **options: object) -> str:
    with pytest.raises(TokenizerError, match=why) as caught:
        chat.encode(make_tokenizer(template), ["Hello"], **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_template_is_rendered_once_and_boundaries_are_found() -> None:
    encoded = chat.encode(tokenizer(), ["Ab c", "d"], system="S", responses=["xy", ""])
    texts = [tokenizer().decode(ids) for ids in encoded]
    assert texts == [
        "<|system|>S<|end|><|user|>Ab c<|end|><|assistant|>xy",
        "<|system|>S<|end|><|user|>d<|end|><|assistant|>",
    ]
    assert encoded.instruction_end == (8, 5)
    assert encoded.response_start == (10, 7)
    assert encoded.template_length == 2


def test_without_a_template_the_whole_prompt_is_the_instruction() -> None:
    encoded = chat.encode(make_tokenizer(None), ["abc"], template=False, responses=["de"])
    assert (encoded.instruction_end, encoded.response_start, encoded.lengths) == ((3,), (3,), (5,))
    assert encoded.template_length == 0


@pytest.mark.parametrize("template", [True, False])
def test_a_token_is_one_object_however_often_it_occurs(template: bool) -> None:
    rows = chat.encode(tokenizer(), ["el río"] * 3, template=template)
    objects = {id(token) for row in rows for token in row}
    assert len(objects) == len({token for row in rows for token in row})
    # Python itself shares numbers up to 256 only.
    assert max(map(max, rows)) > 256


def test_what_cannot_be_encoded_is_refused() -> None:
    for prompts, why in ((["a", "  "], "prompt 1 is empty"), ([""], "prompt 0 is empty")):
        with pytest.raises(TokenizerError, match=why):
            chat.encode(tokenizer(), prompts)
    with pytest.raises(TokenizerError, match="2 prompts but 1 responses"):
        chat.encode(tokenizer(), ["a", "b"], responses=["c"])
    _one_line(None, "no chat template.*template=False")


def test_a_tokenizer_without_a_padding_token_works() -> None:
    bare = make_tokenizer()
    bare.pad_token = None
    assert chat.encode(bare, ["a", "bcd"]).ids == chat.encode(tokenizer(), ["a", "bcd"]).ids


# Templates that lie


def test_a_template_that_ignores_the_generation_prompt_warns() -> None:
    closed = TEMPLATE.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
    with pytest.warns(chat.TemplateWarning, match="ignores add_generation_prompt"):
        chat.encode(make_tokenizer(closed), ["Hello"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat.encode(tokenizer(), ["Hello"])


def test_a_template_without_the_users_text_or_with_another_end_is_refused() -> None:
    _one_line("{% for m in messages %}<|user|>{% endfor %}", "drops the user's text")
    changing = TEMPLATE + "{% if 'Hello' in messages[-1]['content'] %}!{% endif %}"
    _one_line(changing, "prompt 0 the chat template ends otherwise")


def test_unknown_tokens_above_one_percent_warn() -> None:
    vocab = {"[UNK]": 0, "known": 1}
    raw = Tokenizer(models.WordLevel(vocab, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=raw, **{"unk_token": "[UNK]"})
    with pytest.warns(chat.TemplateWarning, match="2.0% of the tokens are unknown"):
        chat.encode(words, ["known " * 49 + "strange"], template=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat.encode(words, ["known " * 99 + "strange"], template=False)


# Templates that attack


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__['os'].system('false') }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_an_escape_is_stopped_by_the_sandbox(attack: str) -> None:
    _one_line(attack + TEMPLATE, "the chat template failed .*(Security|Undefined|Attribute)Error")


def test_a_template_that_raises_on_a_system_prompt_says_so() -> None:
    picky = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + TEMPLATE
    )
    _one_line(picky, "no system.*try without a system prompt", system="Be kind")
    assert len(chat.encode(make_tokenizer(picky), ["Hello"])) == 1


@pytest.mark.parametrize("broken", ["{% if %}", "{{ messages[5]['role'] }}", "{{ 1 / 0 }}"])
def test_a_broken_template_is_one_line(broken: str) -> None:
    _one_line(broken, "the chat template failed")


def test_an_endless_loop_is_stopped_within_five_seconds() -> None:
    start = time.monotonic()
    _one_line(ENDLESS + TEMPLATE, "ran for more than 4 s")
    assert time.monotonic() - start < 5.5


@pytest.mark.parametrize("when", ["add_generation_prompt", "not add_generation_prompt"])
def test_a_loop_in_either_rendering_is_stopped(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.3)
    hidden = "{% if " + when + " %}" + ENDLESS + "{% endif %}" + TEMPLATE
    _one_line(hidden, "ran for more than 0.3 s")


@pytest.mark.parametrize(
    "bomb",
    [
        "{{ 'a' * 9999999999 }}",
        "{{ '%9999999999d' | format(1) }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
)
def test_a_memory_bomb_is_defused(bomb: str) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _one_line(bomb + TEMPLATE, "the chat template (failed .*(Memory|Overflow)Error|ran for)")
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2 * 2**20  # KiB


# The clock


def _spin() -> None:
    while True:
        pass


def test_the_clock_works_in_any_thread() -> None:
    found: list[object] = []

    def work() -> None:
        found.append(chat.within(5.0, lambda: 7))
        try:
            chat.within(0.2, _spin)
        except TimeoutError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=5)
    assert found == [7, "stopped after 0.2 s"]


def test_no_exception_comes_late_whatever_the_race() -> None:
    stopped = 0
    for index in range(120):
        limit = 0.002

        def work(limit: float = limit, extra: int = index) -> int:
            end = time.monotonic() + limit + (extra - 60) * 1e-5
            while time.monotonic() < end:
                pass
            return 1

        try:
            assert chat.within(limit, work) == 1
        except TimeoutError:
            stopped += 1
        for _ in range(50):  # a stray exception would come here
            pass
    assert stopped < 120
    time.sleep(0.05)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_work_stops_the_clock(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        chat.within(0.1, fail)
    time.sleep(0.25)  # the clock would strike here


def test_work_that_swallows_the_stop_is_still_too_late() -> None:
    def stubborn() -> int:
        try:
            _spin()
        except BaseException:
            return 1
        return 2

    with pytest.raises(TimeoutError):
        chat.within(0.1, stubborn)
