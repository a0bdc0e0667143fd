"""Claim: no name leads outside its folder, on any system (R7)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts import InputError, check_name, safe_join

HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "/x",
    "C:\\x",
    "C:x",
    "\\\\host\\x",
    "a/../../b",
    "a/b",
    "a\\b",
    "nul\0",
    "a\0b",
    "x" * 97,
    "x" * 300,
    "CON",
    "nul.txt",
    "Com1",
    "lpt9.safetensors",
    "a..b",
    "a.",
    ".hidden",
    "-option",
    " a",
    "a ",
    "a\n",
    "ä",
    "\u202ecod",
    "a\ud800",
    "~",
    "$HOME",
    "%2e%2e",
]
FRIENDLY = ["a", "refusal_base", "blocks.3.hook_resid_post", "0", "x" * 96, "a-b.c_d", "console"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_in_one_printable_line(name: str, tmp_path: Path) -> None:
    for refuse in (lambda: check_name(name), lambda: safe_join(tmp_path, name)):
        with pytest.raises(InputError) as caught:
            refuse()
        assert str(caught.value).isprintable()
        assert str(caught.value).isascii()
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", FRIENDLY)
def test_friendly_names_stay_inside(name: str, tmp_path: Path) -> None:
    assert check_name(name) == name
    assert safe_join(tmp_path, name) == tmp_path / name


_PIECES = st.sampled_from(["..", ".", "/", "\\", "a", "B9", "\0", "C:", "nul", "-", "_", "~", " "])


@settings(max_examples=1_500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(name=st.one_of(st.text(max_size=120), st.lists(_PIECES, max_size=8).map("".join)))
def test_no_accepted_name_creates_a_file_outside(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    try:
        path = safe_join(root, name)
    except InputError:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name)
    path.write_bytes(b"")
    assert path.parent == root
    assert [entry.name for entry in root.iterdir()] == [name]
    path.unlink()
    assert [entry.name for entry in tmp_path.iterdir()] == ["root"]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path)
    with pytest.raises(InputError, match="symbolic link"):
        safe_join(root, "a")
    linked = tmp_path / "linked"
    linked.symlink_to(root)  # a root reached through a link is the user's own choice
    assert safe_join(linked, "b") == linked / "b"
