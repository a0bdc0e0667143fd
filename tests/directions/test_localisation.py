"""Claims, on tiny models of every family: contributions sum to what a block adds, a planted head or
MLP is the only origin and comes first, an identical copy changes nothing, and nothing depends on
how prompts are batched.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hooks
from artifacts.errors import InputError
from benchmarks import localization as benchmark
from directions import contributions, origin, overwrite
from directions.origin import PARTS, Scalars, measure
from directions.patching import causal_check, projection, random_sets
from directions.significance import Resamples, assess
from hooks.errors import EditError
from tests.directions import planting
from tests.hooks.common import capture
from tests.tiny import FAMILIES, HEADS, LAYERS, WIDTH, make_hf, tokenizer

POST_NORM = {"gemma2", "gemma3", "olmo2"}
EVERY = pytest.mark.parametrize("family", list(FAMILIES))
SOME = pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox"])
LOGITS = (7, 9, 11)


def _moved(scalars: Scalars, part: origin.Part) -> set[tuple[int, int | str]]:
    """Return the heads and MLPs of which any prompt's contribution changed beyond rounding."""
    floor = 1e-6 * scalars.stream
    heads = np.abs(scalars.heads[part]).max(0) > floor[:, None]
    mlps = np.abs(scalars.mlps[part]).max(0) > floor
    found: set[tuple[int, int | str]] = {(int(b), int(h)) for b, h in np.argwhere(heads)}
    return found | {(int(b), "mlp") for b in np.flatnonzero(mlps)}


