"""Chat templates: render once, tokenise once, and know where the instruction ends.

A template is a program that came with the model. It runs in transformers' sandbox and under a time
limit, and every failure becomes one typed line.
"""

from __future__ import annotations

import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from hooks.encoded import Encoded
from hooks.errors import TokenizerError

RENDER_SECONDS = 4.0
"""Time that one template may take for one prompt."""
RENDER_BYTES = 2**30
"""Memory that it may take on top of what the process has."""
_SENTINEL = "theodolite sentinel"
_Result = TypeVar("_Result")


class TemplateWarning(UserWarning):
    """A template or tokenizer that works but probably not as meant."""


class _TooLong(BaseException):
    """Raised inside the rendering thread when its time is up."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    template: bool = True,
    system: str | None = None,
    responses: Sequence[str] | None = None,
) -> Encoded:
    """Turn prompts into token ids, through the chat template unless ``template`` is False.

    Special tokens come from the template alone (``add_special_tokens=False``); without a template
    the tokenizer adds its own.

    Raises:
        TokenizerError: no template, one that fails or does not end, an empty prompt.
    """
    for index, prompt in enumerate(prompts):
        if not prompt.strip():
            raise TokenizerError(f"prompt {index} is empty")
    if responses is not None and len(responses) != len(prompts):
        raise TokenizerError(f"{len(prompts)} prompts but {len(responses)} responses")
    if not template:
        return _encode_plain(tokenizer, prompts, responses)
    rendered = [render(tokenizer, prompt, system=system) for prompt in prompts]
    tail = template_tail(tokenizer, system=system)
    rows, ends = [], []
    known: dict[int, int] = {}
    for index, text in enumerate(rendered):
        if not text.endswith(tail):
            raise TokenizerError(
                f"{_name(tokenizer)}: for prompt {index} the chat template ends otherwise than for "
                "others, so where the instruction ends is not known"
            )
        ids, end = _tokenise(tokenizer, text, len(text) - len(tail))
        rows.append(_shared(ids, known))
        ends.append(end)
    _warn_unknown(tokenizer, rows)
    return _with_responses(tokenizer, rows, ends, responses)


def render(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    system: str | None = None,
    open_answer: bool = True,
) -> str:
    """Return the prompt as the chat template writes it, up to where the answer begins.

    Without ``open_answer`` it ends with the user's turn.

    Raises:
        TokenizerError: no template, or one that fails or does not end in time.
    """
    if not tokenizer.chat_template:
        raise TokenizerError(
            f"{_name(tokenizer)} has no chat template: use the model's chat version, or "
            "template=False for plain text"
        )
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    try:
        with _limited_memory():
            return within(RENDER_SECONDS, lambda: _write(tokenizer, messages, open_answer))
    except TokenizerError:
        raise
    except TimeoutError as error:
        raise TokenizerError(
            f"{_name(tokenizer)}: the chat template ran for more than {RENDER_SECONDS:g} s and was "
            "stopped; do not use this tokenizer"
        ) from error
    except Exception as error:  # a template may raise anything
        first = (str(error).splitlines() or [""])[0][:200]
        raise TokenizerError(
            f"{_name(tokenizer)}: the chat template failed ({type(error).__name__}: {first})"
            + ("; try without a system prompt" if system is not None else "")
        ) from error


def _write(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], open_answer: bool
) -> str:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=open_answer
    )
    if not isinstance(text, str):
        raise TokenizerError(f"{_name(tokenizer)}: the chat template returned no text")
    return text


def template_tail(tokenizer: PreTrainedTokenizerBase, *, system: str | None = None) -> str:
    """Return what the template writes after the instruction, found by rendering.

    Warns when the template ignores ``add_generation_prompt``, because the last token then does
    not stand where an answer begins.
    """
    text = render(tokenizer, _SENTINEL, system=system)
    place = text.rfind(_SENTINEL)
    if place < 0:
        raise TokenizerError(f"{_name(tokenizer)}: the chat template drops the user's text")
    if render(tokenizer, _SENTINEL, system=system, open_answer=False) == text:
        warnings.warn(
            f"{_name(tokenizer)}: the chat template ignores add_generation_prompt, so the last "
            "token is not where an answer begins",
            TemplateWarning,
            stacklevel=3,
        )
    return text[place + len(_SENTINEL) :]


def template_head(
    tokenizer: PreTrainedTokenizerBase, *, system: str | None = None
) -> tuple[int, ...]:
    """Return the tokens that the template writes before the instruction, found by rendering.

    Raises:
        TokenizerError: no template, or one that drops the user's text.
    """
    text = render(tokenizer, _SENTINEL, system=system)
    place = text.rfind(_SENTINEL)
    if place < 0:
        raise TokenizerError(f"{_name(tokenizer)}: the chat template drops the user's text")
    ids, start = _tokenise(tokenizer, text, place)
    return ids[:start]


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Let a template take no more than ``RENDER_BYTES``, where the system can limit it."""
    try:
        import resource  # absent on Windows

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        now = pages * resource.getpagesize() + RENDER_BYTES
        limit = now if soft == resource.RLIM_INFINITY else min(now, soft)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _interrupt(thread: int) -> None:
    """Raise :class:`_TooLong` in another thread, at its next step of Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_TooLong))


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Return ``work()``, or raise TimeoutError after ``seconds``; works in any thread.

    Stops Python code, which a template is, but no single long call into C.
    """
    caller, lock = threading.get_ident(), threading.Lock()
    state = {"done": False, "fired": False}

    def expire() -> None:
        with lock:
            if not state["done"]:
                state["fired"] = True
                _interrupt(caller)

    def settle() -> None:
        """Close the race: an exception that was sent is taken here and nowhere later."""
        with lock:
            state["done"] = True
        timer.cancel()
        # Bounded, because the work itself may have swallowed the exception.
        for _ in range(1000 if state["fired"] else 0):
            time.sleep(0.001)
        if state["fired"]:
            raise _TooLong

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    try:
        try:
            timer.start()  # on a busy machine the time may be up before this returns
            result = work()
        except _TooLong:
            raise
        except BaseException:
            settle()
            raise
        settle()
    except _TooLong:
        raise TimeoutError(f"stopped after {seconds:g} s") from None
    return result


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, text: str, boundary: int
) -> tuple[tuple[int, ...], int]:
    """Return ids and the index of the first token that begins at or after ``boundary``."""
    if not tokenizer.is_fast:
        head = tokenizer(text[:boundary], add_special_tokens=False)["input_ids"]
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(whole), min(len(head), len(whole))
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = out["offset_mapping"]
    end = next((i for i, (start, _) in enumerate(spans) if start >= boundary), len(spans))
    return tuple(out["input_ids"]), end


