"""Signed distances against samples of the surface, independent insides, brute force over faces and open3d; gradients; what is refused."""

import math

import pytest
import torch
from scipy.spatial import ConvexHull
from torch import Tensor
from torch.nn.functional import normalize

from structwm.geometry.mesh import Mesh
from structwm.geometry.rotations import to_body, to_world
from structwm.geometry.signed_distance import Box, Capsule, Cylinder, Ellipsoid, HalfSpace, MeshSolid, Sphere, Union, mesh_signed_distance
from structwm.kernels import mesh_queries
from structwm.kernels.mesh_queries import MeshQuery

F64 = torch.float64
POSE = torch.tensor([0.3, -0.2, 0.1, 0.7, -0.5, 0.4, 0.9], dtype=F64)
HOME = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=F64)
SIZES = {Sphere: (0.5,), Box: ([0.2, 0.5, 0.35],), Capsule: (0.2, 0.4), Cylinder: (0.3, 0.45), Ellipsoid: ([0.15, 0.6, 0.4],)}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def surface(kind: type, count: int) -> Tensor:
    """Points on the surface of a solid of size `SIZES`, in its frame."""
    ball, u, angle = normalize(draw(count, 3, seed=5), dim=-1), 2 * rand(count, seed=6) - 1, 2 * math.pi * rand(count, seed=7)
    ring = torch.stack((angle.cos(), angle.sin()), -1)
    if kind is Sphere:
        return 0.5 * ball
    if kind is Ellipsoid:
        return torch.tensor(SIZES[kind][0], dtype=F64) * ball
    if kind is Box:
        cube = 2 * rand(count, 3, seed=8) - 1
        cube[torch.arange(count), torch.arange(count) % 3] = u.sign()
        return torch.tensor(SIZES[kind][0], dtype=F64) * cube
    radius, half = SIZES[kind]
    side = torch.cat((radius * ring, half * u[:, None]), -1)
    if kind is Capsule:
        ends = radius * ball + half * torch.tensor([0.0, 0, 1], dtype=F64) * ball[:, 2:].sign()
    else:
        ends = torch.cat((radius * ring * rand(count, 1, seed=9).sqrt(), half * u[:, None].sign()), -1)
    return torch.cat((side, ends))


def inside(kind: type, local: Tensor) -> Tensor:
    x, y, z = local.unbind(-1)
    size = torch.tensor(SIZES[kind][0], dtype=F64)
    if kind is Sphere:
        return local.square().sum(-1) < 0.25
    if kind is Box:
        return (local.abs() < size).all(-1)
    if kind is Ellipsoid:
        return (local / size).square().sum(-1) < 1
    radius, half = SIZES[kind]
    tube = (x * x + y * y < radius**2) & (z.abs() < half)
    if kind is Cylinder:
        return tube
    return tube | (x * x + y * y + (z.abs() - half).square() < radius**2)


# primitives


@pytest.mark.parametrize("kind", SIZES)
def test_distances_are_those_to_samples_of_the_surface(kind):
    solid, points = kind(POSE, *SIZES[kind]), 1.5 * (rand(400, 3) - 0.5)
    found = solid.signed_distance(points)
    local = to_body(POSE, points)
    assert torch.equal(found < 0, inside(kind, local))
    sampled = torch.cdist(local, surface(kind, 20_000)).min(1).values
    assert bool((found.abs() <= sampled + 1e-12).all())  # no point of the surface is nearer
    assert bool((found.abs() >= sampled - 0.02).all())  # 20,000 points leave gaps of that size


@pytest.mark.parametrize("kind", [*SIZES, HalfSpace])
def test_gradients_are_normals_that_lead_to_the_surface(kind):
    solid, points = kind(POSE, *SIZES.get(kind, ())), (1.5 * (rand(400, 3) - 0.5)).requires_grad_()
    found = solid.signed_distance(points)
    (normal,) = torch.autograd.grad(found.sum(), points)
    assert torch.allclose(normal.norm(dim=-1), torch.ones(400, dtype=F64), atol=1e-9)
    foot = points.detach() - found.detach()[:, None] * normal
    assert torch.allclose(solid.signed_distance(foot), torch.zeros(400, dtype=F64), atol=1e-9)


