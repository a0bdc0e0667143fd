"""An artifact with a planted direction: blocks 4 to 9 of 12 carry it, the others carry noise."""

from __future__ import annotations

import torch

from artifacts import Artifact, DirectionInfo, MeasureInfo
from tests.artifacts import making

BLOCKS, D, N, N_FIT = tuple(range(12)), 48, 40, 64
BEST = 7
NAMES = ("did", "refusal", "refusal_base", "shift", "template_shift")


def strength(block: int) -> float:
    return 3.0 * max(0.0, 1 - abs(block - BEST) / 4)


def planted(*, signal: bool = True, seed: int = 0) -> Artifact:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {"ambient_norm": torch.linspace(5, 40, len(BLOCKS))}
    common = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0)
    directions = {}
    for index, name in enumerate(NAMES):
        size = 1.0 if signal and name in ("refusal", "did", "shift") else 0.0
        share = torch.tensor([size * strength(block) for block in BLOCKS])
        noise = torch.randn(len(BLOCKS), D, generator=generator) * 0.25
        tensors[f"direction/{name}"] = share[:, None] * common + noise
        groups = ("harmful", "harmless") if "refusal" in name else ("aligned", "base")
        for sign, group in zip((0.5, -0.5), groups, strict=True):
            spread = torch.randn(len(BLOCKS), N, generator=generator)
            tensors[f"projection/{name}/{group}"] = spread + sign * share[:, None] + index
        plus, minus = (tensors[f"projection/{name}/{group}"] for group in groups)
        auc = (plus[:, :, None] > minus[:, None, :]).float().mean(dim=(1, 2))
        tensors[f"measure/{name}/auc"] = interval(auc, 0.07)
        tensors[f"measure/{name}/auc_shuffled"] = interval(torch.full_like(auc, 0.5), 0.13)
        tensors[f"measure/{name}/auc_random"] = interval(torch.full_like(auc, 0.58), 0.1)
        tensors[f"measure/{name}/split_half_cosine"] = interval(share / 3.2 + 0.05, 0.08)
        directions[name] = making.info(
            blocks=BLOCKS,
            contrast=name,
            n={"harmful": N_FIT, "harmless": N_FIT},
            measures=measures(),
        )
    data = making.manifest().data
    manifest = making.manifest(
        base=making.model("planted:base", n_layers=12, d_model=D),
        aligned=making.model("planted:aligned", n_layers=12, d_model=D, adapter_digest="d" * 64),
        directions=directions,
        contrast=NAMES,
        data=data,
        notes=("Made by a test; the truth is known.",),
    )
    return Artifact(manifest=manifest, tensors=tensors)


def interval(value: torch.Tensor, width: float) -> torch.Tensor:
    low, high = (value - width).clamp(-1, 1), (value + width).clamp(-1, 1)
    return torch.stack([value, low, high], dim=1)


def measures() -> dict[str, MeasureInfo]:
    def about(what: str, n: int = 2 * N) -> MeasureInfo:
        return MeasureInfo(n=n, what=what, level=0.95)

    return {
        "auc": about("held-out AUC along the direction"),
        "auc_shuffled": about("held-out AUC of 199 fits with shuffled labels: mean and band"),
        "auc_random": about("max(AUC, 1-AUC) of 99 random directions: mean and band"),
        "split_half_cosine": about("cosine between fits on random halves", 2 * N_FIT),
    }


def without(artifact: Artifact, *prefixes: str) -> Artifact:
    """A copy that lacks tensors, with the measures of the manifest to match."""
    kept = {k: v for k, v in artifact.tensors.items() if not k.startswith(prefixes)}
    dropped = {prefix.split("/")[-1] for prefix in prefixes if prefix.startswith("measure/")}

    def fewer(info: DirectionInfo) -> DirectionInfo:
        left = {key: value for key, value in info.measures.items() if key not in dropped}
        return info.model_copy(update={"measures": left})

    kept = {k: v for k, v in kept.items() if k.split("/")[-1] not in dropped}
    directions = {name: fewer(info) for name, info in artifact.manifest.directions.items()}
    return Artifact(artifact.manifest.model_copy(update={"directions": directions}), kept)
