"""The repository is what pyproject.toml and the house style say."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("name", [name for name in PACKAGES if "." not in name])
def test_the_imported_package_is_ours(name: str) -> None:
    # `probes` and `ablation` are also unrelated distributions on the package index.
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert Path(str(spec.origin)).resolve() == ROOT / name / "__init__.py"


def test_every_folder_with_code_is_listed() -> None:
    inner = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES}
    assert inner == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_is_one_idea(path: Path) -> None:
    text = path.read_text()
    assert path.name != "utils.py"
    assert len(text.splitlines()) <= 300
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{node.name} has {length} lines"


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_a_package_is_cheap(name: str) -> None:
    heavy = ("torch", "sklearn", "transformers")
    code = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"
