"""Gradients of `RigidTwin` against central differences in float64: by every parameter, start state and action, on every shared world and kind of contact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_scene import RigidState
from structwm.physics.rigid_world import Body, BoxShape, CapsuleShape, ConvexShape, Geometry, Joint, Material, RigidWorld, Shape, SphereShape, drive

from .rigid_worlds import WORLDS, SmallWorld, arm, cube_on_plane, numbers, pose, pushed, run, still

RELATIVE = 1e-3  # what is asked of every derivative
FLOOR = 3e-7  # of the largest scaled derivative: what rounding leaves uncertain in differences over 1e-6 of a scale
STEPS = (1e-7, 1e-6, 1e-5)  # of the differences, in scales; one of them must agree, for rounding spoils the first, kinks and curvature the last

Leaves = dict[str, Tensor]


def exerted(twin: RigidTwin, generator: torch.Generator) -> Leaves:
    """All parameters in float64, off their defaults, and none at zero, so that every term of every force takes part."""
    values = {}
    for name, value in twin.values.items():
        parameter = twin.physical[name]
        width = float(parameter.high - parameter.low)
        nudge = 0.02 * (2 * float(torch.rand((), generator=generator)) - 1)
        if parameter.scale == "log":
            values[name] = value.double() * math.exp(nudge)
        elif parameter.low == 0:
            values[name] = (value.double() if float(value) > 0 else still(0.1 * parameter.default)) * (1 + nudge)
        else:
            values[name] = value.double() + 0.05 * nudge * width / 2
    values["slip_speed"] = values["slip_speed"] * 10  # smooth enough to be felt beside what a substep smooths
    return values


def scales(twin: RigidTwin, leaves: Leaves) -> Leaves:
    """By how much each number may be expected to vary."""
    found = {}
    for name, value in leaves.items():
        if name in twin.physical:
            spread = twin.physical[name].spread or 1.0
            found[name] = value.abs() if twin.physical[name].scale == "log" else torch.full_like(value, min(spread, 0.1 * float(twin.physical[name].high)))
        else:
            found[name] = value.abs().clamp_min(0.05)
    return found


def objective(twin: RigidTwin, weights: tuple[Tensor, Tensor]) -> Callable[[Leaves], Tensor]:
    """A random weighted sum of all states of a rollout, by leaves of any batch axis."""

    def value(leaves: Leaves) -> Tensor:
        batch = leaves["q"].shape[:-1]
        other = twin.with_parameters({name: leaf for name, leaf in leaves.items() if name in twin.physical})
        q, v = other.advance(leaves["q"], leaves["v"], leaves["u"])
        return (q * weights[0]).flatten(len(batch)).sum(-1) + (v * weights[1]).flatten(len(batch)).sum(-1)

    return value


def compare(twin: RigidTwin, leaves: Leaves, generator: torch.Generator) -> Leaves:
    """Check every derivative; returns them in units of the scales."""
    horizon = leaves["u"].shape[-2]
    weights = tuple(torch.randn(horizon + 1, leaves[name].shape[-1], generator=generator, dtype=torch.float64) for name in "qv")
    value = objective(twin, (weights[0], 0.1 * weights[1]))
    tracked = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    found = torch.autograd.grad(value(tracked), list(tracked.values()), allow_unused=True)
    size = scales(twin, leaves)
    exact = {name: torch.zeros_like(leaf) if g is None else g * size[name] for (name, leaf), g in zip(leaves.items(), found, strict=True)}
    flat = torch.cat([exact[name].reshape(-1) for name in leaves])
    assert bool(flat.isfinite().all())
    count, agree, numeric = len(flat), torch.zeros(len(flat), dtype=torch.bool), []
    tolerance = FLOOR * max(1.0, float(flat.abs().max()))
    for step in STEPS:
        moved, at = {}, 0
        for name, leaf in leaves.items():
            shift = torch.zeros(2 * count, leaf.numel(), dtype=torch.float64)
            index = torch.arange(leaf.numel())
            shift[at + index, index], shift[count + at + index, index] = step, -step
            moved[name] = leaf + shift.reshape(2 * count, *leaf.shape) * size[name]
            at += leaf.numel()
        with torch.no_grad():
            ahead, behind = value(moved).split(count)
        numeric.append((ahead - behind) / (2 * step))
        agree |= (numeric[-1] - flat).abs() <= RELATIVE * numeric[-1].abs() + tolerance
    labels = [f"{name}[{k}]" for name, leaf in leaves.items() for k in range(leaf.numel())]
    wrong = [f"{labels[k]}: {float(flat[k]):.6g}, differences {[float(n[k]) for n in numeric]}" for k in (~agree).nonzero().squeeze(-1).tolist()]
    assert not wrong, f"{len(wrong)} of {count} derivatives differ: {'; '.join(wrong[:8])}"
    return exact


def leaves_of(twin: RigidTwin, state: RigidState, steps: int, generator: torch.Generator) -> Leaves:
    actions = 0.8 * torch.rand(steps, twin.spec.action.size, generator=generator, dtype=torch.float64) - 0.4
    return {"q": state.configuration.clone(), "v": state.velocity.clone(), "u": actions} | exerted(twin, generator)


@pytest.mark.parametrize("make", WORLDS)
def test_one_substep(make: Callable[[], SmallWorld]) -> None:
    """From states along a rollout."""
    case = make()
    generator = torch.Generator().manual_seed(1)
    twin = RigidTwin(case.world, dt=0.001, substeps=1)
    actions = 0.5 * torch.ones(30, twin.spec.action.size, dtype=torch.float64)
    states = twin.rollout(case.start(twin), actions).states
    for instant in (0, 3, 11, 29):
        compare(twin, leaves_of(twin, states[instant], 1, generator), generator)


@pytest.mark.parametrize("make", WORLDS)
def test_whole_rollouts(make: Callable[[], SmallWorld]) -> None:
    """Twelve steps of four substeps, with impacts, through the states in between that the backward pass computes again."""
    case = make()
    generator = torch.Generator().manual_seed(2)
    twin = RigidTwin(case.world, dt=0.004, substeps=4)
    compare(twin, leaves_of(twin, case.start(twin), 12, generator), generator)


def test_every_parameter_takes_part() -> None:
    """In one of the worlds each kind of parameter has a derivative that the comparison would miss, were it wrong."""
    missing: set[str] = set()
    seen: set[str] = set()
    for make in WORLDS:
        case = make()
        generator = torch.Generator().manual_seed(3)
        twin = RigidTwin(case.world, dt=0.004, substeps=4)
        leaves = leaves_of(twin, case.start(twin), 12, generator)
        tracked = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        weights = (torch.ones(13, leaves["q"].shape[-1], dtype=torch.float64), torch.ones(13, leaves["v"].shape[-1], dtype=torch.float64))
        found = torch.autograd.grad(objective(twin, weights)(tracked), list(tracked.values()), allow_unused=True)
        size = scales(twin, leaves)
        scaled = {name: 0.0 if g is None else float((g * size[name]).abs().max()) for name, g in zip(tracked, found, strict=True) if leaves[name].numel()}
        most = max(scaled.values())
        for name, value in scaled.items():
            kind = name.rpartition(".")[2]
            motors = [actuator.kind.name.lower() for actuator in case.world.actuators if f"{actuator.name}.{kind}" == name]  # type: ignore[union-attr]
            (seen if value > 1e3 * FLOOR * max(1.0, most) else missing).add(" ".join((*motors, kind)))
    assert len(seen) > 35
    assert missing - seen <= {"velocity gain"}  # a command is a velocity, whatever the gain


BODY = {"box": BoxShape((0.05, 0.04, 0.03)), "sphere": SphereShape(0.04), "capsule": CapsuleShape(0.03, 0.05)}
BODY["mesh"] = ConvexShape(np.random.default_rng(3).normal(size=(12, 3)) * 0.04)
CONTACTS: dict[str, tuple[str, str, float, float]] = {  # shapes, and between which distances of their middles they touch
    "points against planes": ("box", "box", 0.05, 0.075),
    "points against planes of a mesh": ("mesh", "box", 0.04, 0.07),
    "points outside faces": ("sphere", "box", 0.055, 0.07),
    "points inside faces": ("sphere", "box", 0.005, 0.025),
    "samples of a capsule outside faces": ("capsule", "mesh", 0.06, 0.08),
    "samples of a capsule inside faces": ("capsule", "mesh", 0.005, 0.02),
    "segments": ("capsule", "capsule", 0.03, 0.055),
    "a segment and a point": ("capsule", "sphere", 0.04, 0.065),
    "points": ("sphere", "sphere", 0.05, 0.079),
}


def touching(one: str, other: str) -> RigidTwin:
    material = Material(friction=0.4, restitution=0.4, torsional_friction=0.003, rolling_friction=0.002)

    def body(name: str, shape: Shape, com: tuple[float, float, float]) -> Body:
        rounding = 0.0 if isinstance(shape, SphereShape | CapsuleShape) else 0.004
        geometry = Geometry(shape, (0.003, 0.002, -0.004), (0.8, 0.0, 0.6, 0.0), rounding)
        return Body(name, 0.4, (8e-4, 1e-3, 9e-4), (geometry,), com=com, material=material)

    bodies = (body("one", BODY[one], (0.004, 0.0, 0.002)), body("other", BODY[other], (0.0, -0.003, 0.002)))
    return RigidTwin(RigidWorld(bodies, fixtures=()), dt=0.002, substeps=1, values={"smoothing": 1e-3})


@pytest.mark.parametrize("kind", list(CONTACTS))
def test_every_kind_of_contact(kind: str) -> None:
    """Bodies turned and moved at random, so that they touch; one substep."""
    one, other, nearest, farthest = CONTACTS[kind]
    twin = touching(one, other)
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    touched = 0
    for _ in range(8):
        away = random(3)
        place = away / away.norm() * (nearest + (farthest - nearest) * float(torch.rand((), generator=generator)))
        poses = {"one": pose(0.0, 0.0, 0.0, turn=tuple(random(4).tolist())), "other": pose(*place.tolist(), turn=tuple(random(4).tolist()))}
        state = twin.state(poses, {"one": 0.5 * random(6), "other": 0.5 * random(6)})
        leaves = leaves_of(twin, state, 1, generator)
        derivatives = compare(twin, leaves, generator)
        touched += float(derivatives["one.stiffness"].abs()) > 1e-4
    assert touched >= 3


def test_by_torch_s_own_check() -> None:
    """The whole Jacobian, not one sum."""
    for case in (cube_on_plane(), arm()):
        twin = RigidTwin(case.world, dt=0.004, substeps=2)
        start = case.start(twin)
        chosen = [name for name in ("cube.friction", "cube.mass", "gravity", "upper.joint_damping", "upper_effort.gain") if name in twin.physical]
        actions = torch.full((2, twin.spec.action.size), 0.3, dtype=torch.float64)

        def states(q: Tensor, v: Tensor, u: Tensor, *values: Tensor, twin: RigidTwin = twin, chosen: list[str] = chosen) -> tuple[Tensor, Tensor]:
            return twin.with_parameters(dict(zip(chosen, values, strict=True))).advance(q, v, u)

        inputs = [start.configuration, start.velocity, actions, *(twin.values[name].double() for name in chosen)]
        assert torch.autograd.gradcheck(states, [x.clone().requires_grad_() for x in inputs], eps=1e-7, atol=1e-4, rtol=RELATIVE)


# batches


def gradients(twin: RigidTwin, start: RigidState, steps: int, values: Leaves) -> tuple[Tensor, Leaves]:
    """Of the sum of squares of all velocities, by the start's velocity and by parameters."""
    tracked = {name: value.clone().requires_grad_() for name, value in values.items()}
    speed = start.velocity.clone().requires_grad_()
    state = RigidState(configuration=start.configuration, velocity=speed, batch_size=start.batch_size)
    loss = run(twin.with_parameters(tracked), state, steps).velocity.square().sum()
    first, *rest = torch.autograd.grad(loss, [speed, *tracked.values()])
    return first, dict(zip(tracked, rest, strict=True))


