"""Claims: a planted rank-1 write is found where it is and not before; numbers equal definitions;
cuts, order and packing change nothing; a pair without a difference gives no direction.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import artifacts
import directions
import hooks
from artifacts.errors import InputError
from directions import DirectionSet, Options
from directions.collect import Source
from evaluation.prompts import PromptSet, read
from hooks.errors import OutOfMemoryError
from tests.directions import tiny
from tests.directions.conftest import Pair

FLOAT32 = Options(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def prompts(pair: Pair) -> PromptSet:
    return read(pair.harmful, label="harmful") + read(pair.harmless, label="harmless")


@pytest.fixture(scope="module")
def models(pair: Pair) -> tuple[hooks.Model, hooks.Model]:
    return hooks.load_pair(str(pair.base), str(pair.aligned), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def found(models: tuple[hooks.Model, hooks.Model], prompts: PromptSet) -> DirectionSet:
    return directions.extract(*models, fit=prompts, options=FLOAT32)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1))


def test_a_planted_write_is_recovered_at_its_block_and_absent_before(
    found: DirectionSet, pair: Pair
) -> None:
    assert found.blocks("shift") == (1, 2)
    assert abs(_cosine(found.direction("shift")[0], pair.direction)) > 0.999
    assert abs(_cosine(found.direction("refusal")[0], pair.direction)) < 0.9
    assert any(
        note.startswith("shift: zero within float32 rounding at 1 blocks (0)")
        for note in found.artifact.manifest.notes
    )


def test_every_direction_equals_its_definition_on_plain_hidden_states(
    found: DirectionSet, pair: Pair, prompts: PromptSet
) -> None:
    """Oracle: one prompt at a time through Hugging Face's own models, no padding, no hooks."""
    fit = [p for p in prompts.prompts if p.id in _fit_ids(prompts)]
    cells = {
        (side, raw): _plain_states(folder, [p.prompt for p in fit], raw=raw)
        for side, folder in (("a", pair.aligned), ("b", pair.base))
        for raw in (False, True)
    }
    harmful = torch.tensor([p.label == "harmful" for p in fit])

    def both(x: torch.Tensor) -> torch.Tensor:
        return (x[harmful].mean(0) + x[~harmful].mean(0)) / 2

    at, ar, bt, br = (cells[key] for key in (("a", False), ("a", True), ("b", False), ("b", True)))
    expected = {
        "shift": both(at) - both(bt),
        "template_shift": both(at) - both(ar),
        "did": both(at) - both(ar) - both(bt) + both(br),
        "refusal": at[harmful].mean(0) - at[~harmful].mean(0),
        "refusal_base": bt[harmful].mean(0) - bt[~harmful].mean(0),
    }
    assert set(found.names) == set(expected)
    for name, value in expected.items():
        blocks = list(found.blocks(name))
        torch.testing.assert_close(
            found.direction(name), value[blocks].float(), atol=2e-5, rtol=1e-4
        )
    tensors = found.artifact.tensors
    torch.testing.assert_close(
        tensors["mean/harmful/aligned"], at[harmful].mean(0).float(), atol=2e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        tensors["ambient_norm"], at.norm(dim=-1).mean(0).float(), atol=2e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        tensors["base_norm"], bt.norm(dim=-1).mean(0).float(), atol=2e-5, rtol=1e-4
    )


def _fit_ids(prompts: PromptSet) -> set[str]:
    from directions.split import split

    return {p.id for p in split(prompts, seed=0).fit.prompts}


def _plain_states(folder: Path, texts: list[str], *, raw: bool) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    states: dict[int, list[torch.Tensor]] = {}
    for block, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda _m, _i, out, block=block: states.setdefault(block, []).append(
                out[0, -1].double()
            )
        )
    for text in texts:
        chat = [{"role": "user", "content": text}]
        ids = (
            tokenizer(text)["input_ids"]
            if raw
            else tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        )
        with torch.no_grad():
            model(torch.tensor([ids]))
    return torch.stack([torch.stack(states[b]) for b in range(tiny.LAYERS)], dim=1)


