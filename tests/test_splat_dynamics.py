"""Scenes of splats driven by models of points: rigid things stay rigid, the robot's splats follow it, the table stays; pictures teach the model; refusals."""

import math

import pytest
import torch

from structwm.demos import toys
from structwm.geometry import Camera, object_skin, place_splats, quaternion_to_matrix, rotation_vector_to_quaternion
from structwm.interfaces import Observation
from structwm.perception import psnr, rgbd_splats
from structwm.physics import RodTwin
from structwm.points import GraphDynamics, RigidMotion, Still, point_cloud
from structwm.render import render, splats_from_points
from structwm.scene import ViewMissing
from structwm.splats import ROBOT, STATIC, DrivenSplats, FilmedScene, PhotometricLoss, SplatDynamics, SplatScene, filmed, render_states, table_scene
from structwm.state import Splats
from structwm.training import Batch, FitSettings, fit, load_model, save_model
from tests.models import CHAIN, pushed, pushed_splats, rope
from tests.splats import random_splats

BOX = torch.cartesian_prod(*[torch.linspace(-0.02, 0.02, 4)] * 2, torch.tensor([0.0, 0.02, 0.04]))
POINTS = torch.cat((BOX, BOX + torch.tensor([0.042, 0.0, 0.0])))  # two boxes 2 mm apart
IDS = torch.arange(2).repeat_interleave(len(BOX))
ROBOTS = torch.tensor([[-0.05, 0.0, 0.02], [-0.05, 0.01, 0.02]])
COLORS = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.9]])[IDS]


def scene_of(model, splats=None, ids=IDS, **options):
    splats = splats_from_points(POINTS, COLORS, scale=0.008) if splats is None else splats
    return SplatDynamics.from_splats(model, splats, lambda nodes, numbers: point_cloud(nodes, ROBOTS, object_ids=numbers), object_ids=ids, nodes=16, **options)


def still(**options):
    return Still(robot_points=2, dt=0.1, **options)


def learned(seed, width=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GraphDynamics(robot_points=2, dt=0.1, width=width, layers=2, objects=2, rigid="all", inertia=0.0)
    for buffer, number in ((model.length, 0.02), (model.move, 0.01), (model.change, 0.02), (model.near, 0.1)):
        buffer.fill_(number)
    with torch.no_grad():  # networks begin with almost no motion
        model.decoder[-1].weight.mul_(10.0)
        model.decoder[-1].bias.mul_(100.0)
    return model


# what moves, and how


def test_what_moves_is_all_that_is_in_the_state():
    model = pushed_splats()
    start = model.start()
    assert isinstance(start, SplatScene) and start.positions.shape == (16, 3) and start.robot.shape == (2, 3)
    assert start.memory.shape == (16 * 2 * 3 + 2 * 2 * 3,)  # two earlier instants of nodes and robot; neither rest shape nor splats
    states = pushed(3)
    again = model.state(model.scene.packing.unpack(states))
    assert all(torch.equal(getattr(again, name), getattr(states, name)) for name in ("positions", "robot", "memory"))


def test_a_rollout_is_the_driving_models():
    model, states = pushed_splats(), pushed(3)
    actions = 0.01 * torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
    ours, own = model.rollout(states, actions), model.model.rollout(model.scene.packing.unpack(states), actions)
    assert torch.equal(ours.states.positions, own.states.positions) and torch.equal(ours.states.robot, own.states.robot)
    assert torch.equal(ours.points().ids, own.points().ids)
    assert ours.splats().means.shape == (3, 6, 27, 3)


def test_each_object_moves_rigidly_though_another_is_near():
    """Two boxes 2 mm apart, one of which turns away: splats of both go as a rigid motion says, to rounding."""
    splats = random_splats(len(POINTS), seed=1)
    splats.means, splats.scales = POINTS.clone(), 0.01 * splats.scales
    model = scene_of(still(), splats)
    turn, shift = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.0, 0.0, 0.8]))), torch.tensor([0.05, 0.1, 0.0])
    start = model.start()
    first = model.scene.packing.start["object_ids"] == 0
    moved = start.replace(positions=torch.where(first.unsqueeze(-1), start.positions @ turn.mT + shift, start.positions))
    found, expected = model.scene.splats(moved), place_splats(splats, turn, shift)
    own = IDS == 0
    assert float((found.means[own] - expected.means[own]).norm(dim=-1).max()) < 2e-5
    assert float((found.means[~own] - splats.means[~own]).norm(dim=-1).max()) < 2e-5
    assert torch.allclose(found.scales[own].sort(-1).values, expected.scales[own].sort(-1).values, rtol=1e-3)


