"""Measure that each site is what its name says, before anything is built on it.

    resid_pre + attn_out = resid_mid,   resid_mid + mlp_out = resid_post
    sum_h z_h W_O[h] + b_O = the projection's output
    the last token's state is the same padded and unpadded

Every site must fire exactly once in a pass. A kind that fails is refused with its error; which
kinds hold depends on the architecture, so the report is kept in the cache by configuration,
precision and library versions.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from artifacts.errors import InputError
from hooks import fingerprint
from hooks.accumulate import Rows
from hooks.adapter import adapted_weight
from hooks.capture import Capture
from hooks.encoded import Encoded
from hooks.engine import EngineOptions
from hooks.layout import input_width
from hooks.reference import cache_root
from hooks.run import Run
from hooks.sites import BLOCK_KINDS, Site, site
from hooks.source import Source
from hooks.weights import View

_FORMAT = 2
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_LENGTHS = (5, 9)


@dataclass(frozen=True)
class CheckReport:
    """What was measured, as the largest error of each identity relative to its largest state."""

    errors: dict[str, float]
    refusals: dict[str, str]
    """Reason by site kind for those that failed."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """True when no kind that the family should give was refused."""
        return not self.refusals


def run_check(view: View, source: Source) -> CheckReport:
    """Return the cached report for this architecture, or measure it now."""
    path = _cache_path(view, source)
    if path is not None and path.is_file():
        try:
            return CheckReport(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)
    report = _measure(view)
    if path is not None:
        # The report can be measured again: a cache that cannot be written costs time, no more.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(report), indent=1))
    return report


def _cache_path(view: View, source: Source) -> Path | None:
    if source.folder is None:
        return None
    parts = [
        str(_FORMAT),
        type(view.hf).__name__,
        fingerprint.config_digest(view.hf.config),
        str(view.hf.dtype),
        str(view.device.type),
        str(getattr(view.hf.config, "_attn_implementation", "")),
        str(view.adapter is not None),
        str(view.registry.float32_stream),
        *(version(name) for name in ("torch", "transformers", "transformer-lens")),
    ]
    return cache_root() / "checks" / f"{fingerprint.text_digest('|'.join(parts))}.json"


def _measure(view: View) -> CheckReport:
    plain = View(view.weights, view.tokenizer, adapter=view.adapter)
    tolerance = _TOLERANCE.get(view.hf.dtype, 5e-2)
    probe = _Probe(plain)
    errors: dict[str, float] = {}
    refusals: dict[str, str] = {}

    def hold(name: str, error: float, kinds: tuple[str, ...]) -> None:
        errors[name] = error
        if not error <= tolerance:
            for kind in kinds:
                refusals.setdefault(
                    kind, f"{name} fails with relative error {error:.2g} (at most {tolerance:g})"
                )

    for kind in probe.kinds:
        hold(f"{kind} fires once", probe.misfires(kind), (kind,))
    for name, error, kinds in probe.identities():
        hold(name, error, kinds)
    hold("last token padded = unpadded", probe.padding_error(), ("hook_resid_post",))
    return CheckReport(errors, refusals, tolerance)


class _Probe:
    """A padded pass and an unpadded one over random tokens, with every site captured."""

    def __init__(self, view: View) -> None:
        self.view = view
        layout = view.layout
        self.kinds = tuple(kind for kind in BLOCK_KINDS if kind not in layout.refused)
        self.blocks = range(layout.n_layers)
        rng = torch.Generator().manual_seed(0)
        vocab = int(view.hf.config.get_text_config(decoder=True).vocab_size)
        ids = [torch.randint(vocab, (n,), generator=rng).tolist() for n in _LENGTHS]
        self.both, self.calls = self._pass(ids)
        self.alone, _ = self._pass(ids[:1])

    def _pass(self, ids: list[list[int]]) -> tuple[Rows, dict[str, int]]:
        rows = Rows()
        names = [f"blocks.*.{kind}" for kind in self.kinds]
        options = EngineOptions(prefix=False, stop=False)
        run = Run(self.view, [Capture(names, at="all", into=rows)], [], options)
        with run:
            run.forward(Encoded.from_ids(ids))
        return rows, dict(run.calls)

    def state(self, kind: str, block: int) -> Tensor:
        """Return the longer row's states at one site."""
        found = self.both[self._site(kind, block).name]
        return found[1]

    def _site(self, kind: str, block: int) -> Site:
        return site(kind, block, self.view.layout.n_layers)

    def misfires(self, kind: str) -> float:
        """Return how far the number of calls in one pass is from one."""
        return max(abs(self.calls.get(self._site(kind, b).name, 0) - 1.0) for b in self.blocks)

    def identities(self) -> list[tuple[str, float, tuple[str, ...]]]:
        """Return name, error and the kinds at fault for each identity that applies."""
        has = set(self.kinds)
        found: list[tuple[str, float, tuple[str, ...]]] = []
        if {"hook_attn_out", "hook_resid_mid"} <= has:
            kinds = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid")
            found.append(("resid_pre + attn_out = resid_mid", self._sum(kinds), kinds[1:]))
        if {"hook_mlp_out", "hook_resid_mid"} <= has:
            kinds = ("hook_resid_mid", "hook_mlp_out", "hook_resid_post")
            found.append(("resid_mid + mlp_out = resid_post", self._sum(kinds), kinds[:2]))
        elif {"hook_mlp_out", "hook_attn_out"} <= has:
            kinds = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
            found.append(
                ("resid_pre + attn_out + mlp_out = resid_post", self._sum(kinds), kinds[1:3])
            )
        if "attn.hook_z" in has:
            error = max(self._heads(block) for block in self.blocks)
            found.append(("sum_h z_h W_O[h] + b = projection", error, ("attn.hook_z",)))
        return found

    def _sum(self, kinds: tuple[str, ...]) -> float:
        """Return the error of: all kinds but the last add up to the last."""
        return max(
            relative_error(
                sum((self.state(kind, block) for kind in kinds[:-1]), torch.zeros(())),
                self.state(kinds[-1], block),
            )
            for block in self.blocks
        )

    def _heads(self, block: int) -> float:
        module = self.view.layout.component(f"blocks.{block}.attn.o")
        z = self.state("attn.hook_z", block)
        flat = rearrange(z, "token head d -> 1 token (head d)").to(self.view.hf.dtype)
        with torch.no_grad(), self.view:
            weight, bias = output_weights(module, self.view.layout.n_heads)
            whole = module(flat.to(self.view.device))[0].float().cpu()
        by_head = einsum(z, weight.float().cpu(), "token head d, head d out -> token out")
        return relative_error(by_head + (0 if bias is None else bias.float().cpu()), whole)

    def padding_error(self) -> float:
        """Return the error of the shorter row's last state, padded against unpadded."""
        name = self._site("hook_resid_post", self.view.layout.n_layers - 1).name
        # One row alone is a single tensor of tokens.
        alone = self.alone[name]
        single = alone[0] if isinstance(alone, list) or alone.ndim == 3 else alone
        return relative_error(self.both[name][0][-1], single[-1])


