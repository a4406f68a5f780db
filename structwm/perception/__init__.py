"""From sensors to scenes: splats fitted to posed images, objects found by their silhouettes, and how alike images are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.perception.alignment import Alignment, align_splats
    from structwm.perception.image_metrics import mask_overlap, psnr, ssim
    from structwm.perception.splat_fit import SplatFit, SplatFitProgress, SplatFitSettings, fit_splats
    from structwm.perception.viewed_points import points_in_view

_HOME = {
    "Alignment": "alignment",
    "SplatFit": "splat_fit",
    "SplatFitProgress": "splat_fit",
    "SplatFitSettings": "splat_fit",
    "align_splats": "alignment",
    "fit_splats": "splat_fit",
    "mask_overlap": "image_metrics",
    "points_in_view": "viewed_points",
    "psnr": "image_metrics",
    "ssim": "image_metrics",
}

__all__ = [
    "Alignment",
    "SplatFit",
    "SplatFitProgress",
    "SplatFitSettings",
    "align_splats",
    "fit_splats",
    "mask_overlap",
    "points_in_view",
    "psnr",
    "ssim",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
