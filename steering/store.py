"""Policies as native artifacts: kind ``steering-policy``, keys ``adasteer/...``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import cast, get_args

import torch
from torch import Tensor

import artifacts
from artifacts.artifact import Artifact
from artifacts.errors import ArtifactError
from artifacts.manifest import Manifest, Option
from artifacts.provenance import timestamp, tool, versions
from hooks.positions import PositionName, StepRule
from steering.errors import PolicyError
from steering.laws import Law, Logistic, Step
from steering.policy import Method, Policy, Reading, Term
from steering.transition import Transition

_FAMILY = "adasteer"
_TRANSITION = "transition"
_TABLE = "table"
_OWN = ("method", "terms", "two_pass")


def save(policy: Policy, path: str | os.PathLike[str], *, seed: int = 0) -> str:
    """Write a policy to ``path`` and return its digest.

    Raises:
        ArtifactError: the file cannot be written there.
        SystemFailure: the file system fails.
    """
    return artifacts.save(to_artifact(policy, seed=seed), path)


def load(path: str | os.PathLike[str]) -> Policy:
    """Read a policy; nothing is steered and no model is needed.

    Raises:
        ArtifactError: the file is missing, damaged, or no steering policy.
    """
    return from_artifact(artifacts.load(path))


def to_artifact(policy: Policy, *, seed: int = 0) -> Artifact:
    """Turn a policy into tensors by key and a manifest."""
    tensors: dict[str, Tensor] = {}
    method: dict[str, Option] = {
        **policy.facts,
        "method": policy.method,
        "terms": tuple(term.name for term in policy.terms),
        "two_pass": policy.two_pass,
    }
    for term in policy.terms:
        tensors |= _term_tensors(term)
        method |= _term_words(term)
    if policy.transition is not None:
        tensors |= _transition_tensors(policy.transition)
    for name, table in policy.tables.items():
        tensors[f"{_FAMILY}/{_TABLE}/{name}"] = table.float()
    manifest = Manifest(
        kind="steering-policy",
        created=timestamp(),
        tool=tool(),
        base=None,
        aligned=policy.model,
        tokenizer=policy.tokenizer,
        data=policy.data,
        positions="last",
        contrast=(),
        method=method,
        directions={},
        seed=seed,
        versions=versions(),
        device="cpu",
        notes=policy.notes,
    )
    return Artifact(manifest, tensors)


def from_artifact(artifact: Artifact) -> Policy:
    """Read a policy out of an artifact.

    Raises:
        PolicyError: another kind of artifact, or one that lacks a part.
    """
    manifest = artifact.manifest
    if manifest.kind != "steering-policy" or manifest.aligned is None or not manifest.tokenizer:
        raise PolicyError(
            f"this file is a {manifest.kind}, not a steering policy: make one with "
            "python -m steering.fit"
        )
    try:
        return _policy(artifact)
    except KeyError as error:
        raise ArtifactError(f"steering policy without {error}: fit it again") from error


def _policy(artifact: Artifact) -> Policy:
    manifest = artifact.manifest
    method, names = manifest.method["method"], manifest.method["terms"]
    if method not in get_args(Method) or not isinstance(names, tuple):
        raise ArtifactError(f"steering policy of method {method!a}: unknown to this version")
    if manifest.aligned is None or manifest.tokenizer is None:
        raise KeyError("model")
    own = {*_OWN, *(f"{word}.{name}" for name in names for word in ("law", "positions", "steps"))}
    prefix = f"{_FAMILY}/{_TABLE}/"
    return Policy(
        cast("Method", method),
        tuple(_term(str(name), artifact) for name in names),
        manifest.aligned,
        manifest.tokenizer,
        transition=_transition(artifact.tensors),
        two_pass=bool(manifest.method["two_pass"]),
        facts={key: value for key, value in manifest.method.items() if key not in own},
        tables={
            key.removeprefix(prefix): tensor
            for key, tensor in artifact.tensors.items()
            if key.startswith(prefix)
        },
        data=manifest.data,
        notes=manifest.notes,
    )


def _term_tensors(term: Term) -> dict[str, Tensor]:
    if term.name in (_TRANSITION, _TABLE):
        raise PolicyError(f"a term cannot be named {term.name!r}; rename it")
    place = f"{_FAMILY}/{term.name}"
    tensors = {
        f"{place}/vectors": term.vectors.float(),
        f"{place}/blocks": torch.tensor(term.blocks),
    }
    if term.gate is None:
        return tensors
    law = term.gate.law
    numbers = (
        [law.weight, law.bias, law.floor]
        if isinstance(law, Logistic)
        else [law.threshold, law.below]
    )
    return tensors | {
        f"{place}/gate_block": torch.tensor([term.gate.block]),
        f"{place}/gate_direction": term.gate.direction.float(),
        f"{place}/law": torch.tensor(numbers, dtype=torch.float64),
    }


def _term_words(term: Term) -> dict[str, Option]:
    words: dict[str, Option] = {
        f"positions.{term.name}": term.positions,
        f"steps.{term.name}": term.steps,
    }
    if term.gate is not None:
        words[f"law.{term.name}"] = type(term.gate.law).__name__.lower()
    return words


def _term(name: str, artifact: Artifact) -> Term:
    tensors, method = artifact.tensors, artifact.manifest.method
    place = f"{_FAMILY}/{name}"
    gate = None
    if f"law.{name}" in method or f"{place}/law" in tensors:
        gate = Reading(
            int(tensors[f"{place}/gate_block"]),
            tensors[f"{place}/gate_direction"],
            _law(str(method[f"law.{name}"]), tensors[f"{place}/law"].tolist()),
        )
    return Term(
        name,
        tuple(tensors[f"{place}/blocks"].tolist()),
        tensors[f"{place}/vectors"],
        gate,
        cast("PositionName", method[f"positions.{name}"]),
        cast("StepRule", method[f"steps.{name}"]),
    )


def _law(kind: str, numbers: list[float]) -> Law:
    if kind == "logistic" and len(numbers) == 3:
        return Logistic(*numbers)
    if kind == "step" and len(numbers) == 2:
        return Step(*numbers)
    raise ArtifactError(f"law {kind!a} with {len(numbers)} numbers: unknown to this version")


def _transition_tensors(transition: Transition) -> dict[str, Tensor]:
    place = f"{_FAMILY}/{_TRANSITION}"
    return {
        f"{place}/opener": torch.tensor(transition.opener),
        f"{place}/blocks": torch.tensor(transition.blocks),
        f"{place}/anchors": transition.anchors.float(),
        f"{place}/threshold": torch.tensor([transition.threshold], dtype=torch.float64),
    }


def _transition(tensors: Mapping[str, Tensor]) -> Transition | None:
    place = f"{_FAMILY}/{_TRANSITION}"
    if f"{place}/anchors" not in tensors:
        return None
    return Transition(
        tuple(tensors[f"{place}/opener"].tolist()),
        tuple(tensors[f"{place}/blocks"].tolist()),
        tensors[f"{place}/anchors"],
        float(tensors[f"{place}/threshold"]),
    )
