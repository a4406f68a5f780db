"""Surfaces of the bodies on a table, points fixed to them, and what cameras see of them without any engine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.geometry.camera import Camera
from structwm.geometry.mesh import Mesh
from structwm.render.mesh_views import MeshViews, points_on_mesh

from .tabletop_config import Array, Body, CylinderPusher, PlatePusher, SpherePusher, TabletopConfig
from .tabletop_layout import rotation_matrices

SIDES = 24  # of a round body's mesh
TILT = math.radians(48)  # by which cameras look down
FIELD_OF_VIEW = math.radians(40)  # vertical
COLORS = (
    *((0.84, 0.15, 0.16), (0.12, 0.47, 0.71), (0.17, 0.63, 0.17), (1.0, 0.60, 0.05)),
    *((0.58, 0.30, 0.74), (0.09, 0.75, 0.81), (0.89, 0.37, 0.70), (0.55, 0.34, 0.29)),
)  # of the objects in order
TABLE_COLOR, PUSHER_COLOR = (0.86, 0.85, 0.80), (0.16, 0.16, 0.18)
LIGHT = (0.3, 0.2, 0.933)  # unit direction towards the light
AMBIENT = 0.6  # share of the light from everywhere


@dataclass(frozen=True)
class MaterialPoints:
    """N points fixed to bodies."""

    local: Array  # (N, 3) in the frames of their bodies [m]
    object_ids: NDArray[np.int64]  # (N,)
    body_ids: NDArray[np.int64]  # (N,)

    def at(self, poses: Array) -> Array:
        """Where they are for poses (*B, K, 7) [m, wxyz]: (*B, N, 3) [m]."""
        mine = poses[..., self.body_ids, :]
        found: Array = (rotation_matrices(mine[..., 3:]) @ self.local[..., None])[..., 0] + mine[..., :3]
        return found


def look_around(config: TabletopConfig) -> Camera:
    """The cameras (V,), float32, evenly around the table; they see all of the workspace."""
    angle = torch.arange(config.cameras) * (2 * math.pi / config.cameras) - math.pi / 2
    away = torch.stack((angle.cos() * math.cos(TILT), angle.sin() * math.cos(TILT), torch.full_like(angle, math.sin(TILT))), -1)
    target = torch.tensor((0.0, 0.0, 0.02)).expand_as(away)
    eyes = target + 3.0 * config.workspace * away
    return Camera.look_at(eyes, target, width=config.width, height=config.height, field_of_view=FIELD_OF_VIEW)


def pooled(rgb: NDArray[np.uint8], depth: NDArray[np.float32], factor: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Images (V, factor * height, factor * width, ...) as those of pixels `factor` times as large: the mean colour, and the depth in the middle."""
    if factor == 1:
        return rgb, depth
    views, height, width = depth.shape
    blocks = rgb.reshape(views, height // factor, factor, width // factor, factor, 3)
    return blocks.mean((2, 4)).round().astype(np.uint8), depth[:, factor // 2 :: factor, factor // 2 :: factor].copy()


def box_mesh(half: tuple[float, float, float]) -> Mesh:
    """A box of half extents [m] around the origin."""
    corners = torch.tensor([[i, j, k] for i in (-1.0, 1.0) for j in (-1.0, 1.0) for k in (-1.0, 1.0)]) * torch.tensor(half)
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    return Mesh(corners, torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]))


def _turned(profile: list[tuple[float, float]]) -> Mesh:
    """The surface of revolution about z of (radius, height) from the bottom, on the axis, to the top, on the axis."""
    angle = torch.arange(SIDES) * (2 * math.pi / SIDES)
    rings = [torch.stack((r * angle.cos(), r * angle.sin(), torch.full_like(angle, h)), -1) for r, h in profile[1:-1]]
    ends = torch.tensor([[0.0, 0.0, profile[0][1]], [0.0, 0.0, profile[-1][1]]])
    faces, first, last = [], SIDES * len(rings), SIDES * (len(rings) - 1)
    for k in range(SIDES):
        n = (k + 1) % SIDES
        faces += [(first, n, k), (first + 1, last + k, last + n)]
        for ring in range(0, last, SIDES):
            faces += [(ring + k, ring + n, ring + SIDES + n), (ring + k, ring + SIDES + n, ring + SIDES + k)]
    return Mesh(torch.cat((*rings, ends)), torch.tensor(faces))


