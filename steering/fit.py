"""python -m steering.fit: a steering policy from a model's own behaviour, checked before saving."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import InputError
from steering.options import FitOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evaluation.prompts import PromptSet
    from steering.fitting import Fitted

OptionFlags = Annotated[FitOptions, tyro.conf.arg(name="")]
"""The fields of ``FitOptions`` as flat flags."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fit a steering policy that makes refusals hold under pressure and leaves benign use alone.

    Exit code 4: nothing was written, because no safe strength helps or the policy failed its
    check on held-out requests; the numbers are in the message.
    """

    out: Path
    """File to write (.safetensors)."""
    model: str = "reference:aligned"
    """A folder, a hub id, reference:aligned or BASE+ADAPTER."""
    harmful: str | None = None
    """Harmful requests: .jsonl, .csv, plain text or hub:NAME:SPLIT; with --harmless."""
    harmless: str | None = None
    """Harmless requests; by default theodolite's development sets, borderline ones among them."""
    force: bool = False
    """Save a policy that fails its check, and say so in its manifest."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    options: OptionFlags = FitOptions()
    output: OutputFlags = Output()

    def run(self) -> int:
        """Fit, check, save, and say what was found."""
        quiet = self.output.json or self.output.quiet
        prompts = self._prompts()
        import steering
        from hooks import load

        model = load(self.model, dtype=self.dtype, device=self.device, stream="auto")
        fitted = steering.fit_policy(
            model, prompts, options=self.options, force=self.force, progress=not quiet
        )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        digest = steering.save(fitted.policy, self.out, seed=self.options.seed)
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", summary(fitted, self.out, digest)))
        elif not self.output.quiet:
            _print(fitted, self.out, digest)
        return 0

    def _prompts(self) -> PromptSet | None:
        if self.harmful is None and self.harmless is None:
            return None
        if self.harmful is None or self.harmless is None:
            raise InputError("give --harmful and --harmless together; a policy needs both classes")
        from evaluation.prompts import read

        return read(self.harmful, label="harmful") + read(self.harmless, label="harmless")


def summary(fitted: Fitted, out: Path, digest: str) -> dict[str, object]:
    """Give what the command prints, as JSON values."""
    return {
        "out": str(out),
        "digest": digest,
        "model": fitted.policy.model.spec,
        "method": fitted.policy.method,
        "classes": dict(fitted.classes),
        "refusal_tokens": list(fitted.tokens.texts),
        "facts": {
            k: list(v) if isinstance(v, tuple) else v for k, v in fitted.policy.facts.items()
        },
        "range": [asdict(point) for point in fitted.points],
        "chosen": asdict(fitted.chosen),
        "check": {
            "harmful": asdict(fitted.verdict.harmful),
            "benign": asdict(fitted.verdict.benign),
            "kl": asdict(fitted.verdict.cost.divergence),
            "perplexity": asdict(fitted.verdict.cost.perplexity),
            "problems": list(fitted.verdict.problems),
        },
        "notes": list(fitted.notes),
        "seconds": round(fitted.seconds, 2),
    }


def _print(fitted: Fitted, out: Path, digest: str) -> None:
    facts, verdict = fitted.policy.facts, fitted.verdict
    counts = ", ".join(f"{n} {name}" for name, n in fitted.classes.items())
    emit_table(
        f"{fitted.policy.method} for {fitted.policy.model.spec}: directions from {counts}",
        ("strength", "harmful refused", "benign refused", "KL", "perplexity", "safe"),
        [
            (
                f"{p.strength:g}{' *' if p == fitted.chosen else ''}",
                f"{p.harmful_refused:.1%}",
                f"{p.benign_refused:.1%}",
                f"{p.kl:.4f}",
                f"x{p.perplexity:.4f}",
                "yes" if p.safe else "no",
            )
            for p in fitted.points
        ],
    )
    emit_line("strength in units of the ambient norm; first tokens; * is the one that is saved")
    if "gate_auc" in facts:
        place = f"block {facts['gate_block']}" if "gate_block" in facts else "the branch"
        emit_line(
            f"gate at {place}: AUC {facts['gate_auc']:.3f} "
            f"[{facts['gate_auc_low']:.3f}, {facts['gate_auc_high']:.3f}], "
            f"n = {facts['gate_auc_n']}"
        )
    emit_line(f"held-out harmful refused: {verdict.harmful}, n = {verdict.harmful.difference.n}")
    emit_line(f"held-out benign refused: {verdict.benign}, n = {verdict.benign.difference.n}")
    cost = verdict.cost
    emit_line(
        f"held-out cost on {cost.divergence.n} benign answers: KL {cost.divergence.value:.4f} "
        f"[{cost.divergence.low:.4f}, {cost.divergence.high:.4f}], perplexity "
        f"x{cost.perplexity.value:.4f} [{cost.perplexity.low:.4f}, {cost.perplexity.high:.4f}]"
    )
    for note in fitted.notes:
        emit_line(f"note: {note}")
    emit_line(f"{fitted.seconds:.1f} s; wrote {out}  sha256 {digest[:16]}")
    emit_line(f"next: python -m steering.evaluate {out} --out {out.with_suffix('.json')}")


if __name__ == "__main__":
    raise SystemExit(main(Fit))
