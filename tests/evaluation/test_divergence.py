"""KL to a clean model equals an independent float64 computation in every family, is exactly zero
for a model and itself, sees what was planted, and refuses a clean pass that would not be clean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy.stats import entropy
from transformers import PreTrainedModel

import evaluation.divergence as module
import hooks
from evaluation.catalogue import shipped
from evaluation.divergence import Divergence, divergence, divergences, kl
from evaluation.errors import JudgeError
from hooks import Ablate, Add, Encoded, Gate, Model, Threshold
from hooks.errors import ContextError, PositionError
from tests.tiny import FAMILIES, HEADS, VOCAB, WIDTH, make_hf, make_tokenizer, save, tokenizer

PROMPTS = ["Name a river.", "Hi", "Which stones float, and why do the others sink?", "Sing now"]
STEPS = 5
UNEMBED = "unembed.hook_out"
MID = "blocks.1.hook_resid_post"


def tiny(family: str = "llama", *, seed: int = 0, ends: list[int] | None = None) -> Model:
    hf = make_hf(family, seed=seed)
    if ends is not None and hf.generation_config is not None:
        hf.generation_config.eos_token_id = ends
    return hooks.wrap(hf, tokenizer())


def planted(seed: int = 3, width: int = VOCAB) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


# The mathematics.


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=12),
    st.floats(-5, 5),
)
def test_kl_is_scipy_s_relative_entropy(pairs: list[tuple[float, float]], shift: float) -> None:
    clean = torch.tensor([[p[0] for p in pairs]], dtype=torch.float32)
    changed = torch.tensor([[p[1] for p in pairs]], dtype=torch.float32)
    p, q = (np.exp(x[0].double().numpy()) for x in (clean, changed))
    found = float(kl(clean, changed + shift)[0])
    assert math.isclose(found, float(entropy(p, q)), rel_tol=1e-4, abs_tol=1e-5)
    assert float(kl(clean, clean)[0]) == 0.0


def test_rounding_makes_no_divergence_negative() -> None:
    logits = 8 * torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    shifts = torch.arange(200)[:, None] / 7
    found = kl(logits, logits + shifts)
    assert float(found.min()) >= 0.0
    assert float(found.max()) < 1e-9


def test_two_outcomes_by_hand() -> None:
    clean, changed = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(4), 0.0]])
    expected = 0.25 * math.log(0.25 / 0.8) + 0.75 * math.log(0.75 / 0.2)
    assert math.isclose(float(kl(clean, changed)[0]), expected, rel_tol=1e-6)


def test_a_token_that_cannot_be_adds_nothing() -> None:
    impossible = torch.tensor([[0.0, 0.0, -torch.inf]])
    uniform = torch.zeros(1, 3)
    assert math.isclose(float(kl(impossible, uniform)[0]), math.log(1.5), rel_tol=1e-6)
    assert float(kl(impossible, impossible)[0]) == 0.0
    assert float(kl(uniform, impossible)[0]) == math.inf


def test_averages_and_their_units_are_prompts() -> None:
    found = Divergence.of([[1.0, 3.0], [2.0], [3.0, 0.0, 0.0]])
    assert (found.first.value, found.continuation.value) == (2.0, (2.0 + 2.0 + 1.0) / 3)
    assert found.first_each == (1.0, 2.0, 3.0)
    assert found.continuation_each == (2.0, 2.0, 1.0)
    assert found.positions == (2, 1, 3)
    assert (found.first.n, found.first.n_clusters) == (3, 3)
    assert found.first.low < 2.0 < found.first.high


@pytest.mark.parametrize("bad", [[1.0, math.nan], [math.inf], []])
def test_what_is_not_finite_is_refused_by_prompt(bad: list[float]) -> None:
    with pytest.raises(JudgeError, match="prompt 1: divergence .* is not finite"):
        Divergence.of([[1.0], bad, [2.0]])


# Models.


@dataclass(frozen=True)
class Oracle:
    """One prompt at a time, the whole sequence again for every token, float64 in numpy."""

    clean: PreTrainedModel
    changed: PreTrainedModel
    ends: tuple[int, ...]

    def log_softmax(self, hf: PreTrainedModel, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            logits = hf(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
        shifted = logits - logits.max()
        return shifted - np.log(np.exp(shifted).sum())

    def __call__(self, ids: list[int]) -> list[float]:
        found: list[float] = []
        while len(found) < STEPS:
            p, q = self.log_softmax(self.clean, ids), self.log_softmax(self.changed, ids)
            found.append(float((np.exp(p) * (p - q)).sum()))
            ids = [*ids, int(p.argmax())]
            if ids[-1] in self.ends:
                break
        return found


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_equals_the_oracle_in_every_family(family: str) -> None:
    clean, other = tiny(family), tiny(family, seed=1)
    oracle = Oracle(clean.hf, other.hf, (2,))
    each = [oracle(list(ids)) for ids in clean.encode(PROMPTS)]
    found = divergence(clean, PROMPTS, changed=other, continuation=STEPS)
    assert np.allclose(found.first_each, [row[0] for row in each], rtol=2e-4, atol=2e-5)
    assert np.allclose(found.continuation_each, [np.mean(r) for r in each], rtol=2e-4, atol=2e-5)
    assert found.positions == tuple(len(row) for row in each)
    assert found.continuation.low > 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_has_no_divergence_from_itself(family: str) -> None:
    model = tiny(family)
    found = divergence(model, PROMPTS, continuation=3)
    assert found.first_each == found.continuation_each == (0.0,) * 4
    # Nor from another one with the same weights.
    assert divergence(model, PROMPTS, changed=tiny(family), continuation=3).first.high == 0.0


def test_a_planted_change_of_logits_gives_the_known_divergence() -> None:
    model, bias = tiny(), planted()
    encoded = model.encode(PROMPTS)
    with model.hooks() as run:
        logits = run.forward(encoded, logits="last").logits
    assert isinstance(logits, torch.Tensor)
    p = torch.softmax(logits.double(), dim=-1)
    # log sum_v p_v exp(b_v) - sum_v p_v b_v
    b = bias.double()
    expected = (p * b.exp()).sum(-1).log() - (p * b).sum(-1)
    found = divergence(model, PROMPTS, edits=Add(bias, UNEMBED), continuation=2)
    assert np.allclose(found.first_each, expected.numpy(), rtol=1e-4)
    none = divergence(model, PROMPTS, edits=Add(torch.ones(VOCAB), UNEMBED), continuation=2)
    assert none.continuation.high < 1e-9


def test_step_rules_act_as_in_generation() -> None:
    model, bias = tiny(ends=[]), planted()
    both = divergence(model, PROMPTS, edits=Add(bias, UNEMBED), continuation=4)
    prompt = divergence(model, PROMPTS, edits=[Add(bias, UNEMBED, steps="prompt")], continuation=4)
    later = divergence(model, PROMPTS, edits=Add(bias, UNEMBED, steps="generated"), continuation=4)
    assert prompt.first_each == both.first_each
    assert later.first_each == (0.0,) * 4
    assert np.allclose(prompt.continuation_each, np.array(both.first_each) / 4)
    total = np.array(prompt.continuation_each) + np.array(later.continuation_each)
    assert np.allclose(total, both.continuation_each)
    assert min(later.continuation_each) > 0.01


def test_batches_order_and_padding_do_not_matter() -> None:
    model, edit = tiny("qwen3"), Add(planted(width=WIDTH), MID)
    whole = divergence(model, PROMPTS, edits=edit, continuation=STEPS)
    for rows in (1, 2, 3):
        split = divergence(model, PROMPTS, edits=edit, continuation=STEPS, batch_rows=rows)
        assert np.allclose(split.continuation_each, whole.continuation_each, rtol=1e-3, atol=1e-6)
        assert split.positions == whole.positions
    turned = divergence(model, PROMPTS[::-1], edits=edit, continuation=STEPS)
    assert np.allclose(turned.first_each[::-1], whole.first_each, rtol=1e-3, atol=1e-6)
    assert np.ptp(whole.first_each) > 1e-3  # an order that was lost would show


def test_an_answer_ends_where_the_clean_model_ends_it() -> None:
    free = tiny(ends=[])
    with free.hooks() as run:
        ids = run.generate_ids(free.encode(PROMPTS), max_new_tokens=STEPS)
    ending = ids[1][0]
    model = tiny(ends=[ending])
    lengths = [row.index(ending) + 1 if ending in row else STEPS for row in ids]
    found = divergence(model, PROMPTS, changed=tiny(seed=1), continuation=STEPS)
    assert list(found.positions) == lengths
    assert found.positions[1] == 1
    assert found.continuation_each[1] == found.first_each[1] > 0
    unbounded = divergence(free, PROMPTS, changed=tiny(seed=1), continuation=STEPS)
    assert unbounded.positions == (STEPS,) * 4


def test_few_logits_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    prefill = hooks.Run.prefill

    def watched(run: hooks.Run, encoded: Encoded) -> object:
        sizes.append(len(encoded))
        return prefill(run, encoded)

    monkeypatch.setattr(hooks.Run, "prefill", watched)
    divergence(tiny(), PROMPTS, continuation=STEPS)
    assert sizes == [4, 4]
    sizes.clear()
    monkeypatch.setattr(module, "HELD_BYTES", 4 * VOCAB * STEPS * 2)
    divergence(tiny(), PROMPTS, continuation=STEPS)
    assert sizes == [2, 2, 2, 2]


def test_an_open_run_on_other_weights_counts_with_its_edits() -> None:
    clean, other = tiny(), tiny(seed=1)
    edit = Ablate(planted(width=WIDTH), "blocks.*.hook_resid_post")
    with other.hooks(edits=edit) as run:
        by_run = divergence(clean, PROMPTS, run=run, continuation=2)
    assert by_run == divergence(clean, PROMPTS, changed=other, edits=edit, continuation=2)
    assert by_run != divergence(clean, PROMPTS, changed=other, continuation=2)


@pytest.mark.parametrize("batch_rows", [None, 2])
def test_several_edits_share_one_clean_continuation(
    monkeypatch: pytest.MonkeyPatch, batch_rows: int | None
) -> None:
    model = tiny()
    edits = [
        Add(planted(width=WIDTH), MID),
        (Ablate(planted(4, WIDTH), MID), Add(planted(5, WIDTH), MID)),
        Ablate(planted(6, WIDTH), MID),
    ]
    apart = [divergence(model, PROMPTS, edits=each, continuation=STEPS) for each in edits]
    calls = []
    made = module._greedy
    monkeypatch.setattr(module, "_greedy", lambda *given: (calls.append(1), made(*given))[1])
    shared = divergences(model, PROMPTS, edits, continuation=STEPS, batch_rows=batch_rows)
    assert len(calls) == (1 if batch_rows is None else 2)
    for one, other in zip(shared, apart, strict=True):
        assert one.continuation_each == pytest.approx(other.continuation_each, rel=1e-4)
        assert one.positions == other.positions
    assert len({one.continuation.value for one in shared}) == len(edits)
    assert divergences(model, PROMPTS, []) == ()
    with pytest.raises(JudgeError, match="continuation=0"):
        divergences(model, PROMPTS, edits, continuation=0)


def test_a_gate_reads_each_prompt_by_itself() -> None:
    model = tiny()
    inner = Add(planted(), UNEMBED)
    shut, ajar = (
        Gate(planted(width=WIDTH), MID, edits=(inner,), strength=Threshold(level))
        for level in (1e9, -1e9)
    )
    assert divergence(model, PROMPTS, edits=shut, continuation=3).continuation.high == 0.0
    opened = divergence(model, PROMPTS, edits=ajar, continuation=3)
    assert opened == divergence(model, PROMPTS, edits=inner, continuation=3)


@pytest.mark.parametrize("mode", ["merged", "live"])
def test_a_pair_on_one_set_of_weights(tmp_path: Path, mode: hooks.adapter.AdapterMode) -> None:
    folder = save(tmp_path / "model")
    torch.manual_seed(7)
    tuned = get_peft_model(make_hf("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, part in tuned.named_parameters():
            if "lora_" in name:
                part.copy_(torch.randn_like(part))
    tuned.save_pretrained(tmp_path / "adapter")
    spec = f"{folder}+{tmp_path / 'adapter'}"
    base, aligned = hooks.load_pair(
        str(folder), spec, dtype="float32", device="cpu", adapter_mode=mode
    )
    shared = divergence(base, PROMPTS, changed=aligned, continuation=3, batch_rows=2)
    merged = hooks.wrap(tuned.merge_and_unload().eval(), tokenizer())
    apart = divergence(tiny(), PROMPTS, changed=merged, continuation=3)
    assert np.allclose(shared.continuation_each, apart.continuation_each, rtol=1e-3, atol=1e-5)
    assert shared.first.low > 1e-4
    with aligned.hooks() as run, pytest.raises(ContextError, match="other model of this pair"):
        divergence(base, PROMPTS, run=run)


# Refusals.


def test_a_clean_pass_under_edits_is_refused() -> None:
    model = tiny()
    with (
        model.hooks(edits=Add(planted(width=WIDTH), MID)) as run,
        pytest.raises(JudgeError, match="its pass would not be clean; close it and pass edits"),
    ):
        run.forward(model.encode(PROMPTS), logits="last")
        divergence(model, PROMPTS, run=run)


def test_arguments_that_contradict_are_refused() -> None:
    model, edit = tiny(), Add(planted(width=WIDTH), MID)
    with tiny(seed=1).hooks() as run:
        for more in ({"changed": tiny(seed=1)}, {"edits": edit}, {"edits": [edit]}):
            with pytest.raises(JudgeError, match="either run, or changed and edits"):
                divergence(model, PROMPTS, run=run, **more)
    with pytest.raises(JudgeError, match="continuation=0"):
        divergence(model, PROMPTS, continuation=0)
    with pytest.raises(JudgeError, match="divergence on 1 prompts: give at least 2"):
        divergence(model, PROMPTS[:1])
    with pytest.raises(PositionError, match="16 more are asked for"):
        divergence(model, ["Hi", "word " * 50])


def test_edits_with_an_entry_for_each_row_are_refused() -> None:
    rows = torch.randn(len(PROMPTS), WIDTH)
    with pytest.raises(JudgeError, match="one entry for each row, and batches are cut here"):
        divergence(tiny(), PROMPTS, edits=Add(rows, MID))


def test_models_of_other_tokens_are_refused() -> None:
    other = hooks.wrap(make_hf("llama"), make_tokenizer(template=None))
    assert divergence(tiny(), PROMPTS, changed=other, continuation=1).first.high == 0.0
    other.tokenizer.add_tokens(["river"])
    with pytest.raises(JudgeError, match="another tokenizer"):
        divergence(tiny(), PROMPTS, changed=other)
    with pytest.raises(JudgeError, match="compare models of one vocabulary"):
        wide = hooks.wrap(make_hf("llama", vocab_size=VOCAB + HEADS), tokenizer())
        divergence(tiny(), PROMPTS, changed=wide)


# The reference pair.


@pytest.mark.real
def test_alignment_moves_the_first_token_of_answers_to_harmful_requests() -> None:
    base, aligned = hooks.load_pair("reference:base", "reference:aligned", dtype="float32")
    test = shipped("test")
    harmful, harmless = (
        [prompt.prompt for prompt in rows[::15]] for rows in (test.harmful, test.harmless)
    )
    on_harmful = divergence(base, harmful, changed=aligned, continuation=4)
    on_harmless = divergence(base, harmless, changed=aligned, continuation=4)
    assert on_harmful.first.low > 2 * on_harmless.first.high
    assert divergence(base, harmful[:2], continuation=4).continuation.high == 0.0
