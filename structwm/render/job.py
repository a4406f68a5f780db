"""What `render` hands to a backend, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SHARPEST = 0.005  # least share of its opacity that a splat keeps when it is blurred


class SplatJob(NamedTuple):
    """W worlds of N splats, each seen in V views. At least one pair of a splat and a view."""

    means: Tensor  # (W, N, 3) [m]
    rotations: Tensor  # (W, N, 4) quaternions wxyz, of any length but zero
    scales: Tensor  # (W, N, 3) [m]
    deformations: Tensor | None  # (W, N, 3, 3), the identity if None
    opacities: Tensor  # (W, N), 0 where padding
    channels: Tensor  # (W, V, N, C): colour (3) and features, as each view sees them
    camera_from_world: Tensor  # (W, V, 3, 4)
    pinholes: Tensor  # (W, V, 4) fx, fy, cx, cy [px]
    width: int  # [px]
    height: int  # [px]
    near: float  # [m]
    far: float  # [m]
    blur: float  # [px^2]
    antialiased: bool
    deterministic: bool

    def opacities_of(self, conics: Tensor) -> Tensor:
        """Opacities (W, V, N) of ellipses (W, V, N, 3) that hold the blur: the splats' own, or with `antialiased` less by the root of the areas' ratio."""
        opacities = self.opacities.unsqueeze(1).expand(conics.shape[:-1])
        if not self.antialiased:
            return opacities
        a, b, c = conics.unbind(-1)
        area = a * c - b * b  # of the inverse
        sharp = (c / area - self.blur) * (a / area - self.blur) - (b / area) ** 2
        return opacities * (sharp * area).clamp(SHARPEST**2, 1.0).sqrt()


class Drawn(NamedTuple):
    """Images without background."""

    channels: Tensor  # (W, V, height, width, C)
    depth: Tensor  # (W, V, height, width) [m], accumulated: the sum of what is drawn times its depth
    through: Tensor  # (W, V, height, width), transmittance


def draw_by(job: SplatJob, project: Callable[..., tuple[Tensor, Tensor, Tensor]], composite: Callable[..., tuple[Tensor, Tensor]]) -> Drawn:
    """Draw in two steps, with the depth as the last channel.

    Args:
        job: what to draw.
        project: with the arguments and results of `structwm.kernels.splat_raster.project_splats`.
        composite: (centres, conics, depths, opacities, channels, width, height) of views to channels and transmittance, as `composite_splats` there.
    """
    worlds, views = job.channels.shape[:2]
    placed = (job.means, job.rotations, job.scales, job.camera_from_world, job.pinholes)
    centres, conics, depths = project(*placed, job.width, job.height, job.near, job.far, job.blur, job.deformations)
    channels = torch.cat((job.channels, depths.unsqueeze(-1)), -1)
    given = (value.flatten(0, 1) for value in (centres, conics, depths, job.opacities_of(conics), channels))
    image, through = composite(*given, job.width, job.height)
    drawn, depth = image.unflatten(0, (worlds, views)).split([image.shape[-1] - 1, 1], -1)
    return Drawn(drawn, depth.squeeze(-1), through.unflatten(0, (worlds, views)))
