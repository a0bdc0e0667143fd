"""A tiny model that refuses by one direction, and requests that it refuses or answers.

Words have random embeddings; harmful words also have ``u``. Attention is uniform and copies the
``u`` part of the mean over tokens, so the last token knows whether a request was harmful; the
unembedding reads it for the token ``sorry``. Everything else is small noise, so the truth is known:
refusal needs ``u``, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import hooks
from artifacts.artifact import Artifact
from artifacts.manifest import DirectionInfo, Manifest
from artifacts.provenance import timestamp, tool, versions
from evaluation.outcomes import Answer, Verdict
from evaluation.prompts import Prompt, PromptSet
from tests.directions import tiny

LAYERS, WIDTH, HEADS = 3, 128, 4
SORRY, YES, OPENER = "sorry", "bread", "sure"
WRITER = (1, 2)
"""Block and head that bring the harmfulness to the last token."""


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tokenizer(extra=(SORRY, OPENER))


@cache
def axis() -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)), dim=0
    )


def build(
    *, refuses: float = 1.0, offset: float = 0.0, style: float = 0.0, **config: object
) -> LlamaForCausalLM:
    """Return the model; every embedding gets ``offset`` of ``u`` and ``style`` of the style axis.

    The unembedding reads the style axis for the token ``sure``, and ``refuses`` times ``u`` for
    ``sorry``.
    """
    made = tiny.model(
        0, num_hidden_layers=LAYERS, hidden_size=WIDTH, max_position_embeddings=512, **config
    )
    u, words = axis(), tokenizer()
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.01)
        embed = made.model.embed_tokens.weight
        embed.copy_(torch.randn(embed.shape, generator=rng) * 0.15)
        embed -= torch.outer(embed @ u, u)
        for word in tiny.HARMFUL_WORDS:
            embed[words.convert_tokens_to_ids(word)] += 6 * u
        embed += offset * u + style * minor_axis(6)
        block, head = WRITER
        size = WIDTH // HEADS
        layer = made.model.layers[block].self_attn
        layer.q_proj.weight.zero_()
        # The head's first coordinate carries u; grouped heads share their values.
        share = head // (HEADS // made.config.num_key_value_heads)
        layer.v_proj.weight[share * size] = u
        layer.o_proj.weight[:, head * size] = 8 * u
        unembed = made.lm_head.weight
        unembed.copy_(torch.randn(unembed.shape, generator=rng) * 0.01)
        unembed[words.convert_tokens_to_ids(YES)] += 0.5 * minor_axis(4)
        embed[words.convert_tokens_to_ids("<|assistant|>")] += 2 * minor_axis(4)
        unembed[words.convert_tokens_to_ids(OPENER)] += 1.25 * minor_axis(6)
        unembed[words.convert_tokens_to_ids(SORRY)] += 0.8 * refuses * u
    return made.eval().requires_grad_(False)


def minor_axis(seed: int) -> Tensor:
    """Return a unit vector orthogonal to the axis of refusal."""
    v = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    v -= (v @ axis()) * axis()
    return v / v.norm()


@cache
def model(*, refuses: float = 1.0, offset: float = 0.0, style: float = 0.0) -> hooks.Model:
    """Return the wrapped model; the same object each time, so nobody may change it."""
    return hooks.wrap(build(refuses=refuses, offset=offset, style=style), tokenizer())


def requests(name: str, start: int, n: int = 16) -> PromptSet:
    rows = [
        Prompt(f"{name}-{row['id']}", row["prompt"], label)
        for label in ("harmful", "harmless")
        for row in tiny.rows(label, n, start=start, fields=False)
    ]
    return PromptSet(name, "made", "MIT", tuple(rows))


def artifact(
    vectors: dict[str, Tensor], used: hooks.Model | None = None, **tensors: Tensor
) -> Artifact:
    """Return an artifact of directions [rows, d], one row for each of the first blocks."""
    used = used or model()
    infos = {
        name: DirectionInfo(
            site="hook_resid_post",
            position="last",
            blocks=tuple(range(len(rows))),
            norm="raw",
            sign_rule="harmful minus harmless",
            n={"harmful": 8, "harmless": 8},
            contrast="refusal",
            claim="none",
            measures={},
        )
        for name, rows in vectors.items()
    }
    manifest = Manifest(
        kind="direction-set",
        created=timestamp(),
        tool=tool(),
        base=None,
        aligned=used.info(),
        tokenizer=used.tokenizer_info(),
        data=(),
        positions="last",
        contrast=("refusal",),
        method={},
        directions=infos,
        seed=0,
        versions=versions(),
        device="cpu",
    )
    kept = {f"direction/{name}": rows for name, rows in vectors.items()}
    return Artifact(manifest, kept | tensors)


class Judge:
    """Refused where the answer opens with ``sorry``; broken where it is the padding token."""

    name = "opening"
    needs: frozenset[str] = frozenset()

    def __call__(self, answers: Sequence[Answer]) -> tuple[Verdict, ...]:
        return tuple(self._one(answer.text) for answer in answers)

    def _one(self, text: str) -> Verdict:
        return Verdict("refused" if text.strip().startswith(SORRY) else "complied")


TEXTS = tuple(" ".join(tiny.FILLER[(i + k) % 10] for k in range(9)) for i in range(4))


def style_axis() -> Tensor:
    """Return the unit vector that the token ``sure`` is read from."""
    return minor_axis(6)
