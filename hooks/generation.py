"""Greedy continuation under a context's hooks, prompt and generated tokens told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig

from hooks.cache import expand_cache, select_cache
from hooks.encoded import Batch, Encoded, left_pad
from hooks.engine import FEWEST, halving, plan_batches
from hooks.errors import ContextError
from hooks.forwards import Prefix, check_length, frame_of, shared_prefix
from hooks.positions import Frame

if TYPE_CHECKING:
    from hooks.run import Run

_STRIDE = 12
"""Tokens between two looks at which answers have ended: short enough for a refusal to leave."""


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
        budget=run.options.budget(run.view.device, generating=True),
        max_rows=run.options.batch_rows,
        sort=run.options.pack,
        pass_cost=FEWEST,
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
    # The rows that go on: their numbers, tokens and mask so far, keys and values.
    left = list(range(len(rows)))
    ids, mask = batch.ids, batch.mask
    cache = None if prefix.cache is None else expand_cache(prefix.cache, len(rows))
    answers: list[list[int]] = [[] for _ in rows]
    stride = _STRIDE if use_cache and _may_leave_early(run) else max_new_tokens
    for done in range(0, max_new_tokens, stride):
        view.registry.announced = _Announcer(run, encoded, [rows[i] for i in left], batch, prefix)
        try:
            # transformers mixes generate() into each model class, not into PreTrainedModel.
            out = view.hf.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                past_key_values=cache,
                generation_config=_config(run, min(stride, max_new_tokens - done), use_cache),
            )
        finally:
            view.registry.finish()
        ids = out.sequences.cpu()
        new = ids[:, width + done :].tolist()
        for row, tokens in zip(left, new, strict=True):
            answers[row] += tokens
        going = [k for k, tokens in enumerate(new) if not set(tokens) & set(_ends(run))]
        if not going or done + stride >= max_new_tokens:
            break
        left = [left[k] for k in going]
        ids, mask = ids[going], torch.cat([mask, mask.new_ones(len(mask), len(new[0]))], 1)[going]
        batch = Batch(batch.ids[going], batch.mask[going], batch.positions[going])
        cache = select_cache(out.past_key_values, going)
    return [_until_end(row, _ends(run)) for row in answers]


class _Announcer:
    """Tell the registry before each pass of one ``generate()`` what is in it."""

    def __init__(
        self, run: Run, encoded: Encoded, rows: list[int], batch: Batch, prefix: Prefix
    ) -> None:
        self._run = run
        self._prompt = frame_of(run, encoded, rows, batch)
        self._width = batch.ids.shape[1]
        self._prefix = prefix.length
        self._ended = torch.zeros(len(rows), dtype=torch.bool, device=run.view.device)
        self._before = 0

    def __call__(self, ids: Tensor | None, past: int, now: int) -> Frame:
        stats = self._run.stats
        stats.tokens_computed += now * len(self._ended)
        stats.forwards += 1
        stats.blocks_run += self._run.view.layout.n_layers
        frame = _step_frame(self._prompt, ids, past, now)
        frame.repeated, self._before = max(self._before - past, 0), past + now
        first = past <= self._prefix
        ended = torch.zeros_like(self._ended) if first else self._ended
        over = _over(ids, ended, _ends(self._run), self._width - past)
        frame.mask, self._ended = frame.mask & ~over, over[:, -1]
        return frame


def _may_leave_early(run: Run) -> bool:
    return run.options.pack and all(
        getattr(context, "lets_rows_go", False) for context in run.view.registry.contexts
    )


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
        return_dict_in_generate=True,
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
