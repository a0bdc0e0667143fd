"""Typed refusals of the hook layer; each message is one line: value, place, next step."""

from __future__ import annotations

from artifacts.errors import InputError, SystemFailure


class ModelError(InputError):
    """A model specification that cannot be loaded or a pair that does not match."""


class TokenizerError(InputError):
    """A tokenizer or chat template that cannot serve the request."""


class SiteError(InputError):
    """A site that does not exist, is not served by this family, or failed its check."""


class PositionError(InputError):
    """A position or step rule that cannot be resolved for this forward pass."""


class EditError(InputError):
    """An intervention whose data does not fit its site."""


class EditContractError(EditError):
    """An edit returned another shape or dtype, or numbers that are not finite."""


class SilentEditError(EditError):
    """An edit or capture that never acted: a silent no-op is refused."""


class ContextError(InputError):
    """Hook contexts used out of order, or on two views of one set of weights at once."""


class OutOfMemoryError(SystemFailure):
    """Memory ran out with a single row in the batch."""
