"""The README's example runs as it is printed, its commands and options exist, and its figures are
those of the pages that a measurement wrote.
"""

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


def test_every_figure_with_an_interval_is_one_that_was_measured() -> None:
    """Measured again? Then the README's table of methods must be written again, too."""
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("results.md", "benchmarks.md"))
    methods = README[README.index("## Methods") : README.index("## A bigger pair")]
    figures = re.findall(r"[-+\d.]+%? \[[-+\d.]+%?, [-+\d.]+%?\]", methods)
    assert len(figures) >= 5
    for figure in figures:
        assert figure in pages, figure


def test_every_option_in_the_readme_is_one_that_a_command_has() -> None:
    known = "".join(path.read_text() for path in ROOT.glob("*/*.py") if path.parent.name != "tests")
    for option in set(re.findall(r"--([a-z][a-z-]+)", README)) - {"help", "nproc-per-node"}:
        assert re.search(rf"^    {option.replace('-', '_')}: ", known, flags=re.M), option


@pytest.mark.real
@pytest.mark.slow
def test_the_example_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - our own file
    printed = capsys.readouterr().out
    assert "refusal" in printed
