"""From sensors to scenes: clouds from RGB-D, known objects found and points followed in them, objects reconstructed from posed images, their centre lines,
splats fitted to images, point sets registered, images compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structwm.lazy import lazy_exports

if TYPE_CHECKING:
    from structwm.perception.alignment import Alignment, align_splats
    from structwm.perception.centre_lines import CentreLine, centre_line
    from structwm.perception.cloud_thinning import above_plane, farthest_points, table_plane, thin_by_voxels, without_outliers
    from structwm.perception.convex_decomposition import convex_pieces
    from structwm.perception.depth_cleaning import clean_depth, depth_noise, depth_points
    from structwm.perception.depth_clouds import cloud_normals, rgbd_cloud, select_points, stacked_views
    from structwm.perception.followed_points import FollowedPoints, FollowedTracks, PointFollower
    from structwm.perception.frame_fit import FollowedObject
    from structwm.perception.free_space import DepthEvidence
    from structwm.perception.image_metrics import mask_overlap, psnr, ssim
    from structwm.perception.known_object import ObjectPose, ObjectRegistration, register_object
    from structwm.perception.object_split import color_groups, same_objects, shading_free, split_objects
    from structwm.perception.reconstruction import Reconstruction, ReconstructionSettings, SpringGraph, reconstruct
    from structwm.perception.registration import Registration, register_points
    from structwm.perception.rgbd_splats import hidden_plane_splats, rgbd_splats
    from structwm.perception.splat_fit import SplatFit, SplatFitProgress, SplatFitSettings, fit_splats
    from structwm.perception.viewed_points import points_in_view

_HOME = {
    "above_plane": "cloud_thinning",
    "farthest_points": "cloud_thinning",
    "table_plane": "cloud_thinning",
    "thin_by_voxels": "cloud_thinning",
    "without_outliers": "cloud_thinning",
    "FollowedPoints": "followed_points",
    "FollowedTracks": "followed_points",
    "PointFollower": "followed_points",
    "FollowedObject": "frame_fit",
    "DepthEvidence": "free_space",
    "ObjectPose": "known_object",
    "ObjectRegistration": "known_object",
    "register_object": "known_object",
    "color_groups": "object_split",
    "same_objects": "object_split",
    "shading_free": "object_split",
    "split_objects": "object_split",
    "cloud_normals": "depth_clouds",
    "rgbd_cloud": "depth_clouds",
    "rgbd_splats": "rgbd_splats",
    "select_points": "depth_clouds",
    "stacked_views": "depth_clouds",
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
    "hidden_plane_splats": "rgbd_splats",
    "mask_overlap": "image_metrics",
    "points_in_view": "viewed_points",
    "psnr": "image_metrics",
    "ssim": "image_metrics",
}

__all__ = [
    "Alignment",
    "CentreLine",
    "DepthEvidence",
    "FollowedObject",
    "FollowedPoints",
    "FollowedTracks",
    "ObjectPose",
    "ObjectRegistration",
    "PointFollower",
    "Reconstruction",
    "ReconstructionSettings",
    "Registration",
    "SplatFit",
    "SplatFitProgress",
    "SplatFitSettings",
    "SpringGraph",
    "above_plane",
    "align_splats",
    "centre_line",
    "clean_depth",
    "cloud_normals",
    "color_groups",
    "convex_pieces",
    "depth_noise",
    "depth_points",
    "farthest_points",
    "fit_splats",
    "hidden_plane_splats",
    "mask_overlap",
    "points_in_view",
    "psnr",
    "reconstruct",
    "register_object",
    "register_points",
    "rgbd_cloud",
    "rgbd_splats",
    "same_objects",
    "select_points",
    "shading_free",
    "split_objects",
    "ssim",
    "stacked_views",
    "table_plane",
    "thin_by_voxels",
    "without_outliers",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOME)
