"""What depth images say of points that should be there: seen, hidden, or contradicted because the camera looked through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structwm.geometry.camera import Camera

from .volume import pixel_values

HOPE = 1e4  # gap that stands for one without end [m]


@dataclass(frozen=True, eq=False)
class DepthEvidence:
    """Depth images of whole scenes, nothing masked, and their cameras.

    A pixel that is NaN is unknown; one that is infinite was seen to be empty.
    """

    depth: Tensor  # (V, height, width) [m]
    camera: Camera  # of V views

    def __post_init__(self) -> None:
        if self.depth.ndim != 3 or (*self.camera.batch_size, self.camera.height, self.camera.width) != tuple(self.depth.shape):
            got = f"{tuple(self.depth.shape)} and {(*self.camera.batch_size, self.camera.height, self.camera.width)}"
            raise ValueError(f"depth evidence: expected depth (V, height, width) and as many cameras of that size, got {got}.")

    def gaps(self, points: Tensor, *, farthest: bool = False) -> tuple[Tensor, Tensor]:
        """How far what was measured lies behind points (N, 3), (V, N) [m], negative where it hides them, and where that is known, bool (V, N).

        Of a pixel and the eight around it that with the least gap counts, so that the edge of a thing is not looked past, or with `farthest` that with the
        largest, so that a thing's edge and its slope do not hide it. Points out of view or at pixels without a measurement are unknown.
        """
        pixels, along = self.camera.to(points).project(points)
        inside = (along > 0) & (pixels >= 0).all(-1) & (pixels < pixels.new_tensor([self.camera.width, self.camera.height])).all(-1)
        whole = torch.where(inside.unsqueeze(-1), pixels, 0.0).floor().long()
        depth = self.depth.to(points)
        known = inside & ~pixel_values(depth, whole[..., 0], whole[..., 1]).isnan()
        values = torch.where(depth.isnan(), torch.inf, torch.where(depth > 0, depth, torch.inf)).clamp_max(HOPE)
        if farthest:
            values = torch.where(depth.isnan(), -torch.inf, values)
        sign = 1.0 if farthest else -1.0
        around = sign * torch.nn.functional.max_pool2d(sign * values.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
        return pixel_values(around, whole[..., 0], whole[..., 1]) - along, known
