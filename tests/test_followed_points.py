"""The same points followed through frames: how far they are from where they truly are, what is visible, and what is said when an object is gone."""

import math
from dataclasses import replace

import pytest
import torch

from structwm.data import PointCloud
from structwm.geometry import Camera
from structwm.geometry.rotations import to_body, to_world
from structwm.interfaces import Observation
from structwm.perception import FollowedObject, PointFollower, above_plane, rgbd_cloud, split_objects, stacked_views, table_plane
from structwm.render.mesh_views import MeshViews
from tests.seen_solids import COLORS, NOISE, PLATE, TABLE, box, placed, pushed_boxes, surface, together

PLANE = torch.tensor([0.0, 0.0, 1.0, 0.0])


def known(boxes: list, *, colors: bool = True) -> list[FollowedObject]:
    found = []
    for mesh, color in zip(boxes, COLORS, strict=False):
        points, normals = surface(mesh, 300)
        found.append(FollowedObject(points, normals, color.expand(300, 3) if colors else None))
    return found


def test_a_cloud_split_into_objects_is_followed_through_pushing_and_occlusion():
    frames, poses, _ = pushed_boxes()
    depth, camera, images, _ = stacked_views(frames[0])
    cloud = rgbd_cloud(depth, camera, images=images, normals=True, noise=NOISE, box=torch.tensor([[-0.3, -0.3, -0.05], [0.3, 0.3, 0.3]]))
    plane = table_plane(cloud.positions, 3 * NOISE, above=camera.positions[0])
    assert plane is not None
    things = above_plane(cloud, plane, 3 * NOISE)
    labels = split_objects(things, 0.012)
    follower = PointFollower.from_cloud(things, labels, noise=NOISE, table=plane)
    tracks = follower.follow(frames)
    assert tracks.positions.shape == (20, 600, 3) and tracks.ids.tolist() == [0] * 300 + [1] * 300
    assert not bool(tracks.lost.any()) and float(tracks.fitness.min()) > 0.9
    middles = torch.stack([tracks.positions[0, tracks.ids == k].mean(0) for k in range(2)])
    order = torch.cdist(middles, poses[0, :, :3]).argmin(-1).tolist()
    assert sorted(order) == [0, 1]
    for number, name in enumerate(order):
        own = tracks.positions[:, tracks.ids == number]
        body = to_body(poses[0, name], own[0])
        error = (own - to_world(poses[:, name], body.expand(20, -1, -1))).norm(dim=-1)
        assert float(error.mean()) < 0.0015 and float(error[-1].mean()) < 0.003  # it moved by 8 and 11 cm
    assert tracks.times.tolist() == pytest.approx([0.1 * k for k in range(20)])


def test_known_objects_are_followed_without_colours():
    frames, poses, boxes = pushed_boxes(12, colors=False)
    follower = PointFollower(known(boxes, colors=False), poses[0], noise=NOISE, table=PLANE)
    tracks = follower.follow(frames)
    far = (tracks.object_poses[..., :3] - poses[..., :3]).norm(dim=-1)
    turned = 2 * (tracks.object_poses[..., 3:] * poses[..., 3:]).sum(-1).abs().clamp_max(1).acos()
    assert float(far.max()) < 0.004 and float(turned.max()) < math.radians(4)
    body = torch.cat([to_world(poses[-1, k], thing.points) for k, thing in enumerate(follower.objects)])
    assert float((tracks.positions[-1] - body).norm(dim=-1).mean()) < 0.003


@pytest.mark.parametrize("frame", [0, 8])
def test_visible_points_are_those_that_a_camera_sees(frame: int):
    """In frame 8 a plate in the air hides a fifth of what is else seen of the second box."""
    frames, poses, boxes = pushed_boxes(frame + 1)
    follower = PointFollower(known(boxes), poses[frame], noise=NOISE, table=PLANE)
    belief = follower.update(frames[frame], None, None)
    _, camera, _, _ = stacked_views(frames[frame])
    mesh, _ = together(*(placed(thing, pose) for thing, pose in zip(boxes, poses[frame], strict=True)), TABLE, *([PLATE] if frame else []))
    lifted = [thing.points + 1e-4 * thing.normals for thing in follower.objects if thing.normals is not None]
    points = torch.cat([to_world(pose, part) for pose, part in zip(poses[frame], lifted, strict=True)])
    truth = MeshViews(mesh, camera).visible(mesh.vertices, points).any(0)
    found = belief.states.visibility[0, 0] > 0.5
    assert float((found == truth).float().mean()) > 0.93
    assert not frame or float(found[follower.ids == 1].float().mean()) < 0.52


def test_an_object_that_is_gone_is_lost_and_one_that_is_hidden_waits():
    frames, poses, boxes = pushed_boxes(3, plate_above=False)
    follower = PointFollower(known(boxes), poses[0], noise=NOISE, table=PLANE)
    belief = follower.update(frames[0], None, None)
    assert follower.lost(belief).tolist() == [False, False]
    gone = frames_of([placed(boxes[0], poses[1, 0])], frames[1])
    after = follower.update(gone, belief, None)
    state = after.states[0, 0]
    assert follower.lost(after).tolist() == [False, True] and float(state.fitness[1]) < 0.2
    own = follower.ids == 1
    assert torch.equal(state.positions[own], belief.states[0, 0].positions[own]) and not bool(state.visibility[own].any())
    wall = box(2.0, 0.02, 2.0, at=(0.0, -0.3, 0.0))
    behind = follower.update(frames_of([wall], frames[1]), belief, None)
    assert bool(behind.states.fitness.isnan().all()) and follower.lost(behind).tolist() == [False, False]
    assert torch.equal(behind.states.positions, belief.states.positions)
    dark = replace(frames[1], depth={name: torch.full_like(value, torch.nan) for name, value in frames[1].depth.items()})
    assert bool(follower.update(dark, belief, None).states.fitness.isnan().all())
    back = follower.update(frames[2], after, None)
    assert follower.lost(back).tolist() == [False, False]


