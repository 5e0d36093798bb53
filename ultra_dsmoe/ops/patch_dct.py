"""Discrete cosine transform of small patches of a map, and its split into a low and a high band.

A patch of n x n cells has n x n coefficients (u, v), each the product with one kernel of an orthonormal set; those with
u + v < tau are the low band. Patches may lie side by side (`project_patches`), or start at every cell, where a cell's
low band is the mean over the n x n patches that it lies in (`band_kernel`): that is one convolution, moves with the
image, and with n = 2 and tau = 1 is the low band of the stationary Haar wavelet.

Source: [GASNet] names a frequency filter "PDCT"; reading it as a patch-wise DCT, and all that is here, is our choice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dct_matrix(n: int) -> Tensor:
    """Return the orthonormal DCT-II of length n, one basis vector per row, (n, n)."""
    position = torch.arange(n, dtype=torch.float64) + 0.5
    rows = torch.cos(math.pi / n * torch.arange(n, dtype=torch.float64)[:, None] * position) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.float()


def dct_kernels(n: int) -> Tensor:
    """Return the kernels of an n x n patch, (n * n, n, n), in the order of `frequencies`."""
    d = dct_matrix(n)
    return torch.einsum("ux,vy->uvxy", d, d).reshape(n * n, n, n)


def frequencies(n: int) -> Tensor:
    """Return u + v of every coefficient of an n x n patch, (n * n)."""
    u = torch.arange(n)
    return (u[:, None] + u).flatten()


def low_band(n: int, tau: int) -> Tensor:
    """Return the share that every coefficient has in the low band, (n * n): 1 where u + v < tau, else 0."""
    return (frequencies(n) < tau).float()


def depthwise(kernels: Tensor, c: int) -> Tensor:
    """Return the weight of a convolution that applies all kernels to each of c channels, (c K, 1, n, n).

    Args:
        kernels: (K, n, n).
        c: Channels.
    """
    return kernels.repeat(c, 1, 1)[:, None]


def project_patches(x: Tensor, weight: Tensor) -> Tensor:
    """Project every patch of a map on some of the kernels: patches lie side by side.

    Where the sides are no multiples of the patch, the last row and column are repeated and cut off again.

    Args:
        x: Maps, (B, C, H, W).
        weight: `depthwise` of orthonormal kernels, (C K, 1, n, n).

    Returns:
        The projection, (B, C, H, W).
    """
    (c, h, w), n = x.shape[1:], weight.shape[-1]
    weight = weight.to(x.dtype)
    padded = F.pad(x, (0, -w % n, 0, -h % n), mode="replicate")
    coefficients = F.conv2d(padded, weight, stride=n, groups=c)
    return F.conv_transpose2d(coefficients, weight, stride=n, groups=c)[..., :h, :w]


def autocorrelations(n: int) -> Tensor:
    """Return what each coefficient adds to `band_kernel`, (n * n, 2n - 1, 2n - 1).

    They sum to a kernel that is 1 in the middle and 0 elsewhere, as all coefficients together give the map back.
    """
    kernels = dct_kernels(n)[:, None]
    return F.conv2d(F.pad(kernels, (n - 1,) * 4).transpose(0, 1), kernels, groups=n * n)[0] / n**2


def band_kernel(shares: Tensor, autocorrelation: Tensor) -> Tensor:
    """Return the convolution that gives a band of overlapping patches, (..., 2n - 1, 2n - 1).

    Args:
        shares: How much of each coefficient belongs to the band, (..., n * n).
        autocorrelation: `autocorrelations`.
    """
    return (shares @ autocorrelation.flatten(1)).unflatten(-1, autocorrelation.shape[1:])


def filter_map(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel with its own kernel; cells beyond the border repeat the last ones.

    Args:
        x: Maps, (B, C, H, W).
        kernel: Of odd length, (C, 1, k, k).

    Returns:
        Maps of the same size, (B, C, H, W).
    """
    edge = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x, (edge,) * 4, mode="replicate"), kernel.to(x.dtype), groups=x.shape[1])


def spectrum(x: Tensor, weight: Tensor) -> Tensor:
    """Return the mean magnitude of each coefficient over the patches of a map, side by side, (B, C, K).

    Where a side is no multiple of the patch, the last patch repeats the last cells; so a map may be smaller than one.

    Args:
        x: Maps, (B, C, H, W).
        weight: `depthwise` of the kernels, (C K, 1, n, n).
    """
    (b, c), n = x.shape[:2], weight.shape[-1]
    # The same padding for every size: a file with free axes holds it as a constant. What no patch reaches is not read.
    padded = F.pad(x, (0, n - 1, 0, n - 1), mode="replicate")
    coefficients = F.conv2d(padded, weight.to(x.dtype), stride=n, groups=c)
    return coefficients.abs().mean((2, 3)).reshape(b, c, len(weight) // c)
