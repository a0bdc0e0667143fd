"""What each row of a batch gets of a policy's terms: read at the gates, or given beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooks import Add, Capture
from hooks.interventions import unit
from steering.policy import SITE, Policy

Shares = dict[str, Float[Tensor, "row"]]
"""What each row gets of every gated term, by the term's name."""


def gate_sites(policy: Policy) -> tuple[str, ...]:
    """Return the sites that the policy's gates read, each once."""
    blocks = sorted({term.gate.block for term in policy.terms if term.gate is not None})
    return tuple(f"blocks.{block}.{SITE}" for block in blocks)


class LastStates:
    """Keep one state of each row and site; a batch that is read again takes the older one's place.

    That happens where memory ran out and the batch was halved.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[str, dict[int, Tensor]] = {}

    def update(
        self,
        site: str,
        values: Float[Tensor, "token *feature"],
        rows: Int[Tensor, "token"],
        slots: Int[Tensor, "token"],
    ) -> None:
        """Take the states of one site from one forward pass."""
        del slots
        known = self._rows.setdefault(site, {})
        known.update(zip(rows.tolist(), values.float(), strict=True))

    def __getitem__(self, site: str) -> Float[Tensor, "row d"]:
        """Return the states of a site in the order of the rows."""
        return torch.stack([state for _, state in sorted(self._rows[site].items())])


def reading(policy: Policy) -> tuple[LastStates, tuple[Capture, ...]]:
    """Return where the states go that the policy's gates read, and what captures them."""
    states, sites = LastStates(), gate_sites(policy)
    return states, (Capture(sites, at="last", steps="prompt", into=states),) if sites else ()


def shares_of(policy: Policy, states: LastStates) -> Shares:
    """Return what every gated term's law makes of captured last-token states."""
    found: Shares = {}
    for term in policy.terms:
        if term.gate is not None:
            rows = states[f"blocks.{term.gate.block}.{SITE}"]
            # As the registry's gate does it, so that both ways give the same bits.
            direction = unit(term.gate.direction, "Gate")
            found[term.name] = term.gate.law((rows.float() * direction).sum(-1))
    return found


def given_shares(policy: Policy, shares: Mapping[str, Float[Tensor, "row"]]) -> tuple[Add, ...]:
    """Return the policy's additions with a fixed share for each row in place of gates."""
    found: list[Add] = []
    for term in policy.terms:
        for edit in replace(term, gate=None).edits():
            if isinstance(edit, Add):
                scale = shares.get(term.name, edit.scale)
                found.append(replace(edit, scale=scale))
    return tuple(found)
