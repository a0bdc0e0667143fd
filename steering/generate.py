"""python -m steering.generate: answers under a steering policy, with what each prompt got of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from artifacts.command import Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import InputError

if TYPE_CHECKING:
    from steering.policy import Policy
    from steering.serve import Steered


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Answer prompts under a policy, greedily; nothing is written to disk.

    Shares are what each prompt gets of the policy's terms, from 0 (left alone) to 1; a SCANS
    policy gives +1 or -1.
    """

    policy: Annotated[Path, tyro.conf.Positional]
    """File of python -m steering.fit."""
    prompt: tuple[str, ...] = ()
    """Prompts."""
    file: str | None = None
    """Prompts: .jsonl, .csv or plain text, one a line."""
    model: str | None = None
    """By default the model that the policy was fitted on."""
    new_tokens: int = 64
    """Longest answer, in tokens."""
    strength: float = 1.0
    """Multiply the policy's strength, for example 0 to see the model without it."""
    compare: bool = False
    """Give the unsteered answers too."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    output: OutputFlags = Output()

    def run(self) -> int:
        """Load, steer, and print the answers."""
        prompts = self._prompts()
        import steering
        from hooks import load

        policy = steering.load(self.policy).scaled(self.strength)
        spec = self.model or policy.model.spec
        model = load(spec, dtype=self.dtype, device=self.device, stream="auto")
        found = steering.answer(model, policy, prompts, max_new_tokens=self.new_tokens)
        shares = shares_by_prompt(policy, found)
        rows: list[dict[str, object]] = [
            {"prompt": prompt, "shares": share, "answer": text}
            for prompt, share, text in zip(prompts, shares, found.texts, strict=True)
        ]
        if self.compare:
            with model.hooks() as run:
                plain = run.generate(model.encode(prompts), max_new_tokens=self.new_tokens)
            rows = [row | {"unsteered": text} for row, text in zip(rows, plain, strict=True)]
        if self.output.json:
            answers = {"model": spec, "method": policy.method, "answers": rows}
            emit_json(answers | {"tokens_computed": found.stats.tokens_computed})  # type: ignore[arg-type]
        elif not self.output.quiet:
            _print(rows, policy, found.stats.tokens_computed)
        return 0

    def _prompts(self) -> list[str]:
        if self.file is None and not self.prompt:
            raise InputError("no prompts: give --prompt TEXT or --file FILE")
        if self.file is None:
            return list(self.prompt)
        from evaluation.prompts import read

        plain = Path(self.file).suffix not in (".jsonl", ".csv")
        label = "harmless" if plain else None
        rows = read(self.file, label=label, min_per_class=1).prompts
        return [*self.prompt, *(row.prompt for row in rows)]


def shares_by_prompt(policy: Policy, found: Steered) -> list[dict[str, float]]:
    """Give what each prompt got of every term; 1 where a term has no gate."""
    fixed = {term.name: 1.0 for term in policy.terms}
    return [
        fixed | {name: round(float(share[row]), 4) for name, share in found.shares.items()}
        for row in range(len(found.ids))
    ]


def _print(rows: Sequence[dict[str, object]], policy: Policy, tokens: int) -> None:
    columns = [name for name in ("prompt", "shares", "answer", "unsteered") if name in rows[0]]
    emit_table(
        f"{policy.method} for {policy.model.spec}, n = {len(rows)}",
        columns,
        [[_cell(row[name]) for name in columns] for row in rows],
    )
    emit_line(f"{tokens} tokens through the model")
    emit_line("next: python -m steering.evaluate POLICY --out frontier.json")


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:g}" for name, share in value.items())
    return " ".join(str(value).split())


if __name__ == "__main__":
    raise SystemExit(main(Generate))
