"""Learned dynamics of point clouds: the contract, symmetries, rigid parts, ragged and degenerate clouds, recordings, losses, and that something is learned."""

import math
from dataclasses import replace

import pytest
import torch

from structwm.check import check_model
from structwm.geometry.kinematics import KinematicTree
from structwm.geometry.neighbors import knn
from structwm.noise import Noise
from structwm.planning import CEM, CoordinateGoal, PointGoal
from structwm.points import (
    ArmSurface,
    BlendOfHeld,
    CloudRecording,
    ConstantVelocity,
    Embodied,
    GraphDynamics,
    HeldPoints,
    PointLoss,
    PointScene,
    PointTransformer,
    RigidMotion,
    RigidTools,
    Still,
    point_cloud,
    scene_flow,
)
from structwm.points.cloud import turned
from structwm.points.graph import DENSE, contacts, material
from structwm.points.parts import as_rigid, rigid_motion
from structwm.training import Batch, FitSettings, NegativeLogLikelihood, fit, load_model, save_model

MODELS = {"graph": GraphDynamics, "transformer": PointTransformer}
TOOL = RigidTools([6], axes=("vx", "vy", "wz"))


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def scattered(batch=3, points=40, *, objects=3, seed=0, robot=6, **options):
    """Points of several objects in a box of 30 cm, which move, and a robot among them."""
    generator = random(seed)
    positions, tool = (0.3 * torch.rand(batch, count, 3, generator=generator) for count in (points, robot))
    history = positions.unsqueeze(2) - 0.003 * torch.randn(batch, points, 2, 3, generator=generator)
    return point_cloud(positions, tool, history=history, object_ids=torch.arange(points) % objects, **options)


