"""Reading a PEFT adapter folder: what is served, what is refused, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from hooks.errors import ModelError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig

# peft is imported where it is used: models without an adapter need not wait for it.
MAGNITUDE = "lora_magnitude_vector"
_UNKNOWN = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication"),
    *("lora_bias", "monteclora_config", "target_parameters", "trainable_token_indices"),
    *("use_bdlora", "use_qalora", "velora_config"),
)
"""Options of LoRA that change more than matrices of the blocks, by token or by position."""


def read_adapter(
    folder: Path, spec: str, hf: PreTrainedModel
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Read configuration and tensors of an adapter folder for ``hf``, which is not touched.

    Raises:
        ModelError: no safetensors file, one that cannot be read, an adapter that is not served, or
            one made for another base.
    """
    from peft import PeftConfig

    # transformers would fall back to adapter_model.bin, so this very file must be there.
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(
            f"{folder}: no safetensors adapter there; pickle-family files are not read"
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{spec}: adapter_config.json cannot be read ({_first(error)})") from error
    known = require_known(config, spec)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: no whole safetensors file ({_first(error)})") from error
    # peft writes DoRA's magnitudes without the name of their parameter, which transformers needs.
    named = {f"{key}.weight" if key.endswith(MAGNITUDE) else key: t for key, t in tensors.items()}
    known.inference_mode = True
    return known, _without_copies(named, known, hf, spec)


def _without_copies(
    tensors: Mapping[str, Tensor], config: LoraConfig, hf: PreTrainedModel, spec: str
) -> dict[str, Tensor]:
    """Drop copies of the base's own weights, which peft keeps beside an adapted embedding.

    Loaded, they would take the place of the base's weights on both sides of a pair.

    Raises:
        ModelError: they differ from the base's.
    """
    own = dict(hf.named_parameters(remove_duplicate=False))
    whole = tuple(config.modules_to_save or ())  # peft takes them as ends of module names
    kept = dict(tensors)
    for key, tensor in tensors.items():
        name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        module = name.rpartition(".")[0]
        if "lora_" in key or module.endswith(whole) or name not in own:
            continue
        base = own[name]
        if base.shape != tensor.shape or not base.cpu().equal(tensor.to(base.dtype)):
            raise ModelError(
                f"{spec}: the adapter holds a {name} of its own that is not the base's; give the "
                "base that it was trained on"
            )
        del kept[key]
    return kept


def require_known(config: PeftConfig, spec: str) -> LoraConfig:
    """Refuse an adapter that cannot be switched off exactly, and return the configuration.

    Raises:
        ModelError: another method than LoRA or DoRA, trained biases, or an option that is unknown
            here; names it.
    """
    from peft import LoraConfig

    kind = getattr(config.peft_type, "value", config.peft_type)
    advice = "merge it into the base, save the whole model, and give that as --aligned"
    if not isinstance(config, LoraConfig) or kind != "LORA":
        raise ModelError(f"{spec}: adapters of type {kind} are not served, LoRA is; {advice}")
    if config.bias != "none":
        raise ModelError(
            f"{spec}: the adapter holds biases of the base's layers (bias={config.bias!r}), which "
            f"would stay changed with the adapter off; {advice}"
        )
    unknown = [name for name in _UNKNOWN if getattr(config, name, None)]
    if unknown:
        raise ModelError(
            f"{spec}: LoRA with {', '.join(unknown)} is not served, plain LoRA and DoRA are; "
            f"{advice}"
        )
    return config


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
