"""Claims: one pass over both sides of a pair gives what two passes give, and in bfloat16 a
difference that is exact relative to itself; nothing of it stays; what it cannot serve is refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from einops import reduce
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import ArceeConfig, Phi3ForCausalLM

import hooks
from hooks.adapter import LowRank
from hooks.errors import ContextError, ModelError
from hooks.joint import JointProduct, _groups, _layers
from hooks.packed import can_pack
from tests.hooks.common import POST, attached, capture, ids_of
from tests.tiny import FAMILIES, make_hf, save

IDS = ids_of([9, 4, 14, 7, 11, 5])
SERVED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2")
TARGETS = {"phi3": ["qkv_proj", "down_proj"]}
packs = pytest.mark.skipif(
    not can_pack([torch.ones(1, 1).bfloat16()]), reason="this processor has no bfloat16 kernels"
)
SMALL = 2e-4
"""Size of the adapter: what it changes is far below what bfloat16 resolves of a state."""


def _pair_on_disk(folder: Path, family: str, *, size: float = SMALL, **more: object) -> list[str]:
    """Save a base whose weights are bfloat16 numbers, and a LoRA adapter with random factors."""
    base = save(folder / "base", family)
    config = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS.get(family, ["q_proj", "up_proj"])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns about what the base is
        tuned = get_peft_model(make_hf(family), LoraConfig(**{**config, **more}))  # type: ignore[arg-type]
        torch.manual_seed(3)
        for name, part in tuned.named_parameters():
            if "lora_" in name:
                part.data = torch.randn_like(part) * size**0.5
        tuned.save_pretrained(str(folder / "adapter"))
    return [str(base), f"{base}+{folder / 'adapter'}"]


def _load(specs: list[str], dtype: str, mode: str = "auto") -> tuple[hooks.Model, hooks.Model]:
    return hooks.load_pair(
        *specs,
        dtype=dtype,  # type: ignore[arg-type]
        device="cpu",
        stream="auto",
        adapter_mode=mode,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module", params=SERVED)
def specs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _pair_on_disk(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _pair_on_disk(tmp_path_factory.mktemp("llama"), "llama")


def _rounded(model: hooks.Model) -> None:
    """Give a float32 model the very weights of its bfloat16 twin."""
    for part in model.hf.parameters():
        part.data = part.data.bfloat16().float()


def _exact_shift(specs: list[str]) -> Tensor:
    """Return [site, d]: the mean shift in float32, two passes, on weights that bfloat16 holds."""
    base, aligned = _load(specs, "float32", "live")
    _rounded(base)
    return _shift(capture(base, IDS).stack(), capture(aligned, IDS).stack())


def _shift(base: Tensor, aligned: Tensor) -> Tensor:
    return reduce(aligned.double() - base.double(), "site row d -> site d", "mean")


def _joint_shift(pair: tuple[hooks.Model, hooks.Model], **more: object) -> Tensor:
    both = hooks.read_pair(*pair, IDS, POST, **more)  # type: ignore[arg-type]
    return _shift(_stack(both.base), _stack(both.aligned))


def _stack(states: dict[str, Tensor | list[Tensor]]) -> Tensor:
    return torch.stack([part for part in states.values() if isinstance(part, Tensor)])


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    return functional.cosine_similarity(left, right, dim=-1)


def _encode(x: Tensor) -> Tensor:
    base, aligned = x.chunk(2)
    return torch.cat([base, aligned - base])


def _by_hand(layer: nn.Linear, delta: LowRank | None, x: Tensor) -> Tensor:
    """y_b = W x_b + c, y_a = (W + up down) x_a + c."""
    change = 0 if delta is None else x[2:] @ (delta.up @ delta.down).T
    return torch.cat([layer(x[:2]), layer(x[2:]) + change])


@torch.no_grad()
def test_the_product_is_both_products() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5).double(), torch.randn(4, 3, 6).double()
    delta = LowRank(torch.randn(2, 6).double(), torch.randn(5, 2).double())
    product = JointProduct([layer], [delta], pack=False)
    y = product.both(0, *product(_encode(x)))
    torch.testing.assert_close(y.double(), _by_hand(layer, delta, x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@packs
def test_packed_products_are_the_products_of_each_layer() -> None:
    """Three layers in one product, adapters of two ranks, one without, one bias."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, out, bias=out == 24).bfloat16() for out in (40, 24, 8)]
    deltas = [
        None
        if rank == 0
        else LowRank(torch.randn(rank, 64).bfloat16(), torch.randn(o, rank).bfloat16())
        for rank, o in ((3, 40), (0, 24), (2, 8))
    ]
    x = torch.randn(4, 5, 64).bfloat16().float()
    x[2:] = x[:2] + torch.randn(2, 5, 64).bfloat16() / 64
    stack = JointProduct(layers, deltas, pack=True)
    low = _encode(x).bfloat16()
    for index, (layer, delta, moved) in enumerate(zip(layers, deltas, stack(low), strict=True)):
        part = stack.both(index, moved)
        wide = nn.Linear(64, layer.out_features, bias=layer.bias is not None)
        wide.load_state_dict(layer.state_dict())
        exact = None if delta is None else LowRank(delta.down.float(), delta.up.float())
        want = _by_hand(wide, exact, x)
        assert (part - want).norm() < 0.01 * want.norm()
        single = JointProduct([layer], [delta], pack=False)
        alone = single.both(0, *single(low))
        assert (part - alone).norm() < 0.005 * alone.norm()


