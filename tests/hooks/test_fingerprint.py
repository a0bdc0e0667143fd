"""Digests are those of what is there now, also where they were asked for before."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from hooks.fingerprint import folder_digests, tokenizer_digest
from tests.tiny import make_tokenizer


def test_a_file_that_was_written_again_has_another_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    for content in (b"first", b"other", b"longer than both"):
        file.write_bytes(content)
        # A clock that is coarser than two writes would hide the second: files say when they change.
        os.utime(file, ns=(0, len(content) + content[0]))
        assert folder_digests(tmp_path) == {file.name: hashlib.sha256(content).hexdigest()}
    copy = tmp_path / "b.safetensors"
    copy.write_bytes(b"first")
    copy.replace(file)
    assert folder_digests(tmp_path) == {file.name: hashlib.sha256(b"first").hexdigest()}


def test_a_tokenizer_that_learned_a_token_has_another_digest_and_a_padded_call_leaves_it() -> None:
    made, twin = make_tokenizer(), make_tokenizer()
    first = tokenizer_digest(made)
    assert tokenizer_digest(twin) == first
    made(["a", "longer text"], padding=True, truncation=True, max_length=4)
    assert tokenizer_digest(made) == first
    made.add_tokens(["<|new|>"])
    assert tokenizer_digest(made) != first == tokenizer_digest(twin)
    twin.pad_token = "<|spare|>"
    assert tokenizer_digest(twin) != first
