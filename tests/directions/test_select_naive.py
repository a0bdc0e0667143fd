"""Claims: the sweep chooses what a naive one chooses, from the same scores, with fewer block
evaluations; stopping early on KL changes nothing; batches of candidates equal single ones.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import selection as benchmark
from directions import SelectOptions
from directions.candidates import Candidates, from_model
from directions.select_scores import Scorer
from directions.select_sweep import Sweep, sweep
from directions.selection import refusal_tokens, three_ways
from evaluation.wrappers import encode
from hooks import Encoded, EngineOptions, Model
from tests.directions import selecting

PLANTED = 2
WIDE = SelectOptions(max_layer=1.0)


@pytest.fixture(scope="module")
def given() -> tuple[Model, tuple[int, ...], Candidates, Encoded, Encoded]:
    model = selecting.model(PLANTED)
    data, validation = three_ways(selecting.prompts(), None, seed=0)
    candidates = from_model(model, data.fit, WIDE.blocks(model.n_layers))
    # Rotations towards noise give candidates on both sides of every filter.
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(candidates.vectors.shape, generator=rng).double()
    norm = candidates.vectors.norm(dim=-1, keepdim=True).clamp_min(1.0)
    mixed = torch.cat([candidates.vectors, candidates.vectors + 0.1 * norm * noise])
    candidates = replace(
        candidates,
        vectors=mixed,
        positions=(-1, -2, -3, -4),
        known=torch.cat([candidates.known] * 2),
    )
    ids = refusal_tokens(model, data.fit).ids
    harmful, harmless = (
        encode(model, validation.select(label=label)) for label in ("harmful", "harmless")
    )
    return model, ids, candidates, harmful, harmless


def _ours(
    given: tuple[Model, tuple[int, ...], Candidates, Encoded, Encoded],
    options: SelectOptions = WIDE,
    engine: EngineOptions | None = None,
) -> tuple[Sweep, Scorer]:
    model, ids, *rest = given
    scorer = Scorer(model, ids, engine or EngineOptions())
    return sweep(*[rest[0], scorer, *rest[1:]], options), scorer


def test_the_choice_and_the_scores_are_those_of_the_naive_sweep(given: tuple) -> None:
    other = benchmark.naive(*given)
    for limit in (0.001, 0.01, 0.1, 1.0):
        options = replace(WIDE, max_kl=limit)
        ours, scorer = _ours(given, options)
        assert benchmark.agreement(ours, other) < 1e-4
        want = other.best(options)
        assert ours.best is not None
        assert (ours.best.position, ours.best.block) == (want.position, want.block)
        passed = {(r.position, r.block) for r in ours.rows if r.fell == "passed"}
        assert passed == {
            (r.position, r.block) for r in other.rows if r.induce > 0 and r.kl < limit
        }
        assert other.stats["blocks_run"] >= 5 * scorer.stats["blocks_run"]
        assert other.stats["token_blocks"] > 1.5 * scorer.stats["token_blocks"]


def test_a_candidate_given_up_early_would_have_failed_on_all_prompts(given: tuple) -> None:
    other = {(r.position, r.block): r for r in benchmark.naive(*given).rows}
    ours, _ = _ours(given, replace(WIDE, max_kl=0.01))
    early = [row for row in ours.rows if row.fell == "KL" and row.kl_n < ours.n_harmless]
    assert early
    for row in early:
        full = other[row.position, row.block].kl
        assert full is not None
        assert row.kl is not None
        assert 0.01 <= row.kl <= full + 1e-6


@pytest.mark.parametrize(
    "engine", [EngineOptions(prefix=False, pack=False), EngineOptions(batch_rows=5)]
)
def test_batches_change_no_score(given: tuple, engine: EngineOptions) -> None:
    left, _ = _ours(given)
    right, _ = _ours(given, engine=engine)
    for a, b in zip(left.rows, right.rows, strict=True):
        assert a.fell == b.fell
        for name in ("induce", "kl", "bypass"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            assert x is None or x == pytest.approx(y, abs=1e-4)


def test_the_order_of_the_prompts_does_not_change_the_choice(given: tuple) -> None:
    model, ids, candidates, harmful, harmless = given
    turned = harmless.select(range(len(harmless))[::-1])
    left, _ = _ours(given)
    right, _ = _ours((model, ids, candidates, harmful, turned))
    assert left.best is not None
    assert right.best is not None
    assert left.best.bypass == pytest.approx(right.best.bypass, abs=1e-4)
    assert left.counts == right.counts


def test_mean_differences_equal_a_plain_loop() -> None:
    """Positions are counted from the end of each prompt, blocks by what they put out."""
    model = selecting.model(PLANTED)
    data, _ = three_ways(selecting.prompts(), None, seed=0)
    found = from_model(model, data.fit, (0, 2))
    sums = {"harmful": torch.zeros(2, 2, 32), "harmless": torch.zeros(2, 2, 32)}
    for prompt, ids in zip(data.fit.prompts, encode(model, data.fit), strict=True):
        with torch.no_grad():
            states = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for column, block in enumerate((0, 2)):
            for row, position in enumerate((-1, -2)):
                sums[prompt.label][row, column] += states[block + 1][0, position]
    n = data.fit.counts
    want = sums["harmful"] / n["harmful"] - sums["harmless"] / n["harmless"]
    torch.testing.assert_close(found.vectors.float(), want, atol=1e-5, rtol=1e-4)
    assert found.positions == (-1, -2)
