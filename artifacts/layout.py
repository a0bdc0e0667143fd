"""Which tensors an artifact may hold, and how their shapes follow from the manifest.

Checked on save and on load. A file that passes has finite numbers, no direction of norm zero, a
row for every block, an interval for every measure. It does not show that the numbers are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from artifacts.digest import DTYPES, Tensors
from artifacts.errors import ArtifactError, InputError
from artifacts.manifest import DirectionInfo, Manifest, ModelInfo
from artifacts.names import check_name


@dataclass(frozen=True)
class Family:
    """A group of keys ``family/part/part...`` with a common meaning."""

    parts: tuple[int, int]
    """Fewest and most parts after the family name."""
    ranks: tuple[int, ...]
    """Allowed numbers of axes; empty means any."""
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)


_ANY = tuple(DTYPES)

FAMILIES: Mapping[str, Family] = {
    "direction": Family((1, 1), (2,)),
    "component": Family((1, 1), (3,)),
    "singular_values": Family((1, 1), (2,)),
    "measure": Family((2, 2), (2,)),
    "projection": Family((2, 2), (2,)),
    "mean": Family((2, 4), (2,)),
    "ambient_norm": Family((0, 2), (1,)),
    "base_norm": Family((0, 2), (1,)),
    "rows": Family((2, 4), (3,)),
    "second": Family((1, 3), (3,), (torch.float32, torch.float64)),
    "score": Family((1, 3), (1, 2)),
    "score_low": Family((1, 3), (1, 2)),
    "score_high": Family((1, 3), (1, 2)),
    "p_value": Family((1, 3), (1, 2)),
    "probe": Family((2, 2), (1, 2)),
    "adasteer": Family((1, 8), (), _ANY),
}

_STREAM_SITES = frozenset(
    {
        "hook_embed",
        "hook_resid_pre",
        "ln1.hook_out",
        "hook_attn_out",
        "hook_resid_mid",
        "hook_mlp_out",
        "hook_resid_post",
    }
)

_PROBE_RANKS = {"weight": 2, "bias": 1, "mean": 2, "scale": 2}


def check_layout(manifest: Manifest, tensors: Tensors) -> None:
    """Refuse tensors that do not fit the manifest.

    Args:
        manifest: the statement.
        tensors: the tensors by key.

    Raises:
        ArtifactError: for an unknown key family, a wrong dtype or shape, a missing or unannounced
            direction or measure, a non-finite value, or a direction row of norm zero. The message
            names the key, for directions also the block and the number of bad values.
    """
    for key in sorted(tensors):
        _check_key(key, tensors[key])
    for name, info in sorted(manifest.directions.items()):
        _check_direction(name, info, manifest, tensors)
        _check_dependents(name, info, tensors)
        _check_measures(name, info, tensors)
    _check_announced(manifest, tensors)
    _check_shared_rows(manifest, tensors)
    _check_scores(tensors)
    for key in sorted(tensors):
        _check_finite(key, tensors[key])


def check_entry(key: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse a tensor by its key, safetensors dtype name and shape, before its bytes are read.

    Raises:
        ArtifactError: if the family, the dtype, the number of axes or an empty axis rules it out.
    """
    family = _family(key)
    names = [DTYPES[dtype_][0] for dtype_ in family.dtypes]
    if dtype not in names:
        raise ArtifactError(f"tensor {key}: dtype {dtype}; it must be {' or '.join(names)}")
    if family.ranks and len(shape) not in family.ranks:
        wanted = " or ".join(str(rank) for rank in family.ranks)
        raise ArtifactError(f"tensor {key}: shape {list(shape)}; it must have {wanted} axes")
    if 0 in shape:
        raise ArtifactError(f"tensor {key}: shape {list(shape)} holds nothing; leave the key out")


def _family(key: str) -> Family:
    head, *parts = key.split("/")
    family = FAMILIES.get(head)
    if family is None or not family.parts[0] <= len(parts) <= family.parts[1]:
        raise ArtifactError(
            f"tensor key {key[:200]!a} belongs to no known family; known: {', '.join(FAMILIES)} "
            "with the levels of docs/artifact-format.md"
        )
    try:
        for part in parts:
            check_name(part, what=f"part of tensor key {key[:200]!a}")
    except InputError as error:
        raise ArtifactError(str(error)) from error
    return family


def _check_key(key: str, tensor: Tensor) -> None:
    known = DTYPES.get(tensor.dtype)
    check_entry(key, str(tensor.dtype) if known is None else known[0], tuple(tensor.shape))


def _check_direction(name: str, info: DirectionInfo, manifest: Manifest, tensors: Tensors) -> None:
    direction = tensors.get(f"direction/{name}")
    if direction is None:
        raise ArtifactError(
            f"direction {name}: in the manifest, but tensor direction/{name} is not"
        )
    _want(f"direction/{name}", direction, 0, len(info.blocks), "one row for each block")
    model = manifest.aligned or manifest.base
    if model is not None:
        if info.blocks[-1] >= model.n_layers:
            raise ArtifactError(
                f"direction {name}: block {info.blocks[-1]}, but the model has {model.n_layers} "
                f"blocks (0-{model.n_layers - 1})"
            )
        width = _width(info.site, model)
        if width is not None:
            _want(f"direction/{name}", direction, 1, width, f"the width of {info.site}")
    _check_norms(name, info, direction)


