"""What a reader must be told: a probe that reads its source and not the class."""

from __future__ import annotations

from probes.crossing import Matrix
from probes.labels import Labels

HIGH = 0.8
"""Within a source the class counts as read where the interval's lower end reaches this."""
CHANCE = 0.6
"""Across sources a probe counts as lost where its AUC is no more, or its interval has 0.5."""


def lost_pairs(matrix: Matrix, row: int) -> list[tuple[int, int]]:
    """Return the pairs (fitted, tested) where both sources are readable, but not by one probe.

    Both diagonal intervals start at ``HIGH`` or above, while the AUC from the one to the other is
    at most ``CHANCE`` or has an interval that includes 0.5.
    """
    auc, k = matrix.auc, matrix.k
    readable = [s for s in range(k) if auc.low[s, s, row] >= HIGH]
    return [
        (s, t)
        for s in readable
        for t in readable
        if s != t and (auc.value[s, t, row] <= CHANCE or auc.low[s, t, row] <= 0.5)
    ]


def transfer_warnings(
    name: str, matrix: Matrix, labels: Labels, blocks: tuple[int, ...]
) -> tuple[str, ...]:
    """Say where a probe reads its own source well and another one at chance.

    Looks at the block that transfers best and at the one that the AUC within sources would choose.
    """
    if not labels.crossed:
        return (
            f"{name}: one source only, so it cannot be told whether the probe reads the class or "
            "the source; give a second source",
        )
    best, naive = matrix.best(), int(matrix.within().argmax())
    found = [_sentence(name, matrix, labels, best, f"block {blocks[best]}, which transfers best")]
    if naive != best:
        where = f"block {blocks[naive]}, which is best within sources"
        found.append(_sentence(name, matrix, labels, naive, where))
    return tuple(text for text in found if text)


def _sentence(name: str, matrix: Matrix, labels: Labels, row: int, where: str) -> str:
    pairs = lost_pairs(matrix, row)
    if not pairs:
        return ""
    auc = matrix.auc
    said = "; ".join(
        f"fitted on {labels.names[s]} AUC {auc.value[s, s, row]:.3f} there, but "
        f"{auc.value[s, t, row]:.3f} [{auc.low[s, t, row]:.2f}, {auc.high[s, t, row]:.2f}] on "
        f"{labels.names[t]}"
        for s, t in pairs
    )
    return (
        f"{name} at {where}: within-source AUC is high and cross-source is chance: {said}; it may "
        "read the source and not the class"
    )