@pytest.mark.parametrize("kind", [*SIZES, HalfSpace])
def test_distances_change_no_faster_than_points_move(kind):
    solid, a = kind(POSE, *SIZES.get(kind, ())), 2 * (rand(3000, 3) - 0.5)
    b = a + 0.3 * draw(3000, 3, seed=1) * rand(3000, 1, seed=2).pow(4)
    change = (solid.signed_distance(a) - solid.signed_distance(b)).abs()
    assert bool((change <= (a - b).norm(dim=-1) + 1e-12).all())


@pytest.mark.parametrize("kind", [*SIZES, HalfSpace])
def test_gradients_of_points_poses_and_sizes(kind):
    points = 1.5 * (rand(10, 3, seed=3) - 0.5)
    sizes = tuple(torch.tensor(size, dtype=F64, requires_grad=True) for size in SIZES.get(kind, ()))
    assert torch.autograd.gradcheck(lambda p, pose, *s: kind(pose, *s).signed_distance(p), (points.requires_grad_(), POSE.clone().requires_grad_(), *sizes))


@pytest.mark.parametrize("kind", [*SIZES, HalfSpace])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_gradients_are_finite_at_centers_edges_and_corners(kind, dtype):
    size = torch.tensor(SIZES.get(kind, ([0.2, 0.3, 0.4],))[0], dtype=dtype)
    grid = torch.cartesian_prod(*(torch.tensor([-1.0, 0, 1e-20, 1, 2], dtype=dtype),) * 3) * size
    special = torch.cat((grid, surface(kind, 50).to(dtype) if kind is not HalfSpace else grid)).requires_grad_()
    leaves = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in SIZES.get(kind, ())]
    pose = HOME.to(dtype).clone().requires_grad_()
    found = kind(pose, *leaves).signed_distance(special)
    gradients = torch.autograd.grad(found.sum(), (special, pose, *leaves))
    assert all(bool(value.isfinite().all()) for value in (found, *gradients))
    assert float(gradients[0].norm(dim=-1).max()) < 1 + 1e-3  # squares of 1e-20 have few digits in float32


def test_by_hand():
    points = torch.tensor([[0.0, 0, 5], [0, 0, 0], [4, 0, 3]])
    home = HOME.float()
    assert torch.allclose(Sphere(home, 1.0).signed_distance(points), torch.tensor([4.0, -1, 4]))
    assert torch.allclose(Box(home, [1, 2, 3]).signed_distance(points), torch.tensor([2.0, -1, 3]))
    assert torch.allclose(Capsule(home, 1.0, 2.0).signed_distance(points), torch.tensor([2.0, -1, math.hypot(4, 1) - 1]))
    assert torch.allclose(Cylinder(home, 1.0, 2.0).signed_distance(points), torch.tensor([3.0, -1, math.hypot(3, 1)]))
    assert torch.allclose(Ellipsoid(home, [2, 1, 3]).signed_distance(points[:2]), torch.tensor([2.0, -1]))
    assert torch.allclose(HalfSpace(torch.tensor([0.0, 0, 1, 1, 0, 1, 0])).signed_distance(points), torch.tensor([0.0, 0, 4]), atol=1e-6)  # a wall


def test_ellipsoids_from_needles_to_discs():
    """Against the dense surface in the plane of two axes, where the third is no matter; inside, near the planes of symmetry, and far away."""
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=F64)
    for axes in ([1.0, 0.01, 0.5], [1, 1, 0.5], [0.02, 3, 1], [1, 0.999999, 1]):
        rim = torch.stack((axes[0] * angle.cos(), axes[1] * angle.sin()), -1)
        flat = torch.cat((draw(60, 2), 0.5 * draw(60, 2, seed=1) * torch.tensor(axes[:2]), torch.eye(2, dtype=F64) * 0.3, torch.zeros(1, 2, dtype=F64)))
        height = torch.tensor([*axes[:2], 50.0], dtype=F64)  # a long third axis
        found = Ellipsoid(HOME, height).signed_distance(torch.cat((flat, torch.zeros(len(flat), 1, dtype=F64)), -1))
        assert torch.allclose(found.abs(), torch.cdist(flat, rim).min(1).values, atol=2e-4)
        single = Ellipsoid(HOME.float(), height.float()).signed_distance(torch.cat((flat, torch.zeros(len(flat), 1)), -1).float())
        assert torch.allclose(single.double(), found, atol=3e-6)


