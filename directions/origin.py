"""The passes of a localisation: base, aligned, and aligned on the base's own inputs.

    total  = c(aligned) - c(base)
    origin = c(aligned weights, base inputs) - c(base),      echo = total - origin

In the third pass every block's input is overwritten with the base's, at all tokens, and what
attention added with what it added in the base, so that each head and each MLP of the aligned model
reads exactly what it reads in the base. Only scalars are kept: one for each prompt, head and side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm.auto import tqdm

from artifacts.errors import InputError
from directions.contributions import (
    LAST_SITES,
    Added,
    Change,
    LinearNorm,
    Readout,
    added,
    readouts,
    refusal_logit,
)
from directions.overwrite import ENGINE, Overwrite, PaddedStates, groups_of
from hooks import Capture, Encoded, Intervention, Model, Rows

Part = Literal["total", "origin", "echo"]
PARTS: tuple[Part, ...] = ("total", "origin", "echo")
Side = Literal["base", "aligned"]
SIDES: tuple[Side, ...] = ("base", "aligned")
_Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_GAP = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True, eq=False)
class Plan:
    """Along what to read: one direction a block, random ones beside it, refusal tokens or none."""

    along: Float64[Tensor, "block d"]
    """Unit directions; zero where there is none."""
    random: Float64[Tensor, "k d"]
    """Unit directions, the same for all blocks: the control, and the scale of a post-norm."""
    refusal: tuple[int, ...] | None = None
    """Ids of the refusal tokens."""
    weights: Float64[np.ndarray, "n"] | None = None
    """Of the prompts in the means along random directions; by default equal."""


@dataclass(frozen=True, eq=False)
class Scalars:
    """Everything that is kept of the passes; n prompts, last token, stream units."""

    heads: dict[Part, Float64[np.ndarray, "n block head"]]
    mlps: dict[Part, Float64[np.ndarray, "n block"]]
    bias: Float64[np.ndarray, "n block"]
    """Change of what the projection's bias adds."""
    rescaling: Float64[np.ndarray, "n block"]
    """Change by a post-norm's scale, which no head owns; zero without one."""
    direct_heads: dict[Side, Float64[np.ndarray, "n block head"]]
    """What each model's heads add along the direction."""
    direct_mlps: dict[Side, Float64[np.ndarray, "n block"]]
    logit_heads: dict[Side, Float64[np.ndarray, "n block head"]]
    """What they add to the refusal tokens' logit; empty without tokens."""
    logit_mlps: dict[Side, Float64[np.ndarray, "n block"]]
    random_heads: Float64[np.ndarray, "block head k"]
    """Mean aligned-minus-base contribution along each random direction."""
    random_mlps: Float64[np.ndarray, "block k"]
    stream: Float64[np.ndarray, "block"]
    """Mean norm of the base's block input: what rounding is measured by."""
    gap: float
    """Largest relative error of: contributions sum to what attention added."""
    stats: dict[str, float]


def measure(
    base: Model, aligned: Model, encoded: Encoded, plan: Plan, *, progress: bool = False
) -> Scalars:
    """Run the three passes and read every head and MLP along the plan's directions.

    Raises:
        InputError: contributions that are not finite or do not sum to what a block adds, or
            directions that do not fit the models.
        SiteError: a family that does not serve the sites.
    """
    if base.n_heads != aligned.n_heads:
        raise InputError(
            f"{base.spec} has {base.n_heads} heads a block, {aligned.spec} has {aligned.n_heads}: "
            "they cannot be compared head by head"
        )
    of_base, of_aligned = _Reader(base, plan), _Reader(aligned, plan)
    kept = _Kept(len(encoded), base.n_layers, base.n_heads, plan)
    bar = tqdm(total=len(encoded), unit="prompt", disable=not progress, leave=False)
    with bar:
        for rows in groups_of(encoded, 2 * base.n_layers * base.d_model * 4):
            part = encoded.select(rows)
            states = PaddedStates(part)
            seen = of_base.read(_pass(base, part, kept, keep=states))
            kept.stream += _norms(states, base.n_layers)
            after = of_aligned.read(_pass(aligned, part, kept))
            swapped = of_aligned.read(_pass(aligned, part, kept, given=states))
            kept.put(rows, seen, after, swapped)
            bar.update(len(rows))
    return kept.result(max(_GAP.get(model.dtype, 5e-2) for model in (base, aligned)))


