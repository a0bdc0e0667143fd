"""Claims: streaming equals one shot, in any order and cut; planted directions come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import probes
from artifacts.errors import InputError
from directions import CONTRASTS, ContrastFitter, MeanFitter, Options
from directions.contrasts import ALIGNED, ALIGNED_RAW, BASE, BASE_RAW, cells_of, resolve

CELLS = (ALIGNED, ALIGNED_RAW, BASE, BASE_RAW)
HARMFUL = np.arange(50) % 5 < 2


def _cells(seed: int, n: int = 50, d: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {cell: rng.normal(size=(n, d)) + 3 * rng.normal(size=d) for cell in CELLS}


def _fit(name: str, cells: dict[str, np.ndarray], cuts: list[int], seed: int = 0) -> np.ndarray:
    contrast = CONTRASTS[name]
    plan = probes.plan(
        HARMFUL, paired=contrast.paired, seed=seed, shuffles=5, splits=2, bootstraps=2
    )
    fitter = ContrastFitter(contrast, plan)
    edges = [0, *sorted(cuts), len(HARMFUL)]
    for start, stop in zip(edges, edges[1:], strict=False):
        part = {cell: states[start:stop] for cell, states in cells.items()}
        if stop > start:
            fitter.update(part, slice(start, stop))
    return fitter.result().direction


def _by_definition(name: str, cells: dict[str, np.ndarray]) -> np.ndarray:
    at, ar, bt, br = (cells[cell] for cell in CELLS)

    def both(x: np.ndarray) -> np.ndarray:
        return (x[HARMFUL].mean(0) + x[~HARMFUL].mean(0)) / 2

    return {
        "shift": lambda: both(at) - both(bt),
        "template_shift": lambda: both(at) - both(ar),
        "did": lambda: (both(at) - both(ar)) - (both(bt) - both(br)),
        "naive_shift": lambda: both(at) - both(br),
        "refusal": lambda: at[HARMFUL].mean(0) - at[~HARMFUL].mean(0),
        "refusal_base": lambda: bt[HARMFUL].mean(0) - bt[~HARMFUL].mean(0),
    }[name]()


@pytest.mark.parametrize("name", sorted(CONTRASTS))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(0, 50), max_size=5))
def test_streaming_is_the_definition_in_one_shot(name: str, seed: int, cuts: list[int]) -> None:
    cells = _cells(seed)
    np.testing.assert_allclose(_fit(name, cells, cuts), _by_definition(name, cells), atol=1e-12)


def test_did_is_the_difference_of_the_two_template_effects_and_cancels_a_common_one() -> None:
    cells = _cells(0)
    effect = np.random.default_rng(1).normal(size=16) * 50
    moved = {
        cell: states + effect if cell.endswith("template") else states
        for cell, states in cells.items()
    }
    np.testing.assert_allclose(_fit("did", moved, []), _fit("did", cells, []), atol=1e-10)
    assert np.linalg.norm(_fit("naive_shift", moved, []) - _fit("naive_shift", cells, [])) > 50


@pytest.mark.parametrize("name", ["shift", "did", "refusal"])
def test_a_planted_direction_is_recovered_and_none_is_without_it(name: str) -> None:
    rng = np.random.default_rng(3)
    cells = {cell: rng.normal(size=(50, 16)) for cell in CELLS}
    planted = rng.normal(size=16)
    strength = np.ones(50) if name != "refusal" else HARMFUL.astype(float)
    with_plant = {**cells, ALIGNED: cells[ALIGNED] + 8 * strength[:, None] * planted}
    found, none = _fit(name, with_plant, [20]), _fit(name, cells, [20])
    cosine = found @ planted / np.linalg.norm(found) / np.linalg.norm(planted)
    assert cosine > 0.99
    assert abs(none @ planted) / np.linalg.norm(none) / np.linalg.norm(planted) < 0.7
    assert np.linalg.norm(none) < np.linalg.norm(found) / 10


def test_the_order_of_the_prompts_changes_only_rounding() -> None:
    cells = _cells(4)
    order = np.random.default_rng(0).permutation(50)
    contrast = CONTRASTS["refusal"]
    plan = probes.plan(HARMFUL[order], paired=False, seed=0, shuffles=2, splits=1, bootstraps=1)
    fitter = ContrastFitter(contrast, plan)
    fitter.update({cell: states[order] for cell, states in cells.items()}, slice(0, 50))
    np.testing.assert_allclose(
        fitter.result().direction, _by_definition("refusal", cells), atol=1e-12
    )


def test_resampled_fits_are_those_of_the_plan() -> None:
    cells = _cells(5)
    plan = probes.plan(HARMFUL, paired=True, seed=0, shuffles=5, splits=2, bootstraps=2)
    fitter = ContrastFitter(CONTRASTS["shift"], plan)
    fitter.update({k: v[:20] for k, v in cells.items()}, slice(0, 20))
    fitter.update({k: v[20:] for k, v in cells.items()}, slice(20, 50))
    y = cells[ALIGNED] - cells[BASE]
    np.testing.assert_allclose(fitter.result().resampled, plan.weights() @ y, atol=1e-4)


def test_means_stream_and_refuse_a_missing_class() -> None:
    states = _cells(6)[ALIGNED]
    fitter = MeanFitter()
    for part in (slice(0, 11), slice(11, 50)):
        fitter.update(states[part], HARMFUL[part])
    found = fitter.result()
    np.testing.assert_allclose(found.mean["harmful"], states[HARMFUL].mean(0), atol=1e-12)
    np.testing.assert_allclose(found.mean["harmless"], states[~HARMFUL].mean(0), atol=1e-12)
    assert found.norm == pytest.approx(np.linalg.norm(states, axis=1).mean())
    assert found.n == len(states)
    empty = MeanFitter()
    empty.update(states[HARMFUL], HARMFUL[HARMFUL])
    with pytest.raises(ValueError, match="no harmless prompts"):
        empty.result()


def test_fitters_without_prompts_have_no_result() -> None:
    plan = probes.plan(HARMFUL, paired=True, seed=0, shuffles=2)
    with pytest.raises(ValueError, match="no prompts were given"):
        ContrastFitter(CONTRASTS["shift"], plan).result()


def test_updates_do_not_change_what_they_are_given() -> None:
    cells = _cells(7)
    before = {cell: states.copy() for cell, states in cells.items()}
    _fit("did", cells, [10])
    for cell, states in cells.items():
        np.testing.assert_array_equal(states, before[cell])


def test_raw_cells_are_collected_only_for_contrasts_that_read_them() -> None:
    assert cells_of(resolve(("shift", "refusal"))) == (BASE, ALIGNED)
    assert set(cells_of(resolve(("did",)))) == set(CELLS)
    assert set(cells_of(resolve(("template_shift",)))) == {BASE, ALIGNED, ALIGNED_RAW}
    assert Options().resolved_contrasts() == (
        "shift",
        "template_shift",
        "did",
        "refusal",
        "refusal_base",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrasts": ("did",), "positions": "template"}, "did cannot be read at positions"),
        ({"sites": ()}, "at least one name"),
        ({"shard_size": 0}, "at least 1 prompt"),
    ],
)
def test_options_outside_their_choices_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options(**changes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("contrasts", ("drift",), "'drift' is unknown; choose from shift"),
        ("sites", ("attn.hook_z",), "choose from hook_resid_pre"),
        ("positions", "first", "choose from last, template"),
        ("moments", "all", "choose from auto, none, rows, second"),
        ("dtype", "int8", "choose from auto, float32"),
    ],
)
def test_unknown_names_are_refused_where_nothing_checks_types(
    field: str, value: object, message: str
) -> None:
    options = Options()
    object.__setattr__(options, field, value)  # past the type checker of the tests
    with pytest.raises(InputError, match=message):
        options.__post_init__()
    with pytest.raises(InputError, match="'drift' is unknown"):
        resolve(("drift",))