def _tested(scalars: Scalars, n: int):
    flat = {
        part: np.concatenate([scalars.heads[part].reshape(n, -1), scalars.mlps[part]], axis=1)
        for part in PARTS
    }
    resamples = Resamples.draw(np.arange(n) < n // 2, repeats=200, seed=0)
    return assess(flat, resamples, alpha=0.05, seed=0)


@EVERY
def test_heads_and_bias_sum_to_what_attention_adds(family: str) -> None:
    model = hooks.wrap(make_hf(family), tokenizer())
    encoded = planting.prompts(5)
    directions = torch.randn(LAYERS, 9, WIDTH, dtype=torch.float64)
    rows = capture(model, encoded, contributions.LAST_SITES)
    for block, readout in enumerate(contributions.readouts(model, directions)):
        z, attn, mlp = (rows[s.replace("*", str(block))] for s in contributions.LAST_SITES)
        found = contributions.added(readout, z, attn, mlp)
        assert found.heads.shape == (5, HEADS, 9)
        whole = attn.double() @ directions[block].T
        torch.testing.assert_close(found.heads.sum(1) + found.bias, whole, rtol=1e-4, atol=1e-4)
        assert found.gap() < 1e-5
        assert readout.normed == (family in POST_NORM)
        assert bool(found.bias.any()) == (family in {"gpt2", "gpt_neox"})
        torch.testing.assert_close(found.mlp, mlp.double() @ directions[block].T)


def test_a_head_is_its_own_columns_of_the_projection() -> None:
    """Grouped queries (4 heads, 2 keys) and no bias: an oracle from the weights alone."""
    raw = make_hf("llama")
    model, encoded = hooks.wrap(raw, tokenizer()), planting.prompts(3)
    assert (model.n_heads, model.n_kv_heads) == (4, 2)
    rows = capture(model, encoded, contributions.LAST_SITES)
    directions = torch.randn(LAYERS, 2, WIDTH, dtype=torch.float64)
    readout = contributions.readouts(model, directions)[1]
    z, attn, mlp = (rows[s.replace("*", "1")] for s in contributions.LAST_SITES)
    found = contributions.added(readout, z, attn, mlp)
    weight = raw.model.layers[1].self_attn.o_proj.weight.double()
    for head in range(4):
        own = z[:, head].double() @ weight[:, head * 8 : (head + 1) * 8].T
        torch.testing.assert_close(found.heads[:, head], own @ directions[1].T)


@EVERY
def test_changes_of_attention_sum_to_its_change(family: str) -> None:
    """Also behind a post-norm, where the change of scale is a part of its own."""
    encoded = planting.prompts(6)
    base, aligned = planting.pair(family, 3, encoded, [(1, 2)])
    plan = planting.plan(planting.unit(3))
    scalars = measure(base, aligned, encoded, plan)
    sites = "blocks.*.hook_attn_out"
    states = [capture(model, encoded, sites).stack().double() for model in (aligned, base)]
    change = (states[0] - states[1]) @ planting.unit(3).double()
    summed = scalars.heads["total"].sum(-1) + scalars.bias + scalars.rescaling
    np.testing.assert_allclose(summed.T, change.numpy(), atol=2e-5)
    assert (np.abs(scalars.rescaling).max() > 1e-3) == (family in POST_NORM)
    for part in (scalars.heads, scalars.mlps):
        np.testing.assert_allclose(part["origin"] + part["echo"], part["total"], atol=1e-12)


@EVERY
def test_a_planted_head_is_the_only_origin(family: str) -> None:
    encoded = planting.prompts(6)
    base, aligned = planting.pair(family, 5, encoded, [(1, 2)])
    scalars = measure(base, aligned, encoded, planting.plan(planting.unit(5)))
    assert _moved(scalars, "origin") == {(1, 2)}
    echo = _moved(scalars, "echo")
    assert (1, 2) not in echo
    assert all(block > 1 or item == "mlp" for block, item in echo)
    assert any(block > 1 for block, _ in echo)  # or there would be nothing to tell apart


@EVERY
def test_an_identical_copy_changes_nothing_at_all(family: str) -> None:
    models = [hooks.wrap(make_hf(family), tokenizer()) for _ in range(2)]
    scalars = measure(*models, planting.prompts(5), planting.plan(planting.unit(0), refusal=LOGITS))
    for part in PARTS:
        assert not scalars.heads[part].any()
        assert not scalars.mlps[part].any()
    assert not scalars.random_heads.any()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_planted_mlp_is_the_only_origin(family: str) -> None:
    encoded, direction = planting.prompts(24), planting.unit(2)
    raw = make_hf(family, seed=2)
    twin = hooks.wrap(planting.with_mlp(raw, 2, direction, encoded), tokenizer())
    scalars = measure(hooks.wrap(raw, tokenizer()), twin, encoded, planting.plan(direction))
    assert _moved(scalars, "origin") == {(2, "mlp")}
    found = _tested(scalars, 24)
    assert np.argmax(np.abs(found["total"].score)) == LAYERS * HEADS + 2
    assert np.flatnonzero(found["origin"].q <= 0.05).tolist() == [LAYERS * HEADS + 2]


def test_planted_heads_come_first_and_are_the_only_significant_origins() -> None:
    first = 0
    for seed in range(8):
        encoded, place = planting.prompts(24, seed), planting.place(seed)
        base, aligned = planting.pair("llama", seed, encoded, [place])
        found = _tested(measure(base, aligned, encoded, planting.plan(planting.unit(seed))), 24)
        true = place[0] * HEADS + place[1]
        first += int(np.argmax(np.abs(found["total"].score[: LAYERS * HEADS])) == true)
        assert np.flatnonzero(found["origin"].q <= 0.05).tolist() == [true]
        assert found["total"].q[true] <= 0.05
    assert first == 8


def test_several_planted_heads_are_the_only_origins() -> None:
    encoded, places = planting.prompts(24), [(0, 1), (2, 3), (2, 0)]
    base, aligned = planting.pair("llama", 1, encoded, places)
    found = _tested(measure(base, aligned, encoded, planting.plan(planting.unit(1))), 24)
    true = sorted(block * HEADS + head for block, head in places)
    assert np.flatnonzero(found["origin"].q <= 0.05).tolist() == true


@SOME
def test_batches_and_order_do_not_matter(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = planting.prompts(9)
    base, aligned = planting.pair(family, 4, encoded, [(1, 0)])
    plan = planting.plan(planting.unit(4), refusal=LOGITS)
    want = measure(base, aligned, encoded, plan)
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    monkeypatch.setattr(overwrite, "HELD_BYTES", 2 * LAYERS * WIDTH * 4 * 20)
    got = measure(base, aligned, encoded.select(order), plan)
    assert got.stats["forwards"] > want.stats["forwards"]
    for part in PARTS:
        np.testing.assert_allclose(got.heads[part], want.heads[part][order], atol=2e-5)
        np.testing.assert_allclose(got.mlps[part], want.mlps[part][order], atol=2e-5)
    for side in ("base", "aligned"):
        np.testing.assert_allclose(got.logit_heads[side], want.logit_heads[side][order], atol=2e-5)
    np.testing.assert_allclose(got.random_heads, want.random_heads, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "mixtral"])
def test_all_heads_in_the_passes_of_one_equal_one_forward_for_each_head(family: str) -> None:
    """The naive sweep of the benchmark is the oracle; passes do not grow with the heads."""
    encoded = planting.prompts(6)
    base, aligned = planting.pair(family, 7, encoded, [(2, 1)])
    plan = planting.plan(planting.unit(7))
    weights = [contributions.readouts(m, plan.along[:, None]) for m in (aligned, base)]
    assert base.check().passed and aligned.check().passed  # in passes of their own, once
    passes: list[int] = []
    counters = [
        model.hf.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))
        for model in (base, aligned)
    ]
    try:
        found = measure(base, aligned, encoded, plan)
        ours = len(passes)
        passes.clear()
        for head in np.ndindex(LAYERS, HEADS):
            want = benchmark._one_head((aligned, base), weights, encoded, head)
            np.testing.assert_allclose(found.heads["total"][:, *head], want, atol=2e-5)
    finally:
        for counter in counters:
            counter.remove()
    assert ours == found.stats["forwards"] == 3  # base, aligned, aligned on the base's inputs
    assert len(passes) == 2 * LAYERS * HEADS


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_attributions_sum_to_the_refusal_tokens_logit(family: str) -> None:
    """Embedding, heads, biases and MLPs together give the logit difference of the unembedding."""
    raw = make_hf(family)
    if family == "gemma2":
        raw.config.final_logit_softcapping = None  # beyond it nothing is linear
    model, encoded = hooks.wrap(raw, tokenizer()), planting.prompts(4)
    norm, direction = contributions.refusal_logit(model, LOGITS)
    pulled = norm.pull(direction)
    rows = capture(
        model,
        encoded,
        [*contributions.LAST_SITES, "blocks.0.hook_resid_pre", "blocks.*.hook_resid_post",
         "ln_final.hook_out"],
    )  # fmt: skip
    last = rows[f"blocks.{LAYERS - 1}.hook_resid_post"].double()
    scale = norm.scale(last, rows["ln_final.hook_out"].double())
    random = planting.plan(planting.unit(0)).random
    total = rows["blocks.0.hook_resid_pre"].double() @ pulled
    sets = torch.cat([pulled[None], random]).expand(LAYERS, -1, -1)
    for block, readout in enumerate(contributions.readouts(model, sets)):
        parts = (rows[s.replace("*", str(block))] for s in contributions.LAST_SITES)
        found = contributions.added(readout, *parts)
        total = total + (found.heads.sum(1) + found.bias + found.mlp)[:, 0]
    with model.hooks() as run:
        logits = run.forward(encoded, logits="last").logits
    want = logits[:, list(LOGITS)].double().mean(1) - logits.double().mean(1)
    offset = norm.offset @ direction
    bias = getattr(raw.get_output_embeddings(), "bias", None)
    assert bias is None
    torch.testing.assert_close(total * scale + offset, want, rtol=1e-4, atol=2e-4)


