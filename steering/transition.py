"""The gate of SCANS: how a state moves when the prompt is followed by an agreeable opener.

    a_l = h_l(last prompt token) - h_l(last token of prompt + opener)
    s   = mean over l in L of cos(a_l, d_l),   d_l = mean of a_l over harmful anchors
                                                    (Cao et al. 2024, section 3.3)

The original runs the prompt twice. Here the opener is a branch of the prompt's own cache, so it
costs its one or two tokens. A large s says that the model takes the opener as it does after
harmful anchors; it says nothing of what the model would answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from hooks import Capture, Encoded
from hooks.kv import KVState
from hooks.run import Run
from steering.errors import PolicyError


@dataclass(frozen=True, eq=False)
class Transition:
    """What the branch reads and when it counts as harmful."""

    opener: tuple[int, ...]
    """Token ids of the opener."""
    blocks: tuple[int, ...]
    """Blocks over which the cosine is averaged."""
    anchors: Float[Tensor, "block d"]
    """Mean transition of harmful anchors."""
    threshold: float

    def __post_init__(self) -> None:
        """Refuse a branch that reads nothing."""
        if not self.opener or not self.blocks or len(self.anchors) != len(self.blocks):
            raise PolicyError(
                f"transition: {len(self.opener)} opener tokens, {len(self.blocks)} blocks and "
                f"{len(self.anchors)} anchors; give an opener and one anchor for each block"
            )
        if not (math.isfinite(self.threshold) and torch.isfinite(self.anchors).all()):
            raise PolicyError("transition: threshold and anchors must be finite; fit them again")

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that the branch reads."""
        return tuple(f"blocks.{block}.hook_resid_post" for block in self.blocks)

    def score(self, moves: Float[Tensor, "row block d"]) -> Float[Tensor, "row"]:
        """Return the mean cosine of each row's moves with the anchors."""
        anchors = self.anchors.to(moves.dtype)
        cosines = torch.nn.functional.cosine_similarity(moves, anchors[None], dim=-1)
        return reduce(cosines, "row block -> row", "mean")

    def sign(self, score: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Return +1 where the score exceeds the threshold, else -1."""
        return torch.where(score > self.threshold, 1.0, -1.0)


class Branch:
    """An accumulator that keeps the states of one branch, and nothing outside of it."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        """Start closed."""
        self._sites = sites
        self._states: dict[str, Tensor] | None = None

    def update(
        self,
        site: str,
        values: Float[Tensor, "token *feature"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Take the states of one site, if a branch is open."""
        if self._states is None:
            return
        count = int(rows.max()) + 1
        order = torch.argsort(rows * (int(slots.max()) + 1) + slots)
        self._states[site] = values.float()[order].unflatten(0, (count, -1))

    @property
    def capture(self) -> Capture:
        """What to open the context with."""
        return Capture(self._sites, at="all", steps="generated", into=self)

    def read(
        self, state: KVState, ids: Int[Tensor, "row token"]
    ) -> Float[Tensor, "row token block d"]:
        """Append ``ids`` to a fork of ``state`` and return the states of every token."""
        self._states = {}
        try:
            state.fork().append(ids)
            return torch.stack([self._states[site] for site in self._sites], dim=2)
        finally:
            self._states = None


def moves(
    run: Run, branch: Branch, encoded: Encoded, opener: tuple[int, ...]
) -> tuple[KVState, Int[Tensor, "row 1"], Float[Tensor, "row block d"]]:
    """Read prompts but for their last token, and how the opener moves their state.

    Returns:
        The state before the last prompt token, that token, and the transition.

    Raises:
        PolicyError: a prompt of a single token, which leaves nothing to branch from.
    """
    if min(encoded.lengths) < 2:
        row = encoded.lengths.index(min(encoded.lengths))
        raise PolicyError(f"prompt {row} has one token: the SCANS gate needs two at least")
    state = run.prefill(Encoded.from_ids([ids[:-1] for ids in encoded.ids]))
    last = torch.tensor([[ids[-1]] for ids in encoded.ids])
    more = torch.tensor(opener)[None].expand(len(last), -1)
    states = branch.read(state, torch.cat([last, more], dim=1))
    return state, last, states[:, 0] - states[:, -1]