def model(name="graph", *, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MODELS[name](**({"robot_points": 6, "dt": 0.1, "width": 16, "layers": 2, "objects": 3} | options))
        for buffer, value in ((made.length, 0.03), (made.move, 0.01), (made.change, 0.02), (made.near, 0.08)):
            buffer.fill_(value)
    return made.eval()


OPTIONS = [{}, {"rigid": "all", "inertia": 0.0, "ground": True}, {"head": "gaussian", "materials": 2, "rigid": (1,)}]


# the contract


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", OPTIONS)
def test_models_keep_the_contract(name, options):
    state = scattered(mask=torch.arange(40) < torch.tensor([40, 33, 40])[:, None], material_ids=torch.arange(40) % 3 == 1)
    if "materials" not in options:
        state = state.replace(material_ids=torch.zeros_like(state.material_ids))
    check_model(Embodied(model(name, **options), TOOL), state)


@pytest.mark.parametrize("kind", [Still, ConstantVelocity, RigidMotion, BlendOfHeld])
def test_floors_keep_the_contract(kind):
    held = torch.where(torch.arange(40) < 4, torch.arange(40), -1)
    check_model(Embodied(kind(robot_points=6, dt=0.1, objects=3), HeldPoints(6)), scattered(held=held))


@pytest.mark.parametrize("name", MODELS)
def test_any_planner_plans_with_them(name):
    state = scattered(batch=2, points=20)
    dynamics = Embodied(model(name), TOOL)
    planner = CEM(horizon=3, samples=8, elites=2, iterations=2)
    goal = state.positions + 0.05
    for objective in (PointGoal(goal), CoordinateGoal({"x0": 0.3})):
        plan = planner.plan(dynamics, state, objective)
        assert plan.actions.shape == (2, 3, 3) and plan.cost.isfinite().all()
    alone = planner.plan(dynamics, state[1:], PointGoal(goal[1:]), seed=torch.tensor([1]))
    together = planner.plan(dynamics, state, PointGoal(goal))
    assert torch.allclose(alone.actions[0], together.actions[1], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(name, tmp_path):
    before = Embodied(model(name, rigid="all"), TOOL)
    after = load_model(save_model(before, tmp_path / "model"))
    state, actions = scattered(), 0.1 * torch.randn(3, 4, 3, generator=random())
    assert torch.equal(before.rollout(state, actions).states.positions, after.rollout(state, actions).states.positions)


# symmetries


@pytest.mark.parametrize("name", MODELS)
def test_it_does_not_matter_where_or_in_which_order(name):
    dynamics, state = model(name, rigid=(0,)), scattered()
    motion = 0.01 * torch.randn(3, 2, 18, generator=random())
    found = dynamics.rollout(state, motion).states.positions
    away = torch.tensor([2.0, -1.0, 0.5])
    moved = state.replace(positions=state.positions + away, history=state.history + away, robot=state.robot + away, robot_history=state.robot_history + away)
    assert torch.allclose(dynamics.rollout(moved, motion).states.positions - away, found, atol=3e-5)
    order = torch.randperm(40, generator=random(1))
    names = ("positions", "history", "rest", "features", "object_ids", "material_ids", "held", "mask")
    mixed = state.replace(**{field: getattr(state, field)[:, order] for field in names})
    assert torch.allclose(dynamics.rollout(mixed, motion).states.positions, found[:, :, order], atol=3e-5)


def test_turned_worlds_turn_back():
    state, angle = scattered(), torch.tensor([0.3, -1.0, 2.0])
    there = turned(state, angle)
    assert torch.allclose(there.positions[..., 2], state.positions[..., 2])
    assert torch.allclose(turned(there, -angle).history, state.history, atol=1e-6)
    x, y = state.robot[1, 0, :2].tolist()
    assert torch.allclose(there.robot[1, 0, :2], torch.tensor([x * math.cos(1) + y * math.sin(1), y * math.cos(1) - x * math.sin(1)]), atol=1e-6)
    mirrored = turned(state, torch.zeros(3), mirrored=torch.tensor([True, False, True]))
    assert torch.equal(mirrored.positions[0, :, 1], -state.positions[0, :, 1]) and torch.equal(mirrored.positions[1], state.positions[1])


# ragged and degenerate clouds


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name):
    dynamics, small = model(name, rigid="all"), scattered(points=30)
    generator = random(9)
    pad = {
        key: torch.cat((getattr(small, key), 50 * torch.rand(3, 10, *getattr(small, key).shape[2:], generator=generator)), 1)
        for key in ("positions", "history", "rest")
    }
    big = point_cloud(
        pad["positions"],
        small.robot,
        history=pad["history"],
        rest=pad["rest"],
        object_ids=torch.cat((small.object_ids, torch.full((3, 10), 2)), 1),
        mask=torch.arange(40) < 30,
    )
    motion = 0.01 * torch.randn(3, 3, 18, generator=random())
    expected, found = (dynamics.rollout(state, motion).states.positions for state in (small, big))
    assert torch.allclose(found[:, :, :30], expected, atol=1e-5) and bool((found[:, :, 30:] == 0).all())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rigid", ["none", "all"])
def test_clouds_of_one_point_of_copies_and_of_lines(name, rigid):
    dynamics = model(name, rigid=rigid)
    motion = 0.01 * torch.randn(1, 4, 18, generator=random())
    robot = 0.05 * torch.rand(1, 6, 3, generator=random())
    line = torch.linspace(0, 0.1, 12)[:, None] * torch.tensor([1.0, 0.5, 0.0])
    for positions in (torch.full((1, 1, 3), 0.02), torch.full((1, 20, 3), 0.02), line[None], torch.cat((line, line))[None]):
        found = dynamics.rollout(point_cloud(positions, robot), motion).states.positions
        assert found.isfinite().all() and float((found - positions.unsqueeze(1)).norm(dim=-1).max()) < 0.5
        if positions.shape[1] == 20:  # copies stay together
            assert float((found - found[:, :, :1]).abs().max()) < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_any_number_of_objects(name):
    dynamics = Embodied(model(name, rigid="all"), TOOL)
    motion = 0.1 * torch.randn(3, 2, 3, generator=random())
    for objects in (1, 7, 40):
        found = dynamics.rollout(scattered(objects=objects), motion)
        assert found.states.positions.isfinite().all() and found.coordinates().shape[-1] == 9
    few = dynamics.rollout(scattered(objects=1), motion).coordinates()
    assert bool((few[..., 3:] == 0).all())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda p, r: point_cloud(p * math.inf, r), "finite and within 10 km"),
        (lambda p, r: point_cloud(p.index_fill(1, torch.tensor([3]), 1e6), r), "finite and within 10 km"),
        (lambda p, r: point_cloud(p, r * math.nan), "robot that are finite"),
        (lambda p, r: point_cloud(p[..., :2], r), r"positions \(\*B, N, 3\)"),
        (lambda p, r: point_cloud(p, r[:1]), "points of the robot"),
        (lambda p, r: point_cloud(p, r, mask=torch.zeros(10, dtype=torch.bool)), "at least one point"),
        (lambda p, r: point_cloud(p, r, object_ids=torch.full((10,), -1)), "object_ids from 0 on, got -1"),
        (lambda p, r: point_cloud(p, r, held=torch.full((10,), 6)), "cannot hold by number 6"),
        (lambda p, r: point_cloud(p, r, features=torch.zeros(2, 9, 4)), "features like"),
        (lambda p, r: model().rollout(point_cloud(p, r[:, :5]), torch.zeros(2, 1, 18)), "clouds of 6 points of a robot"),
        (lambda p, r: model().rollout(point_cloud(p, r, material_ids=torch.ones(10)), torch.zeros(2, 1, 18)), "knows 1 materials"),
        (lambda p, r: GraphDynamics(robot_points=6, dt=0.1, rigid="some"), "rigid='none', 'all' or materials"),
        (lambda p, r: PointTransformer(robot_points=6, dt=0.1, width=30), "a width that is a multiple of heads"),
        (lambda p, r: RigidTools([6], axes=("up",)), "axes among vx"),
        (lambda p, r: CloudRecording(p, r, 0.1), r"positions \(R, T, N, 3\)"),
        (lambda p, r: CloudRecording(p[None], r[None], 0.1).windows(5), "No run holds a window of 5 steps"),
        (lambda p, r: PointLoss(kind="sinkhorn"), "knows paired and chamfer"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(torch.rand(2, 10, 3), torch.rand(2, 6, 3))


def test_masked_infinities_are_padding():
    positions = torch.rand(1, 10, 3)
    positions[0, 4] = math.inf
    state = point_cloud(positions, torch.rand(1, 6, 3), mask=torch.arange(10) != 4)
    assert model().rollout(state, torch.zeros(1, 2, 18)).states.positions.isfinite().all()


# neighbours and rigid parts


def test_neighbours_are_of_the_same_object_and_nearest_at_rest():
    rest = torch.rand(2, 30, 3, generator=random())
    ids, mask = torch.arange(30).expand(2, -1) % 2, torch.ones(2, 30, dtype=torch.bool)
    mask[1, 20:] = False
    graph = material(rest, ids, mask, 4)
    assert bool((ids.gather(1, graph.edges.index.flatten(1)).view(2, 30, 4) == ids.unsqueeze(-1)).all())
    for side in (0, 1):
        points = rest[0, ids[0] == side]
        expected = knn(points, points, 4, exclude_self=True).distances
        assert torch.allclose(graph.distances[0, ids[0] == side], expected, atol=1e-5)
    assert not bool(graph.edges.valid[1, 20:].any()) and bool((graph.edges.index[1, :20] < 20).all())
    assert float(graph.member[1].sum()) == 20


def test_what_is_near_is_found_alike_by_both_ways():
    count = DENSE + 88
    nodes = 0.3 * torch.rand(2, count, 3, generator=random())
    owner = torch.arange(count).expand(2, -1) % 4
    mask = torch.rand(2, count, generator=random(1)) < 0.9
    found = contacts(nodes, owner, mask, 5, 0.03, count - 20)
    away = torch.cdist(nodes[:, : count - 20].double(), nodes.double())
    barred = (owner[:, : count - 20, None] == owner[:, None]) | ~mask[:, None] | ~mask[:, : count - 20, None]
    distance, index = away.masked_fill(barred, math.inf).topk(5, -1, largest=False)
    assert torch.equal(found.valid, distance <= 0.03) and torch.equal(found.index[found.valid], index[found.valid])


def test_rigid_motion_is_found_and_shapes_are_kept():
    positions = torch.rand(1, 24, 3, generator=random())
    member = torch.zeros(1, 2, 24)
    member[0, 0, :14], member[0, 1, 14:20] = 1, 1
    turn, shift = torch.tensor([0.001, -0.002, 0.0015]), torch.tensor([0.01, 0.02, -0.01])
    centre = positions[:, :14].mean(1, keepdim=True)
    moves = torch.zeros_like(positions)
    moves[:, :14] = torch.linalg.cross(turn.expand(1, 14, 3), positions[:, :14] - centre) + shift
    _, shifts, turns = rigid_motion(positions, moves, member)
    assert torch.allclose(shifts[0, 0], shift, atol=1e-6) and torch.allclose(turns[0, 0], turn, atol=1e-5) and float(turns[0, 1].abs().max()) < 1e-6
    noisy = moves + 0.05 * torch.randn(moves.shape, generator=random(1))
    after = positions + as_rigid(positions, noisy, member)
    for part in (slice(0, 14), slice(14, 20)):
        assert torch.allclose(torch.cdist(after[:, part], after[:, part]), torch.cdist(positions[:, part], positions[:, part]), atol=1e-5)
    assert torch.equal(after[:, 20:], positions[:, 20:])


def test_rigid_objects_keep_their_shape_over_a_rollout():
    state = scattered(points=30)
    found = model(rigid="all").rollout(state, 0.02 * torch.randn(3, 20, 18, generator=random())).states.positions
    first, last = (torch.cdist(found[:, t, ::3], found[:, t, ::3]) for t in (0, -1))
    assert torch.allclose(first, last, atol=2e-5) and float((found[:, -1] - found[:, 0]).norm(dim=-1).mean()) > 0.01


def test_noise_moves_all_points_of_a_rigid_object_together():
    dynamics, state = model(head="gaussian", rigid="all"), scattered()
    motion, noise = torch.zeros(3, 3, 18), Noise.from_seed(0, 3)
    drawn, mean = dynamics.rollout(state, motion, noise=noise).states.positions, dynamics.rollout(state, motion).states.positions
    apart = (drawn - mean)[:, 1]
    assert float(apart.norm(dim=-1).mean()) > 1e-3
    own = apart[:, state.object_ids[0] == 0]
    assert float(own.mean(1).norm(dim=-1).mean()) > 0.3 * float(own.norm(dim=-1).mean())


# the robot


def test_held_points_go_with_the_robot_and_history_follows():
    held = torch.full((40,), -1)
    held[3], held[7] = 0, 5
    state, motion = scattered(held=held), 0.01 * torch.randn(3, 4, 18, generator=random())
    for dynamics in (model(), Still(robot_points=6, dt=0.1)):
        states = dynamics.rollout(state, motion).states
        path = motion.unflatten(-1, (6, 3)).cumsum(1)
        assert torch.allclose(states.positions[:, 1:, 7] - state.positions[:, None, 7], path[:, :, 5], atol=1e-6)
        assert torch.allclose(states.robot[:, 1:] - state.robot[:, None], path, atol=1e-6)
        assert torch.equal(states.history[:, 2:, :, 0], states.positions[:, 1:-1]) and torch.equal(states.history[:, 2:, :, 1], states.positions[:, :-2])


def test_rigid_tools_turn_about_their_middle():
    robot = torch.rand(2, 6, 3, generator=random())
    moved, _ = TOOL.move(robot, torch.zeros(2, 0), torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.2, math.pi / 2]]), 1.0)
    assert torch.allclose(moved[0], robot[0] + torch.tensor([0.1, 0.0, 0.0]), atol=1e-6)
    arms, before = moved[1] - moved[1].mean(0), robot[1] - robot[1].mean(0)
    assert torch.allclose(arms, torch.stack((-before[:, 1], before[:, 0], before[:, 2]), -1), atol=1e-6)
    assert torch.allclose(moved[1].mean(0), robot[1].mean(0) + torch.tensor([0.0, 0.2, 0.0]), atol=1e-6)
    two = RigidTools([2, 4], axes=("vx", "vy", "vz"))
    assert two.action.size == 6 and two.action.names[3] == "tool1_vx"


