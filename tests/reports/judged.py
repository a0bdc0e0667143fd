"""Real reports of the commands that judge answers, on tiny models, as the JSON that they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import torch

import ablation
import hooks
from ablation import Options, StyleReport
from artifacts import Artifact
from evaluation.capability import Row
from evaluation.catalogue import shipped
from evaluation.filling import evaluate
from evaluation.grid import GridOptions, Setting
from evaluation.outcomes import Answer, Verdict
from evaluation.prompts import Prompt, PromptSet
from evaluation.summary import grid_dict
from steering.evaluate import as_dict
from steering.frontier import measure_frontier
from steering.laws import Logistic
from steering.store import to_artifact
from tests.ablation import planted, test_style
from tests.hooks.common import MID, PROMPTS, model, vector
from tests.steering.common import gated, middle
from tests.steering.common import model as steered

Json = dict[str, object]


@dataclass
class Parity:
    """A judge whose verdict depends on the whole text."""

    name: str = "parity"
    needs: frozenset[str] = frozenset()

    def __call__(self, answers: Sequence[Answer]) -> tuple[Verdict, ...]:
        odd = [(sum(map(ord, answer.text)) + len(answer.text)) % 2 for answer in answers]
        return tuple(Verdict("refused" if one else "complied") for one in odd)


@cache
def answers() -> Json:
    labels = ("harmful", "harmless")
    rows = [Prompt(f"p-{k}", PROMPTS[k % len(PROMPTS)] + " x" * k, labels[k % 2]) for k in range(8)]
    asked = PromptSet("theodolite-test", "test", "MIT", tuple(rows))
    settings = [
        Setting("clean", model()),
        Setting("edited", model(), (hooks.Add(vector(3) * 9, MID),)),
    ]
    grid = evaluate(settings, [asked], Parity(), options=GridOptions(new_tokens=6))
    return grid_dict(grid, settings)


def able() -> Json:
    """Return the same with a capability."""
    row = Row("perplexity", 21.5, 19.25, 24.75, 48, 48, "per token")
    return answers() | {"capability": [{"setting": "edited", "measures": [asdict(row)]}]}


@cache
def ablated(*, compare: bool = False) -> Json:
    report = ablation.run(
        planted.artifact({"refusal": torch.stack([planted.axis()] * planted.LAYERS)}),
        model=planted.model(),
        prompts=planted.requests("test", 100),
        development=planted.requests("dev", 0),
        judge=planted.Judge(),
        texts=planted.TEXTS,
        options=Options(limit=16, new_tokens=2, compare=compare),
    )
    return dict(report.to_dict())


@cache
def styled() -> StyleReport:
    return test_style.found()


@cache
def frontier() -> Json:
    few = shipped("development").select(limit=6)
    policy = replace(gated(Logistic(3.0, -3.0 * middle())), facts={"strength": 0.5})
    found = measure_frontier(
        steered(),
        {"mine": policy},
        few.select(label="harmful"),
        [few.select(label="harmless")],
        Parity(),
        forms=("plain", "opener-injection"),
        new_tokens=4,
    )
    sets = [few.describe()]
    return as_dict(found, ("plain",)) | {"warning": None, "sets": sets, "seconds": 1.0}


def policy(**facts: object) -> Artifact:
    """Return a policy with the facts that a fit writes."""
    known = {
        "strength": 0.04,
        "gate_block": 0,
        "gate_auc": 0.9,
        "gate_auc_low": 0.8,
        "gate_auc_high": 0.95,
        "gate_auc_n": 60,
        "option.max_kl": 0.1,
        "option.max_perplexity": 1.1,
        "range.n_harmful": 96,
        "range.n_benign": 88,
        "check.n_harmful": 72,
        "check.n_benign": 64,
        "check.n_requests_harmful": 18,
        "check.n_requests_benign": 16,
        "check.n_answers": 32,
        "check.harmful_refused_before": 0.5,
        "check.harmful_refused_after": 0.75,
        "check.harmful_change_low": 0.125,
        "check.harmful_change_high": 0.375,
        "check.benign_refused_before": 0.0,
        "check.benign_refused_after": 0.015625,
        "check.benign_change_low": 0.0,
        "check.benign_change_high": 0.046875,
        "check.kl": 0.0125,
        "check.kl_low": 0.005,
        "check.kl_high": 0.025,
        "check.perplexity_ratio": 1.02,
        "check.perplexity_ratio_low": 1.01,
        "check.perplexity_ratio_high": 1.03,
        "check.passed": True,
    }
    rows = [[0.02, 0.5, 0.0, 0.01, 1.01, 1.0], [0.04, 0.75, 0.0, 0.02, 1.2, 0.0]]
    made = replace(
        gated(Logistic(3.0, -3.0 * middle())),
        facts={k: v for k, v in (known | facts).items() if v is not None},  # type: ignore[arg-type]
        tables={"range": torch.tensor(rows)},
        notes=("a note of the fit",),
    )
    return to_artifact(made)
