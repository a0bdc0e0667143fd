"""Claims about the reference pair: training added components that stand above their null."""

from __future__ import annotations

from dataclasses import replace

import pytest

import directions
from artifacts.errors import TheodoliteError
from directions import DecomposeOptions
from evaluation.catalogue import shipped


@pytest.mark.real
@pytest.mark.slow
def test_the_shift_of_the_reference_pair_has_a_component_that_carries_refusal() -> None:
    from hooks import reference

    try:
        reference.adapter_path()
    except TheodoliteError as error:
        pytest.skip(f"no reference pair here: {error}")
    every = shipped("test")
    third = replace(every, prompts=every.prompts[::3])
    options = DecomposeOptions(contrasts=("shift",), components=2, most=2, effect_prompts=8)
    found = directions.decompose(fit=third, options=options)
    name = "affine_shift"
    assert found.real(name)
    first = found.table(name)[0]
    assert first.auc is not None and first.auc[0] > 0.9
    share = found.measure(name, "r2", found.best_block(name))
    assert share is not None and share[1] > 0.2
    assert set(first.effects) == {"removed", "added", "on_c1"}
    assert first.effects["removed"].value < 0
    assert "refused prompts" in found.sign_rule
