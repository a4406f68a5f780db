"""How alike two images are: PSNR, SSIM, mask overlap. The definitions of the field; `mask` says where PSNR looks."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def psnr(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio (*V) [dB] of images (*V, height, width, 3) in [0, 1]: -10 log10 of the mean squared difference.

    With a mask (*V, height, width) of its pixels only, and NaN if it has none.
    """
    error = (image - target).square().mean(-1)
    if mask is None:
        return -10 * torch.log10(error.flatten(-2).mean(-1))
    return -10 * torch.log10((error * mask).flatten(-2).sum(-1) / mask.flatten(-2).sum(-1))


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (*V) of images (*V, height, width, 3) in [0, 1], with Gaussian windows of 11 pixels and deviation 1.5 (Wang et al., IEEE TIP
    2004).
    """
    a, b = (value.movedim(-1, -3) for value in (image, target))
    stacked = torch.stack((a, b, a * a, b * b, a * b))
    mean_a, mean_b, square_a, square_b, product = (
        _window(image.shape[-3], image.device, image.dtype) @ stacked @ _window(image.shape[-2], image.device, image.dtype)
    ).unbind()
    var_a, var_b, covariance = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    value = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2) / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
    return value.flatten(-3).mean(-1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may want gradients
def _window(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Gaussian windows around each of `size` pixels as a symmetric matrix, zeros beyond the image; its product is faster than a convolution of few channels."""
    offset = torch.arange(size, device=device, dtype=dtype)
    offset = offset - offset.unsqueeze(-1)
    window = torch.exp(-(torch.arange(-5, 6, device=device, dtype=dtype) ** 2) / (2 * 1.5**2))
    return torch.where(offset.abs() <= 5, torch.exp(-(offset**2) / (2 * 1.5**2)), 0.0) / window.sum()


def mask_overlap(alpha: Tensor, masks: Tensor, *, level: float = 0.5) -> Tensor:
    """Intersection over union (*V) of silhouettes, `alpha` (*V, height, width) above `level`, and masks (*V, height, width); 1 where both are empty."""
    if masks.dtype != torch.bool:
        raise ValueError(f"mask_overlap: expected bool masks, got {masks.dtype}; compare them with a threshold first.")
    drawn = alpha > level
    union = (drawn | masks).flatten(-2).sum(-1)
    return torch.where(union > 0, (drawn & masks).flatten(-2).sum(-1) / union.clamp_min(1), 1.0)