def arm(low=None, high=None):
    """Two links of 20 cm in a plane 10 cm above the table, and a finger that slides down; points at the elbow, the tip and the finger."""
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(4, 4)
    places = torch.tensor([[0.0, 0.0, 0.1], [0.2, 0.0, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, -0.01]])
    axes = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    tree = KinematicTree(("shoulder", "elbow", "tip", "finger"), (-1, 0, 1, 2), ("hinge", "hinge", "fixed", "slide"), places, upright, axes, low=low, high=high)
    return ArmSurface(tree, torch.tensor([[0.0, 0, 0], [0.0, 0.01, 0], [0.0, 0, 0]]), torch.tensor([1, 2, 3]), max_rate=3.0)


def test_an_arm_moves_its_surface_by_its_joints():
    surface, angles = arm(), torch.tensor([[0.3, 0.5, 0.02], [-1.0, 2.0, 0.0]])
    found = surface.at(angles)
    for (first, second, down), points in zip(angles.tolist(), found, strict=True):
        elbow = torch.tensor([0.2 * math.cos(first), 0.2 * math.sin(first), 0.1])
        both = first + second
        tip = elbow + torch.tensor([0.2 * math.cos(both), 0.2 * math.sin(both), 0.0])
        side = torch.tensor([-0.01 * math.sin(both), 0.01 * math.cos(both), 0.0])
        assert torch.allclose(points, torch.stack((elbow, tip + side, tip - torch.tensor([0.0, 0.0, 0.01 + down]))), atol=1e-6)
    assert surface.action.names == ("shoulder", "elbow", "finger") and surface.action.units == ("rad/s", "rad/s", "m/s")
    stopped = arm(low=torch.tensor([-1.0, -2.0, 0.0]), high=torch.tensor([1.0, 2.0, 0.03]))
    assert torch.allclose(stopped.move(found, angles, torch.tensor([[3.0, 0.0, 3.0]] * 2), 0.5)[1], torch.tensor([[1.0, 0.5, 0.03], [0.5, 2.0, 0.03]]))


