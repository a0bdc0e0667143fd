"""An addition is one sum with the bits of its formula; a shut gate leaves every bit as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hooks
from hooks.errors import EditContractError
from tests.hooks.common import WIDTH, attached, ids_of, logits, vector
from tests.tiny import make_hf, tokenizer

PROMPTS = ids_of([6, 9, 4])
SITE = "blocks.1.hook_resid_post"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _model(dtype: torch.dtype = torch.float32) -> hooks.Model:
    return hooks.wrap(make_hf("llama").to(dtype), tokenizer())


def _state(used: hooks.Model, *edits: object, grad: bool = False) -> Tensor:
    """Return what block 1 gives, [row, token, d], as the blocks behind it read it."""
    found: list[Tensor] = []
    hook = used.hf.model.layers[2].register_forward_pre_hook(lambda _m, args: found.append(args[0]))
    width = max(PROMPTS.lengths)
    ids = torch.tensor([[7] * (width - len(row)) + list(row) for row in PROMPTS.ids])
    try:
        with used.hooks(edits=list(edits)), torch.set_grad_enabled(grad):
            used.hf(ids)
    finally:
        hook.remove()
    return found[-1]  # the first use of a model also checks its sites


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.3, torch.tensor([0.0, -2.0, 1e-3])], ids=["all", "by row"])
def test_an_addition_has_the_bits_of_its_formula(dtype: torch.dtype, scale: object) -> None:
    used, v = _model(dtype), vector(4)
    clean = _state(used)
    wide = clean if dtype == torch.float64 else clean.float()
    number = torch.as_tensor(scale, dtype=torch.float32).to(wide.dtype)
    step = (number[:, None] if number.ndim else number) * v.to(wide.dtype)
    want = (wide + (step[:, None] if step.ndim == 2 else step)).to(dtype)
    edit = hooks.Add(v, SITE, scale=scale)
    assert torch.equal(_state(used, edit), want)
    assert torch.equal(_state(used, edit, grad=True), want), "where autograd follows, too"
    assert not torch.equal(want, clean)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gated_addition_is_its_share_of_the_vector(dtype: torch.dtype) -> None:
    used, v = _model(dtype), vector(4)
    shares = torch.tensor([0.0, 0.25, 1.0])
    gate = hooks.Gate(
        vector(5), "blocks.0.hook_resid_post", (hooks.Add(v, SITE),), lambda _: shares
    )
    clean = _state(used)
    wide = clean if dtype == torch.float64 else clean.float()
    want = (wide + (shares[:, None] * v).to(wide.dtype)[:, None]).to(dtype)
    found = _state(used, gate)
    assert torch.equal(found, want)
    assert torch.equal(found[0], clean[0])
    assert not torch.equal(found[1:], clean[1:])


def test_a_shut_gate_leaves_every_bit_and_opens_again_for_the_next_prompts() -> None:
    used, shares = _model(), [torch.zeros(3), torch.ones(3), torch.zeros(3)]
    given, adds = iter(shares), (hooks.Add(vector(4), SITE), hooks.Scale(SITE, 2.0))
    gate = hooks.Gate(vector(5), "blocks.0.hook_resid_post", adds, lambda _: next(given))
    with used.hooks(edits=gate) as run:
        seen = [run.forward(PROMPTS, logits="last").logits for _ in shares]
        assert run.calls[SITE] == 2 * 3, "shut is not silent: both edits act in every pass"
    clean = logits(used, PROMPTS)
    assert torch.equal(seen[0], clean)
    assert torch.equal(seen[2], clean)
    torch.testing.assert_close(seen[1], logits(used, PROMPTS, adds))
    assert not torch.allclose(seen[1], clean, atol=1e-2)


def test_a_sum_that_overflows_is_refused_and_one_whose_total_does_is_not() -> None:
    used = _model(torch.float16)
    big = torch.full((WIDTH,), 40_000.0)
    with pytest.raises(EditContractError, match="not finite"):
        _state(used, hooks.Add(big, SITE), hooks.Add(big, SITE))
    assert attached(used.hf) == []
    # All finite, although their total is more than float16 holds.
    assert torch.isfinite(_state(used, hooks.Add(big, SITE))).all()
