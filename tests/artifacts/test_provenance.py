"""Claim: time, tool and versions are stated truly, and time can be fixed for equal bytes."""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

import artifacts
from artifacts import InputError
from tests.artifacts import making


def test_time_is_now_in_utc_unless_the_convention_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    now = artifacts.timestamp()
    assert abs((datetime.fromisoformat(now) - datetime.now(UTC)).total_seconds()) < 5
    assert making.manifest(created=now).created == now
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    assert artifacts.timestamp() == "2001-09-09T01:46:40+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH='soon'"):
        artifacts.timestamp()


def test_versions_are_those_that_run() -> None:
    found = artifacts.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_tool_names_the_commit_of_a_checkout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = artifacts.tool()
    if (Path(artifacts.__file__).parents[1] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}", tool.commit or "")
        assert tool.dirty in (True, False)
    monkeypatch.setattr("artifacts.provenance.__file__", str(tmp_path / "artifacts" / "x.py"))
    installed = artifacts.tool()
    assert (installed.commit, installed.dirty) == (None, None)