def test_a_model_with_an_arm_keeps_the_contract_and_its_joints(tmp_path):
    surface, angles = arm(), torch.tensor([[0.3, 0.5, 0.02], [-1.0, 2.0, 0.0]])
    positions = 0.1 * torch.rand(2, 20, 3, generator=random()) + surface.at(angles).mean(1, keepdim=True)
    state = point_cloud(positions, surface.at(angles), joints=angles)
    dynamics = Embodied(model(robot_points=3), surface)
    check_model(dynamics, state)
    actions = torch.tensor([[[1.0, -0.5, 0.1]] * 5] * 2)
    states = load_model(save_model(dynamics, tmp_path / "arm")).rollout(state, actions).states
    assert torch.allclose(states.joints[:, -1], angles + 0.5 * actions[:, 0], atol=1e-6)
    assert torch.allclose(states.robot, surface.at(states.joints), atol=1e-5)


def test_one_model_serves_robots_of_other_sizes():
    dynamics = model()
    wider = dynamics.with_robot(9)
    state = scattered(robot=9)
    assert wider.spec.action.size == 27 and dynamics.spec.action.size == 18
    assert wider.rollout(state, torch.zeros(3, 2, 27)).states.robot.shape == (3, 3, 9, 3)
    assert next(wider.parameters()) is next(dynamics.parameters())


