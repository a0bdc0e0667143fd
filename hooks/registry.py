"""The one place where torch hooks are attached, shared by every context on one set of weights.

Order at a site, whatever the nesting: captures that ask for the state before edits, then the
edits (outer contexts first, within a context in the order given), then all other captures. So a
capture sees what the model goes on with. On any exit the model has the hooks it had on entry.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hooks.errors import ContextError, ModelError
from hooks.joint import JointPass, Removable
from hooks.layout import Layout, Tap
from hooks.positions import Frame, require_fits
from hooks.precision import attach_stream
from hooks.protocols import Action, Announcement, Context, Key, Plan, Stopped
from hooks.sites import Site


class Registry:
    """Attach, order and remove the hooks of every open context of one model."""

    def __init__(
        self, hf: PreTrainedModel, layout: Layout, *, float32_stream: bool = False
    ) -> None:
        """Attach nothing yet."""
        self.float32_stream = float32_stream
        self.joint: JointPass | None = None
        """Set while the rows of a pass are those of both sides of a pair."""
        self._hf = hf
        self._layout = layout
        self._contexts: list[Context] = []
        self._handles: dict[Key, RemovableHandle] = {}
        self._body_handles: list[Removable] = []
        self._plans: dict[Key, list[Plan]] = {}
        self._mid: dict[int, Tensor] = {}
        self.frame: Frame | None = None
        self.announced: Announcement | None = None
        """Set by the engine for the passes that it starts."""
        self.stop: Site | None = None
        """The pass ends here when set."""
        self._prompt_width: int | None = None
        self._last_ids: Tensor | None = None
        self._whole = False

    @property
    def contexts(self) -> tuple[Context, ...]:
        """Open contexts, outermost first."""
        return tuple(self._contexts)

    def attach(self, context: Context) -> None:
        """Open ``context``; if anything fails, nothing of it stays."""
        self._contexts.append(context)
        try:
            self._rebuild()
        except BaseException:
            self.detach(context)
            raise

    def detach(self, context: Context) -> None:
        """Close ``context`` and leave the hooks of the others as they are."""
        self._contexts = [other for other in self._contexts if other is not context]
        self._rebuild()
        if not self._contexts:
            self._forget()

    def _forget(self) -> None:
        self.frame = self.announced = self.stop = self._last_ids = self._prompt_width = None
        self._mid.clear()
        self._whole = False

    def _rebuild(self) -> None:
        plans: dict[Key, dict[str, Plan]] = {}
        modules: dict[Key, nn.Module] = {}
        for context in self._contexts:
            for action in context.actions:
                tap, support = self._places(action)
                for needed in filter(None, (tap, support)):
                    modules[needed.key] = needed.module
                    by_name = plans.setdefault(needed.key, {})
                    plan = by_name.setdefault(needed.site.name, Plan(needed.site))
                    if needed is tap:
                        plan.add(action)
                    else:
                        plan.keep = True
        self._plans = {
            key: sorted(by_name.values(), key=lambda plan: plan.site)
            for key, by_name in plans.items()
        }
        for key in self._handles.keys() - modules.keys():
            self._handles.pop(key).remove()
        for key, module in modules.items():
            if key not in self._handles:
                self._handles[key] = self._register(key, module)
        self._attach_body()

    def _places(self, action: Action) -> tuple[Tap, Tap | None]:
        """Return the tap that serves ``action`` and another whose state it needs, if any."""
        site = action.tap.site
        if site.kind != "hook_resid_mid" or action.stage == "after" or site.block is None:
            return action.tap, None
        # The stream branches before the second norm, so a hook there would reach the MLP only.
        # attn_out + (new - mid) writes to both branches, and leaves what is not edited bit-equal.
        pre = self._layout.tap_of("hook_resid_pre", site.block)
        out = self._layout.tap_of("hook_attn_out", site.block)
        return Tap(site, out.module, out.side, out.width), pre

    def _attach_body(self) -> None:
        if self._contexts and not self._body_handles:
            body, kept = self._hf.base_model, self._body_handles
            # One at a time: if one fails, those before it are known and can be removed.
            kept.append(body.register_forward_pre_hook(self._on_body_in, with_kwargs=True))
            kept.append(body.register_forward_hook(self._on_body_out))
            kept.append(self._hf.register_forward_pre_hook(self._on_whole_in))
            kept.append(self._hf.register_forward_hook(self._on_whole_out, always_call=True))
            head = self._hf.get_output_embeddings()
            if head is not None:
                kept.append(head.register_forward_pre_hook(_in_one_piece))
            if self.joint is not None:
                kept.extend(self.joint.attach())
            elif self.float32_stream:
                kept.extend(attach_stream(self._layout, self._hf.dtype))
        elif not self._contexts:
            while self._body_handles:
                self._body_handles.pop().remove()

    def _register(self, key: Key, module: nn.Module) -> RemovableHandle:
        if key[1] == "in":

            def on_in(
                _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
            ) -> tuple[tuple[object, ...], dict[str, object]] | None:
                return self._on_in(key, args, kwargs)

            return module.register_forward_pre_hook(on_in, with_kwargs=True)

        def on_out(_: nn.Module, __: tuple[object, ...], output: object) -> object:
            return self._on_out(key, output)

        return module.register_forward_hook(on_out)

    def _on_in(
        self, key: Key, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        if args and isinstance(args[0], Tensor):
            new = self._process(key, args[0])
            return None if new is args[0] else ((new, *args[1:]), kwargs)
        state = kwargs.get("hidden_states")
        if not isinstance(state, Tensor):
            raise ModelError(f"{self._plans[key][0].site.name}: the module was called without one")
        new = self._process(key, state)
        return None if new is state else (args, {**kwargs, "hidden_states": new})

    def _on_out(self, key: Key, output: object) -> object:
        # Attention modules return (output, weights); decoder layers a tensor since transformers 5.
        if isinstance(output, tuple):
            new = self._process(key, output[0])
            return None if new is output[0] else (new, *output[1:])
        if not isinstance(output, Tensor):
            raise ModelError(f"{self._plans[key][0].site.name}: the module returned no tensor")
        new = self._process(key, output)
        return None if new is output else new

    def _process(self, key: Key, x: Tensor) -> Tensor:
        frame = self.frame
        if frame is None:
            raise ContextError("a block was called outside the model's own forward pass")
        frame = frame.tail(x.shape[1])
        for plan in self._plans[key]:
            if plan.site.kind == "hook_resid_mid" and (plan.edits or plan.before):
                x = self._edit_mid(plan, x, frame)
                continue
            for action in plan.before:
                action(x, frame)
            for action in plan.edits:
                x = action(x, frame)
            for action in plan.after:
                action(x, frame)
            if plan.keep and plan.site.block is not None:
                self._mid[plan.site.block] = x
            if self.stop is not None and plan.site == self.stop:
                self._finish_pass()
                raise Stopped
        return x

    def _edit_mid(self, plan: Plan, attn_out: Tensor, frame: Frame) -> Tensor:
        block = plan.site.block
        before = self._mid[block] if block is not None else attn_out
        mid = before + attn_out
        for action in plan.before:
            action(mid, frame)
        new = mid
        for action in plan.edits:
            new = action(new, frame)
        return attn_out if new is mid else attn_out + (new - mid)

    def _on_body_in(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        del module
        ids = kwargs.get("input_ids", args[0] if args else None)
        embeds = kwargs.get("inputs_embeds")
        ids = ids if isinstance(ids, Tensor) else None
        source = embeds if ids is None else ids
        if not isinstance(source, Tensor):
            raise ContextError("the model was called with neither input_ids nor inputs_embeds")
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0  # type: ignore[attr-defined]
        self._mid.clear()
        if self.announced is not None:
            self.frame = self.announced(ids, past, source.shape[1])
        else:
            mask = kwargs.get("attention_mask")
            self.frame = self._raw_frame(source, ids, past, mask)
        for context in self._contexts:
            context.start_pass(self.frame)

    def _raw_frame(self, source: Tensor, ids: Tensor | None, past: int, mask: object) -> Frame:
        """Describe a pass that the caller started on the Hugging Face model directly."""
        rows, width = source.shape[:2]
        if isinstance(mask, Tensor) and mask.ndim == 2:
            real = mask[:, -width:].bool().to(source.device)
        else:
            real = torch.ones(rows, width, dtype=torch.bool, device=source.device)
        if past == 0:
            self._refuse_ambiguous(ids)
            require_fits(real, self._layout.context_length)
            self._prompt_width = width
        self._last_ids = ids if past == 0 else None
        prompt_width = past if self._prompt_width is None else self._prompt_width
        return Frame(ids, real, prompt_tokens=min(max(prompt_width - past, 0), width))

    def _refuse_ambiguous(self, ids: Tensor | None) -> None:
        previous = self._last_ids
        if ids is None or previous is None or not any(c.steps_matter for c in self._contexts):
            return
        if ids.shape[0] != previous.shape[0] or ids.shape[1] != previous.shape[1] + 1:
            return
        if torch.equal(ids[:, :-1], previous):
            raise ContextError(
                "this pass repeats the last one plus one token and has no cache: prompt and "
                "generated tokens cannot be told apart; use run.generate(..., use_cache=False)"
            )

    def finish(self) -> None:
        """Forget the engine's pass, also where an interrupt kept torch from calling our hooks."""
        self.announced = self.stop = self.frame = None
        self._whole = False

    def _on_body_out(self, module: nn.Module, args: object, output: object) -> None:
        del module, args, output
        if not self._whole:
            self._finish_pass()

    def _on_whole_in(self, module: nn.Module, args: object) -> None:
        """The model with its head was called: the pass ends behind the head."""
        del module, args
        self._whole = True

    def _on_whole_out(self, module: nn.Module, args: object, output: object) -> None:
        del module, args
        self._whole = False
        if output is not None:  # None: the pass failed, and what it left is not to be kept
            self._finish_pass()

    def _finish_pass(self) -> None:
        frame, self.frame = self.frame, None
        if frame is not None:
            for context in self._contexts:
                context.end_pass(frame)


def _in_one_piece(module: nn.Module, args: tuple[object, ...]) -> tuple[object, ...] | None:
    """Gather the states of the last position before the head reads them.

    They come as a slice with gaps; torch then copies the whole unembedding once for each row.
    """
    del module
    if not args or not isinstance(args[0], Tensor) or args[0].is_contiguous():
        return None
    return (args[0].contiguous(), *args[1:])
