"""Load a model or a base/aligned pair from a folder, the hub, or the reference pair."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as logging_of_transformers

from hooks.adapter import AdapterMode, AdapterSwitch
from hooks.adapter_file import read_adapter
from hooks.errors import ModelError, TokenizerError
from hooks.hardware import Dtype, bound_kernel_caches, keep_heap, pick_device, pick_dtype
from hooks.model import Model, view_of
from hooks.precision import StreamMode
from hooks.source import Source

_log = logging.getLogger("theodolite.load")
_REFERENCE = ("reference:base", "reference:aligned")


def load(
    spec: str,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    revision: str | None = None,
    adapter_mode: AdapterMode = "auto",
    stream: StreamMode = "model",
) -> Model:
    """Load one model.

    Args:
        spec: a local folder, a hub id, ``reference:base``, ``reference:aligned``, or
            ``BASE+ADAPTER`` (a PEFT adapter folder on a base).
        dtype: ``auto`` is bfloat16 where the hardware multiplies it natively, else float32.
        device: ``auto`` is the first accelerator, else the CPU; ``map`` spreads a model that is
            larger than one device (accelerate's ``device_map="auto"``). Weights that fit on none
            are refused, not fetched from disk.
        revision: commit or branch on the hub.
        adapter_mode: ``merged`` keeps the adapted weights beside the base's, ``live`` runs the
            adapter's own layers; ``auto`` merges what can be, up to 4 GiB. LoRA and DoRA are
            served, also with layers that were trained whole. See :mod:`hooks.adapter`.
        stream: ``float32`` keeps the residual stream of a low-precision model in float32 inside
            hook contexts, ``auto`` does so where the family can. See :mod:`hooks.precision`.

    Raises:
        ModelError: nothing loadable is there, its weights are pickle-family files, or they do not
            fit on the devices.
        TokenizerError: the tokenizer cannot be loaded.
    """
    base, adapter = split_spec(spec)
    hf, tokenizer, source = _load_base(base, dtype, device, revision)
    if adapter is None:
        view, _ = view_of(hf, tokenizer, stream=stream)
        return Model(view, _named(source, spec, None))
    switch = _add_adapter(hf, adapter, spec, adapter_mode)
    _, view = view_of(hf, tokenizer, adapter=switch, stream=stream)
    if view is None:
        raise ModelError(f"{spec}: the adapter left no view")
    view.rest(on=True)  # nobody else uses these weights
    return Model(view, _named(source, spec, adapter))


def load_pair(
    base: str,
    aligned: str,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    allow_mismatch: bool = False,
    adapter_mode: AdapterMode = "auto",
    stream: StreamMode = "model",
) -> tuple[Model, Model]:
    """Load base and aligned model; a pair that differs by an adapter shares one set of weights.

    Raises:
        ModelError: different numbers of layers or widths, or the same model twice by name.
        TokenizerError: different tokenizers or chat templates, unless ``allow_mismatch``.
    """
    base_root, base_adapter = split_spec(base)
    root, adapter = split_spec(aligned)
    if base_adapter is None and adapter is not None and base_root == root:
        hf, tokenizer, source = _load_base(base_root, dtype, device, None)
        switch = _add_adapter(hf, adapter, aligned, adapter_mode)
        off, on = view_of(hf, tokenizer, adapter=switch, stream=stream)
        if on is None:
            raise ModelError(f"{aligned}: the adapter left no view")
        off.rest(on=False)
        return Model(off, _named(source, base, None)), Model(on, _named(source, aligned, adapter))
    pair = tuple(
        load(spec, dtype=dtype, device=device, adapter_mode=adapter_mode, stream=stream)
        for spec in (base, aligned)
    )
    check_pair(pair[0], pair[1], allow_mismatch=allow_mismatch)
    return pair[0], pair[1]


def check_pair(base: Model, aligned: Model, *, allow_mismatch: bool = False) -> tuple[str, ...]:
    """Refuse two models whose states cannot be subtracted; return what was allowed.

    Raises:
        ModelError: different numbers of layers or widths.
        TokenizerError: different vocabularies or chat templates, unless ``allow_mismatch``.
    """
    for name in ("n_layers", "d_model"):
        left, right = getattr(base, name), getattr(aligned, name)
        if left != right:
            raise ModelError(
                f"{base.spec} has {name} {left}, {aligned.spec} has {right}: their states cannot "
                "be compared; give a base and the model that was trained from it"
            )
    left, right = base.tokenizer_info(), aligned.tokenizer_info()
    found = []
    if left.digest != right.digest:
        found.append("tokenizers")
    if left.chat_template_digest != right.chat_template_digest:
        found.append("chat templates")
    if found and not allow_mismatch:
        raise TokenizerError(
            f"{base.spec} and {aligned.spec} have different {' and '.join(found)}, so the same "
            "prompt gives different tokens; --allow-mismatch uses the aligned model's for both "
            "and records it"
        )
    return tuple(found)


def wrap(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, spec: str = "in memory"
) -> Model:
    """Use a model that is loaded already; it is not changed.

    Raises:
        ModelError: TransformerLens does not know its architecture.
    """
    view, _ = view_of(hf, tokenizer)
    folder = Path(str(hf.name_or_path)) if hf.name_or_path else None
    known = folder if folder is not None and folder.is_dir() else None
    return Model(view, Source(spec=spec, name=str(hf.name_or_path or spec), folder=known))


def split_spec(spec: str) -> tuple[str, Path | None]:
    """Split ``BASE+ADAPTER``; ``reference:aligned`` is the reference base and its adapter.

    Raises:
        ModelError: an empty part, or an adapter folder that is not there.
    """
    if spec == "reference:aligned":
        from hooks import reference

        return "reference:base", Path(reference.adapter_path())
    if spec.startswith("reference:") and spec.partition("+")[0] not in _REFERENCE:
        raise ModelError(f"{spec!r}: choose {' or '.join(_REFERENCE)}")
    if Path(spec).is_dir() or "+" not in spec:
        return spec, None
    base, _, adapter = spec.rpartition("+")
    if not base or not adapter:
        raise ModelError(f"{spec!r}: write BASE+ADAPTER, both non-empty")
    folder = Path(adapter)
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{adapter}: no adapter_config.json there; give a PEFT adapter folder")
    return base, folder


def _named(source: Source, spec: str, adapter: Path | None) -> Source:
    return Source(spec, source.name, source.folder, source.revision, adapter)


def _load_base(
    spec: str, dtype: Dtype, device: str, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Source]:
    name = spec
    if spec == "reference:base":
        from hooks import reference

        name = str(reference.path("base"))
    bound_kernel_caches()
    keep_heap()
    where = pick_device(device)
    chosen = pick_dtype(dtype, where)
    options: dict[str, object] = {"device_map": "auto"} if device == "map" else {}
    try:
        with _no_bars():
            hf = AutoModelForCausalLM.from_pretrained(
                name,
                revision=revision,
                dtype=chosen,
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
    except (OSError, ValueError) as error:
        raise ModelError(_explain(name, error)) from error
    if device == "map":
        _require_present(hf, name)
    else:
        nn.Module.to(hf, where)  # in place for modules
    hf.eval().requires_grad_(False)
    folder = Path(name) if Path(name).is_dir() else _snapshot(hf)
    commit = getattr(hf.config, "_commit_hash", None)
    return hf, _load_tokenizer(name, revision), Source(spec, name, folder, commit or revision)


def _require_present(hf: PreTrainedModel, name: str) -> None:
    """Refuse weights that accelerate has put aside, because nothing can read or exchange them.

    Raises:
        ModelError: counts them.
    """
    places = [part.device.type for part in hf.parameters()]
    if aside := places.count("meta"):
        raise ModelError(
            f"{name}: {aside} of {len(places)} weights do not fit on the devices here and would be "
            "fetched anew in every pass; use a smaller --dtype or more memory"
        )


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide transformers' bar over weight tensors, which says nothing about the time left."""
    shown = logging_of_transformers.is_progress_bar_enabled()
    logging_of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging_of_transformers.enable_progress_bar()


def _load_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0][:200]
        raise TokenizerError(f"{name}: no tokenizer could be loaded ({first})") from error


