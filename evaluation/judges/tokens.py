"""Find the tokens with which a model begins to refuse, from data, for any tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.errors import JudgeError
from evaluation.judges.digests import digest_of
from evaluation.judges.margin import at_last_position
from evaluation.prompts import PromptSet
from hooks import Encoded

if TYPE_CHECKING:
    from hooks import Model
    from hooks.run import Run

MIN_PROMPTS = 8


@dataclass(frozen=True)
class RefusalTokens:
    """First tokens that are likelier after harmful than after harmless requests.

    Look at ``texts``: what separates the classes need not be a refusal. A model that never refuses
    may open its answers to the two kinds of request in different words all the same.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    """The tokens as text, in order of the difference."""
    harmful: tuple[float, ...]
    """Mean probability of each at the first answer position of harmful requests."""
    harmless: tuple[float, ...]
    """The same for harmless requests."""
    n: tuple[int, int]
    """Number of harmful and of harmless requests."""
    model: str
    """Spec of the model on which they were found."""
    fingerprint: str
    """Digest of that model's description: configuration, weights, adapter, dtype."""
    tokenizer: str = field(repr=False)
    """Digest of its tokenizer; ids mean nothing under another one."""

    @property
    def mass(self) -> tuple[float, float]:
        """Mean probability of all of them together, on harmful and on harmless requests."""
        return sum(self.harmful), sum(self.harmless)


@dataclass(frozen=True)
class TokenSearch:
    """When a token counts, and when to stop."""

    least: float = 0.005
    """Tokens of a smaller mean probability over all requests are not looked at."""
    cover: float = 0.95
    """Stop when the tokens chosen hold this share of the whole significant difference."""
    most: int = 16
    """Stop at this number of tokens."""
    level: float = 0.05
    """Probability that any token at all is chosen where the classes do not differ."""
    permutations: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options that choose everything or nothing."""
        shares = (self.least, self.cover, self.level)
        if not all(0 < share <= 1 for share in shares) or self.most < 1 or self.permutations < 100:
            raise JudgeError(
                f"token search {self}: least, cover and level lie between 0 and 1, most is at "
                "least 1 and permutations at least 100"
            )


def find_refusal_tokens(
    model: Model,
    harmful: Sequence[str] | PromptSet | Encoded,
    harmless: Sequence[str] | PromptSet | Encoded,
    *,
    search: TokenSearch | None = None,
    run: Run | None = None,
) -> RefusalTokens:
    """Find the tokens whose probability at the first answer position tells the classes apart.

        d_t = mean_harmful p_t - mean_harmless p_t,   s_t = d_t / (se_t + 0.001)
        R   = the tokens in order of d_t with s_t > c, until their d add up to ``cover`` of all such

    se_t: Welch's standard error of d_t. c: the (1 - level) quantile, over random relabellings of
    the requests, of the largest s_t (max-T permutation, Westfall and Young 1993), so that tokens of
    a large vocabulary do not come in by chance. Give requests other than those measured later.

    Raises:
        JudgeError: fewer than 8 requests in a class, or no token separates; names the nearest one.
    """
    search = search or TokenSearch()
    first, second = (_probabilities(model, part, run) for part in (harmful, harmless))
    if min(len(first), len(second)) < MIN_PROMPTS:
        raise JudgeError(
            f"refusal tokens from {len(first)} harmful and {len(second)} harmless requests: give "
            f"at least {MIN_PROMPTS} of each"
        )
    both = torch.cat([first, second])
    seen = (both.mean(0) >= search.least).nonzero().flatten()
    is_harmful = torch.arange(len(both)) < len(first)
    chosen = _chosen(both[:, seen], is_harmful, search)
    if chosen.numel() == 0:
        gap = first.mean(0) - second.mean(0)
        best = int(gap.argmax())
        raise JudgeError(
            f"no token separates {len(first)} harmful from {len(second)} harmless requests on "
            f"{model.spec}: the largest difference is {float(gap[best]):.3f}, of "
            f"{model.tokenizer.decode([best])!r}; take a model that refuses the harmful ones and "
            "answers the others, or more requests"
        )
    ids = seen[chosen]
    return RefusalTokens(
        ids=tuple(int(i) for i in ids),
        texts=tuple(str(model.tokenizer.decode([int(i)])) for i in ids),
        harmful=tuple(float(p) for p in first.mean(0)[ids]),
        harmless=tuple(float(p) for p in second.mean(0)[ids]),
        n=(len(first), len(second)),
        model=model.spec,
        fingerprint=digest_of(model.info().model_dump(mode="json")),
        tokenizer=model.tokenizer_info().digest,
    )


def _probabilities(
    model: Model, prompts: Sequence[str] | PromptSet | Encoded, run: Run | None
) -> Float[Tensor, "row vocab"]:
    return at_last_position(model, prompts, lambda logits: logits.softmax(-1).float(), run=run)


def _chosen(
    values: Float[Tensor, "row token"], is_harmful: Bool[Tensor, "row"], search: TokenSearch
) -> Tensor:
    """Give the columns that are chosen, in order of their difference."""
    values = values.double()
    gap, score = _separation(values, rearrange(is_harmful, "row -> 1 row"))
    rng = torch.Generator().manual_seed(search.seed)
    shuffled = torch.stack(
        [is_harmful[torch.randperm(len(values), generator=rng)] for _ in range(search.permutations)]
    )
    largest = _separation(values, shuffled)[1].amax(dim=1)
    bar = torch.quantile(largest, 1 - search.level)
    order = gap[0].argsort(descending=True)
    order = order[(score[0] > bar)[order] & (gap[0] > 0)[order]]
    total = gap[0][order].cumsum(0)
    before = torch.cat([torch.zeros(1, dtype=total.dtype), total])[:-1]
    needed = before < search.cover * total[-1] if len(order) else before.bool()
    return order[needed][: search.most]


def _separation(
    values: Float[Tensor, "row token"], labels: Bool[Tensor, "draw row"]
) -> tuple[Float[Tensor, "draw token"], Float[Tensor, "draw token"]]:
    """Give d and s of every token under every labelling."""

    def moments(chosen: Bool[Tensor, "draw row"]) -> tuple[Tensor, Tensor]:
        weight = chosen.to(values.dtype)
        n = reduce(weight, "draw row -> draw 1", "sum")
        mean = einsum(weight, values, "draw row, row token -> draw token") / n
        square = einsum(weight, values.square(), "draw row, row token -> draw token") / n
        # Unbiased variance of one request, over n: the squared standard error of the mean.
        return mean, (square - mean.square()).clamp(min=0) / (n - 1)

    (mean_a, error_a), (mean_b, error_b) = moments(labels), moments(~labels)
    gap = mean_a - mean_b
    return gap, gap / ((error_a + error_b).sqrt() + 1e-3)