# floors


def test_floors_say_what_they_are_called():
    state = scattered()
    motion = torch.zeros(3, 3, 18)
    assert torch.equal(Still(robot_points=6, dt=0.1).rollout(state, motion).states.positions[:, 3], state.positions)
    gone = ConstantVelocity(robot_points=6, dt=0.1).rollout(state, motion).states.positions[:, 3]
    assert torch.allclose(gone, state.positions + 3 * (state.positions - state.history[:, :, 0]), atol=1e-6)
    ends = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    rope = torch.linspace(0, 1, 11)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    held = torch.full((11,), -1)
    held[0], held[10] = 0, 1
    blended = BlendOfHeld(robot_points=2, dt=0.1).rollout(point_cloud(rope[None], ends[None], held=held), torch.tensor([[[0.0, 0, 0, 0, 0, 1.0]]]))
    assert torch.allclose(blended.states.positions[0, 1, :, 2], torch.linspace(0, 1, 11), atol=1e-6)


# recordings, losses, learning


def sliding(runs=24, steps=12, *, seed=0):
    """A pusher of six points carries what it has come near to along with it: half of the runs push, half go away."""
    generator = random(seed)
    shape = 0.02 * torch.randn(1, 16, 3, generator=random(5))
    start = 0.1 * torch.rand(runs, 1, 3, generator=generator) + shape
    angle = 2 * math.pi * torch.rand(runs, generator=generator)
    ahead = torch.stack((angle.cos(), angle.sin(), torch.zeros(runs)), -1)
    ring = 0.005 * torch.randn(1, 6, 3, generator=random(6))
    tool = start.mean(1, keepdim=True) - 0.06 * ahead[:, None] + ring
    side = torch.where(torch.arange(runs) % 2 == 0, 1.0, -1.0)[:, None, None]
    robot = [tool + 0.01 * t * side * ahead[:, None] for t in range(steps + 1)]
    begun = torch.arange(steps + 1).clamp_min(3) - 3
    positions = [start + 0.01 * float(t) * (side > 0) * ahead[:, None] for t in begun]
    return CloudRecording(torch.stack(positions, 1), torch.stack(robot, 1), 0.1)


