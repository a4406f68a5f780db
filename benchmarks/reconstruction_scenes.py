"""Objects whose shape is known, seen by PyBullet's own renderer: colour, depth and masks from cameras all around, or from above on a table."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pybullet
import pybullet_data
import torch
from pybullet_utils.bullet_client import BulletClient

from structwm.data import PosedImages
from structwm.geometry import Box, Camera, Capsule, Cylinder, Mesh, MeshQuery, face_areas, sample_surface
from structwm.perception.volume import Volume, surface_mesh

SIZE = 0.16  # longest side of every object [m]
NEAR, FAR = 0.2, 1.5  # planes of the renderer [m]


def place(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)) -> torch.Tensor:
    """A pose (7,)."""
    return torch.tensor([x, y, z, *turn])


def of_field(field: object, half: float = 0.6, voxels: int = 120) -> Mesh:
    """The surface of a signed distance function."""
    axis = torch.linspace(-half, half, voxels)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    values = field(points.reshape(-1, 3)).reshape(points.shape[:3])  # type: ignore[operator]
    return surface_mesh(Volume(values.contiguous(), axis[:1].expand(3), float(axis[1] - axis[0]), values > 0))


def mug(points: torch.Tensor) -> torch.Tensor:
    """A cup without a lid, with a handle."""
    outer, inner = Cylinder(place(), 0.3, 0.4).signed_distance(points), Cylinder(place(z=0.08), 0.25, 0.4).signed_distance(points)
    ring = (points - torch.tensor([0.3, 0.0, 0.0]))[:, [0, 2]].norm(dim=-1) - 0.2
    handle = torch.stack((ring, points[:, 1]), -1).norm(dim=-1) - 0.045
    return torch.minimum(torch.maximum(outer, -inner), torch.maximum(handle, -(points[:, :2].norm(dim=-1) - 0.27)))


def blob(points: torch.Tensor) -> torch.Tensor:
    """A random lumpy body: a ball and waves on it."""
    generator = torch.Generator().manual_seed(3)
    waves = sum(0.04 * torch.sin(points @ (9 * torch.randn(3, 1, generator=generator)) + 6 * torch.rand(1, generator=generator)).squeeze(-1) for _ in range(6))
    return (points.norm(dim=-1) - 0.35 + waves) * 0.7


def frame(points: torch.Tensor) -> torch.Tensor:
    """Three crossing bars, thin and with holes between them."""
    turns = ((1.0, 0.0, 0.0, 0.0), (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0), (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0))
    bars = [Capsule(place(0.12 * k, -0.1 * k, 0.1, turn), 0.06, 0.4).signed_distance(points) for k, turn in enumerate(turns)]
    return torch.stack(bars).amin(0)


def of_file(name: str) -> Mesh:
    """A mesh of pybullet_data; several objects in one file become one."""
    vertices, faces = [], []
    for line in (Path(pybullet_data.getDataPath()) / name).read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "f":
            corners = [int(word.partition("/")[0]) - 1 for word in words]
            faces += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
    return Mesh(torch.tensor(vertices), torch.tensor(faces))


def objects() -> dict[str, Mesh]:
    """By name, each as large as `SIZE`, its box around the origin."""
    box = of_field(lambda points: Box(place(), [0.4, 0.28, 0.2]).signed_distance(points))
    found = {
        "duck": of_file("duck.obj"),
        "teddy": of_file("teddy2_VHACD_CHs.obj"),
        "bunny": of_file("bunny.obj"),
        "mug": of_field(mug),
        "box": box,
        "blob": of_field(blob),
        "bars": of_field(frame),
    }
    return {name: sized(mesh) for name, mesh in found.items()}


def sized(mesh: Mesh) -> Mesh:
    """The mesh as large as `SIZE`, its box around the origin."""
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    return Mesh((mesh.vertices - (low + high) / 2) * (SIZE / float((high - low).max())), mesh.faces)


def true_surface(mesh: Mesh, count: int) -> torch.Tensor:
    """Points (N, 3) of what can be touched of a mesh: not those that lie inside another of its parts."""
    points, faces = sample_surface(mesh, count)
    outward = points + 2e-4 * face_areas(mesh)[1][faces]
    return points[MeshQuery(mesh, sign="winding").signed_distance(outward) > 0]


def eight_views(above: bool, size: int) -> Camera:
    """Cameras on a ring: by turns 35 degrees above and below, or all above, by turns 25 and 55 degrees."""
    eyes = []
    for k in range(8):
        around, up = 2 * math.pi * k / 8, math.radians((25, 55)[k % 2] if above else (35, -35)[k % 2])
        eyes.append([0.5 * math.cos(around) * math.cos(up), 0.5 * math.sin(around) * math.cos(up), 0.5 * math.sin(up)])
    return Camera.look_at(torch.tensor(eyes), torch.zeros(3), width=size, height=size, field_of_view=math.radians(32))


def photograph(mesh: Mesh, camera: Camera, *, table: bool) -> PosedImages:
    """What PyBullet's software renderer draws of a mesh, alone or on a table under its lowest point."""
    client = BulletClient(connection_mode=pybullet.DIRECT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "object.obj"
            lines = [f"v {x} {y} {z}" for x, y, z in mesh.vertices.tolist()] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in mesh.faces.tolist()]
            file.write_text("o object\n" + "\n".join(lines) + "\n")
            shape = client.createVisualShape(pybullet.GEOM_MESH, fileName=str(file), rgbaColor=[0.8, 0.5, 0.2, 1])
            body = client.createMultiBody(0, -1, shape)
            if table:
                slab = client.createVisualShape(pybullet.GEOM_BOX, halfExtents=[0.6, 0.6, 0.05], rgbaColor=[0.5, 0.6, 0.7, 1])
                client.createMultiBody(0, -1, slab, basePosition=[0, 0, float(mesh.vertices[:, 2].min()) - 0.05])
            frames = [_frame(client, camera[view], body) for view in range(len(camera))]
    finally:
        client.disconnect()
    colors, depth, masks = (np.stack(part) for part in zip(*frames, strict=True))
    # the renderer looks through the pixels' lower left corners; with that, its depth lies on the mesh to 1e-6 m
    k = camera.intrinsics.expand(len(camera), 3, 3) + torch.tensor([[0, 0, 0.5], [0, 0, -0.5], [0, 0, 0]])
    camera = Camera(k, camera.world_from_camera, camera.width, camera.height)
    return PosedImages(camera, torch.from_numpy(colors), torch.from_numpy(depth), torch.from_numpy(masks))


def _frame(client: BulletClient, camera: Camera, body: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pose = camera.world_from_camera.double().numpy()
    gl = pose @ np.diag([1.0, -1.0, -1.0, 1.0])
    view = np.linalg.inv(gl).T.ravel().tolist()
    fx, fy, _, _ = camera.pinholes.tolist()
    width, height = camera.width, camera.height
    projection = [2 * fx / width, 0, 0, 0, 0, 2 * fy / height, 0, 0, 0, 0, -(FAR + NEAR) / (FAR - NEAR), -1, 0, 0, -2 * FAR * NEAR / (FAR - NEAR), 0]
    image = client.getCameraImage(width, height, view, projection, renderer=pybullet.ER_TINY_RENDERER, shadow=0)
    color = np.reshape(image[2], (height, width, 4))[..., :3].astype(np.float32) / 255
    buffer = np.reshape(image[3], (height, width)).astype(np.float64)
    depth = FAR * NEAR / (FAR - (FAR - NEAR) * buffer)
    return color, np.where(buffer < 1, depth, 0).astype(np.float32), np.reshape(image[4], (height, width)) == body