def _shared(ids: Sequence[int], known: dict[int, int]) -> tuple[int, ...]:
    """Return the ids with one Python object for each token of the vocabulary.

    A row then takes 8 bytes a token and not 40, which counts for many thousand prompts.
    """
    return tuple(known.setdefault(token, token) for token in ids)


def _encode_plain(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str] | None
) -> Encoded:
    known: dict[int, int] = {}
    rows = [_shared(tokenizer(prompt)["input_ids"], known) for prompt in prompts]
    _warn_unknown(tokenizer, rows)
    return _with_responses(tokenizer, rows, [len(row) for row in rows], responses)


def _with_responses(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[int, ...]],
    ends: Sequence[int],
    responses: Sequence[str] | None,
) -> Encoded:
    starts = tuple(len(row) for row in rows)
    if responses is None:
        return Encoded(tuple(rows), tuple(ends), starts)
    tails = [
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()
        for text in responses
    ]
    whole = tuple(row + tail for row, tail in zip(rows, tails, strict=True))
    return Encoded(whole, tuple(ends), starts)


def _warn_unknown(tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[int, ...]]) -> None:
    unknown = tokenizer.unk_token_id
    total = sum(len(row) for row in rows)
    # Some tokenizers reuse the end token as "unknown"; it then says nothing.
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id) or not total:
        return
    share = sum(row.count(unknown) for row in rows) / total
    if share > 0.01:
        warnings.warn(
            f"{_name(tokenizer)}: {share:.1%} of the tokens are unknown to the vocabulary; is this "
            "the model's own tokenizer?",
            TemplateWarning,
            stacklevel=4,
        )


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}"
