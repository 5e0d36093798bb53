"""Patch-wise DCT: orthonormal kernels, laws of the projection, overlapping patches by hand, what moves with a map."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ultra_dsmoe.ops.patch_dct import (
    autocorrelations,
    band_kernel,
    dct_kernels,
    dct_matrix,
    depthwise,
    filter_map,
    frequencies,
    low_band,
    project_patches,
    spectrum,
)

SIZES = [2, 3, 4, 8]


def low_kernels(n: Any, tau: Any) -> Any:
    return dct_kernels(n)[low_band(n, tau) > 0]


@pytest.mark.parametrize("n", SIZES)
def test_kernels_are_orthonormal(n: Any) -> None:
    flat = dct_kernels(n).flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(n * n), atol=1e-6, rtol=0)


def test_matrix_by_hand() -> None:
    s = math.sqrt(0.5)
    torch.testing.assert_close(dct_matrix(2), torch.tensor([[s, s], [s, -s]]))
    assert dct_matrix(8)[3, 5] == pytest.approx(0.5 * math.cos(math.pi * 5.5 * 3 / 8))


def test_frequencies_and_low_band() -> None:
    assert frequencies(3).tolist() == [0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert low_band(3, 2).tolist() == [1, 1, 0, 1, 0, 0, 0, 0, 0]
    assert low_band(8, 3).sum() == 6


def test_kernels_stand_in_the_order_of_their_frequencies() -> None:
    """Coefficient (u, v) is u half waves downwards and v to the right."""
    kernels = dct_kernels(4)
    torch.testing.assert_close(kernels[1], dct_matrix(4)[1].expand(4, 4) / 2)  # (0, 1): varies to the right only
    torch.testing.assert_close(kernels[4], kernels[1].T)


@pytest.mark.parametrize("size", [(16, 24), (21, 30), (4, 4), (3, 5)])
@pytest.mark.parametrize("n", [4, 8])
def test_projection_is_one(n: Any, size: Any) -> None:
    """Idempotent and orthogonal; on sides that are no multiples of the patch it keeps the size."""
    x, weight = torch.randn(2, 3, *size), depthwise(low_kernels(n, 3), 3)
    low = project_patches(x, weight)
    assert low.shape == x.shape
    if size[0] % n == size[1] % n == 0:
        torch.testing.assert_close(project_patches(low, weight), low, atol=1e-5, rtol=0)
        high = x - low
        assert abs((low * high).sum()) < 1e-3 * (x * x).sum()
        torch.testing.assert_close((low**2).sum() + (high**2).sum(), (x**2).sum(), rtol=1e-4, atol=1e-3)


def test_projection_of_the_mean_is_the_patch_mean() -> None:
    x = torch.randn(1, 1, 8, 8)
    low = project_patches(x, depthwise(low_kernels(4, 1), 1))
    torch.testing.assert_close(low, F.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_channels_do_not_mix() -> None:
    x = torch.zeros(1, 3, 8, 8)
    x[:, 1] = torch.randn(8, 8)
    low = project_patches(x, depthwise(low_kernels(4, 2), 3))
    assert low[:, [0, 2]].abs().max() == 0
    assert low[:, 1].abs().max() > 0.1
    assert spectrum(x, depthwise(dct_kernels(4), 3))[0, [0, 2]].abs().max() == 0


@pytest.mark.parametrize(("n", "tau"), [(2, 1), (3, 2), (4, 2), (4, 5)])
def test_overlapping_band_is_the_mean_over_all_patches_that_hold_a_cell(n: Any, tau: Any) -> None:
    x, weight = torch.randn(1, 1, 3 * n, 3 * n), depthwise(low_kernels(n, tau), 1)
    kernel = band_kernel(low_band(n, tau), autocorrelations(n)).expand(1, 1, -1, -1)
    low = filter_map(x, kernel)
    i, j = n + 1, 2 * n - 2  # a cell all of whose patches lie inside
    patches = [
        project_patches(x[..., top : top + n, left : left + n], weight)[..., i - top, j - left]
        for top in range(i - n + 1, i + 1)
        for left in range(j - n + 1, j + 1)
    ]
    torch.testing.assert_close(low[..., i, j], torch.stack(patches).mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", SIZES)
def test_all_coefficients_together_give_the_map(n: Any) -> None:
    kernel = band_kernel(torch.ones(n * n), autocorrelations(n))
    wanted = torch.zeros(2 * n - 1, 2 * n - 1)
    wanted[n - 1, n - 1] = 1
    torch.testing.assert_close(kernel, wanted, atol=1e-6, rtol=0)


def test_haar_is_patches_of_two() -> None:
    one = torch.tensor([1.0, 2.0, 1.0]) / 4
    torch.testing.assert_close(band_kernel(low_band(2, 1), autocorrelations(2)), one[:, None] * one)


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (3, 3)])
def test_a_constant_map_is_all_low(size: Any) -> None:
    x = torch.full((1, 2, *size), 3.0)
    kernel = band_kernel(low_band(4, 2), autocorrelations(4)).expand(2, 1, -1, -1)
    torch.testing.assert_close(filter_map(x, kernel), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(project_patches(x, depthwise(low_kernels(4, 2), 2)), x, atol=1e-5, rtol=0)


def test_the_overlapping_band_moves_with_the_image_and_that_of_patches_does_not() -> None:
    torch.manual_seed(0)
    field = F.avg_pool2d(torch.randn(1, 1, 68, 68), 5, 1)  # smooth
    kernel = band_kernel(low_band(8, 3), autocorrelations(8)).expand(1, 1, -1, -1)
    weight = depthwise(low_kernels(8, 3), 1)
    inner = slice(20, 40)

    def moved(low: Any) -> Any:
        here, there = low(field)[..., inner, inner], low(field.roll((4, 4), (2, 3)))[..., 24:44, 24:44]
        return ((here - there).norm() / here.norm()).item()

    assert moved(lambda x: filter_map(x, kernel)) < 1e-6
    assert moved(lambda x: project_patches(x, weight)) > 0.3


def test_spectrum_by_hand() -> None:
    wave = dct_matrix(4)[2].expand(4, 4)  # (0, 2), with sum of squares 4
    x = torch.cat([wave, -wave], 1)[None, None]  # two patches, of opposite sign
    wanted = torch.zeros(1, 1, 16)
    wanted[..., 2] = 2
    torch.testing.assert_close(spectrum(x, depthwise(dct_kernels(4), 1)), wanted, atol=1e-6, rtol=0)


def test_spectrum_of_a_map_that_patches_do_not_fill_repeats_its_last_cells() -> None:
    weight = depthwise(dct_kernels(4), 2)
    for size in ((1, 1), (3, 9), (4, 8), (5, 2)):
        x = torch.randn(1, 2, *size)
        whole = F.pad(x, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate")
        torch.testing.assert_close(spectrum(x, weight), spectrum(whole, weight))


def test_half_precision_stays_near() -> None:
    x = torch.randn(1, 4, 12, 12)
    kernel = band_kernel(low_band(4, 2), autocorrelations(4)).expand(4, 1, -1, -1)
    torch.testing.assert_close(filter_map(x.half(), kernel).float(), filter_map(x, kernel), atol=4e-3, rtol=0)