def test_splats_of_the_robot_follow_it_and_static_ones_stay_in_their_order():
    model = pushed_splats()
    start = model.start()
    shift = torch.tensor([0.02, -0.03, 0.01])
    found, before = model.scene.splats(start.replace(robot=start.robot + shift)), model.scene.splats(start)
    assert torch.allclose(found.means[24:26], before.means[24:26] + shift, atol=1e-6)
    others = [*range(24), 26]
    assert torch.equal(found.means[others], before.means[others]) and torch.equal(before.means[26], torch.tensor([0.0, 0.0, -0.005]))


def test_a_robots_motion_shows_in_pictures():
    """The commanded motion of the robot moves its splats through a whole rollout of a model in which nothing else moves."""
    points = torch.cat((POINTS, ROBOTS))
    model = scene_of(still(), splats_from_points(points, scale=0.006), torch.cat((IDS, torch.tensor([ROBOT, ROBOT]))))
    motion = torch.tensor([0.0, 0.02, 0.0]).repeat(2).expand(3, 6)
    trajectory = model.rollout(model.start(), motion)
    camera = Camera.look_at(torch.tensor([0.0, -0.4, 0.3]), torch.zeros(3), width=64, height=48)
    seen = model.render(trajectory, camera, background=(1.0, 1.0, 1.0))
    assert seen.image.shape == (4, 48, 64, 3)
    assert float((seen.image[3] - seen.image[0]).abs().max()) > 0.1
    last = model.scene.splats(trajectory.states[-1])
    assert torch.allclose(last.means[-2:], ROBOTS + torch.tensor([0.0, 0.06, 0.0]), atol=1e-6)


def test_a_twin_drives_as_it_drives_driven_splats():
    twin, splats = rope(), splats_from_points(CHAIN)
    model, other = SplatDynamics(twin, splats, twin.state(CHAIN), chain=True), DrivenSplats(twin, splats, CHAIN, chain=True)
    actions = 0.2 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    ours, own = model.rollout(model.start(), actions), other.rollout(twin.state(CHAIN), actions)
    assert torch.allclose(ours.splats().means, own.splats().means, atol=1e-6)
    assert isinstance(model.model, RodTwin) and ours.states.memory.shape[-1] == 6 * 3


def test_pictures_of_states_are_those_of_their_splats():
    model, states = pushed_splats(), pushed(3)
    cameras = Camera.look_at(torch.tensor([[0.0, -0.3, 0.2], [0.3, 0.0, 0.2]]), torch.zeros(2, 3), width=40, height=30)
    seen = render_states(model.scene, states, cameras, chunk=2, background=(1.0, 1.0, 1.0))
    one = render(model.scene.splats(states[2]), cameras[1], background=(1.0, 1.0, 1.0))
    assert seen.image.shape == (3, 2, 30, 40, 3)
    assert torch.allclose(seen.image[2, 1], one.image, atol=2e-3)


def test_it_is_saved_and_cast(tmp_path):
    model, states = pushed_splats(), pushed(2)
    again = load_model(save_model(model, tmp_path / "scene"))
    assert torch.equal(again.scene.splats(states).means, model.scene.splats(states).means)
    actions = 0.01 * torch.ones(2, 3, 6)
    assert torch.equal(again.rollout(states, actions).states.positions, model.rollout(states, actions).states.positions)
    assert torch.equal(again.start().memory, model.start().memory)
    assert model.double().start().positions.dtype == torch.float64


