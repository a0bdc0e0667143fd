"""The benchmark page, from the measured numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from benchmarks import steering
from benchmarks.extraction import Timing


def summary(
    timings: Sequence[Timing], limits: Mapping[str, Mapping[str, float]]
) -> dict[str, object]:
    """Reduce the timings to numbers: medians, ratios, agreement of the directions."""
    reference = next(t for t in timings if (t.name, t.dtype) == ("theodolite", "float32"))
    plain = {t.dtype: t for t in timings if t.name == "plain loop"}
    rows = []
    for timing in timings:
        row = {
            "contender": timing.name,
            "dtype": timing.dtype,
            "seconds": [round(s, 3) for s in timing.seconds],
            "median": timing.median,
            "speedup_same_dtype": plain[timing.dtype].median / timing.median,
            "speedup_float32_loop": plain["float32"].median / timing.median,
        }
        for name in ("refusal", "shift"):
            row |= _agreement(name, timing, reference)
        rows.append(row)
    return {"extraction": rows, "limits": {k: dict(v) for k, v in limits.items()}}


def _agreement(name: str, timing: Timing, reference: Timing) -> dict[str, float]:
    """Cosine to theodolite's float32 direction, over all blocks and over those that matter."""
    left, right = getattr(timing, name), getattr(reference, name)
    # hidden_states ends with the state after the final norm, so a plain loop has no last block.
    blocks = slice(0, -1 if timing.name == "plain loop" else None)
    cos = torch.cosine_similarity(left, right, dim=-1)[blocks]
    large = (right.norm(dim=-1) > 0.1 * reference.ambient)[blocks]
    found = {f"{name}_cos_min": float(cos.min()), f"{name}_blocks_over_10pc": int(large.sum())}
    if large.any():
        found[f"{name}_cos_min_over_10pc"] = float(cos[large].min())
    return found


def renew(
    records: Sequence[Mapping[str, object]],
    machine: Mapping[str, object],
    part: Mapping[str, object],
) -> list[dict[str, object]]:
    """Put newly measured numbers into the record of this machine, which then comes first."""
    mine = [dict(record) for record in records if record["machine"] == machine]
    others = [dict(record) for record in records if record["machine"] != machine]
    record = mine[0] if mine else {"machine": dict(machine)}
    return [{**record, **part}, *others]


def render(records: Sequence[Mapping[str, object]]) -> str:
    """Write the page, a chapter for each machine; a part that was not measured is left out."""
    parts = ["# Benchmarks", "", "Written by `make bench`; every number was measured by it."]
    for record in records:
        parts += ["", *_record(record)]
    return "\n".join(parts) + "\n"


def _record(found: Mapping[str, object]) -> list[str]:
    info = found["machine"]
    assert isinstance(info, Mapping)
    title = info["cpu"] if info["cuda"] == "none" else info["cuda"]
    parts = [
        f"## {title}, {info['threads']} threads, {info['capabilities']}",
        "",
        *(f"- {name}: {value}" for name, value in info.items()),
    ]
    notes = found.get("notes")
    if isinstance(notes, Sequence):
        parts += [line for note in notes for line in ("", f"To be measured again: {note}.")]
    for name, write in _PARTS:
        if name in found:
            parts += ["", *write(found if name == "extraction" else found[name])]
    return parts


def _extraction(found: Mapping[str, object]) -> list[str]:
    return [
        f"### Paired extraction: {found['prompts']} chat prompts, reference pair",
        "",
        "Last token of every block, both models; seconds include tokenising, not loading; "
        "contenders alternate in one process. Cosines are to theodolite's float32 directions: "
        "the smallest over all blocks, and over those where the direction's norm exceeds 10% "
        "of the ambient norm.",
        "",
        *_timings(found["extraction"]),
        "",
        "The plain loop pads batches of 32 in the given order, computes logits for every token "
        "and keeps `output_hidden_states`; the last of these lies behind the final norm, so "
        "its last block is left out of the cosines. TransformerLens boots with "
        "`boot_transformers` and caches the same sites. In bfloat16 `directions.extract` reads a "
        "pair with a LoRA adapter in one pass (`--passes auto`), which keeps the digits of the "
        "shift; the row without says what two passes take (`--passes apart`).",
        "",
        *_limits(found["limits"]),
    ]


