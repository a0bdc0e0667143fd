"""Passes over many prompts: prefix, batches, start and stop, logits where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from hooks.encoded import Batch, Encoded, left_pad
from hooks.engine import LogitsRule, RunOutput, halving, plan_batches
from hooks.errors import PositionError, SiteError
from hooks.passing import one_pass
from hooks.positions import Frame
from hooks.prefix import Prefix as Prefix
from hooks.prefix import shared_prefix as shared_prefix
from hooks.sites import Site, expand_all
from hooks.start import Begin, Start, begin

if TYPE_CHECKING:
    from hooks.run import Run


@dataclass(frozen=True, eq=False)
class _Work:
    """What every batch of one call needs to know."""

    encoded: Encoded
    """All rows: the prompts, once for each copy."""
    prompts: int
    """Rows of one copy."""
    copies: int | None
    logits: LogitsRule | None
    stop: Site | None
    begin: Begin | None
    prefix: Prefix
    together: bool
    """Every batch holds all copies of its prompts."""

    def rows(self, chosen: list[int]) -> list[int]:
        """Return the rows of one batch."""
        if not self.together:
            return chosen
        return [row + copy * self.prompts for copy in range(self.copies or 1) for row in chosen]


def forward(
    run: Run,
    encoded: Encoded,
    logits: LogitsRule | None,
    stop_at: str | None,
    *,
    start: Start | None = None,
    copies: int | None = None,
) -> RunOutput:
    """Carry out :meth:`hooks.Run.forward`; both sides of a pair are two copies in every batch."""
    together = run.view.adapter == "both"
    copies = 2 if together else copies
    stop = _stop_site(run, logits, stop_at)
    check_length(run, encoded)
    if copies is not None and copies < 1:
        raise PositionError(f"copies={copies}: ask for 1 at least")
    first = None if start is None else begin(run, start, encoded, stop)
    prefix = Prefix()
    if logits != "all":
        prefix = shared_prefix(run, encoded, stop, start=first, copies=copies)
    every = encoded if copies is None else encoded.select([*range(len(encoded))] * copies)
    work = _Work(every, len(encoded), copies, logits, stop, first, prefix, together)
    run.stats.tokens_asked += sum(every.lengths)
    options, share = run.options, (copies or 1) if together else 1
    units = encoded if together else every
    batches = plan_batches(
        [length - prefix.length for length in units.lengths],
        budget=options.budget(run.view.device) // share,
        max_rows=None if options.batch_rows is None else max(options.batch_rows // share, 1),
        sort=options.pack,
    )
    found: dict[int, torch.Tensor] = {}
    bar = tqdm(total=len(units), unit="prompt", disable=not options.progress, leave=False)
    with bar:
        for chosen, result in halving(
            batches, lambda rows: _batch(run, work, work.rows(rows)), run.stats
        ):
            bar.update(len(chosen))
            run.view.weights.heap.settle()
            if result is not None:
                rows = work.rows(chosen)
                found.update(_by_row(every, rows, result, prefix.length, logits))
    if logits is None:
        return RunOutput()
    ordered = [found[row] for row in range(len(every))]
    return RunOutput(torch.cat(ordered) if logits == "last" else ordered)


def _stop_site(run: Run, logits: LogitsRule | None, stop_at: str | None) -> Site | None:
    deepest = run.deepest
    if deepest is None and logits is None:
        raise SiteError("nothing is asked for: give a capture, or logits='last'")
    if stop_at is not None:
        (site,) = expand_all(stop_at, run.view.layout.n_layers)
        run.view.layout.tap(site)
        if logits is not None:
            raise SiteError(f"logits lie past the stop at {stop_at}")
        if deepest is not None and deepest > site:
            raise SiteError(f"{deepest.name} lies past the stop at {stop_at}: it would never act")
        return deepest
    if logits is not None or not run.options.stop:
        return None
    return deepest


def check_length(run: Run, encoded: Encoded, *, new: int = 0) -> None:
    """Refuse prompts that, with ``new`` more tokens, the model's context does not hold.

    Raises:
        PositionError: naming the row; or no prompts at all.
    """
    if len(encoded) == 0:
        raise PositionError("no prompts were given")
    limit = run.view.layout.context_length
    for row, length in enumerate(encoded.lengths):
        if limit is not None and length + new > limit:
            more = f" and {new} more are asked for" if new else ""
            raise PositionError(
                f"row {row} has {length} tokens{more}, the model's context holds {limit}: shorten "
                "it"
            )


def _batch(run: Run, work: _Work, rows: list[int]) -> torch.Tensor | None:
    encoded, prefix, device = work.encoded, work.prefix, run.view.device
    batch = left_pad(
        [encoded.ids[row][prefix.length :] for row in rows], pad=0, offset=prefix.length
    )
    kept = _kept(encoded, rows, batch, work.logits)
    deepest = run.deepest
    if kept is None and deepest is not None and deepest.kind == "unembed.hook_out":
        kept = 0
    frame = frame_of(run, encoded, rows, batch)
    copy = [row // work.prompts for row in rows]
    if work.copies is not None:
        frame = replace(frame, copy=torch.tensor(copy, device=device), copies=work.copies)
    state = None
    if work.begin is not None:
        prompts, width = [row % work.prompts for row in rows], batch.ids.shape[1]
        states = work.begin.padded(prompts, slice(prefix.length, None), width, device)
        state = (work.begin.block, states)
    cache = prefix.rows(copy)
    output = one_pass(run, batch, cache, work.stop, lambda *_: frame, logits=kept, state=state)
    run.stats.tokens_computed += batch.ids.numel()
    return None if work.logits is None else output


def frame_of(run: Run, encoded: Encoded, rows: Sequence[int], batch: Batch) -> Frame:
    """Describe the pass over ``rows`` whose final tokens are in ``batch``."""
    device = run.view.device
    width = batch.ids.shape[1]
    # A boundary at token e of a row lies at width - (length - e) in the padded pass.
    ends = torch.tensor([width - len(encoded.ids[r]) + encoded.instruction_end[r] for r in rows])
    starts = torch.tensor([width - len(encoded.ids[r]) + encoded.response_start[r] for r in rows])
    return Frame(
        batch.ids.to(device),
        batch.mask.bool().to(device),
        prompt_tokens=width,
        instruction_end=ends.to(device),
        response_start=starts.to(device),
        template_length=encoded.template_length,
        rows=torch.tensor(list(rows), device=device),
        total=len(encoded),
    )


def _kept(encoded: Encoded, rows: list[int], batch: Batch, logits: LogitsRule | None) -> int | None:
    """Return how many final tokens need logits; 0 means all of them, None none."""
    if logits is None:
        return None
    if logits == "all":
        return 0
    behind = max(len(encoded.ids[row]) - encoded.response_start[row] for row in rows)
    return min(behind + 1, batch.ids.shape[1])


def _by_row(
    encoded: Encoded,
    rows: list[int],
    logits: torch.Tensor,
    prefix: int,
    rule: LogitsRule | None,
) -> dict[int, torch.Tensor]:
    """Cut each row's logits out of the padded result; those of ``response`` predict it."""
    width = logits.shape[1]
    found: dict[int, torch.Tensor] = {}
    for place, row in enumerate(rows):
        length, start = len(encoded.ids[row]), encoded.response_start[row]
        # Padded index of the last prompt token, counted from the right end.
        last = width - (length - start) - 1
        if rule == "last":
            part = logits[place, last : last + 1]
        elif rule == "response":
            part = logits[place, last : width - 1]
        else:
            part = logits[place, width - (length - prefix) :]
        found[row] = part.float().cpu()
    return found