def test_what_shares_its_input_is_in_one_product(specs: list[str]) -> None:
    """Layers of one product read the same tensor, and every layer is in one product."""
    pair = _load(specs, "bfloat16")
    layout, layers = pair[0]._view.layout, _layers(pair[0]._view.layout)
    groups = _groups(layout, layers)
    assert sorted(id(part) for group in groups for part in group) == sorted(map(id, layers))
    seen: dict[nn.Module, Tensor] = {}
    handles = [
        part.register_forward_pre_hook(lambda own, args: seen.__setitem__(own, args[0]))
        for part in layers
    ]
    with torch.no_grad():
        pair[0].hf(torch.tensor([IDS.ids[0]]))
    for handle in handles:
        handle.remove()
    assert all(seen[part] is seen[group[0]] for group in groups for part in group)
    fused = isinstance(pair[0].hf, Phi3ForCausalLM)
    sizes = [1] * 4 if fused else [1, 1, 2, 3]
    assert sorted(map(len, groups)) == sorted(sizes * layout.n_layers)


@packs
@pytest.mark.parametrize("mode", ["merged", "live"])
def test_states_are_multiplied_once_and_weights_packed_once(
    llama: list[str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four products a block in each pass; a second reading packs nothing."""
    calls: list[JointProduct] = []
    multiply = JointProduct.__call__

    def counted(self: JointProduct, low: Tensor) -> tuple[Tensor, ...]:
        calls.append(self)
        return multiply(self, low)

    monkeypatch.setattr(JointProduct, "__call__", counted)
    pair = _load(llama, "bfloat16", mode)
    one_pass = hooks.EngineOptions(prefix=False, batch_rows=2 * len(IDS))
    _joint_shift(pair, options=one_pass)
    assert len(calls) == len(set(map(id, calls))) == 4 * pair[0].n_layers
    _joint_shift(pair, options=one_pass)
    assert len(set(map(id, calls))) == 4 * pair[0].n_layers


def test_a_family_without_a_gate_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ArceeConfig(**FAMILIES["llama"]().to_dict() | {"hidden_act": "relu2"})
    monkeypatch.setitem(FAMILIES, "arcee", lambda: config)
    specs = _pair_on_disk(tmp_path, "arcee")
    pair = _load(specs, "bfloat16")
    assert hooks.why_not_joint(*pair) is None
    assert _cosine(_joint_shift(pair), _exact_shift(specs)).min() > 0.999


@packs
def test_weights_that_were_edited_are_packed_anew(tmp_path: Path) -> None:
    """Written to, exchanged, and exchanged twice, so that a new one may lie where the old did."""
    pair = _load(_pair_on_disk(tmp_path, "qwen2"), "bfloat16")
    hooks.read_pair(*pair, IDS, POST)
    before = capture(pair[0], IDS).stack()
    block = pair[0].hf.get_submodule("model.layers.1")
    weight, bias = block.mlp.down_proj.weight, block.self_attn.v_proj.bias  # type: ignore[union-attr]

    def exchange_twice() -> None:
        weight.data = weight.data.float()
        weight.data = (weight.data * 1.5).bfloat16()

    for edit in (
        lambda: weight.mul_(1.5),
        lambda: setattr(weight, "data", weight.data * 1.5),
        *[exchange_twice] * 6,
        lambda: bias.add_(3.0),
    ):
        edit()
        both, alone = hooks.read_pair(*pair, IDS, POST), capture(pair[0], IDS).stack()
        assert (alone - before).norm() > 0.05 * before.norm()
        assert (_stack(both.base) - alone).norm() < 0.03 * alone.norm()
        before = alone


def test_a_live_adapter_that_was_edited_is_read_as_it_is(llama: list[str]) -> None:
    """A small shift is linear in either factor."""
    pair = _load(llama, "bfloat16", "live")
    want = _joint_shift(pair)
    for which in ("lora_A", "lora_B"):
        for name, part in pair[0].hf.named_parameters():
            if which in name:
                part.mul_(2.0)
        want = 2 * want
        found = _joint_shift(pair)
        assert (found - want).norm() < 0.05 * want.norm()


@packs
def test_no_memory_for_packed_weights_costs_time_and_no_result(
    llama: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = _joint_shift(_load(llama, "bfloat16"))

    def fail(weights: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("hooks.joint.packed", fail)
    assert _cosine(_joint_shift(_load(llama, "bfloat16")), usual).min() > 0.9999
    assert "no memory for packed weights" in caplog.text

    def broken(weights: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr("hooks.joint.packed", broken)
    with pytest.raises(RuntimeError, match="something else"):
        _joint_shift(_load(llama, "bfloat16"))


def test_weights_are_packed_only_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, low = torch.ones(2, 2), torch.ones(2, 2).bfloat16()
    assert not can_pack([wide])
    assert not can_pack([low, wide])
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not can_pack([low])


def test_under_inference_mode_the_states_are_the_same(llama: list[str]) -> None:
    """torch counts no writes to tensors made there."""
    pair = _load(llama, "bfloat16")
    usual = _joint_shift(pair)
    with torch.inference_mode():
        torch.testing.assert_close(_joint_shift(pair), usual, atol=0, rtol=0)


def test_an_adapter_that_runs_live_is_read_in_the_same_way(llama: list[str]) -> None:
    live, exact = _load(llama, "bfloat16", "live"), _exact_shift(llama)
    assert _cosine(_joint_shift(live), exact).min() > 0.999
    assert _cosine(_joint_shift(live), _joint_shift(_load(llama, "bfloat16"))).min() > 0.9999


def test_the_shift_in_bfloat16_is_that_in_float32(specs: list[str]) -> None:
    """With its negative twin: two passes on the same weights lose it."""
    pair, exact = _load(specs, "bfloat16"), _exact_shift(specs)
    found = _joint_shift(pair)
    assert _cosine(found, exact).min() > 0.999
    assert (found.norm(dim=-1) / exact.norm(dim=-1) - 1).abs().max() < 0.02
    apart = _shift(capture(pair[0], IDS).stack(), capture(pair[1], IDS).stack())
    assert _cosine(apart, exact).min() < 0.99


def test_the_base_half_is_the_base(specs: list[str]) -> None:
    pair = _load(specs, "bfloat16")
    both = hooks.read_pair(*pair, IDS, POST)
    alone = capture(_load(specs, "float32")[0], IDS).stack()
    off = (_stack(both.base) - alone).norm(dim=-1) / alone.norm(dim=-1)
    assert off.max() < 0.03


def test_an_adapter_that_adds_nothing_gives_no_difference(tmp_path: Path) -> None:
    pair = _load(_pair_on_disk(tmp_path, "llama", size=0.0), "bfloat16")
    both = hooks.read_pair(*pair, IDS, POST)
    torch.testing.assert_close(_stack(both.base), _stack(both.aligned), atol=0, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        hooks.EngineOptions(prefix=False),
        hooks.EngineOptions(pack=False),
        hooks.EngineOptions(stop=False),
        hooks.EngineOptions(batch_rows=1),
        hooks.EngineOptions(batch_tokens=40),
    ],
    ids=lambda options: str(options),
)
def test_savings_and_batches_change_only_rounding(
    llama: list[str], options: hooks.EngineOptions
) -> None:
    pair = _load(llama, "bfloat16")
    usual, other = _joint_shift(pair), _joint_shift(pair, options=options)
    assert _cosine(usual, other).min() > 0.9995


def test_a_shared_prefix_is_read_once_for_each_side(llama: list[str]) -> None:
    pair = _load(llama, "bfloat16")
    shared = hooks.Encoded.from_ids([[*range(10, 30), *row] for row in IDS.ids])
    usual = hooks.read_pair(*pair, shared, POST)
    plain = hooks.read_pair(*pair, shared, POST, options=hooks.EngineOptions(prefix=False))
    assert usual.stats.tokens_computed < plain.stats.tokens_computed / 1.5
    assert usual.stats.tokens_asked == plain.stats.tokens_asked == 2 * sum(shared.lengths)
    found, want = (_shift(_stack(s.base), _stack(s.aligned)) for s in (usual, plain))
    assert _cosine(found, want).min() > 0.999


def test_every_token_and_other_sites_are_read_too(llama: list[str]) -> None:
    pair = _load(llama, "bfloat16")
    sites = ["blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"]
    both = hooks.read_pair(*pair, IDS, sites, at="all")
    for side, model in ((both.base, pair[0]), (both.aligned, pair[1])):
        want = capture(model, IDS, sites, at="all")
        assert list(side) == list(want.sites)
        for site in want.sites:
            for got, expected in zip(side[site], want[site], strict=True):
                assert got.shape == expected.shape
                assert (got - expected).norm() < 0.05 * expected.norm() + 1e-3


def test_memory_running_out_halves_prompts_and_not_pairs(
    llama: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = _load(llama, "bfloat16")
    usual = _joint_shift(pair)
    layer = pair[0].hf.get_submodule("model.layers.2.self_attn")
    failed: list[int] = []

    def fail(module: nn.Module, args: object, kwargs: dict[str, Tensor]) -> None:
        rows = len(kwargs["hidden_states"])
        if rows > 4:
            failed.append(rows)
            raise torch.OutOfMemoryError("out of memory")

    handle = layer.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        found = _joint_shift(pair, options=hooks.EngineOptions(prefix=False))
    finally:
        handle.remove()
    assert failed
    assert _cosine(usual, found).min() > 0.999


def test_nothing_of_it_stays(llama: list[str]) -> None:
    pair = _load(llama, "bfloat16")
    before = capture(pair[0], IDS).stack()
    hooks.read_pair(*pair, IDS, POST)
    assert attached(pair[0].hf) == []
    assert not any("forward" in vars(part) for part in pair[0].hf.modules())
    torch.testing.assert_close(capture(pair[0], IDS).stack(), before, atol=0, rtol=0)


def test_an_error_in_the_pass_leaves_nothing(llama: list[str]) -> None:
    pair = _load(llama, "bfloat16")

    def fail(module: nn.Module, args: object) -> None:
        raise KeyboardInterrupt

    handle = pair[0].hf.get_submodule("model.layers.2").register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            hooks.read_pair(*pair, IDS, POST)
    finally:
        handle.remove()
    assert attached(pair[0].hf) == []
    assert not any("forward" in vars(part) for part in pair[0].hf.modules())


def test_an_open_context_of_a_side_is_refused(llama: list[str]) -> None:
    pair = _load(llama, "bfloat16")
    for side in pair:
        with side.hooks(capture=hooks.Capture(POST)) as run:
            with pytest.raises(ContextError, match="open context"):
                hooks.read_pair(*pair, IDS, POST)
            run.forward(IDS)


def test_what_it_cannot_serve_is_refused(llama: list[str], tmp_path: Path) -> None:
    low, full = _load(llama, "bfloat16"), _load(llama, "float32")
    alone = hooks.load(llama[0], dtype="bfloat16", device="cpu")
    dora = _load(_pair_on_disk(tmp_path / "dora", "llama", use_dora=True), "bfloat16")
    gpt2 = _load(_pair_on_disk(tmp_path / "gpt2", "gpt2", target_modules=["c_attn"]), "bfloat16")
    moe = _load(_pair_on_disk(tmp_path / "moe", "mixtral", target_modules=["q_proj"]), "bfloat16")
    for pair, reason in (
        (full, "the weights are float32"),
        ((alone, low[1]), "do not share"),
        ((low[1], low[0]), "do not share"),
        (dora, "plain LoRA"),
        (gpt2, "plain LoRA"),
        (moe, "neither a plain matrix product nor an RMS norm"),
    ):
        assert reason in (hooks.why_not_joint(*pair) or "")
        with pytest.raises(ModelError, match=reason):
            hooks.read_pair(*pair, IDS, POST)
    assert hooks.why_not_joint(*low) is None