# pictures teach the model


def test_learning_from_pictures_alone_brings_points_nearer():
    """A model whose weights were disturbed sees pictures of what happens, never a point after the start; on other motions its points then err less by half."""
    truth, disturbed = learned(3), learned(3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in disturbed.parameters():
            value.add_(0.3 * value.std(correction=0) * torch.randn(value.shape, generator=generator))
    world, model = scene_of(truth), scene_of(disturbed)
    cameras = Camera.look_at(torch.tensor([[0.02, -0.3, 0.25], [0.3, 0.1, 0.25]]), torch.tensor([0.02, 0.0, 0.02]).expand(2, 3), width=32, height=24)
    motions = (0.008 * torch.randn(32, 1, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.0])).expand(32, 4, 3).repeat(1, 1, 2)
    start = world.start().unsqueeze(0).expand(32).clone()
    with torch.no_grad():
        seen = world.rollout(start, motions).states
        images = render_states(world.scene, seen[:16], cameras).image
    chosen, test = (Batch(seen[some].clone(), motions[some], torch.ones(8, 5, dtype=torch.bool)) for some in (slice(16, 24), slice(24, 32)))

    def error():
        with torch.no_grad():
            return float((model.rollout(test.start, test.actions).states.positions - test.states.positions)[:, 1:].norm(dim=-1).mean())

    before = error()
    windows = filmed(start[:16], images, motions[:16])
    assert bool(windows.states.positions[:, 1:].isnan().all())
    settings = FitSettings(steps=20, batch=8, learning_rate=2e-3, evaluate_every=10)
    fit(model, windows, held_out=chosen, loss=PhotometricLoss(cameras, instants=(2, 4)), settings=settings, progress=False)
    assert before > 1e-3 and error() < 0.5 * before


def test_the_photometric_loss_of_the_truth_is_nothing_and_of_holding_still_one():
    world, resting = scene_of(learned(3)), scene_of(still(objects=2))
    cameras = Camera.look_at(torch.tensor([[0.02, -0.3, 0.25]]), torch.tensor([[0.02, 0.0, 0.02]]), width=32, height=24)
    motions, start = torch.full((2, 3, 6), 0.01), world.start().unsqueeze(0).expand(2).clone()
    with torch.no_grad():
        images = render_states(world.scene, world.rollout(start, motions).states, cameras).image
        windows = filmed(start, images, motions)
        loss = PhotometricLoss(cameras).fitted(world, windows)
        assert float(loss(world, windows)) < 1e-5
        assert float(loss(resting, windows)) == pytest.approx(1.0, rel=0.02)
    partial = filmed(start, torch.where(torch.arange(4)[:, None, None, None, None] == 2, torch.nan, images), motions)
    value = loss(world, partial)
    value.backward()
    assert isinstance(partial.states, FilmedScene) and bool(value.isfinite())


# a first frame


