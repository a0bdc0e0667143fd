"""Where a model came from: specification, folder, revision, adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from hooks import fingerprint


@dataclass(frozen=True)
class Source:
    """The origin of one side of a pair."""

    spec: str
    """What the user wrote."""
    name: str
    """Folder or hub id of the base weights."""
    folder: Path | None = None
    """Local folder of the base weights, None for a model made in memory."""
    revision: str | None = None
    adapter: Path | None = None

    def weight_digests(self, hf: PreTrainedModel) -> dict[str, str]:
        """Return SHA-256 of the weight files, or of the state in memory."""
        if self.folder is not None:
            return fingerprint.folder_digests(self.folder)
        return {"state": fingerprint.state_digest(hf.state_dict())}

    @property
    def adapter_digest(self) -> str | None:
        """SHA-256 of the adapter's weight file, None without one."""
        if self.adapter is None:
            return None
        return next(iter(fingerprint.folder_digests(self.adapter).values()), None)
