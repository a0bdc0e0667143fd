"""Model passes: prompts in, one shard of states out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float32
from torch import Tensor

from artifacts.errors import InputError
from directions.options import PositionName
from evaluation.prompts import Prompt
from hooks import Capture, Encoded, EngineOptions, Model, Rows, RunStats, read_pair


@dataclass(frozen=True, eq=False)
class Source:
    """A pair of models and the token ids that both of them read."""

    base: Model
    aligned: Model
    encoded: Mapping[str, Encoded]
    """Token ids by rendering: ``template`` and, where a contrast needs it, ``raw``."""
    cells: tuple[str, ...]
    sites: tuple[str, ...]
    """Full site names, in the order of the forward pass."""
    position: PositionName
    slots: int
    """Tokens read from each prompt."""
    joint: bool = False
    """Both models read a rendering in one pass where both of its cells are asked for."""

    def shard(
        self, rows: range, options: EngineOptions | None = None
    ) -> tuple[dict[str, Float32[Tensor, "n slot d"]], dict[str, float]]:
        """Run both models on some prompts, each rendering once.

        Returns:
            States by ``{cell}/{site}``, slot 0 being the last token, and the summed counters.
        """
        states: dict[str, Float32[Tensor, "n slot d"]] = {}
        stats: Counter[str] = Counter()
        for cells in self._passes():
            encoded = self.encoded[rendering_of(cells[0])][rows.start : rows.stop]
            found, cost = self._read(cells, encoded, options)
            stats.update(cost.as_dict())
            for cell, by_site in zip(cells, found, strict=True):
                for site in self.sites:
                    states[f"{cell}/{site}"] = by_slot(by_site[site], self.slots)
        return states, {name: float(value) for name, value in stats.items()}

    def _passes(self) -> list[tuple[str, ...]]:
        """Return the cells that each pass gives, base before aligned."""
        if not self.joint:
            return [(cell,) for cell in self.cells]
        by_rendering: dict[str, list[str]] = {}
        for cell in self.cells:
            by_rendering.setdefault(rendering_of(cell), []).append(cell)
        return [tuple(cells) for cells in by_rendering.values()]

    def _read(
        self, cells: tuple[str, ...], encoded: Encoded, options: EngineOptions | None
    ) -> tuple[list[Mapping[str, Tensor | list[Tensor]]], RunStats]:
        if len(cells) == 2:
            both = read_pair(
                self.base, self.aligned, encoded, self.sites, at=self.position, options=options
            )
            return [both.base, both.aligned], both.stats
        taken = Rows()
        model = self.aligned if cells[0].startswith("aligned") else self.base
        capture = Capture(self.sites, at=self.position, into=taken)
        with model.hooks(capture=capture, options=options) as run:
            run.forward(encoded)
        return [{site: taken[site] for site in self.sites}], run.stats


def rendering_of(cell: str) -> str:
    """Return how the prompts of a cell are rendered: ``template`` or ``raw``."""
    return cell.partition(".")[2]


def by_slot(values: Tensor | list[Tensor], slots: int) -> Float32[Tensor, "n slot d"]:
    """Arrange what was captured at one site so that slot 0 is each prompt's last token."""
    if isinstance(values, Tensor) and values.ndim == 2:
        return rearrange(values, "n d -> n 1 d")
    # Prompts may end in different numbers of template tokens; the shared ones are the last.
    parts = [part[-slots:].flip(0) for part in values]
    return torch.stack(parts)


def encode(
    base: Model,
    aligned: Model,
    prompts: Sequence[Prompt],
    *,
    raw: bool,
    system: str | None,
) -> dict[str, Encoded]:
    """Encode all prompts with the aligned model's tokenizer, so that both models read the same ids.

    Raises:
        TokenizerError: there is no chat template, or it fails.
        InputError: a prompt is longer than the context, or has tokens that the base model lacks.
    """
    texts = [prompt.prompt for prompt in prompts]
    encoded = {"template": aligned.encode(texts, system=system)}
    if raw:
        encoded["raw"] = aligned.encode(texts, template=False)
    limits = [n for n in (base.context_length, aligned.context_length) if n is not None]
    known = min(_vocabulary(base), _vocabulary(aligned))
    for rows in encoded.values():
        for prompt, ids in zip(prompts, rows, strict=True):
            if limits and len(ids) > min(limits):
                raise InputError(
                    f"prompt {prompt.id} has {len(ids)} tokens, the models read {min(limits)}; "
                    "shorten it or leave it out"
                )
            if max(ids) >= known:
                raise InputError(
                    f"prompt {prompt.id} has token {max(ids)}, but one of the models knows only "
                    f"{known}; their vocabularies differ too much to compare states"
                )
    return encoded


def _vocabulary(model: Model) -> int:
    return int(model.hf.get_input_embeddings().weight.shape[0])  # type: ignore[index]