def drawn_frame():
    """Two coloured cubes on a grey table, and a dark rod for a robot, as four cameras see them, drawn from many splats."""
    side = torch.linspace(-0.03, 0.03, 25)
    faces = torch.cat([torch.cartesian_prod(side, side, torch.tensor([0.06]))] + [_wall(side, angle) for angle in range(4)])
    rod = torch.tensor([0.0, 0.1, 0.0]) + torch.cartesian_prod(
        torch.linspace(-0.008, 0.008, 6), torch.linspace(-0.008, 0.008, 6), torch.linspace(0.01, 0.1, 40)
    )
    ground = torch.cartesian_prod(torch.linspace(-0.3, 0.3, 120), torch.linspace(-0.3, 0.3, 120), torch.tensor([0.0]))
    parts = (faces + torch.tensor([-0.07, 0.0, 0.0]), faces + torch.tensor([0.07, 0.0, 0.0]), rod, ground)
    paint = ((0.8, 0.1, 0.1), (0.1, 0.2, 0.8), (0.1, 0.1, 0.1), (0.7, 0.7, 0.7))
    colors = torch.cat([torch.tensor(color).expand(len(part), 3) for part, color in zip(parts, paint, strict=True)])
    world = splats_from_points(torch.cat(parts), colors, scale=0.0012, opacity=0.99)
    world.scales[-len(ground) :] = 0.003
    angle = torch.arange(4) * math.pi / 2 + 0.3
    eyes = 0.7 * torch.stack((angle.cos() * 0.7, angle.sin() * 0.7, torch.full_like(angle, 0.7)), -1)
    cameras = Camera.look_at(eyes, torch.tensor([0.0, 0.0, 0.02]).expand(4, 3), width=96, height=72, field_of_view=0.7)
    seen = render(world, cameras, blur=0.02)
    depth = torch.where(seen.alpha > 0.9, seen.depth, torch.nan)
    names = [f"camera{number}" for number in range(4)]

    def named(values):
        return dict(zip(names, values, strict=True))

    intrinsics = cameras.intrinsics.expand(4, 3, 3)
    frame = Observation(
        0.0,
        images=named(seen.image.clamp(0, 1)),
        depth=named(depth),
        intrinsics=named(intrinsics),
        world_from_camera=named(cameras.world_from_camera),
    )
    return frame, rod, cameras, seen.image.clamp(0, 1)


def _wall(side, quarter):
    wall = torch.cartesian_prod(side, torch.tensor([0.03]), side + 0.03)
    turn = quaternion_to_matrix(rotation_vector_to_quaternion(torch.tensor([0.0, 0.0, quarter * math.pi / 2])))
    return wall @ turn.mT


def test_a_first_frame_is_told_apart_drawn_again_and_leaves_no_hole():
    frame, rod, cameras, images = drawn_frame()
    scene = table_scene(frame, rod, noise=0.002, iterations=30)
    assert set(scene.object_ids.tolist()) == {ROBOT, STATIC, 0, 1}
    for number in (0, 1):
        own = scene.splats.means[scene.object_ids == number]
        assert abs(abs(float(own[:, 0].median())) - 0.07) < 0.02 and float(own[:, 1].abs().median()) < 0.03
        hue = scene.splats.colors[scene.object_ids == number]
        assert float(((hue[:, 0] > hue[:, 2]) == (own[:, 0] < 0)).float().mean()) > 0.98
    assert float(psnr(render(scene.splats, cameras, blur=0.05).image.clamp(0, 1), images).min()) > 25
    bare = scene.splats.clone()
    bare.opacities = torch.where(scene.object_ids == STATIC, bare.opacities, 0.0)
    above = Camera.look_at(torch.tensor([0.001, 0.0, 0.5]), torch.zeros(3), width=60, height=40, field_of_view=0.4)
    empty = render(bare, above)
    assert float(empty.alpha.min()) > 0.8  # the table is there where the boxes stood
    off = (empty.image - 0.7).abs().amax(-1)
    assert float(off.mean()) < 0.02 and float(off.quantile(0.99)) < 0.1  # and in its own colour


def test_splats_of_pixels_show_the_picture_they_come_from():
    frame, _, cameras, images = drawn_frame()
    depth = torch.stack([frame.depth[name] for name in sorted(frame.depth)])
    splats, normals = rgbd_splats(depth[:1], cameras[:1], images[:1], noise=0.002)
    assert torch.allclose(normals.norm(dim=-1), torch.ones(len(normals)), atol=1e-4)
    assert float(psnr(render(splats, cameras[0], blur=0.05).image.clamp(0, 1), images[0])) > 22


# refusals


