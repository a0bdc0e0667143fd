"""Write an adapter as two small files that hold no path and no machine name."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_KEPT = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "bias",
    "target_modules",
    "inference_mode",
    "fan_in_fan_out",
    "init_lora_weights",
    "use_rslora",
    "use_dora",
)


def save_adapter(tuned: PeftModel, folder: Path, *, strength: float = 1.0) -> None:
    """Write ``adapter_model.safetensors`` (bfloat16) and ``adapter_config.json`` to ``folder``.

    bfloat16 halves the file; what is measured afterwards is the file, not the float32 original.
    ``strength`` multiplies the scale alpha / r of the whole adapter, not its weights.
    peft's own writer is not used: it stores the local path of the base and warns about it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(tuned)
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in state.items()
    }
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    given = tuned.peft_config["default"].to_dict()
    config: dict[str, object] = {key: given[key] for key in _KEPT if key in given}
    config["target_modules"] = sorted(given["target_modules"])
    config["lora_alpha"] = given["lora_alpha"] * strength
    config["inference_mode"] = True
    config["base_model_name_or_path"] = BASE_NAME
    text = json.dumps(config, indent=1, sort_keys=True, default=str)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