def test_measures_are_those_of_the_held_out_projections(found: DirectionSet) -> None:
    from sklearn.metrics import roc_auc_score

    for name in found.names:
        groups = sorted(
            key.rpartition("/")[2]
            for key in found.artifact.tensors
            if key.startswith(f"projection/{name}/")
        )
        assert len(groups) == 2
        plus = groups[0] if name != "template_shift" else "template"
        minus = next(group for group in groups if group != plus)
        for row, block in enumerate(found.blocks(name)):
            left = found.artifact.tensors[f"projection/{name}/{plus}"][row]
            right = found.artifact.tensors[f"projection/{name}/{minus}"][row]
            labels = np.r_[np.ones(len(left)), np.zeros(len(right))]
            score = found.score(name, block)
            expected = roc_auc_score(labels, torch.cat([left, right]).numpy())
            assert score.auc == pytest.approx(expected, abs=1e-3)
            assert score.low <= score.auc <= score.high
            low, mean, high = score.auc_shuffled[1], score.auc_shuffled[0], score.auc_shuffled[2]
            assert low < 0.5 < high
            assert mean == pytest.approx(0.5, abs=0.06)
            assert 0.5 <= score.auc_random[1] <= score.auc_random[2]


def test_the_claim_is_decodable_exactly_where_controls_are_beaten(found: DirectionSet) -> None:
    for name in found.names:
        expected = "decodable" if found.beats_control(name) else "none"
        assert found.artifact.manifest.directions[name].claim == expected
    assert found.beats_control("shift")
    assert len(found.table()) == sum(len(found.blocks(name)) for name in found.names)


def test_labels_without_meaning_are_not_claimed(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet
) -> None:
    """A random half of all prompts is called harmful: nothing tells the classes apart."""
    coins = np.random.default_rng(0).permutation(len(prompts)) % 2
    swapped = tuple(
        replace(p, label="harmful" if coin else "harmless")
        for p, coin in zip(prompts.prompts, coins, strict=True)
    )
    options = replace(FLOAT32, contrasts=("refusal",))
    found = directions.extract(*models, fit=replace(prompts, prompts=swapped), options=options)
    assert not found.beats_control("refusal")
    assert found.artifact.manifest.directions["refusal"].claim == "none"


def test_shards_packing_and_prompt_order_change_only_rounding(
    found: DirectionSet, models: tuple[hooks.Model, hooks.Model], prompts: PromptSet
) -> None:
    small = directions.extract(*models, fit=prompts, options=replace(FLOAT32, shard_size=7))
    turned = directions.extract(
        *models, fit=replace(prompts, prompts=prompts.prompts[::-1]), options=FLOAT32
    )
    assert small.stats["shards"] == 14
    for name in found.names:
        for other in (small, turned):
            assert other.blocks(name) == found.blocks(name)
            torch.testing.assert_close(
                other.direction(name), found.direction(name), atol=1e-5, rtol=1e-4
            )


def test_an_identical_pair_has_no_shift_and_says_so(pair: Pair, prompts: PromptSet) -> None:
    found = directions.extract(str(pair.base), str(pair.base), fit=prompts, options=FLOAT32)
    assert set(found.names) == {"template_shift", "refusal", "refusal_base"}
    assert any("shift: zero within float32" in note for note in found.artifact.manifest.notes)
    with pytest.raises(InputError, match="there is no direction to save"):
        directions.extract(
            str(pair.base),
            str(pair.base),
            fit=prompts,
            options=replace(FLOAT32, contrasts=("shift", "did")),
        )