def _timings(rows: Sequence[Mapping[str, float]]) -> list[str]:
    lines = [
        "| contender | dtype | median s [range; rounds] | vs plain loop, same dtype "
        "| vs plain loop, float32 "
        "| refusal: min cos (>10%) | shift: min cos (>10%) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = row["seconds"]
        lines.append(
            f"| {row['contender']} | {row['dtype']} | {row['median']:.2f} "
            f"[{min(seconds):.2f} to {max(seconds):.2f}; {len(seconds)}] "
            f"| {row['speedup_same_dtype']:.2f}x | {row['speedup_float32_loop']:.2f}x "
            f"| {_cosines(row, 'refusal')} | {_cosines(row, 'shift')} |"
        )
    return lines


def _cosines(row: Mapping[str, float], name: str) -> str:
    over = row.get(f"{name}_cos_min_over_10pc")
    tail = f"{over:.6f}" if over is not None else "no such block"
    return f"{row[f'{name}_cos_min']:.6f} ({tail})"


def _limits(limits: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [
        "| dtype | matmul limit at the model's shapes, GFLOP/s | tokens asked / computed "
        "| share of the limit: useful tokens | computed tokens |",
        "|---|---|---|---|---|",
    ]
    for dtype, row in limits.items():
        lines.append(
            f"| {dtype} | {row['matmul_limit_gflops']:.0f} "
            f"| {row['tokens_asked']:.0f} / {row['tokens_computed']:.0f} "
            f"| {row['share_useful']:.0%} | {row['share_computed']:.0%} |"
        )
    return [*lines, "", "Useful tokens can exceed the limit: a shared prefix is computed once."]


def _overhead(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [
        "### Registry overhead: capture at all blocks, last token, against the bare body",
        "",
        "| dtype | bare ms | captured ms | overhead, median of paired ratios [95%] | pairs |",
        "|---|---|---|---|---|",
    ]
    for dtype, row in found.items():
        lines.append(
            f"| {dtype} | {row['bare'] * 1e3:.1f} | {row['captured'] * 1e3:.1f} "
            f"| {row['overhead']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}] "
            f"| {row['rounds']:.0f} |"
        )
    return lines


def _memory(rows: Sequence[Mapping[str, float]]) -> list[str]:
    few, many = rows
    lines = [
        "### Peak memory of `python -m directions.extract --moments second`",
        "",
        "| prompts | peak MB | seconds |",
        "|---|---|---|",
        *(f"| {r['prompts']:.0f} | {r['peak_mb']:.0f} | {r['seconds']:.1f} |" for r in rows),
    ]
    return [*lines, "", f"Change: {many['peak_mb'] / few['peak_mb'] - 1:+.1%}."]


def _generation(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    lines = [
        "### Generation: greedy answers of the refusal-tuned reference, bfloat16",
        "",
        "| prompts | contender | answers a second | vs plain generate() | same answers |",
        "|---|---|---|---|---|",
    ]
    for prompts, rows in found.items():
        for name, row in rows.items():
            lines.append(
                f"| {prompts} | {name} | {row['answers_per_second']:.2f} "
                f"| {row['times_plain']:.2f}x | {row['same_answers']:.0%} |"
            )
    return [
        *lines,
        "",
        "Plain generate() pads batches of 32 in the given order. With savings off, theodolite runs "
        "the same batches; its one other saving is that the states before the unembedding lie in "
        "one piece, without which torch copies the matrix for every row. Answers can differ where "
        "another padding rounds a near tie of two tokens the other way.",
    ]


def _selection(found: Mapping[str, object]) -> list[str]:
    pairs = {name: found[name] for name in ("seconds", "blocks_run", "token_blocks")}
    lines = [
        f"### Selection of a direction: {found['candidates']} candidates, "
        f"{found['prompts'][0]} harmful and {found['prompts'][1]} harmless prompts, "
        f"{found['dtype']}, {found['threads']} threads",
        "",
        "| | naive sweep | theodolite | ratio |",
        "|---|---|---|---|",
    ]
    words = {
        "seconds": "seconds",
        "blocks_run": "block evaluations",
        "token_blocks": "block evaluations times tokens",
    }
    for name, pair in pairs.items():
        digits = 1 if name == "seconds" else 0
        naive, ours = pair["naive"], pair["theodolite"]
        lines.append(
            f"| {words[name]} | {naive:,.{digits}f} | {ours:,.{digits}f} | {naive / ours:.1f}x |"
        )
    same = "the same candidate" if found["same_choice"] else "ANOTHER CANDIDATE"
    return [
        *lines,
        "",
        f"Both choose {same} (position, block: {found['chosen']}); the largest difference of a "
        f"score that both computed is {found['largest_difference']:.1e}. The naive sweep runs "
        "whole passes for each candidate and each of the three scores, in batches of 32 as given; "
        "unlike the published code it keeps logits at the last position only and leaves out the "
        "blocks beyond the limit.",
    ]


def _localization(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    first = next(iter(found.values()))
    lines = [
        f"### Localisation: {first['heads']:.0f} heads, {first['prompts']:.0f} chat prompts",
        "",
        "| dtype | all heads and MLPs with origin, s | one head, one forward a model, s "
        "| vs a forward for each head | largest difference |",
        "|---|---|---|---|---|",
    ]
    for dtype, row in found.items():
        lines.append(
            f"| {dtype} | {row['seconds']:.2f} | {row['seconds_a_head']:.2f} "
            f"| {row['speedup']:.0f}x | {row['largest_difference']:.1e} |"
        )
    return [
        *lines,
        "",
        f"The time of the naive sweep is that of {first['measured']:.0f} heads times "
        f"{first['heads'] / first['measured']:.0f}; it gives totals only. Both run the same "
        "batches without a shared prefix.",
    ]


_PARTS = (
    ("extraction", _extraction),
    ("overhead", _overhead),
    ("generation", _generation),
    ("memory", _memory),
    ("selection", _selection),
    ("localization", _localization),
    ("steering", steering.lines),
)
