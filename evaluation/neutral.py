"""Neutral English text that is always at hand: the language reference inside the standard library.

``pydoc_data.topics`` differs between Python versions, so every set carries a digest; compare
perplexities only between models measured on one digest.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from evaluation.errors import JudgeError

_MIN_CHARS = 400


@dataclass(frozen=True)
class NeutralText:
    """Slices of neutral prose, none from a topic of the other split."""

    split: str
    digest: str
    texts: tuple[str, ...] = field(repr=False)


def neutral_text(split: str = "test", *, n: int = 48, chars: int = 800) -> NeutralText:
    """Cut ``n`` slices of about ``chars`` characters, the same ones on every call.

    A topic belongs to ``test`` or ``train`` by the hash of its name, so the splits share no topic.
    A slice begins at a paragraph. Slices are taken round-robin over topics, so that no long topic
    dominates. The prose is technical documentation, not conversation.

    Raises:
        JudgeError: unknown split, or fewer than ``n`` slices of that length exist; says how many.
    """
    if split not in ("train", "test"):
        raise JudgeError(f"split {split!r}: use 'train' or 'test'")
    from pydoc_data.topics import topics

    # Some topics repeat paragraphs of others, so each paragraph is used once, in the test split
    # first: reading the splits in this order keeps it out of training.
    used: set[str] = set()
    queues: list[list[str]] = []
    for part in ("test", "train"):
        names = sorted(name for name in topics if _split(name) == part)
        fresh = [_fresh(topics[name], used) for name in names]
        if part == split:
            queues = [_slices(paragraphs, chars) for paragraphs in fresh]
            break
    rounds = max((len(queue) for queue in queues), default=0)
    ordered = [queue[k] for k in range(rounds) for queue in queues if k < len(queue)]
    if not 0 < n <= len(ordered):
        raise JudgeError(
            f"{n} slices of {chars} characters: 1 to {len(ordered)} exist; ask for fewer"
        )
    texts = tuple(ordered[:n])
    digest = hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()
    return NeutralText(split=split, digest=digest, texts=texts)


def _split(name: str) -> str:
    """Half of the topics, by hash: stable when a Python version adds or drops topics."""
    return "test" if hashlib.sha256(name.encode("utf-8")).digest()[0] % 2 else "train"


def _fresh(text: str, used: set[str]) -> list[str]:
    """Give a topic's paragraphs that are not in ``used``, and add them to it."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        clean = " ".join(paragraph.split())
        if clean and clean not in used:
            used.add(clean)
            found.append(clean)
    return found


def _slices(paragraphs: list[str], chars: int) -> list[str]:
    """Join paragraphs into pieces that start at a paragraph and end at a word."""
    pieces: list[str] = []
    current = ""
    for paragraph in paragraphs:
        current += ("\n\n" if current else "") + paragraph
        if len(current) >= min(chars, _MIN_CHARS):
            pieces.append(current[:chars].rsplit(" ", 1)[0] if len(current) > chars else current)
            current = ""
    return pieces