def test_several_sites_and_template_positions_get_names_of_their_own(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet, found: DirectionSet
) -> None:
    options = replace(
        FLOAT32,
        sites=("hook_resid_post", "hook_mlp_out"),
        positions="template",
        contrasts=("shift", "refusal"),
    )
    many = directions.extract(*models, fit=prompts, options=options)
    assert set(many.names) == {
        f"{contrast}{suffix}"
        for contrast in ("shift", "refusal")
        for suffix in ("", ".hook_resid_post.p-2", ".hook_mlp_out", ".hook_mlp_out.p-2")
    }
    torch.testing.assert_close(
        many.direction("refusal"), found.direction("refusal"), atol=1e-5, rtol=1e-4
    )
    info = many.artifact.manifest.directions["refusal.hook_mlp_out.p-2"]
    assert (info.site, info.position) == ("hook_mlp_out", "template[-2]")
    assert not torch.equal(many.direction("refusal.hook_resid_post.p-2"), many.direction("refusal"))
    assert many.score("shift.hook_mlp_out").relative_norm is not None


def test_default_contrasts_leave_raw_ones_out_where_positions_have_no_counterpart(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet
) -> None:
    found = directions.extract(*models, fit=prompts, options=replace(FLOAT32, positions="template"))
    assert {name.partition(".")[0] for name in found.names} == {"shift", "refusal", "refusal_base"}
    assert any("raw prompts left out" in note for note in found.artifact.manifest.notes)


def test_rows_and_second_moments_agree(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet
) -> None:
    rows, second = (
        directions.extract(*models, fit=prompts, options=replace(FLOAT32, moments=kind)).artifact
        for kind in ("rows", "second")
    )
    labels = ("harmful", "harmless")
    base = torch.cat([rows.tensors[f"rows/{c}/base"] for c in labels], dim=1).double()
    aligned = torch.cat([rows.tensors[f"rows/{c}/aligned"] for c in labels], dim=1).double()
    shift = aligned - base
    base, shift = base - base.mean(1, keepdim=True), shift - shift.mean(1, keepdim=True)
    pairs = {"base_base": (base, base), "base_shift": (base, shift), "shift_shift": (shift, shift)}
    for name, (left, right) in pairs.items():
        expected = left.mT @ right / left.shape[1]
        torch.testing.assert_close(
            second.tensors[f"second/{name}"].double(), expected, atol=1e-4, rtol=1e-3
        )
    assert not any(key.startswith("second/") for key in rows.tensors)


def test_moments_are_rows_while_prompts_are_few_and_nothing_when_too_large() -> None:
    from directions.moments import choose

    assert choose("auto", n=64, d=64, blocks=2) == ("rows", None)
    assert choose("auto", n=65, d=64, blocks=2) == ("second", None)
    kind, note = choose("auto", n=5000, d=4096, blocks=32)
    assert kind == "none"
    assert "ask for --moments second" in str(note)
    assert choose("second", n=5000, d=4096, blocks=32) == ("second", None)


def test_each_model_reads_each_prompt_once_for_each_rendering(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet
) -> None:
    both = directions.extract(*models, fit=prompts, options=FLOAT32)
    templated = directions.extract(
        *models, fit=prompts, options=replace(FLOAT32, contrasts=("shift", "refusal"))
    )
    lengths = {
        raw: sum(models[1].encode([p.prompt for p in prompts.prompts], template=not raw).lengths)
        for raw in (False, True)
    }
    assert both.stats["tokens_asked"] == 2 * (lengths[False] + lengths[True])
    assert templated.stats["tokens_asked"] == 2 * lengths[False]


