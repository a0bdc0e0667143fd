"""Site names, their order inside a forward pass, and patterns over them.

A site is TransformerLens' own hook name. Layer numbers are 0-based blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hooks.errors import SiteError

BLOCK_KINDS = (
    "hook_resid_pre",
    "ln1.hook_out",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
"""Kinds inside a block, in the order in which a sequential block computes them."""

EDGE_KINDS = ("hook_embed", "ln_final.hook_out", "unembed.hook_out")
"""Kinds outside the blocks."""

SITE_KINDS = (*EDGE_KINDS[:1], *BLOCK_KINDS, *EDGE_KINDS[1:])
"""Every site kind, in the order of the forward pass."""

_BLOCK = re.compile(r"blocks\.(\*|\d+|\d+-\d+)\.(.+)")


@dataclass(frozen=True, order=True)
class Site:
    """One named place in the forward pass; sites sort in the order of computation."""

    order: tuple[int, int]
    name: str
    kind: str
    block: int | None


def site(kind: str, block: int | None, n_layers: int) -> Site:
    """Build the site of ``kind`` at ``block`` (None for the kinds outside the blocks)."""
    if block is not None:
        return Site((block, BLOCK_KINDS.index(kind)), f"blocks.{block}.{kind}", kind, block)
    order = {"hook_embed": (-1, 0), "ln_final.hook_out": (n_layers, 0)}.get(kind, (n_layers, 1))
    return Site(order, kind, kind, None)


def expand_pattern(pattern: str, n_layers: int) -> tuple[Site, ...]:
    """Return the sites that ``pattern`` names, in the order of the forward pass.

    ``blocks.*.KIND``, ``blocks.10-20.KIND`` (both ends included), ``blocks.3.KIND`` or a kind
    outside the blocks; ``blocks.*`` alone means ``blocks.*.hook_resid_post``.

    Raises:
        SiteError: an unknown kind, or a layer that this model does not have.
    """
    if pattern in EDGE_KINDS:
        return (site(pattern, None, n_layers),)
    whole = pattern if pattern.count(".") > 1 else f"{pattern}.hook_resid_post"
    match = _BLOCK.fullmatch(whole)
    if match is None or match.group(2) not in BLOCK_KINDS:
        raise SiteError(
            f"{pattern!r} is not a site; kinds are blocks.L.{{{', '.join(BLOCK_KINDS)}}} and "
            f"{', '.join(EDGE_KINDS)}, with L a number, a range such as 10-20, or *"
        )
    layers = _layers(match.group(1), pattern, n_layers)
    return tuple(site(match.group(2), layer, n_layers) for layer in layers)


def _layers(text: str, pattern: str, n_layers: int) -> range:
    if text == "*":
        return range(n_layers)
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if high >= n_layers or low > high:
        raise SiteError(f"{pattern!r}: this model has blocks 0 to {n_layers - 1}")
    return range(low, high + 1)


def expand_all(patterns: str | Iterable[str], n_layers: int) -> tuple[Site, ...]:
    """Expand several patterns; sorted, and each site once.

    Raises:
        SiteError: no pattern was given, or one of them names nothing.
    """
    names: Sequence[str] = [patterns] if isinstance(patterns, str) else list(patterns)
    if not names:
        raise SiteError("no site was asked for; try 'blocks.*.hook_resid_post'")
    found = {item for name in names for item in expand_pattern(name, n_layers)}
    return tuple(sorted(found))
