"""A prompt's keys and values that can be continued, forked and rolled back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from hooks.actions import GateAction
from hooks.cache import expand_cache, fork_cache, new_cache, sliding_window
from hooks.encoded import Encoded, left_pad
from hooks.errors import ContextError
from hooks.forwards import check_length, frame_of
from hooks.positions import Frame

if TYPE_CHECKING:
    from hooks.run import Run

_SNAPSHOTS = 64


class KVState:
    """What a model has read so far, for look-ahead: append, fork, roll back.

    A fork shares the states with its origin and copies nothing under full attention. Logits after
    a rollback or in a fork equal those of a run that never branched, bit for bit in float32 on
    the same machine. Steering changes cached keys and values, so a state belongs to the context
    (and its edits) that made it and is refused elsewhere.
    """

    def __init__(self, run: Run, cache: DynamicCache, mask: Tensor, logits: Tensor) -> None:
        """Use :meth:`hooks.Run.prefill` instead."""
        self._run = run
        self._cache = cache
        self._mask = mask
        self.logits: Float[Tensor, "row vocab"] = logits
        """Logits after the last token read."""
        self._marks: list[tuple[int, DynamicCache, Tensor]] = []
        self._contexts = run.view.registry.contexts
        self._strengths: list[Tensor | None] = []

    @classmethod
    def start(cls, run: Run, encoded: Encoded) -> KVState:
        """Read ``encoded`` as one batch."""
        check_length(run, encoded)
        batch = left_pad(encoded.ids, pad=0, offset=0)
        state = cls(
            run,
            new_cache(run.view.hf),
            torch.zeros(len(encoded), 0, dtype=torch.long),
            torch.empty(0),
        )
        run.stats.tokens_asked += sum(encoded.lengths)
        prompt = frame_of(run, encoded, range(len(encoded)), batch)
        state._read(batch.ids, batch.mask, prompt)
        return state

    @property
    def length(self) -> int:
        """Number of (padded) tokens read."""
        return self._mask.shape[1]

    def append(self, ids: Int[Tensor, "row token"] | Sequence[Sequence[int]]) -> KVState:
        """Read more tokens, the same number for every row; returns itself."""
        self._append(ids, 1)
        return self

    def score(
        self, ids: Int[Tensor, "row token"] | Sequence[Sequence[int]]
    ) -> Float[Tensor, "row token vocab"]:
        """Read more tokens in one pass and return the logits that follow each of them.

        The edits take them for generated tokens, as in generation, where a pass over a prompt with
        its response would take all for prompt.
        """
        return self._append(ids, torch.as_tensor(ids).shape[-1])

    def hold(self, strength: Float[Tensor, "row"]) -> KVState:
        """Set the strength of every gate for this state from here on; returns itself.

        What was read stays as it was read. For decisions that no gate can make in the pass itself,
        such as one from a look-ahead.

        Raises:
            ContextError: not one finite number for each row, or the context has no gate.
        """
        rows = len(self._mask)
        if strength.shape != (rows,) or not torch.isfinite(strength).all():
            raise ContextError(
                f"hold: strength has shape {tuple(strength.shape)}; give one finite number for "
                f"each of {rows} rows"
            )
        if not self._strengths:
            raise ContextError("hold: this state's context has no gate whose strength could be set")
        self._strengths = [strength.to(self._run.view.device) for _ in self._strengths]
        return self

    def select(self, rows: Sequence[int]) -> KVState:
        """Return an independent continuation of some rows, in this order.

        Raises:
            ContextError: no row, or one that does not exist.
        """
        if not rows or min(rows) < 0 or max(rows) >= len(self._mask):
            raise ContextError(f"rows {list(rows)[:8]}: this state has 0 to {len(self._mask) - 1}")
        twin, index = self.fork(), torch.tensor(list(rows))
        twin._cache.batch_select_indices(index.to(self._run.view.device))
        twin._mask, twin.logits, twin._marks = self._mask[index], self.logits[index], []
        twin._strengths = [None if s is None else s[index.to(s.device)] for s in self._strengths]
        return twin

    def _append(self, ids: Int[Tensor, "row token"] | Sequence[Sequence[int]], keep: int) -> Tensor:
        new = torch.as_tensor(ids, dtype=torch.long)
        if new.ndim != 2 or len(new) != len(self._mask) or new.shape[1] == 0:
            raise ContextError(
                f"cannot append {tuple(new.shape)} tokens to a state of {len(self._mask)} rows"
            )
        if sliding_window(self._run.view.hf) is not None:
            # A sliding layer forgets what leaves its window: only a snapshot can bring it back.
            self._marks.append((self.length, fork_cache(self._cache), self.logits))
            self._marks = self._marks[-_SNAPSHOTS:]
        real = torch.ones_like(new)
        device = self._run.view.device
        frame = Frame(new.to(device), real.bool().to(device), prompt_tokens=0)
        return self._read(new, real, frame, keep)

    def fork(self) -> KVState:
        """Return an independent continuation of the same past."""
        twin = KVState(self._run, fork_cache(self._cache), self._mask, self.logits)
        twin._marks = list(self._marks)
        twin._contexts, twin._strengths = self._contexts, self._strengths
        return twin

    def repeat(self, rows: int) -> KVState:
        """Return a continuation in which ``rows`` rows share the past of this state's only row.

        So many candidates continue one prompt in one batch. The past cannot be rolled back.

        Raises:
            ContextError: this state has several rows, or fewer than one is asked for.
        """
        if len(self._mask) != 1 or rows < 1:
            raise ContextError(
                f"repeat({rows}) of a state of {len(self._mask)} rows: it takes a state of one "
                "row, and at least 1"
            )
        twin = KVState(
            self._run,
            expand_cache(self._cache, rows),
            self._mask.expand(rows, -1),
            self.logits.expand(rows, -1),
        )
        twin._contexts = self._contexts
        twin._strengths = [
            None if strength is None else strength.expand(rows) for strength in self._strengths
        ]
        return twin

    def rollback(self, tokens: int) -> KVState:
        """Forget the last ``tokens`` tokens; returns itself. ``logits`` are then not known.

        Raises:
            ContextError: more than was read, or, with a sliding window, not a point where an
                ``append`` began.
        """
        target = self.length - tokens
        if tokens < 0 or target < 1:
            raise ContextError(f"cannot roll back {tokens} of {self.length} tokens")
        if tokens == 0:
            return self
        if sliding_window(self._run.view.hf) is None:
            self._cache = fork_cache(self._cache)
            self._cache.crop(-tokens)
            self.logits = torch.full_like(self.logits, float("nan"))
        else:
            marks = [mark for mark in self._marks if mark[0] == target]
            if not marks:
                raise ContextError(
                    f"token {target} is not where an append began: a sliding window can only be "
                    "rolled back to such a point; fork() before you append"
                )
            # A fork may hold the same mark: what grows from it must be a twin of it.
            self._cache, self.logits = fork_cache(marks[-1][1]), marks[-1][2]
            self._marks = [mark for mark in self._marks if mark[0] < target]
        self._mask = self._mask[:, :target]
        return self

    def _gates(self) -> list[GateAction]:
        actions = [action for context in self._contexts for action in context.actions]
        return [action for action in actions if isinstance(action, GateAction)]

    def _use_own_gates(self, past: int) -> None:
        """Hold the strengths that this state's prompt decided, not those of another's.

        Raises:
            ContextError: other contexts are open than when the prompt was read.
        """
        open_now = self._run.view.registry.contexts
        if len(open_now) != len(self._contexts) or any(
            mine is not now for mine, now in zip(self._contexts, open_now, strict=True)
        ):
            raise ContextError(
                "other hook contexts are open than when this state was read, and its keys and "
                "values hold their edits: continue it in the contexts that made it"
            )
        if past:
            for gate, strength in zip(self._gates(), self._strengths, strict=True):
                gate.strength = strength

    def _read(self, ids: Tensor, mask: Tensor, frame: Frame, keep: int = 1) -> Tensor:
        run = self._run
        with run._clock():
            registry, device = run.view.registry, run.view.device
            self._use_own_gates(past := self.length)
            whole = torch.cat([self._mask, mask], dim=1)
            positions = (whole.cumsum(1) - 1).clamp_min(0)[:, past:]
            registry.announced = lambda *_: frame
            try:
                out = run.view.hf(
                    input_ids=ids.to(device),
                    attention_mask=whole.to(device),
                    position_ids=positions.to(device),
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=keep,
                )
            finally:
                registry.finish()
            self._mask, self._strengths = whole, [gate.strength for gate in self._gates()]
            logits = out.logits.float().cpu()
            self.logits = logits[:, -1]
            run.stats.tokens_computed += ids.numel()
            run.stats.forwards += 1
            run.stats.blocks_run += run.view.layout.n_layers
            run.stats.token_blocks += run.view.layout.n_layers * ids.numel()
            return logits
