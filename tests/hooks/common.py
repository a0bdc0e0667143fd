"""What the tests of ``hooks`` share: cached tiny models, never changed, and oracles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

import hooks
from tests.tiny import LAYERS as LAYERS
from tests.tiny import WIDTH, make_hf, tokenizer

PROMPTS = (
    "Name a river.",
    "Why is the sky blue at noon and red at night?",
    "Hi",
    "List three fruits, please.",
    "Sum 2 and 2",
    "Tell me a tale about a fox who could not sleep at all.",
    "Who?",
    "Explain rain to a child.",
)
POST = "blocks.*.hook_resid_post"
MID = "blocks.1.hook_resid_post"


@cache
def model(family: str = "llama", seed: int = 0) -> hooks.Model:
    """Return a tiny model; the same object for each test, so nobody may change it."""
    return hooks.wrap(make_hf(family, seed=seed), tokenizer())


def vector(seed: int, *shape: int) -> Tensor:
    """Return a random tensor, by default one of the stream's width."""
    return torch.randn(*(shape or (WIDTH,)), generator=torch.Generator().manual_seed(seed))


def ids_of(lengths: Sequence[int], seed: int = 0) -> hooks.Encoded:
    """Return random prompts of these lengths."""
    rng = torch.Generator().manual_seed(seed)
    return hooks.Encoded.from_ids(
        [torch.randint(5, 250, (length,), generator=rng).tolist() for length in lengths]
    )


def capture(
    used: hooks.Model,
    encoded: hooks.Encoded,
    sites: str | Sequence[str] = POST,
    *,
    at: object = "last",
    edits: Sequence[object] = (),
    options: hooks.EngineOptions | None = None,
    when: str = "after",
) -> hooks.Rows:
    """Run ``encoded`` once and return what was captured."""
    rows = hooks.Rows()
    read = hooks.Capture(sites, at=at, into=rows, when=when)
    with used.hooks(capture=read, edits=edits, options=options) as run:
        run.forward(encoded)
    return rows


def logits(
    used: hooks.Model, encoded: hooks.Encoded, edits: Sequence[object] = (), rule: str = "last"
) -> Tensor | list[Tensor]:
    """Return the logits of a run."""
    with used.hooks(edits=edits) as run:
        found = run.forward(encoded, logits=rule).logits
    assert found is not None
    return found


def plain_logits(used: hooks.Model, ids: Sequence[int]) -> Tensor:
    """Return [token, vocab] logits of the Hugging Face model itself, one row, no padding."""
    with torch.no_grad():
        return used.hf(torch.tensor([list(ids)])).logits[0]


def attached(root: nn.Module) -> list[tuple[str, int, int]]:
    """Return every torch hook of every module: (module, id of the hook, id of its function)."""
    found = []
    for name, module in root.named_modules():
        for kind in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_pre_hooks_with_kwargs",
            "_forward_hooks_always_called",
        ):
            for key, value in getattr(module, kind).items():
                found.append((f"{name}.{kind}", key, id(value)))
    return found
