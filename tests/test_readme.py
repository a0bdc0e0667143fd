"""The README's example runs as it is printed, and its commands exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_in_the_readme_exists() -> None:
    commands = set(re.findall(r"python -m ([\w.]+)", README))
    assert {"directions.extract", "reports.build", "artifacts.show"} <= commands
    for command in commands:
        assert importlib.util.find_spec(command) is not None, command


def test_every_link_in_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.real
@pytest.mark.slow
def test_the_example_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(example.strip().splitlines()) <= 13
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - our own file
    printed = capsys.readouterr().out
    assert "refusal" in printed
