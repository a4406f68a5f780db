"""States of point models from rendered RGB-D: nothing of the engine's truth is asked for, points stay on their objects, and what cannot be is refused."""

import pytest
import torch

from structwm.geometry.set_distances import chamfer
from structwm.planning import MPC, ShapeGoal, SplineMPPI
from structwm.points import CloudTracker, ContactDynamics, Embodied, RigidTools
from structwm.worlds import make_tabletop, table_observation, table_tracker
from structwm.worlds.tabletop import Tabletop
from structwm.worlds.tabletop_config import Box, TabletopConfig

pytest.importorskip("pybullet")
CONFIG = TabletopConfig(objects=(Box((0.03, 0.04, 0.03)), Box((0.025, 0.025, 0.035))), width=128, height=96)
LAYOUT = [torch.tensor([0.0, 0.0, 0.3]).numpy(), torch.tensor([0.1, 0.08, 0.0]).numpy()]
PUSHER = torch.tensor([-0.07, 0.0]).numpy()


def table(engine="bullet"):
    world = make_tabletop(engine, config=CONFIG, images=True)
    return world, world.reset(options={"layout": LAYOUT, "pusher": PUSHER})[0]


@pytest.fixture
def blind(monkeypatch):
    """Makes everything raise that an engine knows beyond its observations."""

    def refuse(self, *args, **kwargs):
        raise AssertionError("the truth was asked for")

    for name in ("truth", "surface_points", "truth_points", "snapshot", "restore"):
        monkeypatch.setattr(Tabletop, name, refuse)


def truths(steps, velocity):
    """Points (T, N, 3) of the objects in a run of its own."""
    world, _ = table()
    material = world.surface_points(400)
    found = [torch.from_numpy(world.truth_points(material))]
    for _ in range(steps):
        world.step(velocity)
        found.append(torch.from_numpy(world.truth_points(material)))
    world.close()
    return torch.stack(found).float(), torch.from_numpy(material.object_ids)


def test_points_are_those_of_the_objects_while_they_are_pushed(request):
    steps, velocity = 9, [0.08, 0.0]
    truth, ids = truths(steps, velocity)
    request.getfixturevalue("blind")
    world, observed = table()
    eyes = table_tracker(CONFIG)
    belief = eyes.start(table_observation(world, observed))
    for _ in range(steps):
        observed = world.step(velocity)[0]
        belief = eyes.update(table_observation(world, observed), belief)
    state = eyes.state(belief)[0]
    world.close()
    assert (truth[-1] - truth[0])[ids == 0].norm(dim=-1).mean() > 0.03
    whole = float(chamfer(state.positions, truth[-1], direction="a_to_b"))
    assert whole < 0.0065, whole  # 400 points of a box lie some 8 mm apart
    number = int(torch.cdist(torch.stack([state.positions[state.object_ids == k].mean(0) for k in range(2)]), truth[0, ids == 0].mean(0)[None]).argmin())
    mine = state.object_ids == number
    moved = state.positions[mine].mean(0) - belief_start(eyes, mine)
    assert torch.allclose(moved, (truth[-1] - truth[0])[ids == 0].mean(0), atol=0.003)
    step = truth[-1, ids == 0].mean(0) - truth[-2, ids == 0].mean(0)
    assert torch.allclose((state.positions - state.history[:, 0])[mine].mean(0), step, atol=0.003)
    assert torch.allclose((state.robot - state.robot_history[:, 0])[:, :2], torch.tensor([0.008, 0.0]).expand(24, 2), atol=1e-5)


def belief_start(eyes, mine):
    """Where the mean of an object's points was in the first frame."""
    world, observed = table()
    found = eyes.start(table_observation(world, observed)).seen[0][mine].mean(0)
    world.close()
    return found


def test_undersides_are_those_of_standing_things():
    world, observed = table()
    frame = table_observation(world, observed)
    world.close()
    whole, shell = (table_tracker(CONFIG).start(frame), CloudTracker(table_tracker(CONFIG).robot, underside=False).start(frame))
    lowest = [float(belief.seen[0][:, 2].kthvalue(4).values) for belief in (whole, shell)]
    assert lowest[0] < 0.002 < lowest[1]
    assert whole.colors.shape == (2, 3) and float((whole.colors[0] - whole.colors[1]).abs().max()) > 0.3


def test_a_planner_needs_nothing_but_what_the_robot_senses(blind):
    world, observed = table()
    eyes = table_tracker(CONFIG)
    torch.manual_seed(0)
    model = Embodied(ContactDynamics(robot_points=24, dt=0.1), RigidTools([24], max_speed=0.12))
    belief = eyes.start(table_observation(world, observed))
    control = MPC(model, SplineMPPI(horizon=4, samples=8, iterations=1, knots=2), ShapeGoal(belief.seen[0] + torch.tensor([0.03, 0.0, 0.0])))
    for _ in range(2):
        with torch.no_grad():
            action = control.act(eyes.state(belief))
        observed = world.step(action[0].double().numpy())[0]
        belief = eyes.update(table_observation(world, observed), belief)
    with pytest.raises(AssertionError, match="the truth was asked for"):
        world.truth()
    world.close()
    assert belief.seen[0].isfinite().all() and len(belief.seen) == 3


def test_what_cannot_be_is_refused():
    world, observed = table()
    frame = table_observation(world, observed)
    world.close()
    with pytest.raises(ValueError, match="at least four points of each object"):
        CloudTracker(lambda observation: torch.zeros(1, 3), points=3)
    eyes = CloudTracker(lambda observation: torch.zeros(1, 3), near=1.0)  # everything is near the robot
    with pytest.raises(ValueError, match="found no object on the table"):
        eyes.start(frame)
    blank = type(frame)(0.0, depth={name: torch.full_like(value, torch.nan) for name, value in frame.depth.items()})
    with pytest.raises(ValueError, match="no intrinsics or no pose"):
        eyes.start(blank)
    dark = type(frame)(0.0, depth=blank.depth, intrinsics=frame.intrinsics, world_from_camera=frame.world_from_camera)
    with pytest.raises(ValueError, match="found no table"):
        eyes.start(dark)
