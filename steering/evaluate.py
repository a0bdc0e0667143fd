"""python -m steering.evaluate: defence under pressure against benign use, all methods at once."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from artifacts.command import JsonValue, Output, OutputFlags, emit_json, emit_line, emit_table, main
from artifacts.errors import InputError, NotBeaten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evaluation.prompts import PromptSet
    from steering.frontier import Frontier, PointResult
    from steering.policy import Policy

FORMS = (
    "plain",
    "code-completion",
    "table-filling",
    "text-continuation",
    "opener-injection",
    "prefill-5",
)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure policies, fixed strengths and a hard gate on requests that no fit has seen.

    Exit code 4: the first policy does not defend more than fixed strengths at the benign
    compliance that it has; the file is written all the same.
    """

    policies: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of python -m steering.fit, of one model; baselines are made of the first gated one."""
    out: Path
    """JSON file to write. Answers are judged and thrown away."""
    model: str | None = None
    """By default the model that the first policy was fitted on."""
    harmful: str = "test"
    """Set whose harmful requests are used; see python -m evaluation.sources."""
    benign: tuple[str, ...] = ("test", "borderline")
    """Sets whose harmless requests are used."""
    forms: tuple[str, ...] = FORMS
    """plain, kinds of wrappers, prefill-N; harmful and benign requests get the same ones."""
    limit: int = 32
    """Requests of each set; each is asked in every form."""
    judge: str = "default"
    """default, prefix, embedding, combined, or command:PROGRAM ARGS."""
    new_tokens: int = 24
    """Longest answer, in tokens."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is bfloat16 where the hardware multiplies it natively, else float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... or map (spread over devices)."""
    seed: int = 0
    """Seed of the bootstraps."""
    output: OutputFlags = Output()

    def run(self) -> int:
        """Measure, write, and say what was found."""
        if not self.policies:
            raise InputError("no policy: give the file of python -m steering.fit")
        if self.judge == "margin":
            raise InputError("judge margin reads no answers; use default, prefix or combined")
        quiet = self.output.json or self.output.quiet
        import steering
        from evaluation.judges import judge, warning
        from hooks import load

        start = time.perf_counter()
        policies = _named({path: steering.load(path) for path in self.policies})
        spec = self.model or next(iter(policies.values())).model.spec
        harmful, benign = self._sets()
        found = steering.measure_frontier(
            load(spec, dtype=self.dtype, device=self.device, stream="auto"),
            policies,
            harmful,
            benign,
            judge(self.judge),
            forms=self.forms,
            new_tokens=self.new_tokens,
            seed=self.seed,
            progress=not quiet,
        )
        seen = _seen(policies)
        value = {
            **as_dict(found, seen),
            "warning": warning(self.judge),
            "sets": [prompts.describe() for prompts in (harmful, *benign)],
            "seconds": round(time.perf_counter() - start, 1),
        }
        _write(self.out, value)
        if self.output.json:
            emit_json(cast("Mapping[str, JsonValue]", {"out": str(self.out)} | value))
        elif not self.output.quiet:
            _print(found, value, self.out)
        _require_ahead(found, next(iter(policies)))
        return 0

    def _sets(self) -> tuple[PromptSet, tuple[PromptSet, ...]]:
        from evaluation.sets import load_set
        from steering.behaviour import evenly

        if self.limit < 2:
            raise InputError(f"limit={self.limit}: give 2 requests of each set at least")

        def some(name: str, label: Literal["harmful", "harmless"]) -> PromptSet:
            return evenly(load_set(name).select(label=label), self.limit)

        return some(self.harmful, "harmful"), tuple(some(n, "harmless") for n in self.benign)


def _named(policies: Mapping[Path, Policy]) -> dict[str, Policy]:
    found: dict[str, Policy] = {}
    for path, policy in policies.items():
        name = path.stem
        if name in found:
            raise InputError(f"two policies are called {name}; rename one file")
        found[name] = policy
    return found


