"""Gaps between things known by points: the kernel against plain torch, normals and gaps of known shapes, contacts."""

from __future__ import annotations

import pytest
import torch

from structwm.kernels.likely_planes import likely_planes
from structwm.kernels.surface_gaps import surface_gaps
from structwm.kernels.surface_gaps_reference import surface_gaps as plain
from structwm.perception import farthest_points
from structwm.points.skin import Things, find_contacts, skin_of
from structwm.render.mesh_views import points_on_mesh
from structwm.worlds.tabletop_views import box_mesh


def of_box(half, count, seed=0):
    mesh = box_mesh(half)
    faces, corners = points_on_mesh(mesh, 4 * count, seed=seed)
    points = (mesh.vertices[mesh.faces[faces]] * corners.unsqueeze(-1)).sum(1).float()
    return points[farthest_points(points, count)]


def of_ball(radius, count):
    step = torch.arange(count) + 0.5
    z, angle = 1 - 2 * step / count, 2.399963 * step
    return radius * torch.stack(((1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z), -1)


def lone(points):
    return skin_of(points[None], torch.zeros(1, len(points), dtype=torch.int64), torch.ones(1, len(points), dtype=torch.bool))


def arranged(*clouds):
    """Points, normals, who is who and spacing of things in one problem."""
    points = torch.cat(clouds)[None]
    thing = torch.cat([torch.full((len(cloud),), number) for number, cloud in enumerate(clouds)])[None]
    mask = torch.ones(thing.shape, dtype=torch.bool)
    skin = skin_of(points, thing, mask)
    spacing = torch.stack([skin.spacing[thing == number].mean() for number in range(len(clouds))])[None]
    return points, skin.normals(points), Things.of(thing, mask, len(clouds)), spacing


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gaps_are_those_of_plain_torch(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    problems, count, things = 3, 60, 4
    points = 0.1 * torch.rand(problems, count, 3, generator=generator, dtype=dtype)
    normals = torch.nn.functional.normalize(torch.randn(problems, count, 3, generator=generator, dtype=dtype), dim=-1)
    normals[:, ::7] = 0.0
    thing = torch.randint(things, (problems, count), generator=generator)
    mask = torch.rand(problems, count, generator=generator) < 0.9
    who = Things.of(thing, mask, things)
    spacing = torch.full((problems, things), 0.02, dtype=dtype)
    reach = 0.05 * torch.rand(problems, count, generator=generator, dtype=dtype)
    moving = 0.01 * torch.rand(problems, things, generator=generator, dtype=dtype)
    given = (points, normals, who.owner, who.order, who.begin, spacing, reach, moving)
    ours, theirs = surface_gaps(*given), plain(*given)
    near = ours[0] >= 0
    assert torch.equal(ours[0], theirs[0])
    assert 0.1 < near.float().mean() < 0.9
    assert (ours[1] - theirs[1])[near].abs().max() < tolerance
    assert (ours[2] - theirs[2])[near].abs().max() < 100 * tolerance
    torch.library.opcheck(torch.ops.structwm.surface_gaps.default, given)


def test_gaps_refuse_shapes_that_do_not_fit():
    points = torch.zeros(1, 4, 3)
    who = Things.of(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool), 1)
    with pytest.raises(ValueError, match="surface_gaps: expected .*spacing"):
        surface_gaps(points, points, who.owner, who.order, who.begin, torch.zeros(2, 1), torch.zeros(1, 4), torch.zeros(1, 1))
    with pytest.raises(TypeError, match="float32 or float64"):
        half = points.half()
        surface_gaps(half, half, who.owner, who.order, who.begin, torch.zeros(1, 1).half(), torch.zeros(1, 4).half(), torch.zeros(1, 1).half())


@pytest.mark.parametrize("half", [(0.03, 0.045, 0.025), (0.05, 0.05, 0.05), (0.05, 0.02, 0.03)])
def test_normals_next_to_edges_are_those_of_a_face(half):
    points = of_box(half, 128)
    normals = lone(points).normals(points[None])[0]
    assert (normals.abs().amax(-1) > 0.98).float().mean() > 0.8
    assert ((normals * points).sum(-1) > 0).all()


def test_gaps_to_a_box_are_exact_to_a_part_of_a_millimetre():
    """64 points, about 1.6 cm apart."""
    half = (0.03, 0.045, 0.025)
    size = torch.tensor(half)
    queries = (2 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) - 1) * (size + 0.008)
    beyond = queries.abs() - size
    true = beyond.clamp_min(0).norm(dim=-1) + beyond.amax(-1).clamp_max(0)
    some = (true > -0.002) & (true < 0.008)
    points, normals, who, spacing = arranged(of_box(half, 64), queries[some])
    reach = torch.full(points.shape[:2], 0.01)
    nearest, gap, _ = surface_gaps(points, normals, who.owner, who.order, who.begin, spacing, reach, torch.zeros(1, 2))
    found, error = nearest[0, 64:, 0] >= 0, (gap[0, 64:, 0] - true[some]).abs()
    assert found.float().mean() > 0.99
    assert error[found].mean() < 1e-3
    assert error[found].median() < 2e-4


