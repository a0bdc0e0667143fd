"""What prompts that nothing was fitted or chosen on say about the chosen direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from artifacts.manifest import Claim
from directions.select_options import SelectOptions
from directions.select_scores import EVERYWHERE, Scorer
from evaluation.intervals import mean_interval
from evaluation.neutral import neutral_text
from evaluation.perplexity import PerplexityRatio, perplexity
from evaluation.rates import LEVEL
from hooks import Ablate, Add, Encoded, Intervention
from probes.controls import random_units


@dataclass(frozen=True)
class Measured:
    """A number with its interval, or the range of the controls with their mean."""

    value: float
    low: float
    high: float
    n: int
    level: float
    what: str


WORDS = {
    "clean_harmful": "refusal metric of harmful prompts, no edit (log-odds)",
    "bypass": "refusal metric of harmful prompts, direction ablated everywhere (log-odds)",
    "drop": "fall of that metric under ablation, prompt by prompt (log-odds)",
    "clean_harmless": "refusal metric of harmless prompts, no edit (log-odds)",
    "induce": "refusal metric of harmless prompts, direction added at its block (log-odds)",
    "rise": "rise of that metric under addition, prompt by prompt (log-odds)",
    "kl": "KL of the clean from the ablated prediction, last position, harmless prompts (nats)",
}
_TOKENS = 256
PAIRED = ("bypass", "drop", "induce", "rise", "kl")
"""The measures that the controls have too."""


@dataclass(frozen=True, eq=False)
class HeldOutScores:
    """Measures on test prompts by name; ``NAME_random`` is the range over the controls."""

    measures: Mapping[str, Measured]
    necessary: bool
    """The interval of ``drop`` lies above the drop of every control."""
    sufficient: bool
    """The interval of ``rise`` lies above the rise of every control."""

    @property
    def claim(self) -> Claim:
        """The stronger of the statements that hold; necessity goes first."""
        if self.necessary:
            return "causally necessary"
        return "causally sufficient" if self.sufficient else "none"


def held_out(
    vector: Float64[Tensor, "d"],
    block: int,
    scorer: Scorer,
    harmful: Encoded,
    harmless: Encoded,
    options: SelectOptions,
) -> HeldOutScores:
    """Measure one direction and as many random ones of its norm as ``options.controls``.

        drop_i = m(x_i) - m(x_i | ablated),   rise_i = m(x_i | + r) - m(x_i)

    Intervals are percentile bootstraps over prompts. A control is isotropic: it rules out that any
    edit of that size does the same, not that another direction of the data would. With K controls
    a claim of either kind has level 1 / (K + 1).
    """
    drawn = random_units(options.controls, len(vector), seed=options.seed)
    controls = torch.from_numpy(drawn) * vector.norm()
    vectors = torch.cat([vector[None], controls])
    clean_harmful = scorer.margins(scorer.clean(harmful).logits)
    clean = scorer.clean(harmless, [block])
    clean_harmless = scorer.margins(clean.logits)
    bypass = scorer.bypass(harmful, vectors)
    induce = scorer.induce(harmless, vectors, block, clean)
    scores = {
        "bypass": bypass,
        "drop": clean_harmful - bypass,
        "induce": induce,
        "rise": induce - clean_harmless,
        "kl": scorer.divergence(harmless, vectors, clean.logits),
    }
    found = {
        "clean_harmful": _mean("clean_harmful", clean_harmful, options.seed),
        "clean_harmless": _mean("clean_harmless", clean_harmless, options.seed),
    }
    for name in PAIRED:
        found[name] = _mean(name, scores[name][0], options.seed)
        found[f"{name}_random"] = _range(name, scores[name][1:].mean(1))
    found |= _perplexity(vector, block, scorer, options)
    return HeldOutScores(found, _beats(found, "drop"), _beats(found, "rise"))


def _beats(found: Mapping[str, Measured], name: str) -> bool:
    # Above zero too: controls may all move the metric the other way.
    return found[name].low > max(found[f"{name}_random"].high, 0.0)


def _mean(name: str, values: Float64[Tensor, "prompt"], seed: int) -> Measured:
    found = mean_interval(values.tolist(), seed=seed)
    return Measured(found.value, found.low, found.high, found.n, LEVEL, f"{WORDS[name]}, mean")


def _range(name: str, values: Float64[Tensor, "control"]) -> Measured:
    k = len(values)
    # One more draw falls between the least and the greatest of k with this probability.
    level = (k - 1) / (k + 1)
    what = f"{WORDS[name]}: mean, least and greatest of random directions of the same norm"
    low, high = float(values.min()), float(values.max())
    return Measured(float(values.mean()), low, high, k, level, what)


def _perplexity(
    vector: Float[Tensor, "d"], block: int, scorer: Scorer, options: SelectOptions
) -> dict[str, Measured]:
    """Return how many times larger the perplexity of neutral text is under each edit."""
    texts, model = neutral_text("test", n=options.neutral).texts, scorer.model
    edits: dict[str, Intervention] = {
        "ablated": Ablate(vector.float(), EVERYWHERE),
        "added": Add(vector.float(), f"blocks.{block}.hook_resid_post"),
    }
    longest = min(_TOKENS, model.context_length or _TOKENS)
    base = perplexity(model, texts, max_tokens=longest, seed=options.seed)
    found = {}
    for name, edit in edits.items():
        with model.hooks(edits=edit, options=scorer.options) as run:
            changed = perplexity(model, texts, run=run, max_tokens=longest, seed=options.seed)
        ratio = PerplexityRatio.of(changed, base, seed=options.seed)
        # Broken models can leave float32, in which artifacts are kept.
        value, low, high = np.clip([ratio.value, ratio.low, ratio.high], 0, 1e30).tolist()
        what = f"perplexity of neutral text with the direction {name}, as a multiple of the clean"
        found[f"perplexity_{name}"] = Measured(value, low, high, ratio.n_texts, LEVEL, what)
    return found