def test_refusals_of_scenes():
    few = splats_from_points(POINTS, COLORS)
    with pytest.raises(ValueError, match="at least 16 splats of an opacity of 0.5 or more in object 0 to choose nodes from, got 0"):
        scene_of(still(), splats_from_points(POINTS, opacity=0.2))
    with pytest.raises(ValueError, match="object 1 to choose nodes from, got 8; ask for fewer nodes"):
        scene_of(still(), ids=torch.where(torch.arange(96) < 56, IDS, STATIC).index_fill(0, torch.arange(48, 56), 1))
    with pytest.raises(ValueError, match="at least one object that moves"):
        scene_of(still(), ids=torch.full((96,), STATIC))
    with pytest.raises(ValueError, match=r"integer id of at least -2 for each of the 96 splats"):
        scene_of(still(), ids=IDS[:50])
    with pytest.raises(ValueError, match="integer id of at least -2"):
        scene_of(still(), ids=IDS - 5)
    with pytest.raises(ValueError, match="splats means: expected finite numbers"):
        scene_of(still(), Splats(**{**dict(few.items()), "means": few.means.clone().index_fill(0, torch.tensor([3]), torch.nan)}, batch_size=[]))
    state = point_cloud(POINTS, ROBOTS)
    with pytest.raises(ValueError, match=r"objects that have nodes \(0\), STATIC or ROBOT, got some of object 1"):
        SplatDynamics(still(), few, state, object_ids=IDS)
    with pytest.raises(ValueError, match="only static ones"):
        SplatDynamics(still(), few, state, object_ids=torch.full((96,), STATIC))
    with pytest.raises(ValueError, match="without batch axes"):
        SplatDynamics(still(), few, state.unsqueeze(0))
    with pytest.raises(ValueError, match="has no points of one"):
        SplatDynamics(rope(), splats_from_points(CHAIN), rope().state(CHAIN), object_ids=torch.full((6,), ROBOT))
    with pytest.raises(ViewMissing, match="'points'"):
        SplatDynamics(toys.Corridor(), few, toys.RoomState(room=torch.tensor(0), batch_size=[]))


def test_what_is_taken_for_constant_must_be():
    twin = rope()
    model = SplatDynamics(twin, splats_from_points(CHAIN), twin.state(CHAIN), chain=True, constant=("velocities",))
    with pytest.raises(ValueError, match="changes 'velocities' of its RodState"):
        model.rollout(model.start(), torch.ones(2, 6))


def test_refusals_of_pictures_and_skins():
    model, cameras = scene_of(still()), Camera.look_at(torch.tensor([[0.0, -0.3, 0.2]]), torch.zeros(1, 3), width=8, height=6)
    start = model.start().unsqueeze(0)
    with pytest.raises(ValueError, match="expected N starts, images"):
        filmed(start, torch.zeros(2, 3, 1, 6, 8, 3), torch.zeros(1, 2, 6))
    with pytest.raises(ValueError, match=r"images \(N, H\+1, 1, 6, 8, 3\), see `filmed`; got none"):
        PhotometricLoss(cameras).fitted(model, Batch(start.unsqueeze(1).expand(1, 3), torch.zeros(1, 2, 6), torch.ones(1, 3, dtype=torch.bool)))
    with pytest.raises(ValueError, match="instants from 1 on"):
        PhotometricLoss(cameras, instants=(0,))
    with pytest.raises(ValueError, match="got none of object 7"):
        object_skin(POINTS, IDS + 7, POINTS, IDS)
    with pytest.raises(ValueError, match="with measurements, got none"):
        rgbd_splats(torch.full((1, 6, 8), torch.nan), cameras, torch.zeros(1, 6, 8, 3))


def test_rigid_floor_drives_too():
    """Another driving model behind the same scene: a box that was moving goes on as one."""
    model = scene_of(RigidMotion(robot_points=2, dt=0.1))
    start = model.scene.packing.state()
    moving = start.replace(history=start.history - torch.tensor([0.01, 0.0, 0.0]) * torch.tensor([1.0, 2.0]).unsqueeze(-1))
    trajectory = model.rollout(model.state(moving), torch.zeros(3, 6))
    gone = trajectory.splats().means[-1] - trajectory.splats().means[0]
    assert torch.allclose(gone, torch.tensor([0.03, 0.0, 0.0]).expand_as(gone), atol=1e-5)
