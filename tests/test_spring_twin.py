"""`SpringTwin` against closed forms, conservation laws and finite differences. Everything is in float64 but where a test says so."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from structwm.check import check_model
from structwm.kernels import spring
from structwm.kernels.spring import CANDIDATES, SpringTable, chebyshev
from structwm.kernels.spring_layout import COLUMNS
from structwm.physics import GROUND, BoxShape, Fixture, Geometry, ParticleState, PlaneShape, SphereShape, SpringBody, SpringTwin
from structwm.training import load_model, save_model

G = 9.81
FREE = {"drag": 1.001e-4, "damping": 1.1e-9}


def block(shape: tuple[int, int, int] = (3, 3, 3), spacing: float = 0.02) -> Tensor:
    """Points (P, 3) of a grid."""
    return spacing * torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij"), -1).reshape(-1, 3)


def soft(points: Tensor, **options: object) -> SpringBody:
    """Joined with all that is next to it on the grid of `block`."""
    return SpringBody.from_points(points, radius=0.036, neighbours=26, **options)


def run(twin: SpringTwin, state: ParticleState, steps: int, actions: Tensor | None = None) -> ParticleState:
    """States (H+1,) under no command, or under actions (H, A)."""
    actions = torch.zeros(steps, twin.spec.action.size, dtype=torch.float64) if actions is None else actions
    with torch.no_grad():
        states: ParticleState = twin.rollout(state, actions).states
    return states


def pair(length: float, **options: object) -> SpringBody:
    """Two particles and a spring."""
    return SpringBody(torch.tensor([[0.0, 0.0, 0.0], [length, 0.0, 0.0]]), torch.tensor([[0, 1]]), **options)


def test_the_contract() -> None:
    body = soft(block(), obstacles=(GROUND,), self_contact=True)
    body = body.with_controllers(torch.tensor([[0.02, 0.02, 0.06]]), attach=0.04).with_controllers(torch.tensor([[0.1, 0.0, 0.03]]), push=0.01)
    twin = SpringTwin(body, dt=0.01, substeps=20, stages=2, values={"stiffness": 1.0, "attachment_stiffness": 1.0})
    start = block().float() + torch.tensor([0.0, 0.0, 0.01])
    assert not [finding for finding in check_model(twin, twin.state(start.expand(3, -1, -1))) if finding.message]


def test_members_are_rolled_out_as_each_alone() -> None:
    body = soft(block((3, 2, 2)), obstacles=(GROUND,))
    twin = SpringTwin(body, dt=0.01, values={"stiffness": torch.tensor([1.0, 3.0]), "friction": torch.tensor([0.2, 0.7])})
    start = twin.state(block((3, 2, 2)) + 0.01)
    both = run(twin, start.expand(2), 10, torch.zeros(10, 0, dtype=torch.float64))
    for k, (stiffness, friction) in enumerate(((1.0, 0.2), (3.0, 0.7))):
        alone = run(twin.with_parameters({"stiffness": stiffness, "friction": friction}), start, 10)
        assert torch.allclose(both.positions[k], alone.positions, atol=1e-12)


@pytest.mark.parametrize(("stiffness", "stages"), [(5.0, 1), (5.0, 4), (1e6, 1)])
def test_free_flight_is_ballistic_and_keeps_momentum_and_angular_momentum(stiffness: float, stages: int) -> None:
    """Also where springs are weakened because the substep is too long for them."""
    generator = torch.Generator().manual_seed(0)
    points = block()
    twin = SpringTwin(soft(points), dt=0.01, substeps=10, stages=stages, values={"drag": 1e-4, "stiffness": stiffness, "damping": 0.01})
    velocities = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    states = run(twin, twin.state(points, velocities), 50)
    middle, speed = states.positions.mean(-2), states.velocities.mean(-2)
    fall = torch.tensor([0.0, 0.0, -G], dtype=torch.float64)
    expected = middle[0] + 0.5 * speed[0] + 0.5 * 0.25 * fall
    assert torch.allclose(middle[-1], expected, atol=2e-4)  # the drag of 1e-4 a second
    turning = torch.linalg.cross(states.positions - middle.unsqueeze(-2), states.velocities - speed.unsqueeze(-2)).mean(-2)
    assert torch.allclose(turning[-1], turning[0], atol=1e-3 * float(turning[0].norm()))


def test_a_spring_swings_with_the_right_period_and_a_hanging_weight_stretches_it() -> None:
    mass, stiffness, length = 0.2, 8.0, 0.1
    twin = SpringTwin(pair(length), dt=0.001, substeps=4, values={"mass": mass, "stiffness": stiffness, **FREE})
    stretched = torch.tensor([[0.0, 0.0, 0.0], [1.1 * length, 0.0, 0.0]], dtype=torch.float64)
    apart = run(twin, twin.state(stretched), 600).positions.diff(dim=-2).norm(dim=-1).squeeze(-1) - length
    falling = ((apart[:-1] > 0) & (apart[1:] <= 0)).nonzero().flatten()
    found = float(falling[-1] - falling[0]) / (len(falling) - 1) * 0.001
    assert found == pytest.approx(2 * math.pi * math.sqrt(mass / 4 / (stiffness / length)), rel=0.01)
    hung = SpringTwin(pair(length, driven=((0,),)), dt=0.01, substeps=20, values={"mass": mass, "stiffness": 50.0, "damping": 0.05, "drag": 1.0})
    down = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0 - length]], dtype=torch.float64)
    end = run(hung, hung.state(down), 600).positions[-1]
    assert float(1.0 - end[1, 2]) == pytest.approx(length + mass / 2 * G * length / 50.0, rel=1e-3)


@pytest.mark.parametrize("stages", [1, 5])
def test_a_dashpot_takes_swinging_away_at_the_right_rate(stages: int) -> None:
    """The logarithm of the swing falls by damping time times half the square of the frequency."""
    mass, stiffness, length, damping = 0.2, 8.0, 0.1, 1e-3
    twin = SpringTwin(pair(length), dt=0.001, substeps=4, stages=stages, values={"mass": mass, "stiffness": stiffness, "damping": damping, "drag": 1e-4})
    stretched = torch.tensor([[0.0, 0.0, 0.0], [1.05 * length, 0.0, 0.0]], dtype=torch.float64)
    swing = (run(twin, twin.state(stretched), 1110).positions.diff(dim=-2).norm(dim=-1).squeeze(-1) - length).abs()
    square = stiffness / length / (mass / 4)
    period = round(2 * math.pi / math.sqrt(square) / 0.001)
    ratio = float(swing[6 * period : 7 * period].max() / swing[:period].max())
    assert math.log(ratio) == pytest.approx(-damping * square / 2 * 6 * period * 0.001, rel=0.03)


def test_energy_without_damping_is_kept() -> None:
    points = block()
    body = soft(points)
    twin = SpringTwin(body, dt=0.02, substeps=60, values={"mass": 0.2, "stiffness": 4.0, "gravity": 1e-6, **FREE})
    assert max(float(part) for part in twin.softened) < 1e-3
    states = run(twin, twin.state(1.15 * points), 100)
    stiffness = 4.0 / body.lengths * twin.gates(points)
    elastic = (stiffness / 2 * (twin.scene.strain(states) * body.lengths).square()).sum(-1)
    motion = (0.2 / len(points) / 2 * states.velocities.square()).sum((-1, -2))
    total = elastic + motion
    assert float((total / total[0] - 1).abs().max()) < 5e-3


def test_friction_stops_a_block_where_it_should() -> None:
    points = block((4, 3, 2))
    twin = SpringTwin(soft(points, obstacles=(GROUND,)), dt=0.01, substeps=20, values={"stiffness": 20.0, "damping": 2e-3, "friction": 0.4, "drag": 1e-4})
    rested = run(twin, twin.state(points + torch.tensor([0.0, 0.0, float(twin.values["radius"])])), 100)
    start = twin.state(rested.positions[-1], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(len(points), 3))
    states = run(twin, start, 60)
    travelled = float((states.positions[-1] - states.positions[0]).mean(0)[0])
    assert travelled == pytest.approx(1 / (2 * 0.4 * G), rel=0.03)
    assert float(states.velocities[-1].norm(dim=-1).max()) < 1e-3
    assert float(states.positions[..., 2].min()) > 0  # no particle's middle is ever below the ground


@pytest.mark.parametrize("slope", [18.0, 26.0])
def test_a_slope_holds_a_block_up_to_the_angle_of_friction(slope: float) -> None:
    """Friction 0.4 holds up to 21.8 degrees."""
    half = math.radians(slope) / 2
    tilted = Fixture((Geometry(PlaneShape(), rotation=(math.cos(half), 0.0, math.sin(half), 0.0)),))  # its normal leans towards x
    normal, along = (
        torch.tensor(v, dtype=torch.float64) for v in ((math.sin(2 * half), 0.0, math.cos(2 * half)), (math.cos(2 * half), 0.0, -math.sin(2 * half)))
    )
    points = block((3, 3, 2))
    placed = points[:, :1] * along + points[:, 1:2] * torch.tensor([0.0, 1.0, 0.0]) + (points[:, 2:] + 0.005) * normal
    twin = SpringTwin(
        SpringBody.from_points(placed, radius=0.036, neighbours=26, obstacles=(tilted,)), dt=0.01, values={"stiffness": 20.0, "friction": 0.4, "drag": 1e-4}
    )
    states = run(twin, twin.state(placed), 100)
    moved = float((states.positions[-1] - states.positions[50]).mean(0) @ along)
    if slope < 21.8:
        assert abs(moved) < 2e-3
    else:
        pull = G * (math.sin(2 * half) - 0.4 * math.cos(2 * half))
        assert moved == pytest.approx(pull / 2 * (1.0**2 - 0.5**2), rel=0.1)


def test_boxes_and_spheres_are_not_entered() -> None:
    cup = (Fixture((Geometry(BoxShape((0.03, 0.2, 0.02))), Geometry(SphereShape(0.05), position=(0.15, 0.02, 0.0)))), GROUND)
    points = block((6, 3, 2)) + torch.tensor([0.0, 0.0, 0.08])
    twin = SpringTwin(
        SpringBody.from_points(points, radius=0.036, neighbours=26, obstacles=cup), dt=0.01, values={"stiffness": 3.0, "damping": 5e-3, "friction": 0.3}
    )
    states = run(twin, twin.state(points), 100)
    x = states.positions[1:]
    in_box = (x[..., 0].abs() < 0.03) & (x[..., 1].abs() < 0.2) & (x[..., 2].abs() < 0.02)
    in_sphere = (x - torch.tensor([0.15, 0.02, 0.0])).norm(dim=-1) < 0.05
    assert not bool(in_box.any() | in_sphere.any() | (x[..., 2] < 0).any())


def test_a_controller_pulls_by_its_springs_and_its_speed_counts() -> None:
    """At a steady speed through air of some drag a spring is longer by mass times drag times speed over stiffness; at the first jerk its dashpot pulls too."""
    body = SpringBody.from_points(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.02, 0.0]]), radius=0.05, neighbours=1)
    body = body.with_controllers(torch.tensor([[0.02, 0.0, 0.0], [0.02, 0.02, 0.0]]), groups=((0, 1),), attach=0.025)
    values = {"mass": 0.1, "attachment_stiffness": 4.0, "drag": 2.0, "gravity": 1e-9, "damping": 0.02}
    twin = SpringTwin(body, dt=0.01, substeps=20, values=values)
    start = twin.state(body.positions[:2])
    actions = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64).expand(600, 3)
    end = run(twin, start, 600, actions).positions[-1]
    assert float((end[2:, 0] - end[:2, 0]).mean()) == pytest.approx(0.02 + 0.1 * 2.0 * 0.5 / 2 / (4.0 / 0.02), rel=1e-3)
    slack = twin.with_parameters({"damping": 1e-6})
    with_speed, without = (run(model, start, 1, actions[:1]).velocities[-1, :2, 0].mean() for model in (twin, slack))
    assert float(with_speed) > 2 * float(without) > 0


def test_a_pusher_pushes() -> None:
    body = soft(block(), obstacles=(GROUND,)).with_controllers(torch.tensor([[-0.06, 0.02, 0.03]]), push=0.03)
    twin = SpringTwin(body, dt=0.01, values={"stiffness": 20.0, "friction": 0.3})
    start = twin.state(block() + torch.tensor([0.0, 0.0, 0.005]))
    states = run(twin, start, 100, torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64).expand(100, 3))
    assert float(states.positions[-1, 27, 0]) == pytest.approx(0.04)
    assert float((states.positions[-1, :27] - start.positions[:27]).mean(0)[0]) > 0.04
    depth = 0.03 - (states.positions[:, :27] - states.positions[:, 27:]).norm(dim=-1)
    assert float(depth.max()) < 0.002


def test_bodies_collide_without_entering_each_other_and_keep_momentum() -> None:
    one = block((3, 3, 3))
    points = torch.cat((one, one + torch.tensor([0.1, 0.002, 0.0])))
    velocities = torch.zeros_like(points)
    velocities[:27, 0] = 1.0
    for joined in (False, True):
        body = SpringBody.from_points(points, radius=0.036, neighbours=26, self_contact=joined)
        values = {"stiffness": 10.0, "gravity": 1e-9, "radius": 0.008, "contact_stiffness": 1e5, "drag": 1e-4, "damping": 1e-3}
        states = run(SpringTwin(body, dt=0.01, substeps=40, values=values), SpringTwin(body, dt=0.01).state(points, velocities), 30)
        near = torch.cdist(states.positions[:, :27], states.positions[:, 27:]).amin((-1, -2))
        if not joined:
            assert float(near.min()) < 0.004  # they pass through each other
            continue
        assert float(near.min()) > 0.008
        assert torch.allclose(states.velocities[-1].mean(0), velocities.mean(0), atol=1e-4)
        assert float(states.velocities[-1, 27:, 0].mean()) > float(states.velocities[-1, :27, 0].mean())


def problem(stages: int, touching: float) -> tuple[spring.SpringProgram, list[Tensor], Tensor]:
    """A network in contact with everything there is."""
    rng = np.random.default_rng(0)
    home = 0.3 * rng.random((12, 3))
    pairs = np.array([(i, j) for i in range(12) for j in range(i + 1, 12)])
    springs = pairs[rng.permutation(len(pairs))[:30]]
    rest = np.linalg.norm(home[springs[:, 0]] - home[springs[:, 1]], axis=1)
    drive = np.full(12, -1, np.int32)
    drive[0], drive[-1] = 0, 3
    obstacles = (np.array([0, 1], np.int32), np.array([[0, 0, 0], [0.08, 0, 0]]), np.stack([np.eye(3)] * 2), np.array([[0, 0, 0.02], [0.15, 0.15, 0.1]]))
    weight = np.linspace(0.5, 1.5, 12) / 12
    pusher = (np.array([11], np.int32), np.array([0.05]))
    program = spring.SpringProgram(springs, rest, home, weight, drive, *pusher, *obstacles, touching, 1e-3, 5, stages)
    generator = torch.Generator().manual_seed(1)
    x = torch.tensor(home) + 0.01 * torch.randn(3, 12, 3, generator=generator, dtype=torch.float64)
    v, u = (torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((12, 3), (4, 6)))
    radius = 0.05 if touching else 0.01
    common = torch.tensor([[0.5, 0.3, 9.8, radius, 0.4, 3e4, 0.003], [0.3, 0.1, 9.8, 1.2 * radius, 0.7, 1e4, 0.002]], dtype=torch.float64)
    k, c = (scale * torch.rand(2, 30, generator=generator, dtype=torch.float64) for scale in (200.0, 0.1 * stages**2))
    return program, [x, v, u, common, k, c], torch.tensor([0, 1, 1], dtype=torch.int32)


@pytest.mark.parametrize(("stages", "touching"), [(1, 0.0), (2, 0.0), (5, 0.12)])
def test_gradients_of_rollouts_match_finite_differences(stages: int, touching: float) -> None:
    program, inputs, row = problem(stages, touching)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(2, 3, 5, 12, 3, generator=generator, dtype=torch.float64)

    def loss(x: Tensor, v: Tensor, u: Tensor, common: Tensor, k: Tensor, c: Tensor) -> Tensor:
        xs, vs = spring.rollout(program, x, v, u, SpringTable(common, k, c), row)
        return (weights[0] * xs).sum() + 0.01 * (weights[1] * vs).sum()

    leaves = [part.clone().requires_grad_() for part in inputs]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    directions = [
        (name, at, torch.randn(part.shape, generator=generator, dtype=torch.float64)) for at, (name, part) in enumerate(zip("xvu kc", inputs)) if at != 3
    ]
    directions += [(name, 3, inputs[3] * torch.nn.functional.one_hot(torch.tensor(at), len(COLUMNS))) for at, name in enumerate(COLUMNS)]
    for name, at, way in directions:
        step = 1e-7
        with torch.no_grad():
            there, back = (loss(*(part + sign * step * way if k == at else part for k, part in enumerate(inputs))) for sign in (1, -1))
        found = float((gradients[at] * way).sum())
        assert found == pytest.approx(float(there - back) / (2 * step), rel=1e-3, abs=1e-7), name


def test_threads_graphs_and_repetition_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    program, (x, v, u, *table), row = problem(3, 0.12)
    whole = spring.forward(program, x, v, u, SpringTable(*table), row)
    by = torch.randn(2, *whole[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    back = spring.backward(program, *whole, u, SpringTable(*table), row, *by)
    assert torch.equal(whole[0], spring.forward(program, x, v, u, SpringTable(*table), row, graph=True)[0])
    recorded = spring.backward(program, *whole, u, SpringTable(*table), row, *by, graph=True)
    assert torch.equal(back[0], recorded[0]) and torch.equal(back[3].stiffness, recorded[3].stiffness)
    monkeypatch.setattr(spring, "THREAD_SHARE", 1)
    before = torch.get_num_threads()
    try:
        for threads in (2, 5):  # by worlds, and within worlds
            torch.set_num_threads(threads)
            again = spring.forward(program, x, v, u, SpringTable(*table), row)
            assert torch.equal(whole[0], again[0]) and torch.equal(whole[1], again[1])
            split = spring.backward(program, *again, u, SpringTable(*table), row, *by)
            for mine, theirs in zip((*back[:3], *back[3]), (*split[:3], *split[3]), strict=True):
                assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)
    finally:
        torch.set_num_threads(before)


def test_stages_of_damping_reach_their_square() -> None:
    one = chebyshev(1)
    assert (one.share[0], one.reach) == (1.0, pytest.approx(1.95, abs=0.01))
    for stages in (2, 5, 9):
        assert chebyshev(stages).reach == pytest.approx(1.93 * stages**2, rel=0.02)


def test_reach_and_neighbours_cut_as_a_body_made_so() -> None:
    points = block((3, 3, 2)) + 0.002 * torch.randn(18, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = SpringTwin(SpringBody.from_points(points, radius=0.05, neighbours=17), dt=0.01)
    for cut, small in (({"reach": 0.0255}, {"radius": 0.0255, "neighbours": 17}), ({"neighbours": 3.0}, {"radius": 0.05, "neighbours": 3})):
        gate = wide.with_parameters(cut).gates(points)
        kept = {tuple(pair) for pair in wide.body.springs[gate >= 0.5].tolist()}
        assert kept == {tuple(pair) for pair in SpringBody.from_points(points, **small).springs.tolist()}  # type: ignore[arg-type]


def test_no_parameter_makes_a_step_explode() -> None:
    body = soft(block(), obstacles=(GROUND,), self_contact=True).with_controllers(torch.tensor([[0.02, 0.02, 0.06]]), attach=0.04)
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(100, 3, generator=generator, dtype=torch.float64)
    for values in ({"stiffness": 9e5}, {"damping": 0.9}, {"stiffness": 9e5, "damping": 0.9, "contact_stiffness": 9e7}, {"mass": 1e-3}):
        twin = SpringTwin(body, dt=0.02, substeps=2, values=values)
        assert max(float(part) for part in twin.softened) > 0.5
        states = run(twin, twin.state(block() + torch.tensor([0.0, 0.0, 0.01])), 100, actions)
        assert float(states.velocities.norm(dim=-1).max()) < 50


def test_steps_are_made_as_fine_as_parameters_need() -> None:
    twin = SpringTwin(soft(block()), dt=0.03, substeps=1, values={"stiffness": 20.0, "damping": 0.01})
    fine = twin.with_stable_steps(0.01)
    assert max(float(part) for part in fine.softened) <= 0.01 < max(float(part) for part in twin.softened)
    start = fine.state(1.1 * block())
    finer = fine.with_timing(dt=0.03, substeps=4 * fine.substeps, stages=fine.stages)
    assert float((run(fine, start, 20).positions - run(finer, start, 20).positions).norm(dim=-1).max()) < 1e-3
    with pytest.raises(ValueError, match="more than 3 substeps"):
        twin.with_stable_steps(0.01, most=3)


def test_stretch_beyond_the_limit_is_reported() -> None:
    body = pair(0.1, driven=((0,), (1,)), stretch_limit=0.5)
    twin = SpringTwin(body, dt=0.1)
    start = twin.state(body.positions)
    trajectory = twin.rollout(start, torch.tensor([[0.0, 0, 0, 0.2, 0, 0]] * 5, dtype=torch.float64))
    assert trajectory.valid.tolist() == [True, True, True, False, False, False]
    assert torch.allclose(twin.scene.strain(trajectory.states).squeeze(-1), 0.2 * torch.arange(6, dtype=torch.float64))


def test_memory_with_gradients_grows_as_the_square_root() -> None:
    """For T substeps in sqrt(T) steps: states at the steps and those within one step."""
    from structwm.kernels.spring import _Work

    twin = SpringTwin(soft(block()), dt=0.01)
    table = twin.table(torch.zeros(1))

    def held(steps: int, substeps: int) -> int:
        model = twin.with_timing(dt=0.01, substeps=substeps)
        xs = torch.zeros(1, steps + 1, 27, 3)
        work = _Work(model.program, xs, torch.zeros_like(xs), torch.zeros(1, steps, 0), table, torch.zeros(1, dtype=torch.int32), depth=substeps)
        arrays = [getattr(work.paths[0], name) for name in ("x", "v", "middle", "speed", "push", "stage")]
        return sum(array.capacity for array in arrays)

    assert held(40, 40) < 2.1 * held(20, 20)
    assert held(1, 1600) > 15 * held(40, 40)


def test_a_twin_that_was_used_can_be_copied_and_sent() -> None:
    twin = SpringTwin(soft(block()), dt=0.01, values={"stiffness": 3.0})
    start = twin.state(block() + 0.01)
    after = run(twin, start, 3).positions
    for again in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert torch.equal(run(again, start, 3).positions, after)


def test_a_model_is_saved_with_its_springs(tmp_path: object) -> None:
    body = soft(block(), obstacles=(GROUND,)).with_controllers(torch.tensor([[0.02, 0.02, 0.06]]), attach=0.04)
    factors = 0.5 + torch.rand(len(body.springs), generator=torch.Generator().manual_seed(0))
    twin = SpringTwin(body, dt=0.01, substeps=7, stages=2, values={"stiffness": 3.0}, factors=factors)
    again = load_model(save_model(twin, f"{tmp_path}/soft"))
    start = twin.state(block().float() + 0.01)
    actions = torch.rand(5, 3)
    assert torch.equal(twin.rollout(start, actions).states.positions, again.rollout(start, actions).states.positions)


def body_error(**options: object) -> None:
    points = options.pop("points", block())
    SpringBody.from_points(points, **{"radius": 0.036, "neighbours": 26, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pair(0.0), "between particles 0 and 1 has the length 0.0 m"),
        (lambda: body_error(points=torch.cat((block(), block()[:1]))), "points in different places, got number 0 twice"),
        (lambda: body_error(radius=0.01), "no neighbour within 0.01 m"),
        (lambda: body_error(points=torch.full((4, 3), math.nan)), "finite points"),
        (lambda: soft(block()).with_controllers(torch.ones(1, 3), attach=0.02), "Controller 0 finds no particle"),
        (lambda: soft(block()).with_controllers(torch.ones(1, 3)), "attach or push"),
        (lambda: pair(0.1, driven=((0,), (0,))), "share no particle"),
        (lambda: pair(0.1, driven=((5,),)), "names particle 5, but there are 2"),
        (lambda: pair(0.1, pushers=((0, 0.1),)), "driven particles and radii"),
        (lambda: SpringTwin(pair(0.1), dt=0.0), "dt above zero"),
        (lambda: SpringTwin(pair(0.1), dt=0.1, factors=torch.zeros(1)), "factors above zero"),
        (lambda: SpringTwin(pair(0.1), dt=0.1).state(torch.zeros(2, 3)), "particles 0 and 1, which a spring joins, in one place"),
        (lambda: SpringTwin(pair(0.1), dt=0.1).state(torch.full((2, 3), math.nan)), "finite positions"),
        (lambda: SpringTwin(pair(0.1), dt=0.1).state(torch.zeros(3, 3)), r"positions \(\*B, 2, 3\)"),
    ],
)
def test_bad_input_gets_one_sentence(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_what_may_be_touched_is_found_on_both_sides() -> None:
    body = soft(block((4, 4, 1)), self_contact=True)
    program = SpringTwin(body, dt=0.01, values={"radius": 0.012}).program
    found = program.partners(block((4, 4, 1))[None].float())
    assert found.shape == (1, 16, CANDIDATES)
    pairs = {(i, int(j)) for i in range(16) for j in found[0, i] if j >= 0}
    assert pairs and pairs == {(j, i) for i, j in pairs}
