"""Splats on the surfaces of shapes: where they are, how they stand, and how large the shape looks to a camera."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from structwm.geometry import Box, Camera, Capsule, Mesh, MeshQuery, MeshSolid, Solid, Sphere, quaternion_rotate, quaternion_to_matrix
from structwm.physics import BoxShape, CapsuleShape, ConvexShape, Geometry, PlaneShape, SphereShape, surface_splats
from structwm.render import render

AT, TURN = (0.02, -0.01, 0.03), (math.cos(0.4), 0.0, math.sin(0.4), 0.0)
POINTS = np.random.default_rng(0).normal(size=(12, 3)) * 0.03
SHAPES = {
    "sphere": SphereShape(0.04),
    "box": BoxShape((0.05, 0.03, 0.02)),
    "thin box": BoxShape((0.05, 0.04, 0.001)),
    "capsule": CapsuleShape(0.02, 0.04),
    "short capsule": CapsuleShape(0.03, 0.003),
    "mesh": ConvexShape(POINTS),
}


def solid(name: str) -> Solid:
    place = torch.tensor([*AT, *TURN], dtype=torch.float64)
    shape = SHAPES[name]
    match shape:
        case SphereShape(radius=radius):
            return Sphere(place, radius)
        case BoxShape(half_extents=half):
            return Box(place, half)
        case CapsuleShape(radius=radius, half_length=half_length):
            return Capsule(place, radius, half_length)
        case ConvexShape(hull=hull):
            return MeshSolid(place, MeshQuery(Mesh(torch.from_numpy(hull.vertices), torch.from_numpy(hull.faces))))
    raise AssertionError(name)


@pytest.mark.parametrize("name", SHAPES)
def test_splats_lie_flat_on_the_surface(name: str) -> None:
    """Wherever the geometry stands on its body: their thin axis is the way in which the distance to the surface grows."""
    splats = surface_splats([Geometry(SHAPES[name], AT, TURN, color=(0.9, 0.2, 0.1))], spacing=0.006)
    body, means = solid(name), splats.means.double()
    assert float(body.signed_distance(means).abs().max()) < 1e-6
    normals = quaternion_rotate(splats.rotations.double(), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(means))
    torch.testing.assert_close(body.signed_distance(means + 1e-4 * normals), torch.full((len(means),), 1e-4, dtype=torch.float64), rtol=0, atol=2e-6)
    frames = quaternion_to_matrix(splats.rotations.double())
    assert float(torch.linalg.det(frames).min()) > 0.999
    assert bool((splats.scales[:, 2] < 0.05 * splats.scales[:, :2].amin(-1) + 1e-4).all())
    torch.testing.assert_close(splats.colors, torch.tensor([[0.9, 0.2, 0.1]]).expand_as(splats.colors))


def silhouette(name: str, spacing: float, eye: tuple[float, float, float]) -> tuple[float, float]:
    """Area seen [px] of the splats, and of the shape by rays."""
    splats = surface_splats([Geometry(SHAPES[name], AT, TURN)], spacing=spacing)
    camera = Camera.look_at(eye, AT, width=128, height=128, field_of_view=math.radians(11.0))
    seen = render(splats, camera).alpha
    return float((seen > 0.5).sum()), float(_hit(solid(name), camera).sum())


def _hit(body: Solid, camera: Camera) -> torch.Tensor:
    """Pixels whose ray comes within the shape, by marching."""
    v, u = torch.meshgrid(torch.arange(128.0) + 0.5, torch.arange(128.0) + 0.5, indexing="ij")
    flat = torch.stack((u, v, torch.ones_like(u)), -1).double().reshape(-1, 3)
    rays = flat @ torch.linalg.inv(camera.intrinsics.double()).T @ camera.world_from_camera.double()[:3, :3].T
    rays /= rays.norm(dim=-1, keepdim=True)
    at, hit = camera.world_from_camera.double()[:3, 3].expand_as(rays).clone(), torch.zeros(len(rays), dtype=torch.bool)
    for _ in range(25):
        distance = body.signed_distance(at)
        hit |= distance < 2e-4
        at = at + torch.where(hit | (distance > 1.0), 0.0, distance).unsqueeze(-1) * rays
    return hit


@pytest.mark.parametrize("eye", [(0.6, 0.2, 0.4), (0.02, -0.4, 0.6)])
@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_looks_as_large_as_it_is(name: str, eye: tuple[float, float, float]) -> None:
    """Splats that are as wide as the grid they stand on, also where a face is smaller than the spacing asked for."""
    seen, true = silhouette(name, 0.004, eye)
    assert true > 500
    assert seen == pytest.approx(true, rel=0.12)


def test_closer_splats_draw_a_sharper_outline() -> None:
    errors = []
    for spacing in (0.012, 0.003):
        seen, true = silhouette("box", spacing, (0.6, 0.2, 0.4))
        errors.append(abs(seen - true))
    assert errors[1] < errors[0]


def test_several_geometries_keep_their_own_colors() -> None:
    red, blue = Geometry(SphereShape(0.01), color=(1.0, 0.0, 0.0)), Geometry(BoxShape((0.01, 0.01, 0.01)), (0.1, 0.0, 0.0), color=(0.0, 0.0, 1.0))
    splats = surface_splats([red, Geometry(PlaneShape()), blue])
    near = splats.means[:, 0] < 0.05
    assert bool((splats.colors[near, 0] == 1).all()) and bool((splats.colors[~near, 2] == 1).all()) and 0 < int(near.sum()) < len(near)
    assert bool((splats.opacities == 0.95).all())


@pytest.mark.parametrize("options", [{"spacing": 0.0}, {"spacing": math.nan}, {"opacity": 1.5}, {"opacity": 0.0}])
def test_splats_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"spacing \[m\] above zero and an opacity in \(0, 1\]"):
        surface_splats([Geometry(SphereShape(0.01))], **options)  # type: ignore[arg-type]


def test_a_plane_has_no_surface_to_cover() -> None:
    with pytest.raises(ValueError, match="got none"):
        surface_splats([Geometry(PlaneShape())])
