"""Posed images of solids whose signed distance is known, by sphere tracing."""

import math

import torch
from torch import Tensor

from structwm.data import PosedImages
from structwm.geometry import Camera
from structwm.geometry.signed_distance import Capsule, Solid, Sphere, Union


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)) -> Tensor:
    return torch.tensor([x, y, z, *turn])


def club() -> Solid:
    """A ball with a thick rod beside it, about 13 cm."""
    return Union([Sphere(at(0.02), 0.04), Capsule(at(-0.03), 0.015, 0.05)])


def cameras(count: int = 8, *, width: int = 96, height: int = 80, above: bool = False) -> Camera:
    eyes = []
    for k in range(count):
        around, up = 2 * math.pi * k / count, math.radians(40 if above or k % 2 else -35)
        eyes.append([0.5 * math.cos(around) * math.cos(up), 0.5 * math.sin(around) * math.cos(up), 0.5 * math.sin(up)])
    return Camera.look_at(torch.tensor(eyes), torch.zeros(3), width=width, height=height, field_of_view=math.radians(22))


def photograph(solid: Solid, camera: Camera, *, color: tuple[float, float, float] = (0.8, 0.3, 0.2), floor: float | None = None) -> PosedImages:
    """Colour, depth and masks of a solid before a blue background, perhaps above a floor z = `floor`."""
    eyes, rays = camera.rays()
    flat = rays.reshape(-1, 3)
    start = eyes[:, None, None].expand_as(rays).reshape(-1, 3)
    way = torch.full((len(flat),), 0.3)
    for _ in range(40):
        distance = solid.signed_distance(start + way[:, None] * flat)
        way = way + distance
    hit = (distance.abs() < 2e-5) & (way < 0.8)
    forward = camera.world_from_camera[:, None, None, :3, 2].expand_as(rays).reshape(-1, 3)
    along = (flat * forward).sum(-1)
    depth = torch.where(hit, way * along, 0.0)
    if floor is not None:
        down = (floor - start[:, 2]) / flat[:, 2]
        before = (down > 0) & (~hit | (down < way))
        depth, hit = torch.where(before, down * along, depth), hit & ~before
    shape = rays.shape[:3]
    mask = hit.view(shape)
    return PosedImages(camera, torch.where(mask.unsqueeze(-1), torch.tensor(color), torch.tensor([0.0, 0.0, 1.0])), depth.view(shape), mask)