def test_a_batch_has_the_gradients_of_each_alone() -> None:
    """By an unbatched start, by parameters that all share (the sum), and by those that each has for itself."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.004)
    start = case.start(twin)
    values = {"cube.friction": numbers(0.1, 0.3, 0.5), "mass": numbers(0.3, 0.4, 0.5)}
    together, own = gradients(twin, start.expand(2, 3), 10, values)
    assert together.shape == (2, 3, 6)
    shared, of_all = gradients(twin, start.expand(3), 10, {"mass": still(0.4)})
    for k in range(3):
        alone, single = gradients(twin, start, 10, {name: value[k] for name, value in values.items()})
        assert alone.shape == (6,)
        torch.testing.assert_close(together[:, k], alone.expand(2, 6), rtol=1e-10, atol=1e-12)
        for name in values:
            torch.testing.assert_close(own[name][k], 2 * single[name], rtol=1e-10, atol=1e-12)
    alone, single = gradients(twin, start, 10, {"mass": still(0.4)})
    torch.testing.assert_close(shared, alone.expand(3, 6), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(of_all["mass"], 3 * single["mass"], rtol=1e-10, atol=1e-12)


def test_single_precision_has_nearly_the_same_gradients() -> None:
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.004)
    start = case.start(twin)
    double, by = gradients(twin, start, 5, {"mass": still(0.4)})
    single, low = gradients(twin, start.to(torch.float32), 5, {"mass": still(0.4).float()})
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(low["mass"].double(), by["mass"], rtol=1e-2, atol=1e-2)


def test_gradients_reach_through_steps() -> None:
    """Step by step as in one rollout."""
    case = pushed()
    twin = RigidTwin(case.world, dt=0.004)
    actions = torch.full((5, 6), 0.2, dtype=torch.float64, requires_grad=True)
    start = case.start(twin)
    state = start
    for k in range(5):
        state = twin.step(state, actions[k])
    (stepped,) = torch.autograd.grad(state.velocity.sum() + state.configuration.sum(), actions)
    last = twin.rollout(start, actions).states[-1]
    (rolled,) = torch.autograd.grad(last.velocity.sum() + last.configuration.sum(), actions)
    torch.testing.assert_close(stepped, rolled, rtol=1e-9, atol=1e-12)


def test_a_rollout_without_touch_has_the_gradients_of_ballistics() -> None:
    """x = x0 + n h v0: derivatives 1 and the time; force over mass: -n h u / m^2."""
    body = Body("ball", 0.3, 3e-4, (Geometry(SphereShape(0.05)),))
    twin = RigidTwin(RigidWorld((body,), fixtures=()), dt=0.01, substeps=4)
    speed = numbers(1.0, 0.0, 0.0, 0.0, 0.0, 0.0).requires_grad_()
    place = pose(0.0, 0.0, 0.0).requires_grad_()
    state = RigidState(configuration=place, velocity=speed, batch_size=())
    by_place, by_speed = torch.autograd.grad(run(twin, state, 10).configuration[-1, 0], [place, speed])
    torch.testing.assert_close(by_place, numbers(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), rtol=0, atol=1e-12)
    torch.testing.assert_close(by_speed, numbers(0.1, 0.0, 0.0, 0.0, 0.0, 0.0), rtol=0, atol=1e-12)


# what is refused, and what is not hidden


def test_what_loses_derivatives_is_refused() -> None:
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.004)
    start = case.start(twin)

    def last(velocity: Tensor) -> Tensor:
        return twin.advance(start.configuration, velocity, torch.zeros(2, 0, dtype=torch.float64))[1][-1].sum()

    sentence = r"rigid rollout: expected gradients by torch.autograd.grad or backward\(\), got forward-mode differentiation or a transform of torch.func"
    with pytest.raises(ValueError, match=sentence):
        torch.func.grad(last)(start.velocity)
    with pytest.raises(ValueError, match=sentence):
        torch.func.jvp(last, (start.velocity,), (torch.ones_like(start.velocity),))
    with pytest.raises(ValueError, match=sentence):
        torch.func.vmap(last)(start.velocity.expand(3, 6))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ValueError, match=sentence):
        last(torch.autograd.forward_ad.make_dual(start.velocity, torch.ones_like(start.velocity)))


def test_second_derivatives_are_refused() -> None:
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.004)
    speed = case.start(twin).velocity.requires_grad_()
    state = RigidState(configuration=case.start(twin).configuration, velocity=speed, batch_size=())
    (first,) = torch.autograd.grad(run(twin, state, 2).velocity.square().sum(), speed, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_engines_without_gradients_say_so() -> None:
    pytest.importorskip("mujoco")
    from structwm.physics.calibration import Settings, calibrate
    from structwm.physics.mujoco_twin import MujocoTwin
    from structwm.physics.rigid_runs import RigidRun, rigid_recording

    case = cube_on_plane()
    world = RigidWorld((Body("cube", 0.3, 1e-3, (Geometry(BoxShape((0.05, 0.05, 0.05))),)),))
    assert RigidTwin(world, dt=0.01).spec.traits.differentiable
    twin = MujocoTwin(world, dt=0.01)
    assert not twin.spec.traits.differentiable
    speed = case.twists["cube"].clone().requires_grad_()
    state = RigidState(configuration=pose(0.0, 0.0, 0.2), velocity=speed, batch_size=())
    states = run(twin, state, 2)
    assert not states.velocity[1:].requires_grad
    recording = rigid_recording(twin, [RigidRun(poses={"cube": states.configuration.detach()}, twists={"cube": states.velocity.detach()})])
    with pytest.raises(ValueError, match="MujocoTwin has no gradients, which Adam needs; take refine='gauss_newton'"):
        calibrate(twin, recording, ["friction"], settings=Settings(refine="adam"))


def test_a_rollout_that_blows_up_has_gradients_that_are_not_finite() -> None:
    """Of its own world; those beside are as they are alone."""
    case = cube_on_plane()
    twin = RigidTwin(case.world, dt=0.004)
    start = case.start(twin)
    speeds = start.velocity.repeat(3, 1)
    speeds[1] = 1e200
    states = RigidState(configuration=start.configuration.expand(3, 7), velocity=speeds, batch_size=[3])
    first, own = gradients(twin, states, 5, {"mass": still(0.4)})
    assert not bool(first[1].isfinite().all())
    assert bool(first[[0, 2]].isfinite().all())
    alone, _ = gradients(twin, start, 5, {"mass": still(0.4)})
    torch.testing.assert_close(first[0], alone, rtol=0, atol=0)
    assert not bool(own["mass"].isfinite())


def test_starts_that_are_not_numbers_give_gradients_that_are_not() -> None:
    """Of free bodies and of joints; they are neither stopped nor made zero."""
    for case in (cube_on_plane(), arm()):
        twin = RigidTwin(case.world, dt=0.004)
        start = case.start(twin)
        start.velocity[..., 0] = math.nan
        first, _ = gradients(twin, start, 3, {"gravity": still(9.0)})
        assert bool(first.isnan().any())


def test_a_driven_body_s_gradient_is_that_of_its_command() -> None:
    """What an action commands has no derivative by the start's velocity."""
    pusher = Body("pusher", 1.0, 1.0, joint=Joint("driven"))
    twin = RigidTwin(RigidWorld((pusher,), fixtures=(), actuators=drive("pusher", 1.0)), dt=0.01)
    speed = numbers(0.3, 0.0, 0.0, 0.0, 0.0, 0.0).requires_grad_()
    action = torch.full((4, 3), 0.2, dtype=torch.float64, requires_grad=True)
    state = RigidState(configuration=pose(0.0, 0.0, 0.0), velocity=speed, batch_size=())
    by_speed, by_action = torch.autograd.grad(twin.rollout(state, action).states.configuration[-1, 0], [speed, action])
    torch.testing.assert_close(by_speed, torch.zeros(6, dtype=torch.float64), rtol=0, atol=0)
    torch.testing.assert_close(by_action, numbers(0.01, 0.0, 0.0).expand(4, 3), rtol=0, atol=1e-14)


def test_numbers_of_any_world_are_differentiated_alike() -> None:
    """A loss on angles of a joint by an action far back in time."""
    case = arm()
    twin = RigidTwin(case.world, dt=0.004)
    actions: Any = torch.full((12, 4), 0.3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(twin.rollout(case.start(twin), actions).states.configuration[-1].sum(), actions)
    assert bool((found.abs() > 0).all())
