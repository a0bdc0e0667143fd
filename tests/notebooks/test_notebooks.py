"""Claims: notebooks are stored without outputs, name no machine, write no model but the base, are
listed in the README; and nbmake, by which ``make test`` runs them, fails where a cell does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = (
    "01-extract-and-look",
    "02-secondary-directions",
    "03-localise-heads",
    "04-ablate-and-steer",
    "05-your-own-pair",
)
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|Users|tmp|work|opt)\b|\b[A-Z]:\\")
each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def cells(file: Path, kind: str) -> list[str]:
    return [
        cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == kind
    ]


def test_there_are_five() -> None:
    assert tuple(file.stem for file in NOTEBOOKS) == NAMES


@each
def test_a_notebook_is_stored_as_it_was_written(file: Path) -> None:
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@each
def test_a_notebook_names_no_machine(file: Path) -> None:
    assert MACHINE.search(file.read_text(encoding="utf-8")) is None
    assert MACHINE.search("saved to /home/somebody/models")
    assert MACHINE.search(r"saved to C:\models")


@each
def test_a_notebook_explains_before_it_computes_and_ends_with_its_limits(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert first.source.startswith(f"# {int(file.stem[:2])}. ")
    assert re.search(r"^## What (this shows, and what it does not|next)$", last.source, re.M)


@each
def test_every_link_in_a_notebook_leads_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(cells(file, "markdown"))):
        assert (file.parent / target).exists(), target


@each
def test_the_readme_lists_a_notebook(file: Path) -> None:
    assert f"(notebooks/{file.name})" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_only_the_base_is_written_to_disk() -> None:
    saved = {
        (file.stem, line.strip())
        for file in NOTEBOOKS
        for source in cells(file, "code")
        for line in source.splitlines()
        if "save_pretrained" in line
    }
    own = "reference"
    assert saved == {
        ("05-your-own-pair", f'{own}.{part}.save_pretrained(work / "base")')
        for part in ("hf", "tokenizer")
    }
    assert f'{own} = hooks.load("reference:base")' in "\n".join(cells(NOTEBOOKS[4], "code"))


@pytest.mark.slow
@pytest.mark.parametrize(("source", "code"), [("1 + 1", 0), ("1 / 0", 1)])
def test_nbmake_runs_a_notebook_and_fails_with_its_cells(
    tmp_path: Path, source: str, code: int
) -> None:
    notebook = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    # A kernel of this environment, not another one of the same name.
    check = f"import sys; assert sys.prefix == {sys.prefix!r}; {source}"
    cell = {**notebook["cells"][1], "source": check}
    (tmp_path / "made.ipynb").write_text(json.dumps({**notebook, "cells": [cell]}))
    command = [sys.executable, "-m", "pytest", "--nbmake", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), str(tmp_path / "made.ipynb")],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("ZeroDivisionError" in done.stdout) == bool(code)


def test_make_test_runs_the_notebooks() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ntest:")[2]
    assert "--nbmake " in recipe.partition("\n\n")[0]
    assert re.search(
        r'^testpaths = \[.*"notebooks"', (ROOT / "pyproject.toml").read_text(), flags=re.M
    )