def test_batches_broadcast():
    poses, points, radius = draw(5, 7), draw(3, 5, 11, 3, seed=1), rand(5, seed=2) + 0.1
    found = Capsule(poses, radius, 0.2).signed_distance(points)
    assert found.shape == (3, 5, 11)
    for i in range(5):
        assert torch.allclose(found[:, i], Capsule(poses[i], radius[i], 0.2).signed_distance(points[:, i]))
    sizes = rand(5, 3, seed=3) + 0.1
    assert torch.allclose(Box(poses, sizes).signed_distance(points)[:, 2], Box(poses[2], sizes[2]).signed_distance(points[:, 2]))
    assert Ellipsoid(poses, sizes).signed_distance(points[0, 0]).shape == (5, 11)
    assert Sphere(POSE, 1.0).signed_distance(torch.zeros(0, 3, dtype=F64)).shape == (0,)


def test_union_is_the_nearest_of_all():
    balls = [Sphere(torch.cat((draw(3, seed=i), HOME[3:])), 0.4) for i in range(3)]
    points = (2 * draw(100, 3, seed=9)).requires_grad_()
    found = Union((*balls, HalfSpace(torch.cat((draw(4, 7)[:, :3], HOME[3:].expand(4, 4)), -1)))).signed_distance(points)
    assert found.shape == (4, 100)
    assert torch.equal(Union(balls).signed_distance(points), torch.stack([ball.signed_distance(points) for ball in balls]).amin(0))
    (gradient,) = torch.autograd.grad(Union(balls).signed_distance(points).sum(), points)
    assert torch.allclose(gradient.norm(dim=-1), torch.ones(100, dtype=F64))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sphere(HOME, -0.1), "Sphere radius: expected finite lengths above 0"),
        (lambda: Sphere(HOME, math.nan), "above 0"),
        (lambda: Box(HOME, [1.0, 2.0]), r"three lengths \(\*B, 3\)"),
        (lambda: Ellipsoid(HOME, [1.0, 0.0, 1.0]), "semi_axes"),
        (lambda: Sphere(torch.zeros(7), 1.0), "not zero"),
        (lambda: Sphere(torch.full((7,), math.nan), 1.0), "finite"),
        (lambda: HalfSpace(torch.zeros(6)), r"\(\*B, 7\)"),
        (lambda: Union(()), "at least one"),
        (lambda: Sphere(HOME, 1.0).signed_distance(torch.full((1, 3), math.nan)), "points: expected finite"),
        (lambda: Sphere(HOME, 1.0).signed_distance(torch.zeros(3)), r"\(\*B, N, 3\)"),
        (lambda: Sphere(HOME, 1.0).signed_distance(torch.zeros(1, 3, dtype=torch.int64)), "floats"),
    ],
)
def test_bad_solids_and_points_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# meshes


CUBE_VERTICES = torch.cartesian_prod(*(torch.tensor([-1.0, 1.0], dtype=F64),) * 3)
CUBE_FACES = torch.tensor(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]],
)


def cuboid(half: tuple[float, float, float], center: tuple[float, float, float] = (0.0, 0.0, 0.0), dtype: torch.dtype = F64) -> Mesh:
    return Mesh((CUBE_VERTICES * torch.tensor(half, dtype=F64) + torch.tensor(center, dtype=F64)).to(dtype), CUBE_FACES)