def test_the_states_of_a_shard_are_gone_before_the_next_is_read(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    read_shard = Source.shard

    def watched(
        self: Source, rows: range, options: hooks.EngineOptions | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        alive.append(sum(reference() is not None for reference in made))
        states, stats = read_shard(self, rows, options)
        made.extend(weakref.ref(tensor) for tensor in states.values())
        return states, stats

    monkeypatch.setattr(Source, "shard", watched)
    directions.extract(*models, fit=prompts, options=replace(FLOAT32, shard_size=16))
    assert len(alive) > 4 and made
    assert not any(alive)


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: not enough memory"), torch.OutOfMemoryError("x")]
)
def test_running_out_of_memory_halves_the_batch_and_changes_nothing(
    models: tuple[hooks.Model, hooks.Model],
    prompts: PromptSet,
    found: DirectionSet,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = models[1].hf.model.layers[0]
    plain, calls = layer.forward, []

    def forward(hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        calls.append(len(hidden))
        if len(hidden) > 6:
            raise error
        return plain(hidden, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", forward)
    small = directions.extract(*models, fit=prompts, options=FLOAT32)
    assert small.stats["halvings"] > 0
    for name in found.names:
        torch.testing.assert_close(
            small.direction(name), found.direction(name), atol=1e-5, rtol=1e-4
        )
    assert small.artifact.manifest.directions["refusal"].n == {"harmful": 24, "harmless": 24}


def test_one_prompt_that_does_not_fit_is_an_error_with_advice(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*args: object, **kwargs: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(models[1].hf.model.layers[0], "forward", forward)
    with pytest.raises(OutOfMemoryError, match="use a smaller dtype"):
        directions.extract(*models, fit=prompts, options=FLOAT32)


def test_a_saved_set_loads_verified_and_carries_its_provenance(
    models: tuple[hooks.Model, hooks.Model], prompts: PromptSet, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    found = directions.extract(*models, fit=prompts, out=out, options=FLOAT32)
    stored = artifacts.load(out)
    manifest = stored.manifest
    assert manifest.digest == found.digest == stored.digest
    assert manifest.kind == "direction-set"
    assert [(d.role, dict(d.n)) for d in manifest.data] == [
        ("fit", {"harmful": 24, "harmless": 24}),
        ("test", {"harmful": 24, "harmless": 24}),
    ]
    assert manifest.method["split"] == "category"
    assert manifest.base is not None
    assert manifest.aligned is not None
    assert manifest.base.weight_digests != manifest.aligned.weight_digests
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_results_refuse_names_and_blocks_they_do_not_have(found: DirectionSet) -> None:
    with pytest.raises(InputError, match="no direction 'refusals'; there are shift"):
        found.score("refusals")
    with pytest.raises(InputError, match="no row at block 0"):
        found.score("shift", 0)


def test_the_function_stays_callable_after_its_namesake_module_is_imported() -> None:
    import importlib

    module = importlib.import_module("directions.extract")
    assert callable(module)
    assert callable(directions.extract)


def _low(specs: tuple[str, str], prompts: PromptSet, **more: object) -> DirectionSet:
    options = Options(dtype="bfloat16", device="cpu", **more)  # type: ignore[arg-type]
    return directions.extract(*specs, fit=prompts, options=options)


def test_one_pass_keeps_a_small_shift_in_bfloat16(tmp_path: Path, prompts: PromptSet) -> None:
    """With its negative twin: two passes lose it."""
    specs = tiny.adapter_pair(tmp_path)
    exact = directions.extract(*specs, fit=prompts, options=FLOAT32)
    joint, apart = _low(specs, prompts), _low(specs, prompts, passes="apart")
    assert joint.artifact.manifest.method["passes"] == "joint"
    assert apart.artifact.manifest.method["passes"] == "apart"
    assert exact.artifact.manifest.method["passes"] == "apart"
    for name in ("shift", "did"):
        want = exact.direction(name)
        assert min(map(_cosine, joint.direction(name), want)) > 0.998
        assert min(map(_cosine, apart.direction(name), want)) < 0.97
    assert joint.stats["tokens_computed"] == apart.stats["tokens_computed"]


def test_passes_that_this_pair_cannot_share_are_refused(pair: Pair, prompts: PromptSet) -> None:
    with pytest.raises(InputError, match="--passes joint: base and aligned do not share"):
        _low((str(pair.base), str(pair.aligned)), prompts, passes="joint")
    with pytest.raises(InputError, match="leave out --stream model"):
        Options(passes="joint", stream="model")
    apart = _low((str(pair.base), str(pair.aligned)), prompts)
    assert apart.artifact.manifest.method["passes"] == "apart"
