"""Ropes that are brought to shapes: models with grippers, what is read off recordings, and the closed loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from structwm import check_model
from structwm.demos import rope_control
from structwm.demos.rope_control import AlphaBetaFilter, Disturbed, MissedOutput, RopeControl
from structwm.demos.rope_models import Gripped, RopeModel, between, calibrate_rod, explore, rod_model, section_tracks
from structwm.demos.rope_task import RopeTask, RopeTrial, make_trials, sections, shape_distance, stretch_of
from structwm.geometry.rotations import quaternion_to_matrix
from structwm.physics import GROUND, Settings, SpringBody, SpringTwin
from structwm.planning import MPPI, ShapeGoal

TASK = RopeTask(segments=8)


def start(rope, count=2):
    """Particles of straight ropes 10 cm above the ground, and the model's state."""
    nodes = TASK.mesh().nodes.float().expand(count, -1, -1) + torch.tensor([0.0, 0.0, 0.1])
    held = TASK.held("air")[: len(rope.gripped)]
    grippers = torch.stack([nodes[:, list(group)].mean(1) for group in held], 1)
    return rope.state(rope.place(nodes, grippers))


def spring_rope(task, grippers, values):
    """A model of another family, with a cross-section: springs between the nodes of every second section."""
    nodes, spacing, count = task.mesh().nodes, 2 * task.length / task.segments, task.segments // 2 + 1
    chosen = (6 * torch.arange(count)[:, None] + torch.arange(3)).flatten()
    held = ((0, 1, 2), (3 * count - 3, 3 * count - 2, 3 * count - 1))[:grippers]
    body = SpringBody.from_points(nodes[chosen], radius=1.3 * spacing, neighbours=8, driven=held, obstacles=(GROUND,))
    known = {"mass": task.mass, "radius": float(nodes[:, 2].min()), "stiffness": 2.5, "falloff": 0.0}
    twin = SpringTwin(body, dt=task.dt, values=known | values).with_stable_steps()
    model = Gripped(twin, held, tuple(range(grippers)), speed=task.speed, low=(-np.inf, -np.inf, task.floor))
    weights = torch.eye(len(nodes))[chosen]
    pairs = torch.arange(3 * count - 6)[:, None] + torch.tensor([0, 6])
    corners, shares = between(torch.arange(count - 1)[:, None] + torch.arange(2), parts=4)
    corners, shares = (3 * corners.unsqueeze(-1) + torch.arange(3)).flatten(1), (shares / 3).repeat_interleave(3, 1)
    return RopeModel(model, weights, torch.zeros(len(chosen), 3), nodes[chosen].float(), held, pairs, 2 * spacing, corners, shares)


@pytest.mark.parametrize("make", [rod_model, spring_rope])
@pytest.mark.parametrize("grippers", [1, 2])
def test_models_of_ropes_keep_the_contract(make, grippers):
    rope = make(TASK, grippers, {})
    check_model(rope.model, start(rope))


@pytest.mark.parametrize("make", [rod_model, spring_rope])
def test_grippers_move_as_told_and_stop_at_the_floor(make):
    rope = make(TASK, 2, {})
    state = start(rope)
    down = torch.tensor([0.1, 0.0, -0.15, 0.0, 0.2, 0.0]).expand(2, 6, 6)
    path = torch.stack([rope.model.places(s) for s in rope.model.rollout(state, down).states.unbind(-1)], 1)
    assert torch.allclose(path[:, -1, 0], path[:, 0, 0] + torch.tensor([0.12, 0.0, -0.1]), atol=1e-5)  # not 0.18 down: the floor is 0.1 below
    assert torch.allclose(path[:, -1, 1], path[:, 0, 1] + torch.tensor([0.0, 0.24, 0.0]), atol=1e-5)
    step = state
    for action in down.unbind(1):
        step = rope.model.step(step, action)
    assert torch.allclose(step.positions, rope.model.rollout(state, down).states.positions[:, -1], atol=1e-5)


def test_shapes_are_compared_along_the_line_and_stretch_is_that_of_the_worst_edge():
    nodes = TASK.mesh().nodes.numpy()
    assert float(shape_distance(nodes, nodes)) == pytest.approx(0.0, abs=1e-9)
    assert float(shape_distance(nodes, nodes + np.array([0.0, 0.02, 0.0]))) == pytest.approx(0.02, rel=1e-6)
    longer = nodes.copy()
    longer[-3:, 0] += 0.01  # one edge of 5 cm is 20 % longer
    assert float(stretch_of(longer, TASK)) == pytest.approx(0.2, rel=1e-6)
    assert np.allclose(sections(nodes)[:, 0], np.linspace(-0.2, 0.2, 9), atol=1e-9)


def test_arrival_is_when_the_distance_stays_small():
    path = np.array([[0.05, 0.008, 0.02, 0.009, 0.002], [0.004] * 5, [0.05] * 5])
    run = rope_control.RopeRun("", ("air",) * 3, *(np.zeros(3),) * 3, np.zeros((3, 6, 3)), path, np.zeros(5), np.zeros(5), 0.1)
    assert run.arrival(0.2) == pytest.approx([0.6, 0.0, 1.0])
    assert np.isnan(replace(run, path=np.zeros((3, 0))).arrival(0.2)).all()


def test_points_between_particles_lie_evenly_on_the_line():
    corners, weights = between(torch.tensor([[3, 4], [4, 5]]))
    places = torch.arange(6.0)
    assert (weights * places[corners]).sum(-1).tolist() == [3.0, 3.5, 4.0, 4.5, 5.0]