@SOME
def test_exchanging_the_planted_head_undoes_the_difference_and_random_sets_do_not(
    family: str,
) -> None:
    encoded = planting.prompts(12)
    base, aligned = planting.pair(family, 6, encoded, [(1, 2)])
    outcome = projection(planting.unit(6))
    check = causal_check(base, aligned, encoded, [(1, 2)], outcome, what="x", sets=6)
    assert check.n == 12
    for patch in (check.removed, check.restored):
        # It is the only difference, so the exchange turns one model into the other.
        assert patch.effect.value == pytest.approx(check.gap.value, rel=1e-3)
        assert len(patch.random) == 6
        assert patch.excess.value == pytest.approx(patch.effect.value - np.mean(patch.random))
        assert patch.beats == (patch.effect.value > max(patch.random) and patch.excess.low > 0)
    wrong = causal_check(base, aligned, encoded, [(0, 0)], outcome, what="x", sets=6)
    assert wrong.removed.effect.value == pytest.approx(0, abs=1e-4)
    assert not wrong.removed.beats
    assert not wrong.restored.beats


def test_random_sets_hold_other_heads_only() -> None:
    chosen = [(0, 0), (1, 3)]
    drawn = random_sets(chosen, (LAYERS, HEADS), count=20, seed=0)
    assert len(drawn) == 20
    for group in drawn:
        assert len(set(group)) == 2
        assert not set(group) & set(chosen)
    assert drawn == random_sets(chosen, (LAYERS, HEADS), count=20, seed=0)
    with pytest.raises(InputError, match="no random set"):
        random_sets([(0, h) for h in range(3)], (1, HEADS), count=5, seed=0)


