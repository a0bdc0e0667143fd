"""Greedy continuation under a context's hooks, prompt and generated tokens told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig

from hooks.cache import expand_cache
from hooks.encoded import Batch, Encoded, left_pad
from hooks.engine import halving, plan_batches
from hooks.errors import ContextError
from hooks.forwards import Prefix, check_length, frame_of, shared_prefix
from hooks.positions import Frame

if TYPE_CHECKING:
    from hooks.run import Run


def generate(
    run: Run, encoded: Encoded, max_new_tokens: int, *, use_cache: bool = True
) -> list[list[int]]:
    """Carry out :meth:`hooks.Run.generate_ids`."""
    if max_new_tokens < 1:
        raise ContextError(f"max_new_tokens is {max_new_tokens}; ask for 1 at least")
    if any(start != len(ids) for start, ids in zip(encoded.response_start, encoded, strict=True)):
        raise ContextError("these prompts hold responses already; encode them without responses")
    check_length(run, encoded, new=max_new_tokens)
    run.stats.tokens_asked += sum(encoded.lengths) + max_new_tokens * len(encoded)
    # A row's cost while decoding is its final length, so that is what is packed.
    lengths = [length + max_new_tokens for length in encoded.lengths]
    batches = plan_batches(
        lengths,
        budget=run.options.budget(run.view.device),
        max_rows=run.options.batch_rows,
        sort=run.options.pack,
    )
    prefix = shared_prefix(run, encoded, new=max_new_tokens) if use_cache else Prefix()
    new: dict[int, list[int]] = {}
    bar = tqdm(total=len(encoded), unit="prompt", disable=not run.options.progress, leave=False)
    with bar:
        for rows, ids in halving(
            batches, lambda r: _batch(run, encoded, r, prefix, max_new_tokens, use_cache), run.stats
        ):
            bar.update(len(rows))
            new.update(zip(rows, ids, strict=True))
    return [new[row] for row in range(len(encoded))]


def _batch(
    run: Run,
    encoded: Encoded,
    rows: list[int],
    prefix: Prefix,
    max_new_tokens: int,
    use_cache: bool,
) -> list[list[int]]:
    view, device = run.view, run.view.device
    batch = _padded(run, encoded, rows, prefix.length)
    width = batch.ids.shape[1]
    prompt = frame_of(run, encoded, rows, batch)

    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    before = 0

    def describe(ids: Tensor | None, past: int, now: int) -> Frame:
        nonlocal ended, before
        run.stats.tokens_computed += now * len(rows)
        run.stats.forwards += 1
        run.stats.blocks_run += view.layout.n_layers
        run.stats.token_blocks += view.layout.n_layers * now * len(rows)
        frame = _step_frame(prompt, ids, past, now)
        frame.repeated, before = max(before - past, 0), past + now
        first = past <= prefix.length
        over = _over(ids, torch.zeros_like(ended) if first else ended, _ends(run), width - past)
        frame.mask, ended = frame.mask & ~over, over[:, -1]
        return frame

    view.registry.announced = describe
    try:
        # transformers mixes generate() into each model class, not into PreTrainedModel.
        full = view.hf.generate(  # pyright: ignore[reportCallIssue]
            input_ids=batch.ids.to(device),
            attention_mask=batch.mask.to(device),
            past_key_values=None if prefix.cache is None else expand_cache(prefix.cache, len(rows)),
            generation_config=_config(run, max_new_tokens, use_cache),
        )
    finally:
        view.registry.finish()
    return [_until_end(row.tolist(), _ends(run)) for row in full[:, width:].cpu()]


def _padded(run: Run, encoded: Encoded, rows: list[int], prefix: int) -> Batch:
    """Pad between the shared prefix and the rest: the prefix keeps its place in every row."""
    own = left_pad([encoded.ids[row][prefix:] for row in rows], pad=_pad(run), offset=prefix)
    if prefix == 0:
        return own
    shared = own.ids.new_tensor([encoded.ids[row][:prefix] for row in rows])
    places = torch.arange(prefix).expand(len(rows), prefix)
    return Batch(
        torch.cat([shared, own.ids], dim=1),
        torch.cat([torch.ones_like(shared), own.mask], dim=1),
        torch.cat([places, own.positions], dim=1),
    )


def _over(ids: Tensor | None, ended: Tensor, ends: list[int], prompt: int) -> Tensor:
    """Return [row, token]: true from a row's end token on, while other rows still go on.

    The first ``prompt`` tokens of the pass are no answer, whatever they are.
    """
    if ids is None:
        raise ContextError("generation passed no token ids, so its end cannot be seen")
    ending = torch.isin(ids, torch.tensor(ends, dtype=ids.dtype, device=ids.device))
    ending[:, : max(prompt, 0)] = False
    return (ending.cumsum(dim=1) > 0) | ended[:, None]


def _step_frame(prompt: Frame, ids: Tensor | None, past: int, now: int) -> Frame:
    """Describe the step that computes tokens ``past`` to ``past + now`` of the padded sequence."""
    total, width = past + now, prompt.mask.shape[1]
    extra = max(total - width, 0)
    grown = torch.cat([prompt.mask, prompt.mask.new_ones(prompt.batch, extra)], dim=1)
    ends, starts = prompt.instruction_end, prompt.response_start
    return Frame(
        ids,
        grown[:, past:total],
        prompt_tokens=min(max(width - past, 0), now),
        instruction_end=None if ends is None else ends - past,
        response_start=None if starts is None else starts - past,
        template_length=prompt.template_length,
        rows=prompt.rows,
        total=prompt.total,
    )


def _config(run: Run, max_new_tokens: int, use_cache: bool) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=use_cache,
        pad_token_id=_pad(run),
        eos_token_id=_ends(run) or None,
    )


def _pad(run: Run) -> int:
    pad = run.view.tokenizer.pad_token_id
    ends = _ends(run)
    return int(pad) if isinstance(pad, int) else (ends[0] if ends else 0)


def _ends(run: Run) -> list[int]:
    """Return the tokens that end an answer, by the model's own generation settings first."""
    config = run.view.hf.generation_config
    ends = getattr(config, "eos_token_id", None) or run.view.tokenizer.eos_token_id
    if ends is None:
        return []
    return [int(end) for end in ends] if isinstance(ends, list) else [int(ends)]


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in ends:
            return ids[:place]
    return ids
