"""Effects equal the interventions they name, and only real ones beat norm-matched controls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import hooks
from artifacts.errors import InputError
from directions.displace import Displace, Plan, random_controls
from directions.effects import (
    ComponentEffect,
    EffectOptions,
    Target,
    component_effects,
)
from evaluation.errors import JudgeError
from evaluation.judges import margins
from hooks import Ablate, Add
from hooks.errors import SiteError
from tests.directions.reading import (
    HARMFUL,
    HARMLESS,
    encoded,
    model,
    refusal_tokens,
    silent_after,
    toward,
)
from tests.hooks.common import LAYERS, capture, vector
from tests.tiny import make_hf, tokenizer

FEW = EffectOptions(randoms=5)


def effects(vectors: torch.Tensor, block: int = 1, **more: object) -> tuple[ComponentEffect, ...]:
    used = model()
    more = {"options": FEW} | more
    return component_effects(
        used, encoded(used), vectors, block=block, tokens=refusal_tokens(used), **more
    )


def mean_state(prompts: list[str], block: int) -> torch.Tensor:
    used = model()
    site = f"blocks.{block}.hook_resid_post"
    return capture(used, used.encode(prompts), site)[site].double().mean(0)


@pytest.mark.parametrize("block", [0, 2, LAYERS - 1])
def test_removal_equals_ablation_towards_the_harmless_mean(block: int) -> None:
    """The branch from a cached prompt is the plain edited forward pass."""
    used, v = model(), vector(1)
    center = mean_state(HARMLESS, block).float()
    edit = Ablate(v, f"blocks.{block}.hook_resid_post", center=center, positions="last")
    tokens = refusal_tokens(used)
    with used.hooks(edits=edit) as run:
        after = margins(used, used.encode(HARMFUL), tokens, run=run)
    change = after - margins(used, used.encode(HARMFUL), tokens)
    (found,) = effects(v[None], block)
    assert found.removed.value == pytest.approx(float(change.mean()), abs=1e-5)
    assert found.removed.n == len(HARMFUL)
    assert found.removed.low <= found.removed.value <= found.removed.high


def test_adding_sets_the_coordinate_to_the_harmful_mean() -> None:
    used, v, block = model(), vector(1) / vector(1).norm(), 1
    states = capture(used, used.encode(HARMLESS), "blocks.1.hook_resid_post")
    now = states["blocks.1.hook_resid_post"].double() @ v.double()
    goal = float(mean_state(HARMFUL, block) @ v.double())
    edit = Add(
        v.expand(len(now), -1),
        "blocks.1.hook_resid_post",
        scale=(goal - now).float(),
        positions="last",
    )
    tokens = refusal_tokens(used)
    plain = used.encode(HARMLESS)
    with used.hooks(edits=edit) as run:
        after = margins(used, plain, tokens, run=run)
    (found,) = effects(v[None], block)
    assert found.added is not None
    want = float((after - margins(used, plain, tokens)).mean())
    assert found.added.value == pytest.approx(want, abs=1e-5)
    gap = goal - float(mean_state(HARMLESS, block) @ v.double())
    assert found.gap == pytest.approx(gap, abs=1e-5)


def test_sign_scale_and_prompt_order_change_nothing() -> None:
    used, v = model(), torch.stack([vector(1), vector(2)])
    plain = effects(v)
    scaled = effects(v * torch.tensor([[3.0], [0.01]]))
    for one, other in zip(plain, effects(-v), strict=True):
        assert other.removed.value == pytest.approx(one.removed.value, abs=1e-5)
        assert other.gap == pytest.approx(-one.gap, abs=1e-5)
    rows = encoded(used)
    backwards = {label: part.select(range(len(part))[::-1]) for label, part in rows.items()}
    reordered = component_effects(
        used, backwards, v, block=1, tokens=refusal_tokens(used), options=FEW
    )
    for one, other in [*zip(plain, scaled, strict=True), *zip(plain, reordered, strict=True)]:
        assert other.removed.value == pytest.approx(one.removed.value, abs=1e-5)
        assert other.removed.controls == pytest.approx(one.removed.controls, abs=1e-5)
        assert other.gap == pytest.approx(one.gap, abs=1e-5)
        assert other.size == pytest.approx(one.size, rel=1e-5)


def test_components_in_several_batches_equal_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    v = torch.stack([vector(1), vector(2), vector(3)])
    together = effects(v)
    monkeypatch.setattr("directions.displace.ROWS", 7)
    for one, other in zip(together, effects(v), strict=True):
        assert other.removed.value == pytest.approx(one.removed.value, abs=1e-5)
        assert other.on_first is not None and one.on_first is not None
        assert other.on_first.controls == pytest.approx(one.on_first.controls, abs=1e-5)


def test_controls_move_every_state_exactly_as_far_and_away_from_all_components() -> None:
    units = torch.linalg.qr(vector(0, 32, 3)).Q.T
    controls = random_controls(units, 6, block=0, seed=0)
    assert torch.einsum("krd,jd->krj", controls, units).abs().max() < 1e-6
    edit = Plan(units, controls, vector(9), "blocks.0.hook_resid_post").edit(
        [0, 1, 2], vector(8, 3)
    )
    x = vector(7, 5, 1, 1, 32).expand(-1, len(edit.value), -1, -1)
    parts = {
        name: part if name == "center" else part[:, None]
        for name, (part, _) in edit.parts().items()
    }
    parts["value"] = parts["value"][..., None]
    moved = torch.stack([edit.edit(row, parts) - row for row in x])[:, :, 0].norm(dim=-1)
    assert moved[:, 0].abs().max() == 0
    by_component = moved[:, 1:].reshape(5, 3, 7)
    assert torch.allclose(by_component, by_component[:, :, :1].expand(-1, -1, 7), atol=1e-5)
    assert by_component.min() > 1e-3


def test_a_planted_component_is_dominant_and_an_invisible_one_is_not() -> None:
    made = make_hf("llama")
    with torch.no_grad():
        made.model.norm.weight[0] = 0  # what lies there reaches the logits through the norm alone
    used = hooks.wrap(made, tokenizer())
    tokens, block = refusal_tokens(used), LAYERS - 1
    up, hidden = toward(used, tokens.ids), torch.eye(32)[0]
    vectors = torch.stack([up, hidden])
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    mean = mean_state(HARMFUL, block).float()
    found = component_effects(
        used,
        encoded(used),
        vectors,
        block=block,
        tokens=tokens,
        means={"harmful": mean, "harmless": mean - 3 * units.sum(0)},
    )
    planted, twin = found
    assert [each.gap for each in found] == pytest.approx([3, 3], abs=1e-4)
    assert planted.dominant and planted.removed.p == pytest.approx(0.05)
    assert planted.removed.high < 0
    assert planted.added is not None and planted.added.low > 0
    assert planted.removed.band[0] > planted.removed.value
    assert twin.size == pytest.approx(planted.size, rel=0.2)
    assert not twin.dominant and twin.removed.p > 0.1
    assert planted.on_first is None and twin.on_first is None
    assert planted.relation == "itself" and twin.relation == "none"


def test_random_directions_are_called_dominant_no_more_often_than_stated() -> None:
    hits = n = 0
    for seed in range(5):
        options = EffectOptions(seed=seed, added=False)
        for found in effects(vector(seed, 8, 32), block=2, options=options):
            hits, n = hits + found.dominant, n + 1
            assert found.added is None
    # 40 draws at 5%: 2 expected, 8 or more has probability 0.001.
    assert n == 40 and hits <= 7


def test_the_effect_on_the_first_component_in_closed_form() -> None:
    """Blocks that add nothing pass on what was removed: the change is -mean(c) v . t."""
    used = silent_after(1)
    rows = encoded(used)
    site = "blocks.1.hook_resid_post"
    means = {
        label: capture(used, part, site)[site].double().mean(0) for label, part in rows.items()
    }
    v = means["harmful"] - means["harmless"]
    v = (v / v.norm()).float()
    other = vector(4) - v * (vector(4) @ v)
    gap = float((means["harmful"] - means["harmless"]) @ v.double())
    tilted = 0.6 * v + 0.8 * other / other.norm()

    def relation(t: torch.Tensor) -> tuple[str, float]:
        found = component_effects(
            used,
            rows,
            torch.stack([other, v]),
            block=1,
            tokens=refusal_tokens(used),
            target=Target(3, t),
            options=EffectOptions(added=False),
        )[1]
        assert found.on_first is not None
        return found.relation, found.on_first.value

    assert relation(tilted) == ("promotes", pytest.approx(-0.6 * gap, rel=1e-3))
    assert relation(-tilted) == ("suppresses", pytest.approx(0.6 * gap, rel=1e-3))
    name, value = relation(other)
    assert name == "none" and abs(value) < 1e-5


def test_bad_input_is_refused_in_one_line() -> None:
    used, v = model(), vector(1)[None]
    rows, tokens = encoded(used), refusal_tokens(used)

    def run(vectors: torch.Tensor = v, given: dict = rows, block: int = 1, **more: object) -> None:
        component_effects(used, given, vectors, block=block, **({"tokens": tokens} | more))

    with pytest.raises(InputError, match="norm zero or is not finite"):
        run(v * float("nan"))
    with pytest.raises(InputError, match="norm zero"):
        run(torch.cat([v, v * 0]))
    with pytest.raises(InputError, match="width 31"):
        run(v[:, 1:])
    with pytest.raises(InputError, match="7 harmful prompts; give at least 8"):
        run(given=rows | {"harmful": rows["harmful"][:7]})
    with pytest.raises(InputError, match="0 harmless prompts"):
        run(given={"harmful": rows["harmful"]})
    with pytest.raises(InputError, match="one token"):
        run(given=rows | {"harmless": hooks.Encoded.from_ids([[5]] * 8)})
    with pytest.raises(InputError, match="hold responses"):
        run(given=rows | {"harmless": used.encode(HARMLESS, responses=["a"] * len(HARMLESS))})
    with pytest.raises(SiteError, match="blocks 0 to 3"):
        run(block=4)
    with pytest.raises(InputError, match="after block 1, up to 3"):
        run(target=Target(1, v[0]))
    with pytest.raises(InputError, match="at least 5 random"):
        EffectOptions(randoms=4)
    with pytest.raises(JudgeError, match="another tokenizer"):
        run(tokens=replace(tokens, tokenizer="other"))


def test_no_hook_stays_and_the_edit_refuses_another_width() -> None:
    from tests.hooks.common import attached

    before = attached(model().hf)
    effects(vector(1)[None])
    assert attached(model().hf) == before
    wrong = torch.ones(1, 31)
    site = "blocks.0.hook_resid_post"
    edit = Displace(read=wrong, write=wrong, value=torch.ones(1), center=wrong[0], at=site)
    with pytest.raises(InputError, match="width 31"):
        model().hooks(edits=edit)