def _width(site: str, model: ModelInfo) -> int | None:
    if site in _STREAM_SITES:
        return model.d_model
    if site == "attn.hook_z":
        return model.n_heads * model.d_head
    return model.d_mlp if site == "mlp.hook_post" else None


def _check_norms(name: str, info: DirectionInfo, direction: Tensor) -> None:
    bad = ~torch.isfinite(direction)
    for row, block in enumerate(info.blocks):
        if bad[row].any():
            raise ArtifactError(
                f"direction {name}, block {block}: {int(bad[row].sum())} of {direction.shape[1]} "
                "values are not finite; look for overflow in the model's dtype"
            )
    norms: list[float] = (direction.double().square().sum(dim=-1).sqrt()).numpy().tolist()
    zero = [block for block, norm in zip(info.blocks, norms, strict=True) if norm == 0]
    if zero:
        raise ArtifactError(
            f"direction {name}, block {zero[0]}: norm is zero ({len(zero)} of {len(info.blocks)} "
            "rows); the two classes have equal means there, so leave those blocks out"
        )
    if info.norm == "unit" and max(abs(norm - 1) for norm in norms) > 1e-3:
        raise ArtifactError(
            f"direction {name}: norm is 'unit' in the manifest, but rows have norms "
            f"{min(norms):.4g} to {max(norms):.4g}"
        )


def _check_dependents(name: str, info: DirectionInfo, tensors: Tensors) -> None:
    width = tensors[f"direction/{name}"].shape[1]
    for family in ("component", "singular_values"):
        tensor = tensors.get(f"{family}/{name}")
        if tensor is not None:
            _want(f"{family}/{name}", tensor, 0, len(info.blocks), "one row for each block")
            if family == "component":
                _want(f"{family}/{name}", tensor, 2, width, "the width of the direction")
    for key in tensors:
        if key.startswith(f"projection/{name}/"):
            _want(key, tensors[key], 0, len(info.blocks), "one row for each block")


def _check_measures(name: str, info: DirectionInfo, tensors: Tensors) -> None:
    for measure in sorted(info.measures):
        key = f"measure/{name}/{measure}"
        tensor = tensors.get(key)
        if tensor is None:
            raise ArtifactError(f"direction {name}: measure {measure} has no tensor {key}")
        _want(key, tensor, 0, len(info.blocks), "one row for each block")
        _want(key, tensor, 1, 3, "value, low, high")
        crossed = int((tensor[:, 1] > tensor[:, 2]).sum())
        if crossed:
            raise ArtifactError(f"tensor {key}: low is above high in {crossed} rows")


def _check_announced(manifest: Manifest, tensors: Tensors) -> None:
    for key in sorted(tensors):
        family, _, rest = key.partition("/")
        name, _, last = rest.partition("/")
        if family in ("direction", "measure", "projection") and name not in manifest.directions:
            raise ArtifactError(f"tensor {key}: the manifest has no direction {name}")
        if family == "measure" and last not in manifest.directions[name].measures:
            raise ArtifactError(f"tensor {key}: the manifest does not describe this measure")


def _check_shared_rows(manifest: Manifest, tensors: Tensors) -> None:
    directions = manifest.directions.values()
    counts = sorted({len(info.blocks) for info in directions} | _unions(manifest))
    for key in sorted(tensors):
        tensor, family = tensors[key], key.partition("/")[0]
        if family == "second" and tensor.shape[1] != tensor.shape[2]:
            raise ArtifactError(f"tensor {key}: shape {list(tensor.shape)}; the last two differ")
        shared = family in ("mean", "ambient_norm", "base_norm", "rows", "second")
        if shared and counts and tensor.shape[0] not in counts:
            raise ArtifactError(
                f"tensor {key}: {tensor.shape[0]} rows, but the directions have {counts} blocks"
            )


def _unions(manifest: Manifest) -> set[int]:
    # Directions of one place may leave out different blocks; shared tensors keep them all.
    places: dict[tuple[str, str], set[int]] = {}
    for info in manifest.directions.values():
        places.setdefault((info.site, info.position), set()).update(info.blocks)
    return {len(blocks) for blocks in places.values()}


def _check_scores(tensors: Tensors) -> None:
    for key in sorted(tensors):
        family, _, rest = key.partition("/")
        if family in ("score_low", "score_high", "p_value"):
            score = tensors.get(f"score/{rest}")
            if score is None or score.shape != tensors[key].shape:
                raise ArtifactError(f"tensor {key}: score/{rest} is missing or of another shape")
        if family == "probe":
            role = rest.partition("/")[2]
            if _PROBE_RANKS.get(role) != tensors[key].ndim:
                raise ArtifactError(f"tensor {key}: {role!a} with {tensors[key].ndim} axes")


def _check_finite(key: str, tensor: Tensor) -> None:
    if tensor.is_floating_point():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ArtifactError(
                f"tensor {key}: {bad} of {tensor.numel()} values are not finite; refused"
            )


def _want(key: str, tensor: Tensor, axis: int, size: int, why: str) -> None:
    if tensor.shape[axis] != size:
        raise ArtifactError(
            f"tensor {key}: shape {list(tensor.shape)}; axis {axis} must be {size} ({why})"
        )