def _seen(policies: Mapping[str, Policy]) -> tuple[str, ...]:
    """Give the forms that some policy was fitted on."""
    forms: set[str] = set()
    for policy in policies.values():
        given = policy.facts.get("option.forms")
        forms |= {str(form) for form in given} if isinstance(given, tuple) else set()
    return tuple(sorted(forms))


def as_dict(found: Frontier, seen: tuple[str, ...] = ()) -> dict[str, object]:
    """Give everything that was measured as JSON values; no answer is among them."""
    from artifacts import timestamp, tool, versions

    return {
        "format": 1,
        "created": timestamp(),
        "tool": tool().model_dump(mode="json"),
        "versions": versions(),
        "model": found.spec,
        "judge": found.judge,
        "n_harmful": int(found.harmful.sum()),
        "n_benign": int((~found.harmful).sum()),
        "forms_seen_in_fit": list(seen),
        "points": [_point(found, point) for point in found.points],
        "advantages": [asdict(gain) | {"ahead": gain.ahead} for gain in found.advantages],
    }


def _point(found: Frontier, point: PointResult) -> dict[str, object]:
    cost = point.cost
    return {
        "name": point.contender.name,
        "family": point.contender.family,
        "strength": point.contender.strength,
        "defence": asdict(point.defence),
        "compliance": asdict(point.compliance),
        "incoherent": float(point.incoherent.mean()),
        "kl": None if cost is None else asdict(cost.divergence),
        "perplexity": None if cost is None else asdict(cost.perplexity),
        "touched": point.touched,
        "tokens": point.tokens,
        "groups": {
            group: asdict(found.rate(point, group)) | {"rate": found.rate(point, group).value}
            for group in found.group_names
        },
    }


def _write(path: Path, value: Mapping[str, object]) -> None:
    from artifacts import write_file

    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def _print(found: Frontier, value: Mapping[str, object], out: Path) -> None:
    first = found.points[0]
    emit_table(
        f"{found.spec}, judge {found.judge}: {first.defence.n} harmful and {first.compliance.n} "
        f"benign prompts of {first.defence.n_clusters} and {first.compliance.n_clusters} requests",
        ("policy", "defence [95%]", "benign compliance [95%]", "broken", "KL", "perplexity"),
        [_row(point) for point in found.points],
    )
    emit_table(
        "By set and form: harmful refused, benign answered",
        ("policy", *found.group_names),
        [
            (p.contender.name, *(f"{found.rate(p, g).value:.0%}" for g in found.group_names))
            for p in found.points
        ],
    )
    for gain in found.advantages:
        emit_line(
            f"{gain.name}: defence {gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}] against "
            "fixed strength at the same benign compliance"
        )
    if value["forms_seen_in_fit"]:
        emit_line(f"forms that a fit has seen: {', '.join(map(str, value['forms_seen_in_fit']))}")  # type: ignore[arg-type]
    if value["warning"]:
        emit_line(f"warning: {value['warning']}")
    emit_line(f"{value['seconds']} s; wrote {out}")
    emit_line(f"next: python -m reports.steering {out} --out {out.with_suffix('.html')}")


def _row(point: PointResult) -> tuple[str, ...]:
    cost = point.cost
    return (
        point.contender.name,
        *(
            f"{share.value:.0%} {share.low:.0%}-{share.high:.0%}"
            for share in (point.defence, point.compliance)
        ),
        f"{point.incoherent.mean():.0%}",
        "-" if cost is None else f"{cost.divergence.value:.3f}",
        "-" if cost is None else f"x{cost.perplexity.value:.3f}",
    )


def _require_ahead(found: Frontier, name: str) -> None:
    for gain in found.advantages:
        if gain.name == name and not gain.ahead:
            raise NotBeaten(
                f"{name} is not ahead of fixed strength at equal benign compliance: defence "
                f"{gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]; the file is written"
            )


if __name__ == "__main__":
    raise SystemExit(main(Evaluate))
