"""What rows of states must be before they are decomposed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from artifacts.errors import InputError


def check_rows(base: Float64[np.ndarray, "n q"], shift: Float64[np.ndarray, "n d"]) -> None:
    """Refuse rows that cannot be decomposed.

    Raises:
        InputError: fewer than 3, or not finite; the message counts them.
    """
    if len(base) < 3:
        raise InputError(f"{len(base)} prompts cannot be decomposed; give at least 3")
    bad = ~(np.isfinite(base).all(1) & np.isfinite(shift).all(1))
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of {len(base)} rows are not finite, the first at prompt "
            f"{int(bad.argmax())}; look for overflow in the states, try --dtype float32"
        )
