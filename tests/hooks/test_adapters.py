"""Claims: LoRA and DoRA adapters, also with layers that were trained whole, are switched on as peft
runs them and off as if they were not there; what cannot be switched off exactly is refused.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import hooks
from artifacts.errors import InputError
from directions.lens import lens_scores
from hooks.errors import ModelError
from tests.hooks.common import MID, attached, capture, ids_of, logits, plain_logits, vector
from tests.tiny import make_hf, save, tokenizer

IDS = ids_of([5, 9, 7])
TARGETS = {"llama": ["q_proj", "o_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}
UNTIED = {"tie_word_embeddings": False}


def _config(family: str, **more: object) -> LoraConfig:
    fixed = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "fan_in_fan_out": family == "gpt2"}
    return LoraConfig(**{**fixed, "target_modules": TARGETS[family], **more})  # type: ignore[arg-type]


def _tuned(family: str, config: PeftConfig, **changes: object) -> PeftModel:
    """Return a model whose adapter's every tensor is random, magnitudes and saved layers too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns about tied weights, which is what is tested
        tuned = get_peft_model(make_hf(family, **changes), config)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, part in tuned.named_parameters():
            if "magnitude" in name:
                part.mul_(1 + 0.3 * torch.randn_like(part))
            elif "lora_" in name:
                part.copy_(torch.randn_like(part) * 0.2)
            elif "modules_to_save" in name:
                part.add_(torch.randn_like(part) * 0.2)
    return tuned.eval().requires_grad_(False)


