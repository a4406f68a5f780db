"""Simple meshes and what depth cameras see of them, noisy and with pixels missing."""

import itertools
import math

import torch
from torch import Tensor

from structwm.geometry import Camera, Mesh
from structwm.geometry.mesh_sampling import face_areas, sample_surface
from structwm.geometry.rotations import quaternion_to_matrix, to_world
from structwm.interfaces import Observation
from structwm.render.mesh_views import MeshViews

NOISE = 0.002  # standard deviation of depth [m]


def box(*size: float, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    corners = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=3))) * torch.tensor(size) + torch.tensor(at)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Mesh(corners, torch.tensor([face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]))


def prism(outline: Tensor, height: float, caps: list[tuple[int, int, int]]) -> Mesh:
    """Of an outline (P, 2), anticlockwise, with its triangles."""
    count = len(outline)
    ends = [torch.cat((outline, torch.full((count, 1), z)), 1) for z in (-height / 2, height / 2)]
    cap = torch.tensor(caps)
    sides = [face for i in range(count) for j in [(i + 1) % count] for face in ((i, j, j + count), (i, j + count, i + count))]
    return Mesh(torch.cat(ends), torch.cat((cap.flip(-1), cap + count, torch.tensor(sides))))


def angle_bracket() -> Mesh:
    """An L that no rotation but the identity maps onto itself: its legs are 12 and 9 cm long."""
    outline = torch.tensor([[0, 0], [0.12, 0], [0.12, 0.035], [0.035, 0.035], [0.035, 0.09], [0, 0.09]]) - torch.tensor([0.04, 0.03])
    return prism(outline, 0.04, [(0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 5)])


def cylinder(radius: float = 0.03, height: float = 0.1, sides: int = 48) -> Mesh:
    turn = torch.arange(sides) * 2 * math.pi / sides
    return prism(radius * torch.stack((turn.cos(), turn.sin()), -1), height, [(0, k, k + 1) for k in range(1, sides - 1)])


def surface(mesh: Mesh, count: int = 1200) -> tuple[Tensor, Tensor]:
    """Points and outward normals (count, 3)."""
    points, faces = sample_surface(mesh, count)
    return points, face_areas(mesh)[1][faces]


def cameras(count: int = 1, *, width: int = 128, height: int = 96) -> Camera:
    eyes = torch.tensor([[0.5, 0.1, 0.4], [-0.3, 0.45, 0.35]])[:count]
    return Camera.look_at(eyes, torch.zeros(3), width=width, height=height, field_of_view=math.radians(30))


def look(mesh: Mesh, camera: Camera, *, noise: float = NOISE, missing: float = 0.05, seed: int = 0) -> Tensor:
    """Depth (V, height, width) [m]: infinite where there is nothing, NaN where the camera failed."""
    generator = torch.Generator().manual_seed(seed)
    depth = MeshViews(mesh, camera).render(mesh.vertices).depth
    depth = depth + noise * torch.randn(depth.shape, generator=generator)
    return torch.where(torch.rand(depth.shape, generator=generator) < missing, torch.nan, depth)


def placed(mesh: Mesh, pose: Tensor) -> Mesh:
    return Mesh(to_world(pose, mesh.vertices), mesh.faces)


def together(*meshes: Mesh) -> tuple[Mesh, Tensor]:
    """Several meshes as one, and the number of each face's mesh."""
    starts = itertools.accumulate((len(mesh.vertices) for mesh in meshes), initial=0)
    faces = torch.cat([mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)])
    return Mesh(torch.cat([mesh.vertices for mesh in meshes]), faces), torch.repeat_interleave(torch.tensor([len(mesh.faces) for mesh in meshes]))


def any_pose(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    turn = torch.nn.functional.normalize(torch.randn(4, generator=generator), dim=-1)
    return torch.cat((0.02 * torch.randn(3, generator=generator), turn))


def turns_of_box(*size: float) -> Tensor:
    """The rotations (M, 3, 3) that map a box of these sides onto itself."""
    found = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1.0, -1.0), repeat=3)):
        matrix = torch.zeros(3, 3)
        matrix[range(3), order] = torch.tensor(signs)
        if torch.linalg.det(matrix) > 0 and all(size[row] == size[column] for row, column in enumerate(order)):
            found.append(matrix)
    return torch.stack(found)


def pose_errors(poses: Tensor, truth: Tensor, alike: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of poses (K, 7): distance of the origins (K,) [m], and angles (K, M) [rad] to the truth turned by each of `alike` (M, 3, 3)."""
    alike = torch.eye(3)[None] if alike is None else alike
    wanted = quaternion_to_matrix(truth[3:].double()) @ alike.double()
    cosine = ((quaternion_to_matrix(poses[:, 3:].double()).unsqueeze(1) * wanted).sum((-1, -2)) - 1) / 2
    return (poses[:, :3] - truth[:3]).norm(dim=-1), cosine.clamp(-1, 1).acos()


COLORS = torch.tensor([[0.8, 0.2, 0.15], [0.15, 0.3, 0.8], [0.6, 0.6, 0.55], [0.2, 0.7, 0.2]])
TABLE = Mesh(torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))

PLATE = box(0.07, 0.07, 0.006, at=(0.05, 0.0, 0.08))


def pushed_boxes(frames: int = 20, *, plate_above: bool = True, colors: bool = True) -> tuple[list[Observation], Tensor, list[Mesh]]:
    """A box of 10 cm that pushes another over a table, 6 mm a frame, seen by two cameras; a plate in the air hides a part of the other from frame 6 to 12.

    Returns:
        Observations, the true poses (frames, 2, 7), and the two boxes.
    """
    generator = torch.Generator().manual_seed(0)
    boxes = [box(0.1, 0.07, 0.06), box(0.08, 0.08, 0.05)]
    eyes = torch.tensor([[0.45, -0.45, 0.45], [-0.3, -0.5, 0.5]])
    camera = Camera.look_at(eyes, torch.tensor([0.0, 0.0, 0.02]), width=128, height=96, field_of_view=math.radians(35))
    observations, poses = [], []
    for frame in range(frames):
        x = 0.006 * frame - 0.1
        other = max(x + 0.09, 0.03)
        half = math.radians(1.5) * (other - 0.03) / 0.006 / 2
        poses.append(torch.tensor([[x, 0, 0.03, 1, 0, 0, 0], [other, 0.015, 0.025, math.cos(half), 0, 0, math.sin(half)]]))
        parts = [placed(mesh, pose) for mesh, pose in zip(boxes, poses[-1], strict=True)] + [TABLE] + ([PLATE] if plate_above and 6 <= frame < 13 else [])
        mesh, owners = together(*parts)
        image = MeshViews(mesh, camera).render(mesh.vertices)
        ids = torch.cat((owners, torch.tensor([2])))[image.faces]
        paint = COLORS[ids] * (0.6 + 0.4 * torch.rand(*ids.shape, 1, generator=generator))
        depth = image.depth + NOISE * torch.randn(image.depth.shape, generator=generator)
        depth = torch.where(torch.rand(depth.shape, generator=generator) < 0.05, torch.nan, depth)
        observations.append(
            Observation(
                0.1 * frame,
                images={"a": paint[0], "b": paint[1]} if colors else {},
                depth={"a": depth[0], "b": depth[1]},
                intrinsics={"a": camera.intrinsics, "b": camera.intrinsics},
                world_from_camera={"a": camera.world_from_camera[0], "b": camera.world_from_camera[1]},
            )
        )
    return observations, torch.stack(poses), boxes
