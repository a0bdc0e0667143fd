"""One pass of the body, or of the whole model where logits are wanted."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from hooks.encoded import Batch
from hooks.protocols import Announcement, Stopped
from hooks.sites import Site
from hooks.start import skipped

if TYPE_CHECKING:
    from hooks.run import Run


def one_pass(
    run: Run,
    batch: Batch,
    cache: DynamicCache | None,
    stop: Site | None,
    describe: Announcement,
    *,
    logits: int | None = None,
    state: tuple[int, Tensor] | None = None,
) -> Tensor | None:
    """Run one pass and count it.

    Args:
        run: the open context.
        batch: the tokens.
        cache: what was read before them; grows.
        stop: the pass ends there.
        describe: gives the registry the frame of the pass.
        logits: number of final tokens that need logits; 0 means all of them, None none.
        state: a block and the [row, token, d] states that it gives without being computed.
    """
    registry, device, n_layers = run.view.registry, run.view.device, run.view.layout.n_layers
    past = 0 if cache is None else int(cache.get_seq_length())
    mask = torch.cat([batch.mask.new_ones(len(batch.mask), past), batch.mask], dim=1)
    inputs = {
        "input_ids": batch.ids.to(device),
        "attention_mask": mask.to(device),
        "position_ids": batch.positions.to(device),
        "past_key_values": cache,
        "use_cache": cache is not None,
    }
    registry.announced, registry.stop = describe, stop
    result, ran = None, n_layers
    try:
        with nullcontext() if state is None else skipped(run.view.layout, *state):
            if logits is None:
                run.view.hf.base_model(**inputs)
            else:
                result = run.view.hf(**inputs, logits_to_keep=logits).logits
    except Stopped:
        ran = _blocks_until(stop, n_layers)
    finally:
        registry.finish()
    ran = max(ran - (0 if state is None else state[0] + 1), 0)
    run.stats.forwards += 1
    run.stats.blocks_run += ran
    run.stats.token_blocks += ran * batch.ids.numel()
    return result


def _blocks_until(stop: Site | None, n_layers: int) -> int:
    """Return how many blocks had begun when the pass ended at ``stop``."""
    if stop is None or stop.block is None:
        return n_layers if stop is None or stop.order[0] >= 0 else 0
    return stop.block if stop.kind == "hook_resid_pre" else stop.block + 1
