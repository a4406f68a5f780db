"""Where the object is: a box around what depth or silhouettes show, and the plane it stands on."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.camera import Camera

from .depth_cleaning import depth_points, far_from_others
from .volume import Evidence

SEARCH = 64  # places along each side of the cube in which silhouettes are looked for
MOST = 20_000  # points that stand for a cloud


def some(points: Tensor, count: int, seed: int = 0) -> Tensor:
    """At most `count` of points (N, 3), at random."""
    if len(points) <= count:
        return points
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:count].to(points.device)]


def cloud_box(points: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (3,) [m] of points (N, 3) without those that lie apart."""
    few = some(points, MOST)
    few = few[~far_from_others(few)]
    return few.amin(0), few.amax(0)


def meeting_place(camera: Camera) -> tuple[Tensor, float]:
    """The place nearest to all optical axes (3,), and how far it is from the cameras in the middle [m]; one metre in front of parallel ones."""
    pose = camera.world_from_camera.expand(*camera.batch_size, 4, 4).float()
    eyes, axes = pose[:, :3, 3], pose[:, :3, 2]
    across = torch.eye(3).to(axes) - axes.unsqueeze(-1) * axes.unsqueeze(-2)
    matrix, vector = across.sum(0), (across @ eyes.unsqueeze(-1)).sum(0).squeeze(-1)
    if float(torch.linalg.eigvalsh(matrix)[0]) <= 1e-3 * len(pose):
        return (eyes + axes).mean(0), 1.0
    middle = torch.linalg.solve(matrix, vector)
    return middle, float((middle - eyes).norm(dim=-1).median())


def silhouette_box(evidence: Evidence, *, rounds: int = 6) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (3,) [m] of the hull of the silhouettes.

    A cube around where the views meet, as wide as twice the distance to the cameras, is cut into cells; those that may touch the hull stay, by a distance that
    is never too long, so that nothing thin is missed; then the box of what is left, and so on, until it does not shrink any more.

    Raises:
        ValueError: if there is no place within all silhouettes.
    """
    middle, reach = meeting_place(evidence.camera)
    low, high = middle - reach, middle + reach
    for _ in range(rounds):
        side = (high - low) / SEARCH
        axes = [start + (torch.arange(SEARCH) + 0.5) * size for start, size in zip(low, side, strict=True)]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        reach_of_cell = float(side.norm()) / 2
        beside = torch.cat([evidence.outside_silhouettes(part, 2 * reach_of_cell) for part in points.split(1 << 17)])
        kept = points[beside <= reach_of_cell]
        if not len(kept):
            raise ValueError("There is no place within all masks: expected masks of one object and poses that agree, are the cameras' axes right?")
        before = high - low
        low, high = kept.amin(0) - side / 2, kept.amax(0) + side / 2
        if bool(((high - low) > 0.9 * before).all()):
            break
    return low, high


def support_plane(behind: Tensor, camera: Camera, low: Tensor, high: Tensor, noise: float, *, seed: int = 0) -> Tensor | None:
    """The plane that an object in a box stands on, (4,) n and d with n . x + d = 0, n towards the object; None where no plane is seen under it.

    RANSAC (Fischler and Bolles, CACM 1981) on what depth shows around the box and is not the object. A plane counts if it holds most of these points, if the
    middle of the box is above it, and if it is within half of the box's size of its lowest corner.

    Args:
        behind: depth (V, height, width) of what is not the object [m], 0 where there is none.
        camera: of V views.
        low: lowest corner of the box [m].
        high: highest.
        noise: standard deviation of the depth [m].
        seed: of the draws.
    """
    middle, size = (low + high) / 2, float((high - low).norm())
    points, _ = depth_points(behind, camera)
    points = some(points[(points - middle).norm(dim=-1) < size], MOST, seed)
    if len(points) < 100:
        return None
    near = max(3 * noise, 0.005 * size)
    generator = torch.Generator().manual_seed(seed)
    three = points[torch.randint(len(points), (256, 3), generator=generator)]
    cross = torch.linalg.cross(three[:, 1] - three[:, 0], three[:, 2] - three[:, 0])
    wide = cross.norm(dim=-1) > 1e-3 * size**2  # three points far from one line
    if not bool(wide.any()):
        return None
    normals, first = torch.nn.functional.normalize(cross[wide], dim=-1), three[wide, 0]
    offsets = -(normals * first).sum(-1)
    hits = ((some(points, 4000, seed) @ normals.mT + offsets).abs() < near).float().mean(0)
    best = int(hits.argmax())
    held = points[(points @ normals[best] + offsets[best]).abs() < near]
    if len(held) < 0.5 * len(points):
        return None
    centre = held.mean(0)
    normal = torch.linalg.svd(held - centre, full_matrices=False).Vh[-1]
    normal = normal * torch.sign((normal * (middle - centre)).sum())
    corners = torch.cartesian_prod(*torch.stack((low, high), -1))
    heights = (corners - centre) @ normal
    reach = 0.5 * size  # what is round has a lower side that is not seen from above
    if float(heights.min()) < -size or abs(float(heights.min())) > max(reach, near) or float((middle - centre) @ normal) <= near:
        return None
    return torch.cat((normal, -(normal * centre).sum().unsqueeze(0)))
