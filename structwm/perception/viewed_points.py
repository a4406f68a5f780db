"""Points where the views of several cameras meet, to start a scene from nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from structwm.geometry.camera import Camera


def points_in_view(camera: Camera, count: int, *, masks: Tensor | None = None, seed: int = 0) -> Tensor:
    """Points (count, 3) [m] at random where the cameras look: seen by at least half of them, and within the masks where there are masks.

    They lie in a ball around the place that is nearest to all optical axes, half as wide as that place is far. With one camera, or parallel ones, that place
    is one metre in front. With masks, fewer points are given if few places are within all masks.

    Args:
        camera: V views.
        count: of points.
        masks: bool (V, height, width).
        seed: of the random numbers.

    Raises:
        ValueError: if no place is within the masks.
    """
    pose = camera.world_from_camera.expand(*camera.batch_size, 4, 4).reshape(-1, 4, 4)
    eyes, axes = pose[:, :3, 3], pose[:, :3, 2]
    across = torch.eye(3).to(axes) - axes.unsqueeze(-1) * axes.unsqueeze(-2)  # away from each axis
    matrix, vector = across.sum(0), (across @ eyes.unsqueeze(-1)).sum(0).squeeze(-1)
    conditioned = float(torch.linalg.eigvalsh(matrix)[0]) > 1e-3 * len(pose)
    middle = torch.linalg.solve(matrix, vector) if conditioned else (eyes + axes).mean(0)
    if bool((((middle - eyes) * axes).sum(-1) <= 0).any()):
        middle = (eyes + axes).mean(0)
    radius = 0.5 * (middle - eyes).norm(dim=-1).median()
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    size = camera.intrinsics.new_tensor([camera.width, camera.height])
    for _ in range(50):
        direction = torch.nn.functional.normalize(torch.randn(4 * count, 3, generator=generator), dim=-1)
        points = middle + (radius * torch.rand(4 * count, 1, generator=generator) ** (1 / 3) * direction).to(middle)
        pixels, depth = camera.project(points)
        pixels, depth = pixels.reshape(-1, 4 * count, 2), depth.reshape(-1, 4 * count)
        seen = (depth > 0) & (pixels >= 0).all(-1) & (pixels < size).all(-1)
        good = seen.sum(0) * 2 >= len(pose)
        if masks is not None:
            column, row = (pixels[..., axis].nan_to_num().clamp(0, limit - 1).long() for axis, limit in ((0, camera.width), (1, camera.height)))
            shown = torch.stack([mask[r, c] for mask, r, c in zip(masks.reshape(-1, *masks.shape[-2:]), row, column, strict=True)])
            empty = ~masks.reshape(len(shown), -1).any(-1)  # views that the object is not in
            good = good & (shown | ~seen | empty.unsqueeze(-1)).all(0) & (shown & seen).any(0)
        found.append(points[good])
        if sum(map(len, found)) >= count:
            break
    if not sum(map(len, found)):
        raise ValueError(
            "points_in_view: expected cameras that look at one place, and masks that meet there, found no point within all of them; give initial points."
        )
    return torch.cat(found)[:count]
