"""Scenes on which rasterizers are compared."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from structwm.data import fetch, load_garden
from structwm.geometry.camera import Camera
from structwm.render import splats_from_points
from structwm.state import Splats


class View(NamedTuple):
    """A scene, one camera, and what to call them."""

    name: str
    splats: Splats
    camera: Camera


def cloud(count: int, size: int, *, seed: int = 0) -> View:
    """Splats of random shape, colour and opacity in a cube that fills most of the image; their size falls with the cube root of their number."""
    generator = torch.Generator().manual_seed(seed)
    splats = Splats(
        means=2 * torch.rand(count, 3, generator=generator) - 1,
        rotations=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        scales=0.315 * count ** (-1 / 3) * torch.exp(0.5 * torch.randn(count, 3, generator=generator)),
        opacities=0.1 + 0.89 * torch.rand(count, generator=generator),
        colors=torch.rand(count, 3, generator=generator),
        batch_size=[],
    )
    camera = Camera.look_at((3.0, 0.0, 1.0), (0.0, 0.0, 0.0), width=size, height=size, field_of_view=math.radians(50))
    return View(f"{count // 1000}k random, {size} x {size}", splats, camera)


def garden() -> View:
    """The real garden's 138,766 points as round splats, sizes from the distances of neighbours, through its first camera at 640 x 480."""
    data = load_garden(fetch("gsplat_garden"))
    splats = splats_from_points(data.positions, data.colors, opacity=0.9)
    first = data.camera[0]
    ratio = first.intrinsics.new_tensor([640 / first.width, 480 / first.height, 1.0])
    return View("garden, 138,766, 640 x 480", splats, Camera(first.intrinsics * ratio[:, None], first.world_from_camera, 640, 480))