class Case:
    """A base and an adapter on disk, and what peft makes of them."""

    def __init__(self, folder: Path, family: str, config: LoraConfig, **changes: object) -> None:
        self.family, self.changes = family, changes
        self.base = str(save(folder / "base", family, **changes))
        self.tuned = _tuned(family, config, **changes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tuned.save_pretrained(str(folder / "adapter"))
        self.spec = f"{self.base}+{folder / 'adapter'}"

    def pair(self, mode: str) -> tuple[hooks.Model, hooks.Model]:
        return hooks.load_pair(
            self.base,
            self.spec,
            dtype="float32",
            device="cpu",
            adapter_mode=mode,  # type: ignore[arg-type]
        )

    def of_peft(self) -> Tensor:
        """Return [row, vocab]: peft's own layers, the last token's logits."""
        rows = [self.tuned(torch.tensor([list(ids)])).logits[0, -1] for ids in IDS]
        return torch.stack(rows)

    def plain(self) -> Tensor:
        made = hooks.wrap(make_hf(self.family, **self.changes), tokenizer())
        return logits(made, IDS)  # type: ignore[return-value]


def _switches(pair: tuple[hooks.Model, hooks.Model], case: Case) -> None:
    """Hold both sides against their oracles, again and again."""
    base, aligned = pair
    for _ in range(3):
        torch.testing.assert_close(logits(base, IDS), case.plain(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(aligned, IDS), case.of_peft(), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(case.plain(), case.of_peft(), atol=1e-2)
    assert not any(part.requires_grad for part in base.hf.parameters())
    assert attached(base.hf) == []


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def dora(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(f"dora-{request.param}")
    return Case(folder, request.param, _config(request.param, use_dora=True))


@pytest.mark.parametrize("mode", ["merged", "live"])
def test_dora_is_switched_as_peft_runs_it(dora: Case, mode: str) -> None:
    pair = dora.pair(mode)
    wrapped = any(hasattr(part, "base_layer") for part in pair[0].hf.modules())
    assert wrapped == (mode == "live")
    _switches(pair, dora)


@pytest.mark.parametrize("mode", ["merged", "live"])
def test_the_heads_of_a_dora_layer_sum_to_its_output(dora: Case, mode: str) -> None:
    """W_O of the aligned side has the magnitudes in it; the check refuses hook_z if not."""
    base, aligned = dora.pair(mode)
    assert base.check().passed, base.check().refusals
    assert aligned.check().passed, aligned.check().refusals
    edits = [hooks.Scale("blocks.1.attn.hook_z", 0.0, heads=(0,)), hooks.Scale(MID, 1.5)]
    merged = hooks.wrap(dora.tuned.merge_and_unload(), tokenizer())
    try:
        got, want = (capture(used, IDS, edits=edits).stack() for used in (aligned, merged))
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    finally:
        dora.tuned = _tuned(dora.family, _config(dora.family, use_dora=True))


def test_dora_without_its_magnitudes_would_be_another_model(dora: Case) -> None:
    """Negative twin: the plain sum W + sBA is not what the adapter computes."""
    _, aligned = dora.pair("merged")
    right = dora.of_peft()
    for name, part in dora.tuned.named_parameters():
        if "magnitude" in name:
            layer = dora.tuned.get_submodule(name.split(".lora_magnitude")[0])
            whole = layer.get_base_layer().weight + layer.get_delta_weight("default")
            part.data = whole.norm(dim=0 if dora.family == "gpt2" else 1)
    try:
        assert not torch.allclose(dora.of_peft(), right, atol=1e-2)
        assert not torch.allclose(dora.of_peft(), logits(aligned, IDS), atol=1e-2)
    finally:
        dora.tuned = _tuned(dora.family, _config(dora.family, use_dora=True))


def test_a_dora_adapter_alone_and_its_bridge(dora: Case) -> None:
    single = hooks.load(dora.spec, dtype="float32", device="cpu")
    for row, want in zip(IDS, dora.of_peft(), strict=True):
        torch.testing.assert_close(plain_logits(single, row)[-1], want, atol=2e-5, rtol=1e-4)
    assert len(single.info().adapter_digest or "") == 64


@pytest.mark.parametrize("mode", ["merged", "live"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rank_stabilised_and_patterned_lora(tmp_path: Path, family: str, mode: str) -> None:
    more = {"use_rslora": True, "alpha_pattern": {TARGETS[family][0]: 3}}
    case = Case(tmp_path, family, _config(family, **more))
    pair = case.pair(mode)
    _switches(pair, case)
    assert pair[1].check().passed, pair[1].check().refusals


WHOLE = {"llama": ["lm_head", "norm"], "gpt2": ["ln_f", "wte"]}


@pytest.mark.parametrize("mode", ["auto", "live"])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_that_were_trained_whole_are_switched_too(
    tmp_path: Path, family: str, use_dora: bool, mode: str
) -> None:
    config = _config(family, modules_to_save=WHOLE[family], use_dora=use_dora)
    case = Case(tmp_path, family, config, **UNTIED)
    pair = case.pair(mode)
    _switches(pair, case)
    kinds = {type(part).__name__ for part in pair[0].hf.modules()}
    assert ("ModulesToSaveWrapper" in kinds) == (mode == "live")
    assert pair[1].check().passed, pair[1].check().refusals


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_lens_reads_through_the_final_norm_and_unembedding_of_its_own_side(
    tmp_path: Path, family: str
) -> None:
    whole = ["lm_head", *WHOLE[family][:1]] if family == "gpt2" else WHOLE[family]
    case = Case(tmp_path, family, _config(family, modules_to_save=whole), **UNTIED)
    _, aligned = case.pair("auto")
    other = hooks.wrap(case.tuned.merge_and_unload(), tokenizer())
    v = vector(3)
    got, want = (lens_scores(used, v) for used in (aligned, other))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    plain = hooks.wrap(make_hf(family, **UNTIED), tokenizer())
    assert not torch.allclose(got, lens_scores(plain, v), atol=1e-2)
    _, live = case.pair("live")
    with pytest.raises(InputError, match="trained whole.*adapter_mode='merged'"):
        lens_scores(live, v)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapted_matrix_that_is_tied_to_another_is_not_merged_into_both(
    tmp_path: Path, target: str
) -> None:
    config = _config("llama", target_modules=["q_proj", target])
    case = Case(tmp_path, "llama", config, tie_word_embeddings=True)
    for mode in ("auto", "live"):
        pair = case.pair(mode)
        _switches(pair, case)
        output, embed = pair[0].hf.get_output_embeddings(), pair[0].hf.get_input_embeddings()
        assert output.weight.data_ptr() == embed.weight.data_ptr()
    with pytest.raises(ModelError, match="is tied to another layer|no plain matrix"):
        case.pair("merged")


@pytest.mark.parametrize("whole", ["lm_head", "embed_tokens"])
def test_a_layer_trained_whole_that_was_tied_is_not_exchanged_for_both(
    tmp_path: Path, whole: str
) -> None:
    config = _config("llama", modules_to_save=[whole])
    case = Case(tmp_path, "llama", config, tie_word_embeddings=True)
    _switches(case.pair("auto"), case)
    with pytest.raises(ModelError, match="is tied to another layer, which the adapter"):
        case.pair("merged")


def test_copies_of_the_bases_own_weights_change_nothing_and_must_be_the_same(
    tmp_path: Path,
) -> None:
    """peft keeps the matrix under an adapted unembedding in the adapter's file."""
    config = _config("llama", target_modules=["q_proj", "lm_head"])
    case = Case(tmp_path, "llama", config, **UNTIED)
    file, key = tmp_path / "adapter" / "adapter_model.safetensors", "lm_head.base_layer.weight"
    tensors = load_file(file)
    assert f"base_model.model.{key}" in tensors
    _switches(case.pair("auto"), case)
    tensors[f"base_model.model.{key}"][0, 0] += 1
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"holds a lm_head.weight of its own that is not the base"):
        case.pair("auto")


def test_a_torn_adapter_file_is_refused(tmp_path: Path) -> None:
    case = Case(tmp_path, "llama", _config("llama"))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ModelError, match="no whole safetensors file"):
        case.pair("auto")


# What is refused


REFUSED = {
    "trained biases": ({"bias": "all"}, "bias='all'.*stay changed with the adapter off"),
    "biases of the adapted layers": ({"bias": "lora_only"}, "bias='lora_only'"),
    "copied blocks": ({"layer_replication": [(0, 2), (1, 4)]}, "layer_replication is not served"),
    "adapters from a token on": ({"alora_invocation_tokens": [7]}, "alora_invocation_tokens"),
    "biases of the adapter": ({"lora_bias": True}, "lora_bias"),
    "single tokens": ({"trainable_token_indices": [3]}, "trainable_token_indices"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_lora_that_cannot_be_switched_off_exactly_is_refused(tmp_path: Path, name: str) -> None:
    more, why = REFUSED[name]
    case = Case(tmp_path, "llama", _config("llama"))
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    for load in (lambda: hooks.load(case.spec), lambda: case.pair("auto")):
        with pytest.raises(ModelError, match=f"{why}.*merge it into the base") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_another_kind_of_adapter_is_refused_by_its_name(tmp_path: Path) -> None:
    base = save(tmp_path / "base")
    config = IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=[]
    )
    _tuned("llama", config).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(ModelError, match="adapters of type IA3 are not served, LoRA is"):
        hooks.load(f"{base}+{tmp_path / 'adapter'}")


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "NOVEL"}'])
def test_an_adapter_without_a_readable_configuration_is_refused(tmp_path: Path, text: str) -> None:
    case = Case(tmp_path, "llama", _config("llama"))
    (tmp_path / "adapter" / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="adapter_config.json cannot be read"):
        hooks.load(case.spec)