def capsule_mesh(radius: float, core: float) -> Mesh:
    """A capsule along z whose half balls are `core` [m] above and below the origin; 0 is a ball."""
    bend = np.linspace(-math.pi / 2, 0, SIDES // 4 + 1)
    lower = [(radius * math.cos(b), radius * math.sin(b) - core) for b in bend]
    upper = [(r, -h) for r, h in reversed(lower)]
    return _turned(lower + (upper if core > 0 else upper[1:]))


def body_mesh(body: Body) -> Mesh:
    """The surface of a body in its own frame."""
    if body.shape == "box":
        return box_mesh(body.half_extents)
    upright = capsule_mesh(body.half_extents[1], body.half_extents[0] - body.half_extents[1])
    return Mesh(upright.vertices[:, [2, 0, 1]], upright.faces)  # z, x, y: along x


def pusher_mesh(config: TabletopConfig) -> Mesh:
    """The surface of the pusher around its middle."""
    match config.pusher:
        case CylinderPusher(radius, half):
            return _turned([(0.0, -half), (radius, -half), (radius, half), (0.0, half)])
        case SpherePusher(radius):
            return capsule_mesh(radius, 0.0)
        case PlatePusher(width, thickness, height):
            return box_mesh((width, thickness, height))


def pusher_points(config: TabletopConfig, count: int, *, seed: int = 0) -> Array:
    """Points (count, 3) [m] on the pusher's surface around its middle, spread evenly; `place_pusher` moves them."""
    return _on_mesh(pusher_mesh(config), count, seed)


def place_pusher(points: Array, pusher: Array) -> Array:
    """Points (M, 3) of `pusher_points` for configurations (*B, 3 or 4) [m(, rad)] of the pusher: (*B, M, 3) [m]."""
    if pusher.shape[-1] == 3:
        return points + pusher[..., None, :]
    c, s = np.cos(pusher[..., 3, None]), np.sin(pusher[..., 3, None])
    x, y, z = points.T
    return np.stack((c * x - s * y, s * x + c * y, np.broadcast_to(z, c.shape[:-1] + z.shape)), -1) + pusher[..., None, :3]


def _on_mesh(mesh: Mesh, count: int, seed: int) -> Array:
    faces, weights = points_on_mesh(mesh, count, spread=True, seed=seed)
    return (weights.unsqueeze(-1) * mesh.vertices[mesh.faces[faces]]).sum(1).double().numpy()


def draw_points(config: TabletopConfig, count_per_object: int, seed: int) -> MaterialPoints:
    """Points drawn evenly over the surface of each object; links share those of their chain.

    Raises:
        ValueError: on less than one point for each link.
    """
    links = [0] * len(config.objects)
    for body in config.bodies:
        links[body.object_id] += 1
    if count_per_object < max(links):
        raise ValueError(f"surface points need at least {max(links)} for each object, one a link, got {count_per_object}.")
    local, ids, seen = [], [], [0] * len(links)
    for index, body in enumerate(config.bodies):
        n, k = links[body.object_id], seen[body.object_id]
        mine = count_per_object * (k + 1) // n - count_per_object * k // n
        local.append(_on_mesh(body_mesh(body), mine, 1000 * seed + index))
        ids += [index] * mine
        seen[body.object_id] += 1
    body_ids = np.array(ids, np.int64)
    return MaterialPoints(np.concatenate(local), np.array([body.object_id for body in config.bodies], np.int64)[body_ids], body_ids)


class TableViews:
    """RGB-D of a table by ray casting of the bodies' own surfaces: exact depth, flat colours, one light, no shadows."""

    def __init__(self, config: TabletopConfig, cameras: Camera) -> None:
        self.config = config
        side = 2 * config.workspace
        table = Mesh(torch.tensor([[-side, -side, 0.0], [side, -side, 0.0], [side, side, 0.0], [-side, side, 0.0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
        meshes = [*(body_mesh(body) for body in config.bodies), pusher_mesh(config), table]
        colors = [*(COLORS[body.object_id] for body in config.bodies), PUSHER_COLOR, TABLE_COLOR]
        counts = [len(mesh.vertices) for mesh in meshes]
        starts = np.concatenate(([0], np.cumsum(counts)))
        self._local = torch.cat([mesh.vertices for mesh in meshes]).double().numpy()
        self._part = np.repeat(np.arange(len(meshes)), counts)
        self._faces = torch.cat([mesh.faces + int(start) for mesh, start in zip(meshes, starts, strict=False)])
        self._paint = torch.cat([torch.tensor(color).expand(len(mesh.faces), 3) for mesh, color in zip(meshes, colors, strict=True)])
        self._cameras = cameras
        self._views: MeshViews | None = None  # made where bodies first are: its tree is poor for vertices that start in one place and are moved apart
        self._light = torch.tensor(LIGHT)

    def render(self, poses: Array, pusher: Array) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """RGB (V, height, width, 3) and depth (V, height, width) [m] for poses (K, 7) [m, wxyz] and the pusher's configuration (3,) or (4,)."""
        yaw = pusher[3] / 2 if len(pusher) == 4 else 0.0
        parts = np.concatenate((poses, [[*pusher[:3], math.cos(yaw), 0.0, 0.0, math.sin(yaw)], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]))
        turns = rotation_matrices(parts[:, 3:])[self._part]
        vertices = torch.from_numpy((turns @ self._local[..., None])[..., 0] + parts[self._part, :3]).float()
        if self._views is None:
            self._views = MeshViews(Mesh(vertices, self._faces), self._cameras)
        images = self._views.render(vertices)
        depth = torch.where(images.depth <= self.config.far, images.depth, torch.nan)
        return self._shade(vertices, images.faces), depth.numpy()

    def _shade(self, vertices: Tensor, faces: Tensor) -> NDArray[np.uint8]:
        a, b, c = vertices[self._faces].unbind(1)
        normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
        lit = self._paint * (AMBIENT + (1 - AMBIENT) * (normals @ self._light).clamp_min(0)).unsqueeze(-1)
        rgb = torch.where((faces >= 0).unsqueeze(-1), lit[faces.clamp_min(0)], 1.0)
        return (255 * rgb).round().to(torch.uint8).numpy()