def frames_of(meshes: list, like: Observation) -> Observation:
    """What the cameras of another frame would see of meshes on the table."""
    _, camera, _, _ = stacked_views(like)
    mesh, _ = together(*meshes, TABLE)
    seen = MeshViews(mesh, camera).render(mesh.vertices).depth
    return replace(like, depth={"a": seen[0], "b": seen[1]})


def test_a_cloth_that_bends_is_followed():
    """A sheet of 20 x 12 cm on which a wave grows; its points keep their place in the sheet."""
    columns, rows = 25, 16
    flat = torch.cartesian_prod(torch.linspace(-0.1, 0.1, columns), torch.linspace(-0.06, 0.06, rows))
    index = torch.arange(columns * rows).view(columns, rows)
    a, b, c, d = (part.reshape(-1) for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = torch.cat((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)))
    camera = Camera.look_at(torch.tensor([[0.3, -0.3, 0.5], [-0.3, -0.3, 0.5]]), torch.zeros(3), width=96, height=72, field_of_view=math.radians(32))

    def sheet(frame: int) -> torch.Tensor:
        height = 0.004 * frame * torch.sin(flat[:, 0] * 25)
        return torch.cat((flat * torch.tensor([1 - 0.004 * frame, 1.0]) + torch.tensor([0.003 * frame, 0.0]), height.unsqueeze(-1) + 0.05), 1)

    from structwm.geometry import Mesh

    views = MeshViews(Mesh(sheet(0), faces), camera)
    g = torch.Generator().manual_seed(0)
    frames = []
    for k in range(6):
        depth = views.render(sheet(k)).depth
        depth = depth + 0.001 * torch.randn(depth.shape, generator=g)
        frames.append(
            Observation(
                0.1 * k,
                depth={"a": depth[0], "b": depth[1]},
                intrinsics={"a": camera.intrinsics, "b": camera.intrinsics},
                world_from_camera={"a": camera.world_from_camera[0], "b": camera.world_from_camera[1]},
            )
        )
    start = sheet(0)
    follower = PointFollower([FollowedObject(start, deformable=True)], torch.tensor([[0.0, 0, 0, 1, 0, 0, 0]]), noise=0.001)
    tracks = follower.follow(frames)
    error, moved = ((other - sheet(5)).norm(dim=-1).mean() for other in (tracks.positions[-1], start))
    assert float(error) < 0.007 < 0.35 * float(moved)  # points are 8 mm apart: places along a sheet without texture are known to about that
    assert float(tracks.fitness.min()) > 0.9 and float((tracks.positions[-1] - sheet(5))[:, 2].abs().mean()) < 0.0015


def test_new_surface_is_added_only_if_asked():
    frames, poses, boxes = pushed_boxes(2, plate_above=False)
    points, normals = surface(boxes[0], 300)
    top = points[:, 2] > 0.02
    follower = PointFollower([FollowedObject(points[top], normals[top], COLORS[0].expand(int(top.sum()), 3))], poses[0, :1], noise=NOISE, table=PLANE)
    belief = follower.update(frames[0], None, None)
    more, wider = follower.with_new_surface(frames[0], belief, spacing=0.01)
    count = len(follower.ids)
    assert len(more.ids) > count + 10 and torch.equal(wider.states.positions[0, 0, :count], belief.states.positions[0, 0])
    fresh = to_body(poses[0, 0], wider.states.positions[0, 0, count:])
    assert float((fresh[:, 2] < 0.02).float().mean()) > 0.7  # the sides
    after = more.update(frames[1], wider, None)
    truth = to_world(poses[1, 0], to_body(wider.states.object_poses[0, 0, 0], wider.states.positions[0, 0]))
    assert after.states.positions.shape == wider.states.positions.shape
    assert float((after.states.positions[0, 0] - truth).norm(dim=-1).mean()) < 0.003
    with pytest.raises(ValueError, match="belief of"):
        follower.update(frames[1], wider, None)


def test_refusals():
    _, poses, boxes = pushed_boxes(1)
    with pytest.raises(ValueError, match="four distinct"):
        FollowedObject(torch.ones(9, 3))
    with pytest.raises(ValueError, match="normals: expected finite"):
        FollowedObject(torch.rand(9, 3), torch.rand(8, 3))
    with pytest.raises(ValueError, match="a finite pose"):
        PointFollower(known(boxes), poses[0, :1], noise=NOISE)
    with pytest.raises(ValueError, match="at least one object, got labels without any"):
        PointFollower.from_cloud(PointCloud(torch.zeros(0, 3)), torch.zeros(0, dtype=torch.int64), noise=NOISE)
    with pytest.raises(ValueError, match="at least four points of object 0, got 1"):
        PointFollower.from_cloud(PointCloud(torch.zeros(1, 3)), torch.zeros(1, dtype=torch.int64), noise=NOISE)
    follower = PointFollower(known(boxes), poses[0], noise=NOISE)
    with pytest.raises(ValueError, match="at least one frame"):
        follower.follow([])
    with pytest.raises(ValueError, match="without depth"):
        follower.update(Observation(0.0), None, None)
