"""python -m directions.read: what a direction or component reads as, beside its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import InputError, NotBeaten
from directions.read_options import ReadOptions

if TYPE_CHECKING:
    from artifacts.artifact import Artifact
    from directions.masking import MaskingEffect
    from directions.read_component import Reading
    from evaluation.prompts import Prompt

OptionFlags = Annotated[ReadOptions, tyro.conf.arg(name="")]
"""The fields of ``ReadOptions`` as flat flags."""
_TEXT = 70


@dataclass(frozen=True, kw_only=True)
class Read:
    """Read a direction or one of its components on held-out prompts.

    Prompts and tokens at both ends, the tokens of a prompt that it is made of, and what happens to
    refusal when these are masked. Our own harmful prompts are named by id, never printed. Exit code
    4: masking the relevant tokens moves refusal no more than masking random ones.
    """

    artifact: tyro.conf.Positional[Path]
    """Artifact of directions.extract or directions.decompose."""
    name: str | None = None
    """Direction to read; by default refusal, or the first one there is."""
    model: str | None = None
    """The aligned model, where the artifact's own name for it is not found."""
    harmful: str | None = None
    """Harmful prompts of the artifact, where these are not our own; with --harmless."""
    harmless: str | None = None
    """Harmless prompts; with --harmful."""
    test_harmful: str | None = None
    """Its held-out harmful prompts."""
    test_harmless: str | None = None
    """Its held-out harmless prompts."""
    options: OptionFlags = ReadOptions()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Read, and say what was found."""
        from artifacts.read import load
        from directions.extract import both_classes
        from directions.read_component import read

        fit = both_classes(self.harmful, self.harmless, "--harmful", "--harmless")
        test = both_classes(
            self.test_harmful, self.test_harmless, "--test-harmful", "--test-harmless"
        )
        artifact = load(self.artifact)
        found = read(
            artifact,
            self.name or _default(artifact),
            model=self.model,
            fit=fit,
            test=test,
            options=self.options,
        )
        own = fit is None and test is None
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", summary(found, own=own)))
        elif not self.output.quiet:
            _print(found, self.artifact, own=own)
        if found.masking is not None and not found.masking.beats:
            raise NotBeaten(
                f"masking the tokens most relevant to {found.subject.title} moves refusal no more "
                f"than masking random ones (p = {found.masking.p:.2f}); try another component"
            )
        return 0


def _default(artifact: Artifact) -> str:
    if not artifact.names:
        raise InputError("the artifact has no directions to read")
    return "refusal" if "refusal" in artifact.names else artifact.names[0]


def shown(prompt: Prompt, *, own: bool) -> str:
    """Return the prompt's text, or the id and category of a harmful one of our own."""
    if own and prompt.label == "harmful":
        return f"[{prompt.id}: {prompt.category or 'harmful'}]"
    text = " ".join(prompt.prompt.split())
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 3]}..."


def summary(found: Reading, *, own: bool) -> dict[str, object]:
    """Return everything that was read as JSON values."""
    subject, ends, lens, masking = found.subject, found.ends, found.lens, found.masking

    def prompts(rows: tuple[int, ...], values: tuple[float, ...]) -> list[dict[str, object]]:
        return [
            {
                "id": found.prompts[row].id,
                "label": found.prompts[row].label,
                "prompt": shown(found.prompts[row], own=own),
                "value": value,
            }
            for row, value in zip(rows, values, strict=True)
        ]

    return {
        "name": subject.name,
        "component": subject.component,
        "block": subject.block,
        "site": subject.site,
        "n": len(found.prompts),
        "auc": _three(found.separation),
        "auc_random": _three(found.separation_random),
        "prompts_high": prompts(ends.high, ends.high_values),
        "prompts_low": prompts(ends.low, ends.low_values),
        "tokens_high": list(zip(lens.high_texts, lens.high_scores, strict=True)),
        "tokens_low": list(zip(lens.low_texts, lens.low_scores, strict=True)),
        "tokens_random": found.lens_random,
        "words": [list(row) for row in found.words],
        "examples": [
            {
                "prompt": shown(found.prompts[row.prompt], own=own),
                "value": row.value,
                "tokens": list(zip(row.texts, row.relevance, strict=True)),
            }
            for row in found.examples
        ],
        "relevance_gap": found.gap,
        "relevance_disagreement": found.disagreement,
        "refusal_tokens": list(found.refusal_tokens),
        "masking": None if masking is None else _masking(masking),
    }