def _pass(
    model: Model,
    part: Encoded,
    kept: _Kept,
    *,
    keep: PaddedStates | None = None,
    given: PaddedStates | None = None,
) -> Rows:
    """Run one side on some prompts; ``given`` states of the base are what each block reads."""
    rows = Rows()
    sites = [*LAST_SITES]
    edits: list[Intervention] = []
    if given is None:
        sites += [f"blocks.{model.n_layers - 1}.hook_resid_post", "ln_final.hook_out"]
    else:
        names = _read_sites(model)
        edits = [Overwrite(given[name], name) for name in names]
    # Before the edit: what the aligned weights add, not what stands in its place.
    captures = [Capture(sites, into=rows, when="before")]
    if keep is not None:
        captures.append(Capture(_read_sites(model), at="all", into=keep))
    with model.hooks(capture=captures, edits=edits, options=ENGINE) as run:
        run.forward(part)
        for name, value in run.stats.as_dict().items():
            kept.stats[name] = kept.stats.get(name, 0.0) + float(value)
    return rows


def _read_sites(model: Model) -> tuple[str, ...]:
    """Return the sites that fix what every head and MLP reads."""
    # Where attention and MLP run side by side, both read the block's input and nothing else.
    kinds = ("hook_resid_pre",) if model.layout.parallel else ("hook_resid_pre", "hook_attn_out")
    return model.sites([f"blocks.*.{kind}" for kind in kinds])


def _norms(states: PaddedStates, n_layers: int) -> Float64[np.ndarray, "block"]:
    last = [states[f"blocks.{block}.hook_resid_pre"][:, -1] for block in range(n_layers)]
    return np.array([float(part.double().norm(dim=-1).sum()) for part in last])


@dataclass(frozen=True, eq=False)
class _Seen:
    """One side of some prompts, block by block."""

    blocks: list[Added]
    scale: Float64[Tensor, "n"] | None
    """Of the final norm."""


class _Reader:
    """Turns the captured states of one model into coordinates."""

    def __init__(self, model: Model, plan: Plan) -> None:
        self._norm: LinearNorm | None = None
        logit = torch.zeros(model.d_model, dtype=torch.float64)
        if plan.refusal is not None:
            self._norm, direction = refusal_logit(model, plan.refusal)
            logit = self._norm.pull(direction)
        fixed = [logit[None], plan.random]
        sets = [torch.cat([row[None], *fixed]) for row in plan.along]
        self._readouts: tuple[Readout, ...] = readouts(model, torch.stack(sets))

    def read(self, rows: Rows) -> _Seen:
        """Return what every block added, and the scale of the final norm where it was read."""
        blocks = [
            added(readout, *(_rows(rows, block, site) for site in LAST_SITES))
            for block, readout in enumerate(self._readouts)
        ]
        if self._norm is None or "ln_final.hook_out" not in rows.sites:
            return _Seen(blocks, None)
        last = _rows(rows, len(blocks) - 1, "blocks.*.hook_resid_post").double()
        final = _tensor(rows["ln_final.hook_out"]).double()
        return _Seen(blocks, self._norm.scale(last, final))


def _rows(rows: Rows, block: int, site: str) -> Tensor:
    return _tensor(rows[site.replace("*", str(block))])


def _tensor(found: Tensor | list[Tensor]) -> Tensor:
    if not isinstance(found, Tensor):
        raise TypeError("one token a prompt was asked for")
    return found


