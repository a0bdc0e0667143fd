"""Claim: no module of ours calls anything that can run code from a data file (R9).

The scan resolves import aliases, so ``from torch import load as x; x(f)`` is found too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "ablation",
    "artifacts",
    "benchmarks",
    "directions",
    "evaluation",
    "hooks",
    "probes",
    "provenance",
    "reports",
    "steering",
    "training",
)
MODULES = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
CALLS = frozenset(
    {
        "builtins.eval",
        "builtins.exec",
        "eval",
        "exec",
        "numpy.load",
        "numpy.lib.npyio.load",
        "pandas.read_pickle",
        "torch.load",
        "torch.serialization.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
    }
)


def findings(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
                if top in MODULES:
                    yield f"line {node.lineno}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if node.module.split(".")[0] in MODULES:
                yield f"line {node.lineno}: from {node.module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            dotted = _dotted(node, names)
            if dotted in CALLS:
                yield f"line {node.lineno}: {dotted}"
        elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
            values = (leaf for leaf in [node.value] if isinstance(leaf, ast.Constant))
            yield from (f"line {leaf.lineno}: {node.arg}=True" for leaf in values if leaf.value)


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        left = _dotted(node.value, names)
        return None if left is None else f"{left}.{node.attr}"
    return None


def test_our_packages_hold_no_banned_call() -> None:
    files = [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]
    assert len(files) > 15  # the scan really looked at the tree
    found = [
        f"{file.relative_to(ROOT)}: {finding}"
        for file in files
        for finding in findings(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f)",
        "import torch as t\nt.load(f)",
        "from torch import load as read\nread(f)",
        "from torch.serialization import load\nload(f)",
        "import numpy as np\nnp.load(f)",
        "import pickle",
        "from joblib import load",
        "import cloudpickle as safe",
        "eval(text)",
        "import builtins\nbuiltins.exec(text)",
        "call = eval",
        "import yaml\nyaml.load(f)",
        "load(name, trust_remote_code=True)",
        "np.fromfile(f, allow_pickle=True)",
    ],
)
def test_the_scan_finds_each_kind(source: str) -> None:
    assert list(findings(source))


@pytest.mark.parametrize(
    "source", ["model.eval()", "import json\njson.load(f)", "load(name, trust_remote_code=False)"]
)
def test_the_scan_leaves_innocent_code_alone(source: str) -> None:
    assert not list(findings(source))