def _masking(found: MaskingEffect) -> dict[str, object]:
    parts = {"top": found.top, "random": found.random, "difference": found.difference}
    return {
        **{name: [part.value, part.low, part.high] for name, part in parts.items()},
        "p": found.p,
        "n": found.top.n,
        "masked": found.count,
        "draws": len(found.draws),
        "beats": found.beats,
    }


def _three(estimate: object) -> list[float]:
    return [float(getattr(estimate, end).reshape(-1)[0]) for end in ("value", "low", "high")]


def _print(found: Reading, path: Path, *, own: bool) -> None:
    auc, random = _three(found.separation), _three(found.separation_random)
    emit_line(f"{found.subject.title}: AUC {_interval(auc)}, random directions {_interval(random)}")
    emit_table(
        f"{len(found.prompts)} held-out prompts, both ends",
        ("value", "highest", "value", "lowest"),
        _end_rows(found, own=own),
    )
    lens = found.lens
    emit_line(f"raises:  {_tokens(lens.high_texts, lens.high_scores)}")
    emit_line(f"lowers:  {_tokens(lens.low_texts, lens.low_scores)}")
    emit_line(
        "tokens whose logits it moves most, in standard deviations of the vocabulary; the furthest "
        f"token of a random direction: {found.lens_random:.1f} on average"
    )
    if found.masking is not None:
        _print_relevance(found, own=own)
    number = found.subject.component
    emit_line(
        f"next: python -m directions.read {path} --name {found.subject.name} --component "
        f"{number + 1}"
        if number is not None
        else f"next: python -m directions.decompose {path} --out components.safetensors"
    )


def _end_rows(found: Reading, *, own: bool) -> list[tuple[str, ...]]:
    ends = found.ends
    texts = [[shown(found.prompts[row], own=own) for row in rows] for rows in (ends.high, ends.low)]
    values = [[f"{value:.2f}" for value in part] for part in (ends.high_values, ends.low_values)]
    return list(zip(values[0], texts[0], values[1], texts[1], strict=True))


def _print_relevance(found: Reading, *, own: bool) -> None:
    masking = found.masking
    if masking is None:
        return
    emit_line()
    for row in found.examples:
        emit_line(f"{row.value:+.2f}  {shown(found.prompts[row.prompt], own=own)}")
        emit_line(f"       {_tokens(row.texts, row.relevance)}")
    emit_line("relevance of each content token, in units of the coordinate at the left")
    words = ", ".join(f"{text} {mean:+.2f} ({n})" for text, mean, n in found.words)
    emit_line(f"over {masking.top.n} harmful prompts: {words} (prompts)")
    emit_line(
        f"account closed to {found.gap:.1g}; own pass against the model's: {found.disagreement:.1g}"
    )
    emit_table(
        f"{masking.count} tokens masked, n = {masking.top.n}",
        ("masked", "refusal margin, nats [95%]"),
        [
            ("most relevant", _interval([masking.top.value, masking.top.low, masking.top.high])),
            (
                f"random, {len(masking.draws)} draws",
                _interval([masking.random.value, masking.random.low, masking.random.high]),
            ),
            (
                f"difference, p = {masking.p:.2f}",
                _interval(
                    [masking.difference.value, masking.difference.low, masking.difference.high]
                ),
            ),
        ],
    )
    emit_line(f"refusal tokens: {', '.join(map(repr, found.refusal_tokens))}")


def _interval(three: list[float]) -> str:
    return f"{three[0]:.2f} [{three[1]:.2f}, {three[2]:.2f}]"


def _tokens(texts: tuple[str, ...], scores: tuple[float, ...]) -> str:
    return "  ".join(f"{text!r} {score:+.1f}" for text, score in zip(texts, scores, strict=True))


if __name__ == "__main__":
    raise SystemExit(main(Read))
