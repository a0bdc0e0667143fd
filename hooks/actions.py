"""Captures and interventions compiled for the sites of one model."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from hooks.capture import Capture
from hooks.errors import EditContractError, EditError
from hooks.gates import Gate
from hooks.interventions import Add, Apply, Intervention
from hooks.layout import Tap
from hooks.positions import Frame
from hooks.protocols import Stage
from hooks.storage import PassStore


class CaptureAction:
    """Pick the wanted tokens at one site and hold them until the pass has ended."""

    def __init__(self, capture: Capture, tap: Tap, store: PassStore) -> None:
        """Bind ``capture`` to one site."""
        self.capture = capture
        self.tap = tap
        self._store = store
        self.stage: Stage = capture.when
        self.calls = 0
        self._held: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, frame: Frame) -> Tensor:
        """Hold the wanted tokens of ``x``; returns ``x`` itself."""
        picked = frame.pick(self.capture.at, self.capture.steps)
        if picked is None:
            return x
        self.calls += 1
        rows, tokens, slots = picked
        states = self._store.keep(x[rows, tokens].detach())
        if self.tap.heads is not None:
            states = rearrange(states, "token (head d) -> token head d", head=self.tap.heads)
        self._held = (states, rows, slots)
        return x

    def discard(self) -> None:
        """Forget what a pass that failed has left."""
        self._held = None
        self._store.clear()

    def flush(self, frame: Frame) -> None:
        """Hand the held states to the accumulator."""
        if self._held is None:
            return
        states, rows, slots = self._held
        self._held = None
        names = frame.rows if frame.rows is not None else torch.arange(frame.batch)
        self.capture.into.update(
            self.tap.site.name, states.cpu(), names.cpu()[rows.cpu()], slots.cpu()
        )


class GateAction:
    """Read the score of a gate and keep the strength of each row."""

    stage: Stage = "after"

    def __init__(self, gate: Gate, tap: Tap) -> None:
        """Bind ``gate`` to the site it reads.

        Raises:
            EditError: its direction does not fit the site.
        """
        width = tap.width * (tap.heads or 1)
        if gate.direction.shape != (width,):
            raise EditError(
                f"Gate at {tap.site.name}: the direction has shape {tuple(gate.direction.shape)}, "
                f"the site has width {width}; nothing is broadcast"
            )
        self.gate = gate
        self.tap = tap
        self.calls = 0
        self._strength: Float[Tensor, "row"] | None = None
        self._shut: bool | None = None

    @property
    def strength(self) -> Float[Tensor, "row"] | None:
        """What each row of the batch at hand gets; None before its prompts were read."""
        return self._strength

    @strength.setter
    def strength(self, value: Float[Tensor, "row"] | None) -> None:
        self._strength, self._shut = value, None

    def shuts(self, rows: int) -> bool:
        """True where it was read for a batch of ``rows`` and every one of them gets exactly 0."""
        if self._strength is None or len(self._strength) != rows:
            return False
        if self._shut is None:
            self._shut = not bool(self._strength.any())
        return self._shut

    def __call__(self, x: Tensor, frame: Frame) -> Tensor:
        """Decide where this pass holds the last prompt token; returns ``x`` itself."""
        if frame.prompt_tokens == 0 or frame.prefix:
            return x
        self.calls += 1
        last = frame.chosen("last", "prompt")
        score = (x[last].float() * self.gate.direction.to(x.device)).sum(-1)
        strength = self.gate.strength(score)
        if strength.shape != score.shape or not torch.isfinite(strength).all():
            raise EditContractError(
                f"gate at {self.tap.site.name}: strength must be finite, one number for each of "
                f"{len(score)} rows; got {tuple(strength.shape)}"
            )
        self.strength = strength
        return x


class EditAction:
    """Carry out one intervention at one site, and hold it to its contract."""

    stage: Stage = "edit"

    def __init__(self, edit: Intervention, tap: Tap, gate: GateAction | None = None) -> None:
        """Bind ``edit`` to one site.

        Raises:
            EditError: its width or heads do not fit the site.
        """
        self.edit = edit
        self.tap = tap
        self.gate = gate
        self.calls = 0
        self._tensors = edit.parts()
        self._per_row = edit.per_row
        self._memo: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        self._steps: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._check_fit()

    def _check_fit(self) -> None:
        name, width = self.tap.site.name, self.edit.width()
        if width is not None and width != self.tap.width:
            raise EditError(
                f"{type(self.edit).__name__} at {name}: the direction has width {width}, the site "
                f"has {self.tap.width}; nothing is broadcast"
            )
        heads = self.edit.heads
        if heads is None:
            return
        if self.tap.heads is None:
            raise EditError(f"{name} has no head axis; use blocks.L.attn.hook_z with heads=...")
        if not heads or min(heads) < 0 or max(heads) >= self.tap.heads:
            raise EditError(
                f"{name}: heads {heads}; this model has heads 0 to {self.tap.heads - 1}"
            )

    def __call__(self, x: Tensor, frame: Frame) -> Tensor:
        """Return the edited states, a new tensor."""
        rule, steps = self.edit.positions, self.edit.steps
        if steps == "prompt" and frame.prompt_tokens == 0:
            return x  # without building a mask: this is every step of a long answer
        everywhere = frame.takes_all(rule, steps)
        wanted = None if everywhere else frame.chosen(rule, steps)
        if wanted is not None and not wanted.any():
            return x
        self.calls += 1
        if self.gate is not None and self.gate.shuts(frame.batch):
            return x  # x + 0 (e(x) - x)
        state = x
        if self.tap.heads is not None:
            state = rearrange(x, "row token (head d) -> row token head d", head=self.tap.heads)
        new = self._blend(state, self._edited(state, frame), wanted)
        self._check_contract(state, new)
        return rearrange(new, "row token head d -> row token (head d)") if new.ndim == 4 else new

    def _edited(self, state: Tensor, frame: Frame) -> Tensor:
        if isinstance(self.edit, Apply):
            version = None if state.is_inference() else state._version
            new = self.edit.edit(state, {})
            self._check_contract(state, new)
            if version is not None and state._version != version:
                raise EditContractError(
                    f"Apply at {self.tap.site.name}: edited in place; return a new tensor"
                )
            if self.gate is None:
                return new
            share = self._strength(state.dtype, state.ndim, frame)
            return (state + share * (new - state)).to(state.dtype)
        if isinstance(self.edit, Add) and not torch.is_grad_enabled():
            return self._plus(state, frame)
        wide = state.float() if state.dtype in (torch.bfloat16, torch.float16) else state
        new = self.edit.edit(wide, self._parts((wide.device, wide.dtype), wide.ndim, frame))
        if self.gate is not None:
            new = wide + self._strength(wide.dtype, wide.ndim, frame) * (new - wide)
        return new.to(state.dtype)

    def _plus(self, state: Tensor, frame: Frame) -> Tensor:
        """Return x + s c v in one sum: every token of a steered answer pays for it.

        torch adds in the wider type and rounds once, as ``x.float() + s c v`` cast back would.
        """
        kind = (state.device, torch.promote_types(state.dtype, torch.float32))
        step = self._steps.get(kind)
        if step is None:
            parts = self._parts(kind, state.ndim, frame)
            step = parts["scale"] * parts["direction"]
            if not self._per_row:
                self._steps[kind] = step
        if self.gate is not None:
            step = self._strength(kind[1], state.ndim, frame) * step
        return torch.add(state, step, out=torch.empty_like(state))

    def _strength(self, dtype: torch.dtype, ndim: int, frame: Frame) -> Tensor:
        strength = None if self.gate is None else self.gate.strength
        if strength is None or len(strength) != frame.batch:
            raise EditError(f"{self.tap.site.name}: its gate has not read this batch's prompts")
        return _over_tokens(strength.to(dtype), ndim)

    def _parts(
        self, kind: tuple[torch.device, torch.dtype], ndim: int, frame: Frame
    ) -> dict[str, Tensor]:
        if kind not in self._memo:
            self._memo[kind] = {
                name: tensor.to(*kind) for name, (tensor, _) in self._tensors.items()
            }
        parts = self._memo[kind]
        if not self._per_row:
            return parts
        return {
            name: self._rows(part, self._tensors[name][1], ndim, frame, name)
            for name, part in parts.items()
        }

    def _rows(self, part: Tensor, axes: int, ndim: int, frame: Frame, name: str) -> Tensor:
        if part.ndim == axes:
            return part
        given, what = frame.batch if frame.total is None else frame.total, "prompts"
        places = frame.rows
        if frame.copies is not None:
            given, places, what = frame.copies, frame.copy, "copies"
        if len(part) != given:
            raise EditError(
                f"{type(self.edit).__name__} at {self.tap.site.name}: {name} has {len(part)} rows, "
                f"{given} {what} were given"
            )
        if places is not None:
            part = part[places.to(part.device)]
        return part if axes == 2 else _over_tokens(part, ndim)

    def _blend(
        self, state: Tensor, new: Tensor, wanted: Bool[Tensor, "row token"] | None
    ) -> Tensor:
        """Keep ``state`` at the tokens and heads that are not meant."""
        if wanted is not None:
            mask = wanted[..., None] if state.ndim == 3 else wanted[..., None, None]
            new = torch.where(mask, new, state)
        if self.edit.heads is not None:
            chosen = torch.zeros(state.shape[2], dtype=torch.bool, device=state.device)
            chosen[list(self.edit.heads)] = True
            new = torch.where(chosen[:, None], new, state)
        return new

    def _check_contract(self, old: Tensor, new: Tensor) -> None:
        name = f"{type(self.edit).__name__} at {self.tap.site.name}"
        if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
            got = (
                f"{new.dtype} {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
            )
            raise EditContractError(
                f"{name}: returned {got}; expected {old.dtype} {tuple(old.shape)}"
            )
        if new is old or (new.data_ptr() == old.data_ptr() and new.numel()):
            raise EditContractError(f"{name}: edited in place; return a new tensor")
        # A number that is not finite makes the sum so: one pass over the state, not four.
        if math.isfinite(float(new.detach().sum())):
            return
        bad = ~torch.isfinite(new)
        # A padding token may already be non-finite; the edit is not to blame for it.
        if bad.any() and (bad & torch.isfinite(old)).any():
            raise EditContractError(f"{name}: returned a number that is not finite")


def _over_tokens(part: Tensor, ndim: int) -> Tensor:
    """Give a [row] or [row, d] tensor the axes of [row, token, (head,) d] states."""
    if part.ndim == 1:
        return part[(...,) + (None,) * (ndim - 1)]
    return rearrange(part, "row d -> row 1 d" if ndim == 3 else "row d -> row 1 1 d")
