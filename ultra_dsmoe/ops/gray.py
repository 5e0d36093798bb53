"""The papers' gray transform of the images, as the first step of the network.

It stands inside the network, not in the loaders, so that training, validation, prediction and every exported file have
it by construction, whoever runs them: the host's predictor, our runtime, another program. The price is that it acts on
what the network is given, so behind letterbox and augmentation; the bars are darkened with the picture, alike
everywhere.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ultra_dsmoe.checks import positive


def gray_transform(images: Tensor, gamma: float) -> Tensor:
    """Return s = c r^gamma with c = 1, which keeps black and white; above 1 it darkens what lies between.

    Source: [DSMoE] Eq. 35, a power law with the constants 1 and 1.5. Deviation: of the values on [0, 1] (raw 255^1.5
    overflows) and of any precision, without rounding to 256 levels. It acts on every channel.

    Args:
        images: Any shape, in [0, 1].
        gamma: Exponent, > 0. At 1 the images themselves are returned and a graph gets no node.

    Returns:
        Images of the same shape and type, in [0, 1].
    """
    return images if gamma == 1 else images**gamma  # [DSMoE] Eq. 35


def check_gamma(argument: str, value: Any) -> float:
    """Return the exponent as a number.

    Raises:
        ConfigError: If ``value`` is no finite number above 0; it names ``argument``.
    """
    return positive(argument, value, "the exponent of the gray transform")