def test_gaps_between_balls():
    a, b = of_ball(0.03, 200), of_ball(0.02, 100) + torch.tensor((0.053, 0.0, 0.0))
    points, normals, who, spacing = arranged(a, b)
    reach = torch.full(points.shape[:2], 0.02)
    nearest, gap, out = surface_gaps(points, normals, who.owner, who.order, who.begin, spacing, reach, torch.zeros(1, 2))
    found = (nearest[0, 200:, 0] >= 0) & (b.norm(dim=-1) < 0.04)
    true = b[found].norm(dim=-1) - 0.03
    assert found.any()
    assert (gap[0, 200:, 0][found] - true).abs().max() < 1.5e-3
    assert (out[0, 200:, 0][found] * torch.nn.functional.normalize(b[found], dim=-1)).sum(-1).min() > 0.95


def test_a_plane_across_an_inner_corner_does_not_count():
    """Between the legs of an angle, what is near one of them touches it, though the other is as near as points are apart."""
    grid = torch.cartesian_prod(torch.arange(11.0), torch.arange(11.0)) * 0.005
    zero = torch.zeros(121)
    floor, wall = torch.stack((grid[:, 0], grid[:, 1], zero), -1), torch.stack((zero, grid[:, 0], grid[:, 1]), -1)
    corner = torch.cat((floor, wall))
    up, aside = torch.tensor((0.0, 0.0, 1.0)), torch.tensor((1.0, 0.0, 0.0))
    normals = torch.cat((up.expand(121, 3), aside.expand(121, 3), torch.zeros(1, 3)))[None]
    points = torch.cat((corner, torch.tensor([[0.006, 0.02, 0.001]])))[None]
    thing = torch.cat((torch.zeros(242), torch.ones(1))).long()[None]
    who = Things.of(thing, torch.ones(1, 243, dtype=torch.bool), 2)
    _, gap, _ = surface_gaps(points, normals, who.owner, who.order, who.begin, torch.tensor([[0.005, 0.0]]), torch.full((1, 243), 0.02), torch.zeros(1, 2))
    assert abs(float(gap[0, 242, 0]) - 0.001) < 2e-4


def test_normals_turn_with_the_points():
    points = of_box((0.03, 0.04, 0.02), 64)
    skin = lone(points)
    angle = torch.tensor(0.7)
    matrix = torch.tensor([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0], [0.0, 0.0, 1.0]])
    assert torch.allclose(skin.normals((points @ matrix.T + 0.3)[None])[0], skin.normals(points[None])[0] @ matrix.T, atol=1e-4)


def test_planes_of_the_kernel_are_those_of_torch():
    points = of_box((0.03, 0.045, 0.025), 96)
    plain = lone(points.clone().requires_grad_())
    assert torch.allclose(lone(points).normals(points[None]), plain.normals(points[None]).detach(), atol=1e-3)
    ways = torch.randn(5, 7, 3, dtype=torch.float64)
    torch.library.opcheck(torch.ops.structwm.likely_planes.default, (ways, torch.rand(5, 7) < 0.8, torch.full((5,), 0.1, dtype=torch.float64), ways[:, 0]))
    with pytest.raises(ValueError, match="likely_planes: expected ways"):
        likely_planes(ways, torch.ones(5, 6, dtype=torch.bool), torch.ones(5), ways[:, 0])


@pytest.mark.parametrize("points", [torch.zeros(1, 3), torch.zeros(5, 3), torch.linspace(0, 1, 6)[:, None] * torch.ones(3), torch.randn(2, 3)])
def test_things_without_a_surface_have_no_normals(points):
    skin = lone(points)
    assert torch.equal(skin.normals(points[None]), torch.zeros(1, *points.shape))


def test_contacts_are_where_surfaces_are_near_now_or_soon():
    box, tool = of_box((0.03, 0.03, 0.03), 64), of_ball(0.01, 60) + torch.tensor((0.06, 0.0, 0.0))
    points, normals, who, spacing = arranged(box, tool)
    still = torch.zeros_like(points)
    assert len(find_contacts(points, normals, who, spacing, still, 0.01).gap) == 0
    coming = still.clone()
    coming[:, 64:, 0] = -0.015
    found = find_contacts(points, normals, who, spacing, coming, 0.01)
    assert set(found.thing.tolist()) == {0, 1}
    assert abs(float(found.gap.min()) - 0.02) < 2e-3
    on_box = found.thing == 0
    assert (found.place[on_box, 0] - 0.03).abs().max() < 2e-3
    assert (found.normal[on_box, 0] > 0.99).all()


def test_gradients_of_contacts():
    """By finite differences, through the points of both things and the shapes that normals come from; faces are a little rough, so that no two planes are as
    likely."""
    rough = 3e-4 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    box, tool = (of_box((0.03, 0.03, 0.03), 40) + rough).double(), of_ball(0.01, 30).double() + torch.tensor((0.047, 0.01, 0.01))
    thing = torch.cat((torch.zeros(40), torch.ones(30))).long()[None]
    mask = torch.ones_like(thing, dtype=torch.bool)

    def gaps(points, rest):
        skin = skin_of(rest, thing, mask)
        spacing = torch.full((1, 2), 0.012, dtype=torch.float64)
        found = find_contacts(points, skin.normals(points), Things.of(thing, mask, 2), spacing, torch.zeros_like(points), 0.01)
        return found.gap, found.normal, found.place

    points = torch.cat((box, tool))[None].requires_grad_()
    assert len(gaps(points, points)[0]) > 4
    assert torch.autograd.gradcheck(gaps, (points, points.detach().clone().requires_grad_()), eps=1e-7, atol=1e-3, rtol=1e-3, fast_mode=True)