def test_windows_of_a_recording():
    recording = sliding(runs=4)
    windows = recording.windows(5, stride=2, context=3)
    batch = windows[[0, 5]]
    assert isinstance(batch, Batch) and windows.places[5] == (1, 2)
    assert torch.equal(batch.states.positions[1], recording.positions[1, 2:8])
    assert torch.allclose(batch.states.robot[:, :-1] + batch.actions.unflatten(-1, (6, 3)), batch.states.robot[:, 1:])
    assert torch.equal(batch.states.history[1, 0, :, 1], recording.positions[1, 0])
    expected = recording.positions[0, 0] - 2 * (recording.positions[0, 1] - recording.positions[0, 0])
    assert torch.allclose(batch.states.history[0, 0, :, 1], expected)  # before the first instant all goes on as it does there
    assert torch.equal(batch.states.rest[1, 3], recording.positions[1, 0])
    short = CloudRecording(recording.positions, recording.robot, 0.1, steps=torch.tensor([13, 4, 9, 3]))
    assert {run for run, _ in short.windows(5).places} == {0, 2}
    assert len(recording[1:3]) == 2 and torch.equal(recording[torch.tensor([2])].positions[0], recording.positions[2])


def test_losses_are_zero_where_nothing_is_missed_and_in_units_of_a_step():
    batch = sliding(runs=6).windows(6, stride=6)[:]

    class Perfect:
        def __call__(self, start, actions):
            return Batch(batch.states, actions, batch.valid)

    still = Still(robot_points=6, dt=0.1)
    for kind in ("paired", "chamfer"):
        loss = PointLoss(kind=kind, turns=False, hausdorff=0.0).fitted(still, batch)
        assert float(loss(Perfect(), batch)) == pytest.approx(0.0, abs=1e-6)
        assert float(loss(still, batch)) > 0.5
    paired = PointLoss(turns=False, scale=0.01)
    expected = (batch.states.positions[:, 1:] - batch.states.positions[:, :1]).abs().sum(-1).mean() / 0.01
    assert float(paired(still, batch)) == pytest.approx(float(expected), rel=1e-5)
    weighted = PointLoss(turns=False, scale=0.01, still=0.01)
    assert float(weighted(still, batch)) == pytest.approx(2 * float(expected), rel=0.05)  # half of the windows show nothing that moves
    torch.manual_seed(0)
    assert float(PointLoss(scale=0.01)(ConstantVelocity(robot_points=6, dt=0.1), batch)) > 0  # turned with the actions
    far = PointLoss(kind="chamfer", turns=False, scale=0.01, hausdorff=1.0)
    assert float(far(still, batch)) > float(PointLoss(kind="chamfer", turns=False, scale=0.01, hausdorff=0.1)(still, batch))


