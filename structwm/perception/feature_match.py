"""A pose proposed by local features: FPFH and RANSAC of Open3D (Rusu, Blodow and Beetz, ICRA 2009)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.data.cloud_files import load_open3d


def feature_pose(
    points: Tensor, normals: Tensor, cloud: Tensor, cloud_normals: Tensor | None, *, spacing: float, seed: int = 0, attempts: int = 50_000
) -> tuple[Tensor, Tensor]:
    """Rotation (1, 3, 3) and translation (1, 3) [m] that lay an object's points (N, 3) on a cloud (Q, 3), by matched features; perhaps wrong.

    Args:
        points: of the object [m].
        normals: (N, 3) of its points.
        cloud: observed points [m].
        cloud_normals: (Q, 3); estimated, towards the outside of the cloud's middle, if not given.
        spacing: side of the voxels to which both are thinned [m]; features reach five times as far.
        seed: of the draws.
        attempts: draws at most.

    Raises:
        ImportError: if Open3D is missing; it says what to install.
    """
    o3d = load_open3d()
    o3d.utility.random.seed(seed)
    registration = o3d.pipelines.registration
    a, b = _described(o3d, points, normals, spacing), _described(o3d, cloud, cloud_normals, spacing)
    near = 1.5 * spacing
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        found = registration.registration_ransac_based_on_feature_matching(
            b[0],
            a[0],
            b[1],
            a[1],
            True,
            near,
            registration.TransformationEstimationPointToPoint(False),
            3,
            [registration.CorrespondenceCheckerBasedOnEdgeLength(0.9), registration.CorrespondenceCheckerBasedOnDistance(near)],
            registration.RANSACConvergenceCriteria(attempts, 0.999),
        )
    back = torch.from_numpy(np.linalg.inv(found.transformation)).to(points)  # the partial cloud is laid on the whole object
    return back[None, :3, :3], back[None, :3, 3]


def _described(o3d: Any, points: Tensor, normals: Tensor | None, spacing: float) -> tuple[Any, Any]:
    made = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.detach().cpu().double().numpy()))
    if normals is not None:
        made.normals = o3d.utility.Vector3dVector(normals.detach().cpu().double().numpy())
    made = made.voxel_down_sample(spacing)
    if normals is None:
        made.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(radius=2 * spacing, max_nn=30))
    feature = o3d.pipelines.registration.compute_fpfh_feature(made, o3d.geometry.KDTreeSearchParamHybrid(radius=5 * spacing, max_nn=100))
    return made, feature