def test_numbers_that_are_not_finite_are_refused_by_place() -> None:
    raw = make_hf("llama")
    readout = contributions.readouts(
        hooks.wrap(raw, tokenizer()), torch.randn(LAYERS, 9, WIDTH, dtype=torch.float64)
    )[0]
    z = torch.zeros(2, HEADS, 8)
    z[1, 2] = float("nan")
    found = contributions.added(readout, z, torch.zeros(2, WIDTH), torch.zeros(2, WIDTH))
    with pytest.raises(InputError, match="block 3, heads of the aligned pass: 9 .* not finite"):
        origin._require_finite(found, "aligned", 3)


def test_directions_of_another_width_are_refused() -> None:
    model = hooks.wrap(make_hf("llama"), tokenizer())
    with pytest.raises(InputError, match="nothing is broadcast"):
        contributions.readouts(model, torch.randn(LAYERS, 2, WIDTH + 1, dtype=torch.float64))


def test_states_of_other_prompts_cannot_be_put_in_place() -> None:
    model, encoded = hooks.wrap(make_hf("llama"), tokenizer()), planting.prompts(3)
    site = "blocks.1.hook_resid_pre"
    short = overwrite.Overwrite(torch.zeros(3, 2, WIDTH), site)
    with pytest.raises(EditError, match=r"Overwrite at blocks.1.hook_resid_pre"):
        capture(model, encoded, edits=[short])
    with pytest.raises(EditError, match="2 rows, 3 prompts"):
        capture(model, encoded, edits=[overwrite.Overwrite(torch.zeros(2, 12, WIDTH), site)])


def test_overwriting_with_a_models_own_states_changes_no_bit() -> None:
    model, encoded = hooks.wrap(make_hf("gemma2"), tokenizer()), planting.prompts(5)
    kept = overwrite.PaddedStates(encoded)
    names = model.sites(["blocks.*.hook_resid_pre", "blocks.*.attn.hook_z"])
    with model.hooks(capture=hooks.Capture(names, at="all", into=kept)) as run:
        run.forward(encoded)
    want = capture(model, encoded, options=overwrite.ENGINE).stack()
    edits = [overwrite.Overwrite(kept[name], name) for name in names]
    got = capture(model, encoded, edits=edits, options=overwrite.ENGINE).stack()
    assert torch.equal(got, want)
