"""How references are laid on images and compared with them; what the runtime without torch needs of it too."""

from ultra_dsmoe.runtime.registration import (
    IDENTITY,
    MISMATCH_LIMIT,
    QUALITY_LIMIT,
    Measured,
    Registration,
    laid_on,
    measured,
    mismatch,
    register,
)

__all__ = [
    "IDENTITY",
    "MISMATCH_LIMIT",
    "QUALITY_LIMIT",
    "Measured",
    "Registration",
    "laid_on",
    "measured",
    "mismatch",
    "register",
]