def test_sections_are_found_from_the_tracks_of_a_turned_rope():
    seen = explore(TASK, seconds=0.3)
    turn = quaternion_to_matrix(torch.nn.functional.normalize(torch.tensor([0.9, 0.1, -0.3, 0.2], dtype=torch.float64), dim=0))
    moved = seen.mesh.nodes @ turn.T + torch.tensor([0.1, 0.2, 0.3])
    tracks = seen.material_points(moved).expand(3, -1, -1).clone()
    tracks[0, ::2] = torch.nan
    tracks[2] = torch.nan
    found = section_tracks(replace(seen, tracks=tracks.float()))
    assert torch.allclose(found[:2], sections(moved).expand(2, -1, -1), atol=1e-5) and bool(found[2].isnan().all())


def test_the_filter_finds_velocities_and_removes_noise():
    rope = rod_model(TASK, 2, {"drag": 1.0})
    truth, estimate = start(rope, 1), AlphaBetaFilter(rope, 0.5, 0.2)
    action = torch.tensor([[0.1, 0.05, 0.0, 0.1, 0.05, 0.0]])
    noise, errors = torch.Generator().manual_seed(0), []
    rope = replace(rope, weights=torch.eye(truth.positions.shape[1]), offsets=torch.zeros_like(rope.offsets))  # particles are observed themselves
    estimate.rope = rope
    for k in range(15):
        seen = truth.positions + 0.003 * torch.randn(truth.positions.shape, generator=noise)
        state = estimate.update(seen, rope.model.places(truth), None if k == 0 else action)
        errors.append(float((state.positions - truth.positions).norm(dim=-1).mean()))
        wrong, speed = (state.velocities - truth.velocities)[:, 2:-2].norm(dim=-1).mean(), truth.velocities[:, 2:-2].norm(dim=-1).mean()
        truth = rope.model.step(truth, action)
    assert np.mean(errors[5:]) < 0.9 * errors[0]
    assert speed > 0.05 and wrong < 0.4 * speed


def test_what_predictions_missed_is_added_to_the_next():
    rope = rod_model(TASK, 2, {})
    state, still = start(rope, 1), torch.zeros(1, 6)
    misses = MissedOutput(rope, lead=2, rate=0.5)
    off = torch.tensor([0.0, 0.03, 0.0])  # the rope always comes to rest elsewhere than the model says
    for k in range(20):
        resting = rope.model.rollout(state, still.expand(1, 2, 6)).states[:, -1]
        missed = misses.update(state, resting.positions + off, None if k == 0 else still)
        if k == 0:
            assert not bool(missed.any())
    model = Disturbed(rope.model, missed, 2)
    plain, moved = (m.rollout(state, torch.zeros(1, 4, 6)).states.positions for m in (rope.model, model))
    assert torch.equal(plain[:, 0], moved[:, 0])
    assert torch.allclose((moved - plain)[:, 2:, 3:6, 1], torch.full((1, 3, 3), 0.03), atol=0.01)
    assert torch.allclose((moved - plain)[:, 1], (moved - plain)[:, 2] / 2, atol=1e-6)


def test_a_plan_reaches_a_shape_of_the_model():
    rope = rod_model(TASK, 2, {})
    state = start(rope, 1)
    goal = state.positions[:, 1:-1] + torch.tensor([0.1, 0.1, 0.02])
    planner = MPPI(horizon=8, samples=48, iterations=8, knots=3, temperature=0.05, anneal=0.8, narrow=0.05, tail="zero")
    objective = ShapeGoal(goal, stage=0.2, corners=torch.arange(1, 10)[:, None], weights=torch.ones(9, 1))
    plan = planner.plan(rope.model, state, objective)
    assert float(objective.error(plan.trajectory)[0, 0, -1]) < 0.03 < float(objective.error(plan.trajectory)[0, 0, 0])


def test_goals_are_far_at_rest_and_not_stretched():
    pytest.importorskip("pybullet")
    trial, again = (make_trials(TASK, 1, seed=3, kinds=("one end",))[0] for _ in range(2))
    assert isinstance(trial, RopeTrial) and trial.distance >= TASK.least and np.array_equal(trial.goal, again.goal)
    assert max(float(stretch_of(nodes, TASK)) for nodes in (trial.start, trial.goal)) < 0.6 * TASK.stretch
    assert np.linalg.norm(trial.cloud[:, None] - trial.goal[None], axis=-1).min(1).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("make", [rod_model, spring_rope])
def test_a_rope_is_dragged_nearer_to_its_goal_whatever_models_it(make):
    pytest.importorskip("pybullet")
    trials = make_trials(TASK, 1, seed=3, kinds=("one end",))
    run = rope_control.reach_shapes(TASK, trials, make(TASK, 1, {}), RopeControl(steps=14, samples=24, horizon=8, iterations=2, opening=4), progress=False)
    assert run.after[0] < 0.6 * run.before[0]
    assert rope_control.do_nothing(TASK, trials).after[0] == pytest.approx(run.before[0])


@pytest.mark.slow
def test_calibration_finds_a_rope_that_predicts():
    pytest.importorskip("pybullet")
    seen = [explore(RopeTask(), seconds=4.0)]
    fitted = calibrate_rod(RopeTask(), seen)
    blind = calibrate_rod(RopeTask(), seen, settings=Settings(evaluations=0, iterations=0, explore=0))
    assert fitted.errors["calibration"]["tracks"] < 0.8 * blind.errors["calibration"]["tracks"]
    with pytest.raises(ValueError, match="one recording at least, and all of them with the same times"):
        calibrate_rod(RopeTask(), [*seen, explore(RopeTask(), seconds=2.0)])