@pytest.mark.parametrize("name", MODELS)
def test_pushing_is_learned_in_any_direction(name):
    recording = sliding(runs=24)
    train, held_out = recording[:18].windows(4, stride=2), recording[18:].windows(8, stride=8)
    learner = model(name, objects=1, inertia=0.0, rigid="all")
    learner.fit_scales(train[:])
    settings = FitSettings(steps=240, batch=16, learning_rate=5e-3, evaluate_every=40)
    found = fit(learner, train, held_out=held_out[:], loss=PointLoss(), settings=settings, progress=False)
    assert found.best_error < 0.25
    errors = found.held_out.point_errors[:, -1].mean() / found.held_out.point_changes[:, -1].mean()
    assert float(errors) < 0.25


def test_the_scene_shows_points_tracks_and_centroids():
    state, scene = scattered(mask=torch.arange(40) < 39), PointScene(objects=3)
    points = scene.points(state)
    assert torch.equal(points.ids, state.object_ids) and not bool(points.mask[:, 39].any())
    assert torch.equal(scene.tracks(state).keypoints, state.positions)
    own = state.positions[:, :39][:, state.object_ids[0, :39] == 1].mean(1)
    assert torch.allclose(scene.coordinates(state)[:, 3:6], own, atol=1e-6)
    assert scene.coordinate_names(state)[3:6] == ("x1", "y1", "z1")


def test_scene_flow_is_how_far_points_go():
    state = scattered(mask=torch.rand(3, 40, generator=random()) < 0.8)
    with torch.no_grad():
        trajectory = model().rollout(state, 0.01 * torch.randn(3, 5, 18, generator=random()))
    flow = scene_flow(trajectory)
    assert flow.shape == (3, 5, 40, 3) and torch.equal(flow[~state.mask.unsqueeze(1).expand(3, 5, 40)], torch.zeros(5 * int((~state.mask).sum()), 3))
    summed = state.positions + flow.sum(1)
    assert torch.allclose(summed[state.mask], trajectory.states.positions[:, -1][state.mask], atol=1e-6)
    broken = replace(trajectory, valid=trajectory.valid.clone().index_fill_(1, torch.tensor([3]), False))
    assert scene_flow(broken)[:, 2:4].isnan().all() and scene_flow(broken)[:, [0, 1, 4]].isfinite().all()


def test_a_stochastic_head_learns_how_far_it_is_off():
    runs = sliding(48)
    generator = random(3)
    drift = 0.002 * torch.randn(48, 1, 1, 3, generator=generator) * torch.arange(runs.positions.shape[1])[None, :, None, None]  # that nothing tells
    shaken = replace(runs, positions=runs.positions + drift)
    train, held_out = shaken[:36].windows(4, context=1), shaken[36:].windows(4, stride=4, context=1)
    torch.manual_seed(0)
    learner = GraphDynamics(robot_points=runs.robot.shape[2], dt=runs.dt, width=16, layers=1, rigid="all", inertia=0.0, head="gaussian", context=1)
    learner.fit_scales(train[:])
    before = held_out[:]
    surprise = NegativeLogLikelihood()
    with torch.no_grad():
        first = float(surprise(learner, before))
    settings = FitSettings(steps=60, batch=16, learning_rate=5e-3, evaluate_every=60)
    fit(learner, train, held_out=held_out[:], loss=PointLoss(likelihood=0.3), settings=settings, progress=False)
    with torch.no_grad():
        assert float(surprise(learner, before)) < first - 0.3
    with pytest.raises(ValueError, match="needs a model with log_prob"):
        PointLoss(likelihood=1.0).fitted(Still(robot_points=6, dt=0.1), before)
