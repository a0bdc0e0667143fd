"""An open hook context: what the user captures and edits, and the passes run under it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import torch

from hooks import forwards, generation
from hooks.actions import CaptureAction, EditAction, GateAction
from hooks.capture import Capture
from hooks.encoded import Encoded
from hooks.engine import EngineOptions, LogitsRule, RunOutput, RunStats
from hooks.errors import ContextError, SilentEditError, SiteError
from hooks.gates import Gate
from hooks.interventions import Apply, Intervention
from hooks.kv import KVState
from hooks.layout import Layout
from hooks.positions import Frame
from hooks.protocols import Action
from hooks.sites import Site, expand_all
from hooks.start import Start
from hooks.storage import PassStore
from hooks.weights import View


class Run:
    """A context manager: inside it the hooks are on, after it the model is as before."""

    def __init__(
        self,
        view: View,
        captures: Sequence[Capture],
        edits: Sequence[Intervention | Gate],
        options: EngineOptions,
    ) -> None:
        """Resolve every site before a hook exists.

        Raises:
            SiteError: a site that does not exist or is not served.
            EditError: an edit that does not fit its site.
        """
        self.view = view
        self.options = options
        self.stats = RunStats()
        self._captures: list[CaptureAction] = []
        for capture in captures:
            self._captures += _take(capture, view.layout)
        self._edits: list[EditAction] = []
        self._gates: list[GateAction] = []
        for edit in edits:
            self._compile(edit, view.layout)
        view.require([action.tap.site for action in self.actions])
        self._open = False

    def _compile(self, edit: Intervention | Gate, layout: Layout) -> None:
        if isinstance(edit, Intervention):
            self._edits += [
                EditAction(edit, layout.tap(site))
                for site in expand_all(edit.patterns, layout.n_layers)
            ]
            return
        read = expand_all(edit.at, layout.n_layers)
        if len(read) != 1:
            raise SiteError(f"gate at {edit.at!r}: a gate reads one site, this names {len(read)}")
        gate = GateAction(edit, layout.tap(read[0]))
        self._gates.append(gate)
        for inner in edit.edits:
            for site in expand_all(inner.patterns, layout.n_layers):
                if site <= read[0]:
                    raise SiteError(
                        f"{site.name} comes before its gate at {read[0].name}: in one pass a gate "
                        "can only steer what is computed after it"
                    )
                self._edits.append(EditAction(inner, layout.tap(site), gate))

    # What the registry asks of a context.

    @property
    def actions(self) -> list[Action]:
        """Edits in the order given, gates, captures."""
        return [*self._edits, *self._gates, *self._captures]

    @property
    def steps_matter(self) -> bool:
        """True when prompt and generated tokens must be told apart."""
        limited = any(
            action.edit.steps != "both" or action.edit.positions != "all" for action in self._edits
        )
        return limited or bool(self._captures) or bool(self._gates)

    @property
    def shares_prefix(self) -> bool:
        """True when one pass over a common prefix serves every row."""
        return self.shares_prefix_by_copy and not any(a.edit.per_row for a in self._edits)

    @property
    def shares_prefix_by_copy(self) -> bool:
        """The same where the prompts are copied and each copy has edits of its own."""
        edits = all(
            action.gate is None
            and not callable(action.edit.positions)
            # A function of the user's own may look at the whole pass.
            and not isinstance(action.edit, Apply)
            for action in self._edits
        )
        return edits and all(
            action.capture.at in ("last", "template", "after_instruction", "response")
            for action in self._captures
        )

    @property
    def lets_rows_go(self) -> bool:
        """True when a row whose answer has ended may leave the batch while others go on.

        Captures, gates and edits with an entry for each row hold what belongs to the batch.
        """
        return self.shares_prefix and not self._captures

    def start_pass(self, frame: Frame) -> None:
        """Forget what an unfinished pass left behind."""
        del frame
        for action in self._captures:
            action.discard()

    def end_pass(self, frame: Frame) -> None:
        """Hand what was captured to the accumulators."""
        for action in self._captures:
            action.flush(frame)

    # The context.

    def __enter__(self) -> Run:
        """Switch the view's adapter and attach the hooks."""
        if self._open:
            raise ContextError("this context is open already")
        for action in (*self._edits, *self._gates, *self._captures):
            action.calls = 0
        self.view.enter()
        try:
            self.view.registry.attach(self)
        except BaseException:
            self.view.leave()
            raise
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the hooks; without another error, refuse edits and captures that never acted."""
        self._open = False
        self.view.registry.detach(self)
        self.view.leave()
        if kind is None:
            self._refuse_silence()

    def _refuse_silence(self) -> None:
        idle = [action for action in self.actions if action.calls == 0]  # type: ignore[attr-defined]
        if idle:
            names = sorted({action.tap.site for action in idle})
            raise SilentEditError(
                f"nothing happened at {', '.join(site.name for site in names[:3])}"
                f"{' and others' if len(names) > 3 else ''}: no pass reached these sites with the "
                "positions and steps asked for"
            )

    @property
    def calls(self) -> Counter[str]:
        """How often each site acted."""
        counts: Counter[str] = Counter()
        for action in self.actions:
            counts[action.tap.site.name] += action.calls  # type: ignore[attr-defined]
        return counts

    @property
    def deepest(self) -> Site | None:
        """The deepest site that any open context reads or writes."""
        sites = [
            action.tap.site for context in self.view.registry.contexts for action in context.actions
        ]
        return max(sites, default=None)

    def _require_open(self) -> None:
        if not self._open:
            raise ContextError("this context is closed; run inside `with model.hooks(...) as run:`")

    @contextmanager
    def _clock(self) -> Iterator[None]:
        self._require_open()
        start = time.perf_counter()
        with torch.no_grad():
            yield
        self.stats.seconds += time.perf_counter() - start

    # Passes.

    def forward(
        self,
        encoded: Encoded,
        *,
        logits: LogitsRule | None = None,
        stop_at: str | None = None,
        start: Start | None = None,
        copies: int | None = None,
    ) -> RunOutput:
        """Run prompts through the model; captures fill up, logits only where asked.

        Args:
            encoded: any number of prompts; results keep their order.
            logits: ``last`` (at the last prompt token), ``response`` (those that predict the
                response), ``all``, or None.
            stop_at: end the pass at this site, for measurements; by default the deepest one used.
            start: begin behind a block, from states of an earlier pass.
            copies: run all prompts this often. Edits with one entry for each row then have one for
                each copy, so that many directions share a batch; results are [copy, prompt] with
                the copies first, in one axis.

        Raises:
            SiteError: neither a capture nor logits are asked for, or an edit lies past the stop or
                before the start.
            PositionError: a start whose states are not those of the prompts.
            OutOfMemoryError: one prompt alone does not fit.
        """
        with self._clock():
            return forwards.forward(self, encoded, logits, stop_at, start=start, copies=copies)

    def generate_ids(
        self, encoded: Encoded, *, max_new_tokens: int, use_cache: bool = True
    ) -> list[list[int]]:
        """Continue each prompt greedily; returns the new token ids, without end tokens.

        The edits are active: ``prompt`` ones in the pass that reads the prompt (so they steer the
        first new token), ``generated`` ones from the second new token on.
        """
        with self._clock():
            return generation.generate(self, encoded, max_new_tokens, use_cache=use_cache)

    def generate(self, encoded: Encoded, *, max_new_tokens: int) -> list[str]:
        """Continue each prompt greedily; returns the new text."""
        new = self.generate_ids(encoded, max_new_tokens=max_new_tokens)
        return [str(self.view.tokenizer.decode(ids, skip_special_tokens=True)) for ids in new]

    def prefill(self, encoded: Encoded) -> KVState:
        """Read prompts once and keep their keys and values, to be forked and continued."""
        with self._clock():
            return KVState.start(self, encoded)


def _take(capture: Capture, layout: Layout) -> list[CaptureAction]:
    """Bind a capture to its sites; those of one kind share the memory of a pass."""
    sites = expand_all(capture.sites, layout.n_layers)
    stores = {kind: PassStore(n) for kind, n in Counter(site.kind for site in sites).items()}
    return [CaptureAction(capture, layout.tap(site), stores[site.kind]) for site in sites]
