"""From sensors to scenes: objects reconstructed from posed images, their centre lines, splats fitted to images, point sets registered, images compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.perception.alignment import Alignment, align_splats
    from structwm.perception.centre_lines import CentreLine, centre_line
    from structwm.perception.convex_decomposition import convex_pieces
    from structwm.perception.depth_cleaning import clean_depth, depth_noise, depth_points
    from structwm.perception.image_metrics import mask_overlap, psnr, ssim
    from structwm.perception.reconstruction import Reconstruction, ReconstructionSettings, SpringGraph, reconstruct
    from structwm.perception.registration import Registration, register_points
    from structwm.perception.splat_fit import SplatFit, SplatFitProgress, SplatFitSettings, fit_splats
    from structwm.perception.viewed_points import points_in_view

_HOME = {
    "CentreLine": "centre_lines",
    "centre_line": "centre_lines",
    "Reconstruction": "reconstruction",
    "ReconstructionSettings": "reconstruction",
    "SpringGraph": "reconstruction",
    "reconstruct": "reconstruction",
    "convex_pieces": "convex_decomposition",
    "clean_depth": "depth_cleaning",
    "depth_noise": "depth_cleaning",
    "depth_points": "depth_cleaning",
    "Registration": "registration",
    "register_points": "registration",
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
    "CentreLine",
    "Reconstruction",
    "ReconstructionSettings",
    "Registration",
    "SplatFit",
    "SplatFitProgress",
    "SplatFitSettings",
    "SpringGraph",
    "align_splats",
    "centre_line",
    "clean_depth",
    "convex_pieces",
    "depth_noise",
    "depth_points",
    "fit_splats",
    "mask_overlap",
    "points_in_view",
    "psnr",
    "reconstruct",
    "register_points",
    "ssim",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