def torus(around: int = 24, across: int = 12) -> Mesh:
    u, v = torch.meshgrid(torch.arange(around) * 2 * math.pi / around, torch.arange(across) * 2 * math.pi / across, indexing="ij")
    ring = 1 + 0.4 * v.cos()
    vertices = torch.stack((ring * u.cos(), ring * u.sin(), 0.4 * v.sin()), -1).reshape(-1, 3).double()
    i, j = torch.meshgrid(torch.arange(around), torch.arange(across), indexing="ij")
    corner = [(i + a) % around * across + (j + b) % across for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    faces = torch.cat([torch.stack([corner[k] for k in pick], -1).reshape(-1, 3) for pick in ((0, 1, 2), (0, 2, 3))])
    return Mesh(vertices, faces)


def joined(*meshes: Mesh) -> Mesh:
    counts = torch.tensor([0, *(len(mesh.vertices) for mesh in meshes)]).cumsum(0)
    return Mesh(torch.cat([mesh.vertices for mesh in meshes]), torch.cat([mesh.faces + start for mesh, start in zip(meshes, counts, strict=False)]))


def brute_force(mesh: Mesh, points: Tensor) -> Tensor:
    """All faces for all points, and the sign from the exact winding number (sum of solid angles, van Oosterom and Strackee 1983)."""
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    p = points[:, None]

    def to_segment(start: Tensor, end: Tensor) -> Tensor:
        t = (((p - start) * (end - start)).sum(-1) / (end - start).square().sum(-1)).clamp(0, 1)
        return (start + t[..., None] * (end - start) - p).norm(dim=-1)

    distance = torch.stack([to_segment(*ends) for ends in ((a, b), (b, c), (c, a))]).amin(0)
    normal = normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    over = torch.stack(
        [(torch.linalg.cross((end - start).expand(len(points), -1, -1), p - start) * normal).sum(-1) > 0 for start, end in ((a, b), (b, c), (c, a))]
    )
    height = ((p - a) * normal).sum(-1).abs()
    distance = torch.where(over.all(0), height, distance).amin(1)
    u, v, w = a - p, b - p, c - p
    lu, lv, lw = (side.norm(dim=-1) for side in (u, v, w))
    below = lu * lv * lw + (u * v).sum(-1) * lw + (v * w).sum(-1) * lu + (w * u).sum(-1) * lv
    winding = 2 * torch.atan2((u * torch.linalg.cross(v, w)).sum(-1), below).sum(1) / (4 * math.pi)
    return torch.where(winding > 0.5, -distance, distance)


@pytest.mark.parametrize("sign", ["normal", "winding"])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_mesh_of_a_box_is_the_box(sign, dtype):
    points = (3 * draw(3, 800, 3)).to(dtype)  # enough to be sorted
    found = mesh_signed_distance(cuboid((0.2, 0.7, 1.1), dtype=dtype), points, sign=sign)
    expected = Box(HOME, [0.2, 0.7, 1.1]).signed_distance(points.double())
    assert torch.allclose(found.double(), expected, rtol=1e-6 if dtype == torch.float32 else 0, atol=1e-6 if dtype == torch.float32 else 1e-7)
    assert MeshQuery(cuboid((1, 1, 1))).closed


@pytest.mark.parametrize("sign", ["normal", "winding"])
def test_mesh_of_a_torus_is_that_of_brute_force(sign):
    mesh, points = torus(), 1.2 * draw(1500, 3)
    query = MeshQuery(mesh, sign=sign)
    assert query.closed
    expected = brute_force(mesh, points)
    error = (query.signed_distance(points) - expected).abs()
    assert float(error.max()) < 1e-6 and float(error.quantile(0.98)) < 1e-13  # which of two faces that are as near, is told in float32
    single = MeshQuery(Mesh(mesh.vertices.float(), mesh.faces), sign=sign).signed_distance(points.float())
    assert torch.allclose(single.double(), expected, rtol=0, atol=2e-6)


def test_corners_of_spikes_and_of_uneven_fans():
    """Where the nearest point is a corner: the sum of normals must be that corner's, and weighted by angles, or many narrow faces outvote the others."""
    ball = normalize(draw(80, 3, seed=12), dim=-1)
    faces = torch.from_numpy(ConvexHull(ball.numpy()).simplices).long()
    a, b, c = ball[faces].unbind(1)
    outward = (torch.linalg.cross(b - a, c - a) * a).sum(-1) > 0
    spiky = Mesh(ball * (0.3 + rand(80, 1)), torch.where(outward[:, None], faces, faces.flip(1)))
    angle = torch.cat((torch.linspace(0, 0.05, 40), torch.tensor([2.0, 4.0]))).double()  # most of the corners of the base are near one another
    rim = torch.stack((angle.cos(), angle.sin(), -0.3 * torch.ones(42)), -1)
    cone = torch.cat((rim, torch.tensor([[0.0, 0, 0.2], [0, 0, -0.3]], dtype=F64)))
    i, j = torch.arange(42), torch.arange(1, 43) % 42
    fan = Mesh(cone, torch.cat((torch.stack((i, j, torch.full((42,), 42)), -1), torch.stack((j, i, torch.full((42,), 43)), -1))))
    for mesh in (spiky, fan):
        near = mesh.vertices.repeat_interleave(20, 0)
        points = near + 0.05 * draw(len(near), 3, seed=11)
        expected = brute_force(mesh, points)
        clear = expected.abs() > 1e-6
        assert torch.allclose(MeshQuery(mesh).signed_distance(points)[clear], expected[clear], rtol=0, atol=1e-6)


def test_mesh_distances_are_those_of_open3d():
    try:
        import open3d
    except ImportError as reason:
        pytest.skip(f"open3d does not load: {reason}")
    mesh, points = torus(48, 24), 1.2 * draw(5000, 3).float()
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(open3d.core.Tensor(mesh.vertices.float().numpy()), open3d.core.Tensor(mesh.faces.numpy().astype("uint32")))
    theirs = scene.compute_signed_distance(open3d.core.Tensor(points.numpy()), nsamples=3).numpy()
    ours = mesh_signed_distance(Mesh(mesh.vertices.float(), mesh.faces), points)
    assert torch.allclose(ours, torch.from_numpy(theirs), atol=3e-6)


def test_mesh_gradients():
    mesh, points = torus(6, 4), draw(12, 3, seed=4)

    def distance(p: Tensor, vertices: Tensor) -> Tensor:
        return mesh_signed_distance(Mesh(vertices, mesh.faces), p)

    assert torch.autograd.gradcheck(distance, (points.requires_grad_(), mesh.vertices.clone().requires_grad_()), atol=1e-5)


def test_on_the_surface_the_gradient_is_the_normal():
    cube, on = cuboid((1, 1, 1)), torch.tensor([[1.0, 0.3, -0.2], [0.1, -1, 0.5], [1, 1, 0.3], [1, 1, 1]], dtype=F64).requires_grad_()
    found = mesh_signed_distance(cube, on)
    (normal,) = torch.autograd.grad(found.sum(), on)
    assert torch.allclose(found, torch.zeros(4, dtype=F64))
    expected = normalize(torch.tensor([[1.0, 0, 0], [0, -1, 0], [1, 1, 0], [1, 1, 1]], dtype=F64), dim=-1)  # of an edge and a corner, the mean
    assert torch.allclose(normal, expected, atol=1e-9)


def test_posed_mesh_is_a_solid():
    points, query = draw(2, 50, 3), MeshQuery(cuboid((0.2, 0.5, 0.35)))
    poses = draw(2, 7, seed=1).requires_grad_()
    found, expected = (solid.signed_distance(points) for solid in (MeshSolid(poses, query), Box(poses, [0.2, 0.5, 0.35])))
    assert torch.allclose(found, expected, atol=1e-7)
    first, second = (torch.autograd.grad(value.sum(), poses, retain_graph=True)[0] for value in (found, expected))
    assert torch.allclose(first, second, atol=1e-5)
    assert torch.equal(Union((MeshSolid(poses, query), HalfSpace(HOME))).signed_distance(points), torch.minimum(found, HalfSpace(HOME).signed_distance(points)))


def test_midway_between_two_walls_is_outside():
    """Normals of several places as near must not be added up: between the fingers of a gripper they cancel."""
    fingers = joined(cuboid((0.1, 0.5, 0.5), (-0.4, 0, 0)), cuboid((0.1, 0.5, 0.5), (0.4, 0, 0)))
    middle = torch.stack((torch.zeros(50), 0.4 * rand(50) - 0.2, 0.4 * rand(50, seed=1) - 0.2), -1).double()
    for sign in ("normal", "winding"):
        assert torch.allclose(mesh_signed_distance(fingers, middle, sign=sign), torch.full((50,), 0.3, dtype=F64), atol=1e-7)
        assert torch.allclose(mesh_signed_distance(cuboid((0.1, 0.5, 0.5)), middle, sign=sign), torch.full((50,), -0.1, dtype=F64), atol=1e-7)


def test_triangle_soup_and_faces_without_area():
    mesh, points = torus(), 1.2 * draw(400, 3)
    expected = mesh_signed_distance(mesh, points)
    soup = Mesh(mesh.vertices[mesh.faces].reshape(-1, 3), torch.arange(3 * len(mesh.faces)).view(-1, 3))
    query = MeshQuery(soup)
    assert query.closed and torch.allclose(query.signed_distance(points), expected, atol=1e-12)
    dirty = Mesh(mesh.vertices, torch.cat((mesh.faces, torch.tensor([[0, 0, 1], [5, 5, 5]]))))
    assert torch.allclose(mesh_signed_distance(dirty, points), expected, atol=1e-12)


def test_open_meshes():
    """A terrain has sides; a box without its lid has an inside by the winding number. Neither is closed."""
    terrain = Mesh(torch.tensor([[-5.0, -5, 0], [5, -5, 0], [5, 5, 0], [-5, 5, 0]], dtype=F64), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    query, points = MeshQuery(terrain), torch.tensor([[0.0, 0, 2], [0, 0, -2], [8, 9, 0]], dtype=F64)
    assert not query.closed
    assert torch.allclose(query.signed_distance(points), torch.tensor([2.0, -2, 5], dtype=F64))
    lidless = Mesh(CUBE_VERTICES, CUBE_FACES[:-2])
    deep = torch.tensor([[0.0, 0, -0.5], [0, 0, 3]], dtype=F64)
    assert torch.equal(MeshQuery(lidless, sign="winding").signed_distance(deep) < 0, torch.tensor([True, False]))


def test_overlapping_parts_by_the_winding_number():
    parts = joined(cuboid((1, 1, 1)), cuboid((1, 1, 1), (1, 0, 0)))
    inner = torch.tensor([[0.5, 0, 0], [0.1, 0.2, 0.3], [1.9, 0, 0]], dtype=F64)
    assert bool((mesh_signed_distance(parts, inner, sign="winding") < 0).all())


def test_far_from_the_origin():
    points = torch.tensor([[1000.5, 2000.0, -1000.0]], dtype=F64)
    far = mesh_signed_distance(cuboid((0.1, 0.1, 0.1), (1000, 2000, -1000)), points)
    assert torch.allclose(far, torch.tensor([0.4], dtype=F64), atol=1e-7)
    beyond = mesh_signed_distance(cuboid((0.1, 0.1, 0.1)), torch.tensor([[1e30, 0, 0]], dtype=F64))
    assert torch.allclose(beyond, torch.tensor([1e30], dtype=F64))


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(mesh_queries, "POINT_SHARE", 1)
    query, points = MeshQuery(torus()), draw(300, 3)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(query.signed_distance(points))
    assert torch.equal(*found)


def test_order_keeps_points_with_their_results(monkeypatch):
    query, points = MeshQuery(torus()), draw(300, 3)
    plain = query.signed_distance(points)
    monkeypatch.setattr(mesh_queries, "SORTED_FROM", 1)
    assert torch.equal(query.signed_distance(points), plain)


def test_mesh_query_compiles_without_a_break():
    query, points = MeshQuery(cuboid((1, 1, 1))), draw(20, 3).requires_grad_()
    compiled = torch.compile(lambda p: query.signed_distance(p).square().sum(), backend="aot_eager", fullgraph=True)
    (ours,) = torch.autograd.grad(compiled(points), points)
    (theirs,) = torch.autograd.grad(query.signed_distance(points).square().sum(), points)
    assert torch.allclose(ours, theirs)


def test_points_may_lie_anywhere_in_memory():
    query, points = MeshQuery(cuboid((1, 1, 1))), draw(3, 20).T
    assert torch.equal(query.signed_distance(points), query.signed_distance(points.contiguous()))


def test_no_points_are_fine():
    assert MeshQuery(cuboid((1, 1, 1))).signed_distance(torch.zeros(2, 0, 3, dtype=F64)).shape == (2, 0)


def test_world_points_of_a_posed_solid():
    local = draw(20, 3)
    assert torch.allclose(Sphere(POSE, 0.5).signed_distance(to_world(POSE, local)), local.norm(dim=-1) - 0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MeshQuery(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64))), "expected a face with an area, got 0 faces"),
        (lambda: MeshQuery(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))), "expected a face with an area"),
        (lambda: MeshQuery(cuboid((1, 1, 1)), sign="parity"), "'normal' or 'winding'"),
        (lambda: mesh_signed_distance(cuboid((1, 1, 1)), torch.full((1, 3), math.inf, dtype=F64)), "finite"),
        (lambda: mesh_signed_distance(cuboid((1, 1, 1)), torch.zeros(1, 3)), "expected torch.float64"),
        (lambda: mesh_signed_distance(cuboid((1, 1, 1)), torch.zeros(1, 2, dtype=F64)), r"\(\*B, N, 3\)"),
    ],
)
def test_bad_meshes_and_points_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