class _Kept:
    """Scalars as they come in."""

    def __init__(self, n: int, n_layers: int, n_heads: int, plan: Plan) -> None:
        heads, mlps, k = (n, n_layers, n_heads), (n, n_layers), len(plan.random)
        self.heads: dict[Part, _Numbers] = {part: np.zeros(heads) for part in PARTS}
        self.mlps: dict[Part, _Numbers] = {part: np.zeros(mlps) for part in PARTS}
        self.bias, self.rescaling = np.zeros(mlps), np.zeros(mlps)
        self.direct_heads: dict[Side, _Numbers] = {side: np.zeros(heads) for side in SIDES}
        self.direct_mlps: dict[Side, _Numbers] = {side: np.zeros(mlps) for side in SIDES}
        sides: tuple[Side, ...] = SIDES if plan.refusal is not None else ()
        self.logit_heads: dict[Side, _Numbers] = {side: np.zeros(heads) for side in sides}
        self.logit_mlps: dict[Side, _Numbers] = {side: np.zeros(mlps) for side in sides}
        self.random_heads = np.zeros((n_layers, n_heads, k))
        self.random_mlps = np.zeros((n_layers, k))
        self.stream = np.zeros(n_layers)
        self.gap = 0.0
        self.stats: dict[str, float] = {}
        self._weights = np.full(n, 1 / n) if plan.weights is None else plan.weights

    def put(self, rows: list[int], base: _Seen, aligned: _Seen, swapped: _Seen) -> None:
        """Take what the three passes over some prompts gave."""
        for block, found in enumerate(
            zip(base.blocks, aligned.blocks, swapped.blocks, strict=True)
        ):
            before, after, origin = found
            for name, side in (("base", before), ("aligned", after), ("origin", origin)):
                _require_finite(side, name, block)
                self.gap = max(self.gap, side.gap())
            total, own = Change.between(before, after), Change.between(before, origin)
            self._changes(rows, block, total, own)
            weights = self._weights[rows]
            self.random_heads[block] += np.einsum("n,nhk->hk", weights, total.heads[:, :, 2:])
            self.random_mlps[block] += weights @ total.mlp[:, 2:].numpy()
        for side, seen in zip(SIDES, (base, aligned), strict=True):
            self._direct(rows, side, seen)

    def _changes(self, rows: list[int], block: int, total: Change, own: Change) -> None:
        for kept, name in ((self.heads, "heads"), (self.mlps, "mlp")):
            whole, first = (getattr(change, name)[..., 0].numpy() for change in (total, own))
            for part, value in zip(PARTS, (whole, first, whole - first), strict=True):
                kept[part][rows, block] = value
        self.bias[rows, block] = total.bias[:, 0].numpy()
        self.rescaling[rows, block] = total.rescaling[:, 0].numpy()

    def _direct(self, rows: list[int], side: Side, seen: _Seen) -> None:
        for block, found in enumerate(seen.blocks):
            heads, mlp = found.heads, found.mlp
            self.direct_heads[side][rows, block] = heads[:, :, 0].numpy()
            self.direct_mlps[side][rows, block] = mlp[:, 0].numpy()
            if seen.scale is not None and side in self.logit_heads:
                scaled = heads[:, :, 1] * seen.scale[:, None]
                self.logit_heads[side][rows, block] = scaled.numpy()
                self.logit_mlps[side][rows, block] = (mlp[:, 1] * seen.scale).numpy()

    def result(self, tolerance: float) -> Scalars:
        """Return the scalars.

        Raises:
            InputError: the contributions do not sum to what the blocks add.
        """
        if not self.gap <= tolerance:
            raise InputError(
                f"contributions of heads and bias miss what attention adds by {self.gap:.2g} "
                f"(at most {tolerance:g}): this family's output is not linear in its heads"
            )
        n = len(self.bias)
        return Scalars(
            heads=self.heads,
            mlps=self.mlps,
            bias=self.bias,
            rescaling=self.rescaling,
            direct_heads=self.direct_heads,
            direct_mlps=self.direct_mlps,
            logit_heads=self.logit_heads,
            logit_mlps=self.logit_mlps,
            random_heads=self.random_heads,
            random_mlps=self.random_mlps,
            stream=self.stream / n,
            gap=self.gap,
            stats=self.stats,
        )


def _require_finite(found: Added, side: str, block: int) -> None:
    for what, part in (("heads", found.heads), ("MLP", found.mlp)):
        bad = int((~torch.isfinite(part)).sum())
        if bad:
            raise InputError(
                f"block {block}, {what} of the {side} pass: {bad} contributions are not finite; "
                "look for overflow, try --dtype float32"
            )
