"""Claims: only verified shards count; other configurations, links, foreign files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from artifacts.errors import InputError
from directions.ledger import Ledger, shard_name

CONFIG = {"options": {"seed": 0, "sites": ["hook_resid_post"]}, "fit": "abc"}


def _ledger(folder: Path, config: dict | None = None, rank: int = 0) -> Ledger:
    return Ledger(folder, CONFIG if config is None else config, rank=rank)


def _filled(folder: Path) -> Ledger:
    ledger = _ledger(folder)
    ledger.start("2026-01-01T00:00:00+00:00")
    for shard in range(3):
        ledger.commit(shard, {"a/b": torch.full((2, 1, 3), float(shard))}, 2, {"forwards": 1.0})
    return ledger


def test_a_second_start_keeps_the_first_ones_time_and_shards(tmp_path: Path) -> None:
    _filled(tmp_path / "run")
    again = _ledger(tmp_path / "run")
    assert again.start("2030-01-01T00:00:00+00:00") == "2026-01-01T00:00:00+00:00"
    assert sorted(again.entries()) == [0, 1, 2]
    assert again.entries()[2].n == 2
    assert again.orphans == 0


def test_the_message_names_what_differs(tmp_path: Path) -> None:
    _filled(tmp_path / "run")
    other = {"options": {"seed": 1, "sites": ["hook_resid_post"]}, "fit": "abc"}
    with pytest.raises(InputError, match=r"options\.seed: 0 there, 1 now"):
        _ledger(tmp_path / "run", other).start("2026-01-01T00:00:00+00:00")
    assert len(_ledger(tmp_path / "run").entries()) == 3


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_shard_that_is_not_what_was_recorded_is_done_again(tmp_path: Path, damage: str) -> None:
    _filled(tmp_path / "run")
    path = tmp_path / "run" / shard_name(1)
    data = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(bytes(data) if damage == "flip" else bytes(data[:-5]))
    again = _ledger(tmp_path / "run")
    again.start("2026-01-01T00:00:00+00:00")
    assert sorted(again.entries()) == [0, 2]
    assert not path.exists()


def test_files_without_a_line_and_partial_files_are_removed_and_counted(tmp_path: Path) -> None:
    _filled(tmp_path / "run")
    (tmp_path / "run" / shard_name(7)).write_bytes(b"no line")
    (tmp_path / "run" / f".{shard_name(8)}.123.partial").write_bytes(b"torn")
    again = _ledger(tmp_path / "run")
    again.start("2026-01-01T00:00:00+00:00")
    assert again.orphans == 2
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "header.json",
        "ledger.0.jsonl",
        *(shard_name(i) for i in range(3)),
    }


def test_a_torn_last_line_is_no_entry_and_the_next_one_is_whole(tmp_path: Path) -> None:
    ledger = _filled(tmp_path / "run")
    path = tmp_path / "run" / "ledger.0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 20])
    assert sorted(ledger.entries()) == [0, 1]
    ledger.commit(2, {"a/b": torch.ones(2, 1, 3)}, 2, {})
    assert sorted(ledger.entries()) == [0, 1, 2]


def test_ledgers_of_several_ranks_are_read_as_one(tmp_path: Path) -> None:
    _filled(tmp_path / "run")
    _ledger(tmp_path / "run", rank=1).commit(5, {"a/b": torch.ones(2, 1, 3)}, 2, {})
    assert sorted(_ledger(tmp_path / "run").entries()) == [0, 1, 2, 5]
    _ledger(tmp_path / "run").start("2026-01-01T00:00:00+00:00")
    assert sorted(_ledger(tmp_path / "run").entries()) == [0, 1, 2, 5]
    assert [p.name for p in (tmp_path / "run").glob("ledger.*")] == ["ledger.0.jsonl"]


def test_a_folder_without_header_is_started_afresh(tmp_path: Path) -> None:
    _filled(tmp_path / "run")
    (tmp_path / "run" / "header.json").unlink()
    again = _ledger(tmp_path / "run")
    assert again.start("2031-01-01T00:00:00+00:00") == "2031-01-01T00:00:00+00:00"
    assert again.entries() == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"digest": "x"}'])
def test_a_damaged_header_is_refused(tmp_path: Path, content: str) -> None:
    _filled(tmp_path / "run")
    (tmp_path / "run" / "header.json").write_text(content)
    with pytest.raises(InputError, match="damaged; delete"):
        _ledger(tmp_path / "run").start("2026-01-01T00:00:00+00:00")


def test_links_and_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("keep")
    ledger = _filled(tmp_path / "run")
    inside = tmp_path / "run" / shard_name(1)
    inside.unlink()
    inside.symlink_to(secret)
    with pytest.raises(InputError, match="does not belong to an extraction"):
        ledger.start("2026-01-01T00:00:00+00:00")
    inside.unlink()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for act in (lambda: ledger.start("2026-01-01T00:00:00+00:00"), ledger.remove):
        with pytest.raises(InputError, match="thesis.txt does not belong"):
            act()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="symbolic link"):
        _ledger(tmp_path / "link").start("2026-01-01T00:00:00+00:00")
    with pytest.raises(InputError, match="is a file"):
        _ledger(secret).start("2026-01-01T00:00:00+00:00")
    assert secret.read_text() == "keep"


def test_the_header_states_the_whole_configuration(tmp_path: Path) -> None:
    _filled(tmp_path / "run")
    header = json.loads((tmp_path / "run" / "header.json").read_text())
    assert header["config"] == CONFIG
