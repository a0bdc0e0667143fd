"""Repeat the recipe from our own data, measure the result, and write its folder."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation.catalogue import SHIPPED, shipped
from evaluation.neutral import neutral_text
from evaluation.prompts import PromptSet, read
from evaluation.rates import LEVEL
from hooks import load_pair, reference
from hooks.reference.source import GGUF_SHA256, sha256
from training import card
from training.data import load_training_data
from training.fitting import train
from training.measuring import NEW_TOKENS, measure
from training.metrics import AdapterRow, Metrics, RateRow
from training.recipe import Recipe, TrainingError
from training.save import BASE_NAME, WEIGHTS, save_adapter

_PACKAGES = ("torch", "transformers", "peft", "safetensors", "gguf", "numpy", "scipy")


@dataclass(frozen=True)
class Trained:
    """What training took."""

    parameters: int
    seconds: float
    seconds_per_step: float


def repeat(
    folder: Path,
    recipe: Recipe,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    also: Sequence[Path] = (),
    progress: bool = True,
) -> Metrics:
    """Train, save to ``folder``, load what was saved, measure it, write metrics and card.

    Args:
        folder: gets the adapter, ``metrics.json`` and ``CARD.md``.
        recipe: how to train.
        dtype: of the models that are measured.
        also: further prompt files to measure plain.
        progress: show bars on stderr.

    Raises:
        PromptError: a file of ``also`` cannot be read; found out before training begins.
        TrainingError: ``folder`` is a file, found out before training too; or training failed:
            names the step.
        OSError: ``folder`` cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder}: a file is in the way; give a folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    further = [*shipped_beside_test(), *(read(path) for path in also)]
    took = fit(folder, recipe, progress=progress)
    return assess(folder, recipe, took, dtype=dtype, also=further, progress=progress)


def fit(folder: Path, recipe: Recipe, *, progress: bool = True) -> Trained:
    """Train the adapter and save it; nothing is measured yet."""
    source = reference.path("base")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, recipe.dtype))
    model.requires_grad_(False)
    start, stamps = time.perf_counter(), []
    with tqdm(total=recipe.steps, desc="training", unit="step", disable=not progress) as bar:

        def note(step: int, losses: dict[str, float]) -> None:
            stamps.append(time.perf_counter())
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            bar.update(step + 1 - bar.n)

        tuned = train(model, tokenizer, load_training_data(), recipe, note)
    seconds = time.perf_counter() - start
    save_adapter(tuned, folder, strength=recipe.strength)
    count = sum(p.numel() for name, p in tuned.named_parameters() if "lora_" in name)
    # The first step is not counted: the targets are made before it.
    per_step = (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1)
    return Trained(count, seconds, per_step)


def assess(
    folder: Path,
    recipe: Recipe,
    took: Trained,
    *,
    dtype: Literal["float32", "bfloat16"],
    also: Sequence[PromptSet],
    progress: bool = True,
) -> Metrics:
    """Measure the adapter in ``folder`` against the base; write ``metrics.json`` and the card."""
    test, neutral = shipped("test"), neutral_text("test")
    base, tuned = load_pair("reference:base", f"reference:base+{folder}", dtype=dtype)
    with tqdm(desc="measuring", unit="rate", disable=not progress) as bar:

        def note(row: RateRow) -> None:
            bar.set_postfix_str(f"{row.model} {row.setting} {row.label} {row.hits}/{row.n}")
            bar.update()

        found = measure(base, tuned, test, neutral, also=also, note=note)
    file = folder / WEIGHTS
    metrics = Metrics(
        base=BASE_NAME,
        base_gguf_sha256=GGUF_SHA256,
        adapter=AdapterRow(
            sha256=sha256(file), bytes=file.stat().st_size, parameters=took.parameters
        ),
        recipe=recipe.to_dict(),
        seconds_training=round(took.seconds, 1),
        seconds_per_step=round(took.seconds_per_step, 2),
        dtype=dtype,
        new_tokens=NEW_TOKENS,
        level=LEVEL,
        data=_digests((test, *also), neutral.digest),
        versions=versions(),
        rates=found.rates,
        perplexity=found.perplexity,
    )
    metrics.write(folder)
    (folder / card.FILE).write_text(card.render(metrics), encoding="utf-8")
    return metrics


def _digests(sets: Sequence[PromptSet], neutral: str) -> dict[str, str]:
    """Give the digest of everything that was trained or measured on."""
    found = {f"train/{name}": digest for name, digest in load_training_data().digests.items()}
    return found | {f"test/{s.name}": s.digest for s in sets} | {"test/neutral": neutral}


def shipped_beside_test() -> tuple[PromptSet, ...]:
    """Give what every adapter is measured on beside the test split, the development sets last."""
    return tuple(shipped(name) for name in SHIPPED if name != "test")


def versions() -> dict[str, str]:
    """Give the versions that a repeat would need to agree bit for bit, and the thread count."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
