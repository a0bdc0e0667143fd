"""Additive steering is resid + a v; zero is the identity; a policy keeps to its one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import artifacts
import steering
from artifacts.errors import ArtifactError
from steering.errors import PolicyError
from steering.laws import Logistic, Step
from tests.hooks.common import capture, logits
from tests.steering.common import (
    PROMPTS,
    gated,
    greedy,
    middle,
    model,
    plain,
    scores,
    vectors,
)

SITE = "blocks.1.hook_resid_post"


def test_an_addition_is_the_state_plus_a_times_v() -> None:
    v = vectors(1)
    policy = steering.additive(model(), v, strength=-0.7, kind="absolute")
    clean = capture(model(), PROMPTS, SITE, at="all")[SITE]
    found = capture(model(), PROMPTS, SITE, at="all", edits=policy.edits())[SITE]
    for before, after in zip(clean, found, strict=True):
        torch.testing.assert_close(after, before - 0.7 * v[1], atol=1e-5, rtol=1e-5)


def test_a_relative_strength_is_a_share_of_the_ambient_norm() -> None:
    v = vectors(1, 2)
    norms = steering.ambient_norms(model(), PROMPTS, [1, 2])
    states = capture(model(), PROMPTS, "blocks.1-2.hook_resid_post").stack()
    torch.testing.assert_close(
        torch.tensor(list(norms.values())), states.norm(dim=-1).mean(dim=-1), check_dtype=False
    )
    policy = steering.additive(model(), v, strength=0.3, ambient=norms)
    for row, block in zip(policy.terms[0].vectors, (1, 2), strict=True):
        assert float(row.norm()) == pytest.approx(0.3 * norms[block], rel=1e-5)
        assert float(torch.cosine_similarity(row, v[block], dim=0)) == pytest.approx(1.0, rel=1e-5)
    longer = {block: 50 * vector for block, vector in v.items()}
    again = steering.additive(model(), longer, strength=0.3, ambient=norms)
    torch.testing.assert_close(again.terms[0].vectors, policy.terms[0].vectors)


@pytest.mark.parametrize("law", [None, Logistic(1.0, 0.0), Step(0.0)])
def test_zero_strength_is_the_identity_bit_for_bit(law: object) -> None:
    if law is None:
        policy = steering.additive(model(), vectors(1, 3), strength=0.0, kind="absolute")
    else:
        policy = gated(law).scaled(0.0)
    assert torch.equal(
        logits(model(), PROMPTS, policy.edits(), "last"), logits(model(), PROMPTS, (), "last")
    )
    assert greedy(policy) == plain()
    with steering.steer(model(), policy) as run:
        assert run.generate_ids(PROMPTS, max_new_tokens=6) == plain()
    assert greedy(policy.scaled(3.0)) == plain(), "0 times 3 is 0"


def test_prompt_and_generated_tokens_are_steered_as_asked() -> None:
    v = vectors(1)

    def first_and_all(steps: str) -> tuple[list[list[int]], list[list[int]]]:
        policy = steering.additive(model(), v, strength=1.0, kind="absolute", steps=steps)
        found = greedy(policy)
        return [row[:1] for row in found], found

    unsteered = [row[:1] for row in plain()]
    firsts = {steps: first_and_all(steps)[0] for steps in ("prompt", "generated", "both")}
    assert firsts["generated"] == unsteered
    assert firsts["prompt"] == firsts["both"] != unsteered
    answers = {steps: first_and_all(steps)[1] for steps in ("prompt", "generated", "both")}
    assert answers["prompt"] != answers["both"]
    assert answers["generated"] != plain()


def test_logistic_and_hard_laws_are_what_they_say() -> None:
    s = torch.linspace(-4, 4, 33)
    law = Logistic(2.0, -1.0, floor=0.05)
    wanted = 1 / (1 + torch.exp(-(2 * s - 1)))
    found = law(s)
    torch.testing.assert_close(found[wanted >= 0.05], wanted[wanted >= 0.05])
    assert (found[wanted < 0.05] == 0).all()
    assert (wanted < 0.05).any()
    assert Step(0.5, below=-1.0)(s).tolist() == [1.0 if x > 0.5 else -1.0 for x in s.tolist()]
    for wrong in (lambda: Logistic(float("inf"), 0.0), lambda: Step(float("nan"))):
        with pytest.raises(PolicyError, match="finite"):
            wrong()
    with pytest.raises(PolicyError, match="floor"):
        Logistic(1.0, 0.0, floor=1.0)


def test_coefficients_by_row_are_those_of_each_prompt_alone() -> None:
    law = Logistic(3.0, -3.0 * middle())
    policy = gated(law)
    together = steering.coefficients(model(), policy, PROMPTS)["reject"]
    torch.testing.assert_close(together, law(scores()), atol=1e-5, rtol=1e-4)
    for row in range(len(PROMPTS)):
        alone = steering.coefficients(model(), policy, PROMPTS.select([row]))["reject"]
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=1e-4)
    found = capture(model(), PROMPTS, SITE, edits=policy.edits())[SITE]
    clean = capture(model(), PROMPTS, SITE)[SITE]
    wanted = clean + together[:, None] * policy.terms[0].vectors[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def _absolute() -> steering.Policy:
    return steering.additive(model(), vectors(1, 3), strength=1.0, kind="absolute")


@pytest.mark.parametrize("kind", ["additive", "logistic", "step"])
def test_a_policy_comes_back_from_its_file(kind: str, tmp_path: Path) -> None:
    made = {
        "additive": lambda: steering.additive(
            model(), vectors(1, 3), strength=1.0, kind="absolute"
        ),
        "logistic": lambda: gated(Logistic(2.0, 0.3, 0.01)),
        "step": lambda: gated(Step(middle()), steered=(0,), two_pass=True),
    }[kind]()
    made = replace(made, facts={"limit": 0.5}, tables={"cost": torch.ones(2, 3)}, notes=("a",))
    digest = steering.save(made, tmp_path / "p.safetensors")
    assert artifacts.verify(tmp_path / "p.safetensors") == digest
    found = steering.load(tmp_path / "p.safetensors")
    assert greedy(found) == greedy(made)
    assert greedy(found) != plain()
    assert (found.method, found.two_pass, found.notes) == (made.method, made.two_pass, ("a",))
    assert dict(found.facts) == dict(made.facts)
    assert torch.equal(found.tables["cost"], torch.ones(2, 3))
    assert steering.save(found, tmp_path / "q.safetensors") is not None


def test_a_file_of_another_kind_is_no_policy(tmp_path: Path) -> None:
    made = steering.store.to_artifact(gated(Step(0.0)))
    manifest = made.manifest.model_copy(update={"kind": "signature"})
    artifacts.save(artifacts.Artifact(manifest, made.tensors), tmp_path / "s.safetensors")
    with pytest.raises(PolicyError, match="signature, not a steering policy"):
        steering.load(tmp_path / "s.safetensors")
    tensors = {k: v for k, v in made.tensors.items() if not k.endswith("law")}
    artifacts.save(artifacts.Artifact(made.manifest, tensors), tmp_path / "t.safetensors")
    with pytest.raises(ArtifactError, match="fit it again"):
        steering.load(tmp_path / "t.safetensors")