def relative_error(got: Tensor, want: Tensor) -> float:
    """Return max |got - want| / max |want|; infinite where either is not finite."""
    if not (torch.isfinite(got).all() and torch.isfinite(want).all()):
        return float("inf")
    scale = want.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((got - want).abs().max() / scale)


def output_weights(module: nn.Module, n_heads: int) -> tuple[Tensor, Tensor | None]:
    """Return W_O as [head, d_head, d_model] and the bias of an attention output projection.

    Knows nn.Linear, GPT-2's Conv1D, and a LoRA or DoRA layer around one, on or off.

    Raises:
        InputError: a quantised or unknown projection, whose weights cannot be read as a matrix.
    """
    inner = module.get_submodule("base_layer") if hasattr(module, "base_layer") else module
    weight = getattr(inner, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise InputError(f"{type(inner).__name__}: its weights cannot be read as a matrix")
    own = weight.detach() if inner is module else adapted_weight(module).to(weight.dtype)
    # nn.Linear keeps [out, in], Conv1D [in, out].
    matrix = own.T if isinstance(inner, nn.Linear) else own
    if matrix.shape[0] != input_width(inner):
        raise InputError(f"{type(inner).__name__}: unexpected weight shape {tuple(weight.shape)}")
    bias = getattr(inner, "bias", None)
    heads = rearrange(matrix, "(head d) out -> head d out", head=n_heads)
    return heads, bias.detach() if isinstance(bias, Tensor) else None
