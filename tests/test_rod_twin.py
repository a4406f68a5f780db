"""`RodTwin` against closed forms, conservation laws and finite differences. Everything is in float64 but where a test says so."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from structwm.check import check_model
from structwm.physics import (
    GROUND,
    BoxShape,
    CapsuleShape,
    Fixture,
    Geometry,
    PlaneShape,
    Recording,
    Rod,
    RodState,
    RodTwin,
    Settings,
    SphereShape,
    TrackMeasurement,
    calibrate,
    rod_recording,
)

G = 9.81
TINY = {"drag": 1e-4, "quadratic_drag": 1e-5, "bend_damping": 1e-9}


def line(vertices: int, length: float, *, along: int = 0) -> Tensor:
    """Vertices (V, 3) on a straight line from the origin."""
    positions = torch.zeros(vertices, 3, dtype=torch.float64)
    positions[:, along] = torch.linspace(0, length, vertices, dtype=torch.float64)
    return positions


def run(twin: RodTwin, state: RodState, steps: int, actions: Tensor | None = None) -> RodState:
    """States (H+1,) under no command, or under actions (H, A)."""
    actions = torch.zeros(steps, twin.spec.action.size, dtype=torch.float64) if actions is None else actions
    with torch.no_grad():
        states: RodState = twin.rollout(state, actions).states
    return states


def energy(twin: RodTwin, states: RodState) -> Tensor:
    """Of motion, weight, bending and stretching (*B,) [J]."""
    value = {name: float(number) for name, number in twin.values.items()}
    rest = torch.tensor(twin.rod.rest_lengths)
    span = torch.nn.functional.pad(rest, (0, 1)) / 2 + torch.nn.functional.pad(rest, (1, 0)) / 2
    mass = value["vertex_mass"] + value["line_density"] * span
    motion = (mass * states.velocities.square().sum(-1)).sum(-1) / 2
    weight = value["gravity"] * (mass * states.positions[..., 2]).sum(-1)
    edges = states.positions[..., 1:, :] - states.positions[..., :-1, :]
    stretch = value["stretch_stiffness"] / 2 * ((edges.norm(dim=-1) - rest).square() / rest).sum(-1)
    e, f = edges[..., :-1, :], edges[..., 1:, :]
    kappa = 2 * torch.linalg.cross(e, f) / (e.norm(dim=-1) * f.norm(dim=-1) + (e * f).sum(-1)).unsqueeze(-1)
    bend = value["bend_stiffness"] * (kappa.square().sum(-1) / (rest[1:] + rest[:-1])).sum(-1)
    return motion + weight + stretch + bend


def test_the_contract() -> None:
    twin = RodTwin(Rod.even(0.6, 7, driven=(0, 1, -1), twists=True, rolled=(0,), obstacles=(GROUND,)), dt=0.02)
    start = line(7, 0.6) + torch.tensor([0.0, 0.0, 0.03])
    assert not [finding for finding in check_model(twin, twin.state(start.float().expand(3, 7, 3))) if finding.message]


def test_free_flight_is_ballistic_and_keeps_its_momentum() -> None:
    generator = torch.Generator().manual_seed(0)
    twin = RodTwin(Rod.even(0.5, 6, twists=True), dt=0.01, values={"drag": 1e-4, "quadratic_drag": 1e-5, "vertex_mass": 0.01})
    positions = line(6, 0.5) + 0.03 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    velocities = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    states = run(twin, twin.state(positions, velocities), 50)
    mass = torch.full((6,), 0.01 + 0.05 * 0.1, dtype=torch.float64)
    mass[[0, -1]] -= 0.05 * 0.05
    middle = (mass[:, None] * states.positions).sum(-2) / mass.sum()
    speed = (mass[:, None] * velocities).sum(-2) / mass.sum()
    times = torch.arange(51, dtype=torch.float64).unsqueeze(-1) * 0.01
    torch.testing.assert_close(middle, middle[0] + times * speed - torch.tensor([0.0, 0.0, G / 2]) * times**2, rtol=0, atol=5e-4)
    turning = torch.linalg.cross(states.positions - middle[:, None], mass[:, None] * states.velocities).sum(-2)
    assert float((turning - turning[0]).norm(dim=-1).max()) < 0.005 * float(turning[0].norm())


@pytest.mark.parametrize("stiffness", [1e-4, 1e-2])
def test_a_swinging_rope_keeps_its_energy(stiffness: float) -> None:
    """Pinned at one end, let go from the horizontal, over two seconds, at the default substep."""
    twin = RodTwin(Rod.even(0.5, 8, driven=(0,)), dt=0.01, substeps=10, values=TINY | {"bend_stiffness": stiffness, "stretch_stiffness": 1e4})
    positions = torch.stack((torch.linspace(0, 0.3, 8), torch.zeros(8), -torch.linspace(0, 0.4, 8)), -1).double()
    states = run(twin, twin.state(positions), 200)
    found = energy(twin, states)
    lowest = energy(twin, twin.state(line(8, 0.5, along=2) * torch.tensor([1.0, 1.0, -1.0])))
    assert float((found[-50:].mean() - found[:50].mean()).abs() / (found[0] - lowest)) < 0.02


def test_a_hanging_rope_is_a_catenary() -> None:
    """Two pinned ends, hardly any bending stiffness: the sag in the middle."""
    vertices, length, width = 41, 1.0, 0.6
    values = {"bend_stiffness": 1e-6, "stretch_stiffness": 1e4, "drag": 3.0, "bend_damping": 1e-5}
    twin = RodTwin(Rod.even(length, vertices, driven=(0, -1)), dt=0.02, substeps=5, values=values)
    s = torch.linspace(-1, 1, vertices, dtype=torch.float64)
    sag = math.sqrt(length**2 - width**2) / 2
    positions = torch.stack((width / 2 * s, torch.zeros_like(s), -sag * (1 - s.abs())), -1)
    last = run(twin, twin.state(positions), 300)[-1]
    a = brentq(lambda a: 2 * a * math.sinh(width / (2 * a)) - length, 0.05, 10.0)
    expected = a * (math.cosh(width / (2 * a)) - 1)
    assert -float(last.positions[vertices // 2, 2]) == pytest.approx(expected, rel=0.005)


def test_a_cantilever_bends_as_euler_and_bernoulli_say() -> None:
    vertices, length, stiffness = 41, 0.5, 0.05
    twin = RodTwin(Rod.even(length, vertices, driven=(0, 1)), dt=0.02, substeps=5, values={"bend_stiffness": stiffness, "stretch_stiffness": 1e5, "drag": 10.0})
    last = run(twin, twin.state(line(vertices, length)), 300)[-1]
    free = length * (1 - 1 / (vertices - 1))  # behind the clamp
    weight = (0.05 + float(twin.values["vertex_mass"]) / (length / (vertices - 1))) * G
    assert -float(last.positions[-1, 2]) == pytest.approx(weight * free**4 / (8 * stiffness), rel=0.05)


def test_a_rope_stretches_under_its_weight() -> None:
    twin = RodTwin(Rod.even(1.0, 11, driven=(0,)), dt=0.02, values={"stretch_stiffness": 20.0, "drag": 3.0, "vertex_mass": 1e-6})
    last = run(twin, twin.state(line(11, 1.0, along=2) * torch.tensor([1.0, 1.0, -1.0])), 400)[-1]
    assert -float(last.positions[-1, 2]) - 1 == pytest.approx(0.05 * G / (2 * 20.0), rel=0.005)


def test_a_free_end_turns_with_the_other() -> None:
    """Spun about itself at one end, a straight rod follows; clamped at the other, it holds an even twist."""
    values = {"gravity": 1e-6, "twist_stiffness": 1e-2, "twist_damping": 0.05}
    for driven, expected in (((0, 1), [1.0] * 6), ((0, 1, -2, -1), [1.0, 0.8, 0.6, 0.4, 0.2, 0.0])):
        twin = RodTwin(Rod.even(0.6, 7, driven=driven, twists=True, rolled=(0,)), dt=0.01, values=values)
        actions = torch.zeros(150, twin.spec.action.size, dtype=torch.float64)
        actions[:50, -1] = 2.0  # [rad/s], 1 rad in all
        last = run(twin, twin.state(line(7, 0.6)), 150, actions)[-1]
        start = twin.state(line(7, 0.6)).directors
        across = torch.linalg.cross(torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(6, 3), start)
        angle = torch.atan2((last.directors * across).sum(-1), (last.directors * start).sum(-1))
        torch.testing.assert_close(angle, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0.01)


def test_a_twisted_bow_leaves_its_plane() -> None:
    """A slack rod between clamps is a plane bow; twisted by turning one clamp, it winds."""
    off = []
    for turns in (0.0, 1.0, 2.0):
        values = {"gravity": 1e-6, "twist_damping": 0.05, "drag": 1.0}
        twin = RodTwin(Rod.even(0.6, 25, driven=(0, 1, -2, -1), twists=True, rolled=(0,)), dt=0.01, values=values)
        s = torch.linspace(0, 1, 25, dtype=torch.float64)
        start = torch.stack((0.54 * s, 0.115 * (math.pi * s).sin().square(), 1e-3 * (2 * math.pi * s).sin()), -1)  # about 0.6 m long
        start[[0, 1, -2, -1], 1:] = 0.0
        actions = torch.zeros(500, twin.spec.action.size, dtype=torch.float64)
        actions[:200, -1] = 2 * math.pi * turns / 2
        off.append(float(run(twin, twin.state(start), 500, actions)[-1].positions[:, 2].abs().max()))
    assert off[0] < 3e-3
    assert 0.015 < off[1] < off[2]


@pytest.mark.parametrize("shape", [PlaneShape(), BoxShape((2.0, 2.0, 0.5)), SphereShape(5.0), CapsuleShape(1.0, 2.0)])
def test_a_rope_comes_to_rest_on_what_is_below(shape: PlaneShape | BoxShape | SphereShape | CapsuleShape) -> None:
    top = {PlaneShape: 0.0, BoxShape: 0.5, SphereShape: 5.0, CapsuleShape: 3.0}[type(shape)]
    below = Fixture((Geometry(shape, position=(0.0, 0.0, -top)),))
    rod = Rod.even(0.4, 9, obstacles=(below,), radius=0.01)
    twin = RodTwin(rod, dt=0.01, values={"friction": 1.0})
    start = line(9, 0.4) - torch.tensor([0.2, 0.0, -0.05])
    last = run(twin, twin.state(start), 300)[-1]
    assert bool((last.positions[4, 2] - 0.01).abs() < 2e-3)
    assert float(last.velocities.norm(dim=-1).max()) < (0.01 if not isinstance(shape, CapsuleShape) else 0.2)


@pytest.mark.parametrize(("friction", "slides"), [(0.3, True), (0.5, False)])
def test_friction_holds_up_to_its_angle(friction: float, slides: bool) -> None:
    """On a slope of 22 degrees, tan 0.4."""
    angle = math.atan(0.4)
    slope = Fixture((Geometry(PlaneShape(), rotation=(math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0)),))
    twin = RodTwin(Rod.even(0.4, 9, obstacles=(slope,)), dt=0.01, values=TINY | {"friction": friction})
    along = torch.tensor([math.cos(angle), 0.0, -math.sin(angle)], dtype=torch.float64)
    up = torch.tensor([math.sin(angle), 0.0, math.cos(angle)], dtype=torch.float64)
    start = line(9, 0.4)[:, :1] * along + 0.005 * up
    states = run(twin, twin.state(start), 100)
    moved = float(((states.positions[-1] - states.positions[0]).mean(0) * along).sum())
    expected = (math.sin(angle) - friction * math.cos(angle)) * G / 2 if slides else 0.0
    assert moved == pytest.approx(expected, abs=0.01 if slides else 1e-3)


def test_turning_as_a_whole_is_not_damped() -> None:
    """A bent rope that turns rigidly moves on alike under any damping of bending, one that opens does not."""
    s = torch.linspace(0, math.pi, 9, dtype=torch.float64)
    arc = 0.2 * torch.stack((s.cos(), s.sin(), 0.3 * s), -1)
    omega = torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64).expand(9, 3)
    turning, opening = torch.linalg.cross(omega, arc), 5.0 * arc * torch.tensor([1.0, -1.0, 0.0])
    rod = Rod(tuple((arc[1:] - arc[:-1]).norm(dim=-1).tolist()))
    for velocities, damped in ((turning, False), (opening, True)):
        ends = []
        for damping in (1e-9, 1e-2):
            twin = RodTwin(rod, dt=1e-5, substeps=1, values={"bend_damping": damping, "bend_stiffness": 1e-8})
            ends.append(run(twin, twin.state(arc, velocities), 1).velocities[-1])
        assert (float((ends[0] - ends[1]).norm(dim=-1).max()) > 1e-4) == damped


def gradient_case(twists: bool) -> tuple[RodTwin, RodState, Tensor]:
    """A rope among obstacles, driven at three vertices."""
    shapes = (
        Geometry(PlaneShape(), position=(0.0, 0.0, -0.02)),
        Geometry(SphereShape(0.05), position=(0.1, 0.03, 0.0)),
        Geometry(CapsuleShape(0.03, 0.05), position=(0.2, -0.02, 0.0)),
        Geometry(BoxShape((0.04, 0.05, 0.03)), position=(0.28, 0.0, 0.0)),
    )
    options = {"rolled": (0,), "natural_curvature": ((0.3, -0.2), (-0.4, 0.1), (0.0, 0.0), (0.2, 0.5), (-0.3, -0.3))} if twists else {}
    rod = Rod.even(0.3, 7, driven=(0, 1, -1), twists=twists, obstacles=(Fixture(shapes),), radius=0.02, **options)
    twin = RodTwin(rod, dt=0.006, substeps=3, values={"stretch_stiffness": 100.0, "bend_stiffness": 2e-3, "contact_stiffness": 50.0})
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directors, spins = (noise(2, 6, 3), noise(2, 6)) if twists else (None, None)
    state = twin.state(line(7, 0.3) + 0.01 * noise(2, 7, 3), 0.3 * noise(2, 7, 3), directors, spins)
    return twin, state, 0.2 * noise(2, 4, twin.spec.action.size)


@pytest.mark.parametrize("twists", [False, True])
def test_gradients_are_those_of_finite_differences(twists: bool) -> None:
    """By start, actions and every parameter, through contacts, to a thousandth of the largest."""
    twin, state, actions = gradient_case(twists)
    generator = torch.Generator().manual_seed(2)
    names = [name for name in twin.values if twists or not name.startswith(("twist", "curvature_scale"))]
    leaves = {
        "positions": state.positions,
        "velocities": state.velocities,
        "directors": state.directors,
        "spins": state.spins,
        "actions": actions,
        "parameters": torch.stack([twin.values[name].double() for name in names]),
    }
    weights = [
        torch.randn(2, 5, *part.shape[1:], generator=generator, dtype=torch.float64)
        for part in (state.positions, state.velocities, state.directors, state.spins)
    ]

    def loss(leaf: dict[str, Tensor]) -> Tensor:
        start = RodState(**{name: leaf[name] for name in ("positions", "velocities", "directors", "spins")}, batch_size=(2,))
        states = twin.with_parameters(dict(zip(names, leaf["parameters"].unbind(), strict=True))).roll(start, leaf["actions"]).states
        parts = (states.positions, states.velocities, states.directors, states.spins)
        return sum(((part * weight).sum() for part, weight in zip(parts, weights, strict=True)), torch.zeros((), dtype=torch.float64))

    free = {name: value.clone().requires_grad_() for name, value in leaves.items()}
    found = dict(zip(free, torch.autograd.grad(loss(free), list(free.values()), allow_unused=True), strict=True))
    for name, value in leaves.items():
        if not value.numel():
            continue
        flat, numbers = value.flatten(), []
        for k in range(flat.numel()):
            step = 1e-6 * max(abs(float(flat[k])), 1e-3 if name == "parameters" else 1.0)
            ends = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[k] += sign * step
                with torch.no_grad():
                    ends.append(float(loss(leaves | {name: moved.reshape(value.shape)})))
            numbers.append((ends[0] - ends[1]) / (2 * step))
        expected = torch.tensor(numbers, dtype=torch.float64)
        gradient = found[name]
        assert gradient is not None
        if name == "parameters":
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
        else:
            torch.testing.assert_close(gradient.flatten(), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_a_batch_has_the_motion_of_each_alone_and_of_its_parameters() -> None:
    twin, state, actions = gradient_case(twists=True)
    together = run(twin, state, 4, actions)
    for k in range(2):
        alone = run(twin, state[k], 4, actions[k])
        assert torch.equal(alone.positions, together.positions[k])
    drawn = twin.with_parameters({"bend_stiffness": torch.tensor([1e-3, 5e-3], dtype=torch.float64)})
    members = run(drawn, state.unsqueeze(1).expand(2, 2), 4, actions)
    for k, value in enumerate((1e-3, 5e-3)):
        alone = run(twin.with_parameters({"bend_stiffness": value}), state, 4, actions)
        torch.testing.assert_close(members.positions[:, k], alone.positions, rtol=0, atol=1e-12)


def test_single_precision_moves_nearly_alike() -> None:
    twin, state, actions = gradient_case(twists=True)
    double = run(twin, state, 4, actions)
    single = run(twin, state.apply(lambda value: value.float()), 4, actions.float())
    assert single.positions.dtype == torch.float32
    torch.testing.assert_close(single.positions.double(), double.positions, rtol=0, atol=1e-4)


def test_parameters_are_found_again() -> None:
    """From tracks with noise and gaps, within the intervals."""
    rod = Rod.even(0.8, 9, driven=(0, 1, -2, -1))
    twin = RodTwin(rod, dt=0.02)
    truth = twin.with_parameters({"bend_stiffness": 2.5e-3, "drag": 0.5})
    generator = torch.Generator().manual_seed(0)
    positions = torch.stack((0.7 * torch.linspace(0, 1, 9), torch.zeros(9), -0.2 * (math.pi * torch.linspace(0, 1, 9)).sin()), -1).double()
    state = twin.state(positions.expand(6, 9, 3))
    swing = 1.5 * torch.randn(6, 1, 4, 3, generator=generator, dtype=torch.float64) * torch.linspace(0, 6, 60).double().sin()[:, None, None]
    swing = swing[:, :, :1].expand(6, 60, 4, 3)
    actions = swing.flatten(2)
    seen = truth.rollout(state, actions).states.positions
    seen = seen + 0.002 * torch.randn(seen.shape, generator=generator, dtype=torch.float64)
    seen[:, 10:20, 4] = math.nan
    recording = Recording(state, actions, measurements=(TrackMeasurement(seen[:, :, 2:7], tuple(range(2, 7)), scale=0.004),))
    settings = Settings(evaluations=60, iterations=10, explore=0)
    found = calibrate(twin, recording, ["bend_stiffness", "drag"], held_out=None, settings=settings, progress=False)
    for name, (low, high) in found.intervals(0.99).items():
        assert low < float(truth.values[name]) < high
        assert high / low < 1.5


def test_too_much_stretch_is_no_longer_valid() -> None:
    rod = Rod.even(0.4, 5, driven=(0, -1), stretch_limit=0.1)
    twin = RodTwin(rod, dt=0.02)
    actions = torch.zeros(20, 6, dtype=torch.float64)
    actions[:, 3] = 0.4  # pulls one end away
    trajectory = twin.rollout(twin.state(line(5, 0.4)), actions)
    first = int((~trajectory.valid).nonzero()[0])
    assert 3 <= first <= 8
    assert not bool(trajectory.valid[first:].any())
    assert float(twin.scene.strain(trajectory.states)[first].max()) > 0.1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="above zero, got 0.0 m for edge 1"):
        Rod((0.1, 0.0, 0.1))
    with pytest.raises(ValueError, match="two edges at least"):
        Rod((0.1,))
    with pytest.raises(ValueError, match="names number 9"):
        Rod.even(1.0, 5, driven=(9,))
    with pytest.raises(ValueError, match="names one twice"):
        Rod.even(1.0, 5, driven=(4, -1))
    with pytest.raises(ValueError, match="spin can be commanded"):
        Rod.even(1.0, 5, driven=(0, 1), rolled=(0,))
    twin = RodTwin(Rod.even(0.4, 5), dt=0.01)
    with pytest.raises(ValueError, match="dt above zero"):
        RodTwin(Rod.even(0.4, 5), dt=0.0)
    with pytest.raises(ValueError, match=r"needs positions \(\*B, 5, 3\)"):
        twin.state(line(6, 0.4))
    with pytest.raises(ValueError, match="vertices 1 and 2 in one place"):
        start = line(5, 0.4)
        start[2] = start[1]
        twin.state(start)
    with pytest.raises(ValueError, match="finite positions"):
        twin.state(line(5, math.nan))
    with pytest.raises(ValueError, match="does not twist"):
        twin.state(line(5, 0.4), directors=torch.ones(4, 3))
    with pytest.raises(ValueError, match="never saw vertices 0 and 1"):
        seen = line(5, 0.4).expand(3, 5, 3).clone()
        seen[:, 0] = math.nan
        Rod.from_tracks(seen)


def test_a_recording_of_tracks() -> None:
    """Its own motion is predicted nearly; gaps in free vertices are allowed where nothing starts."""
    twin = RodTwin(Rod.even(0.4, 6, driven=(0, -1)), dt=0.02)
    actions = torch.zeros(2, 20, 6, dtype=torch.float64)
    actions[:, :, 4] = 0.3 * torch.linspace(0, 3, 20).sin()
    start = line(6, 0.38).expand(2, 6, 3)
    tracks = twin.rollout(twin.state(start), actions).states.positions
    seen = tracks.clone()
    seen[0, 5:9, 2] = math.nan
    recording = rod_recording(twin, seen)
    assert recording.actions.shape == (2, 19, 6)
    residual = recording.compare(twin.rollout(recording.state, recording.actions))["tracks"]
    assert residual.shape == (2, 19, 12) and int(residual.isnan().sum()) == 12
    assert float(residual.nan_to_num().abs().max()) < 0.02  # the velocity since the instant before is half a step late: half of 20 ms of gravity
    assert float(recording.measurements[0].magnitude(residual).max()) < 0.02
    for instant, vertex, sentence in ((7, 0, "every driven vertex seen; vertex 0 of run 1"), (1, 2, "every vertex at the start seen; vertex 2 of run 1")):
        seen = tracks.clone()
        seen[1, instant, vertex] = math.nan
        with pytest.raises(ValueError, match=sentence):
            rod_recording(twin, seen)
    halves = rod_recording(twin, tracks, segment=10)
    assert halves.actions.shape == (4, 8, 6) and halves.runs.tolist() == [0, 0, 1, 1]
    assert torch.equal(halves.state.positions[3], tracks[1, 11]) and torch.equal(halves.actions[2], recording.actions[1, :8])
    seen = tracks.clone()
    seen[1, 11, 2] = math.nan
    with pytest.raises(ValueError, match="vertex 2 of run 1 was not at instant 11"):
        rod_recording(twin, seen, segment=10)
    with pytest.raises(ValueError, match="segments of three instants at least, got 2"):
        rod_recording(twin, tracks, segment=2)
    with pytest.raises(ValueError, match="are units and dt right"):
        rod_recording(twin, 1000 * tracks)
    with pytest.raises(ValueError, match=r"needs tracks \(N, T, 6, 3\)"):
        rod_recording(twin, tracks[:, :2])


def test_a_measurement_of_other_points_is_refused() -> None:
    twin = RodTwin(Rod.even(0.4, 5), dt=0.02)
    trajectory = twin.rollout(twin.state(line(5, 0.4).expand(1, 5, 3)), torch.zeros(1, 3, 0))
    with pytest.raises(ValueError, match="say which in points="):
        TrackMeasurement(torch.zeros(1, 4, 4, 3)).residual(trajectory)
    with pytest.raises(ValueError, match="names point 7 of a model that has 5"):
        TrackMeasurement(torch.zeros(1, 4, 1, 3), (7,)).residual(trajectory)
    with pytest.raises(ValueError, match="no finite position"):
        TrackMeasurement(torch.full((1, 4, 1, 3), math.nan))
    with pytest.raises(ValueError, match="needs positions"):
        TrackMeasurement(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="scale above zero"):
        TrackMeasurement(torch.zeros(1, 4, 5, 3), scale=0.0)


def test_a_step_that_explodes_is_told() -> None:
    """Edges pulled far beyond their length at once swing across too fast for long substeps."""
    x = line(17, 0.4) + 0.003 * torch.randn(17, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for substeps, valid in ((1, False), (64, True)):
        twin = RodTwin(Rod.even(0.4, 17, driven=(0, -1)), dt=0.1, substeps=substeps, values={"stretch_stiffness": 1e4, "bend_stiffness": 1e-4})
        actions = torch.zeros(1, 40, 6, dtype=torch.float64)
        trajectory = twin.rollout(twin.state(x[None]), actions)
        assert bool(trajectory.valid[0, 0]) and bool(trajectory.valid[0, -1]) is valid
