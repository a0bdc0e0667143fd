"""The value that is stored: a manifest and its tensors, frozen together."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from jaxtyping import Float32
from torch import Tensor

from artifacts.digest import Tensors, content_digest
from artifacts.errors import InputError
from artifacts.manifest import Manifest


@dataclass(frozen=True, eq=False)
class Artifact:
    """A set of directions, probes or a signature with everything needed to understand it.

    Keys, shapes and dtypes are those of ``docs/artifact-format.md``; they are checked when the
    artifact is saved and when it is loaded, not when it is constructed.
    """

    manifest: Manifest
    tensors: Tensors
    """Read-only view; tensors are on the CPU after ``artifacts.load``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the directions, sorted."""
        return tuple(sorted(self.manifest.directions))

    @property
    def digest(self) -> str:
        """SHA-256 of what this object holds now, computed and not taken from the manifest."""
        return content_digest(self.manifest, self.tensors)

    def direction(self, name: str) -> Float32[Tensor, "rows d_model"]:
        """Return one direction: row r belongs to block ``manifest.directions[name].blocks[r]``.

        Not normalised unless ``manifest.directions[name].norm`` is ``unit``.

        Raises:
            InputError: if there is no such direction; the message lists the names.
        """
        key = f"direction/{name}"
        if key not in self.tensors:
            raise InputError(
                f"no direction {name[:120]!a} in this artifact; it has {', '.join(self.names)}"
            )
        return self.tensors[key]