def _snapshot(hf: PreTrainedModel) -> Path | None:
    """Return the hub cache folder that holds the weights, if there is one."""
    from huggingface_hub import try_to_load_from_cache

    commit = getattr(hf.config, "_commit_hash", None)
    found = try_to_load_from_cache(str(hf.name_or_path), "config.json", revision=commit)
    return Path(found).parent if isinstance(found, str) else None


def _add_adapter(hf: PreTrainedModel, folder: Path, spec: str, mode: AdapterMode) -> AdapterSwitch:
    config, state = read_adapter(folder, spec, hf)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns about keys that it then loads
            with _no_bars():
                # transformers says dict and reads a PeftConfig.
                info = hf.load_adapter(peft_config=config, adapter_state_dict=state)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0][:200]
        raise ModelError(f"{spec}: the adapter does not fit its base ({first})") from error
    # Only a warning to transformers, but such an adapter changes nothing, or not what it should.
    lost = sorted({*getattr(info, "missing_keys", ()), *getattr(info, "unexpected_keys", ())})
    if lost:
        raise ModelError(
            f"{spec}: the adapter does not fit its base ({len(lost)} tensors have no counterpart, "
            f"such as {lost[0]})"
        )
    hf.eval().requires_grad_(False)
    return AdapterSwitch(hf, mode)


def _explain(name: str, error: Exception) -> str:
    text = str(error)
    if "safetensors" in text and Path(name).is_dir():
        return f"{name}: no safetensors weights there; pickle-family files are never read"
    if not Path(name).exists() and "/" not in name.strip("./"):
        return f"{name}: neither a folder here nor a hub id; check the spelling"
    return f"{name}: cannot be loaded ({text.splitlines()[0][:200]})"
