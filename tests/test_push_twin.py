"""PushTwin against theory, and its kernel against the torch reference."""

import math

import pytest
import torch

from structwm.check import check_model
from structwm.geometry.planar import Ellipse, Polygon, rotate, to_body
from structwm.noise import Noise
from structwm.physics import EllipsoidSupport, PushProposals, PushState, PushTwin
from structwm.physics.pushing import rectangle

SHAPES = {
    "box": rectangle(0.09, 0.11),
    "ellipse": Ellipse(0.0525, 0.065),
    "t": Polygon.of([(-0.015, -0.06), (0.015, -0.06), (0.015, 0.0), (0.06, 0.0), (0.06, 0.03), (-0.06, 0.03), (-0.06, 0.0), (-0.015, 0.0)]),
}
EVERYTHING = {
    "friction": 0.3,
    "surface_anisotropy_x": 0.1,
    "surface_anisotropy_xy": -0.05,
    "pressure_x": 0.2,
    "pressure_radial": 0.4,
    "pressure_stretch": -0.3,
    "outline_x": 0.001,
    "outline_y": -0.002,
    "outline_angle": 0.02,
    "tip_offset_x": 0.001,
    "tip_offset_y": 0.0005,
}


def starts(shape, count, radius=0.005, seed=0):
    """Pushers just off random boundary points, and velocities that push inwards."""
    generator = torch.Generator().manual_seed(seed)
    rim = torch.tensor(shape.boundary(count))
    normal = shape.nearest(rim * 1.0001).normal
    yaw = 6 * torch.rand(count, generator=generator, dtype=torch.float64)
    pose = torch.cat((0.1 * torch.randn(count, 2, generator=generator, dtype=torch.float64), yaw[:, None]), -1)
    pusher = pose[:, :2] + rotate(rim + normal * (radius + 0.0025), yaw)
    heading = rotate(rotate(-normal, yaw), 1.6 * torch.rand(count, generator=generator, dtype=torch.float64) - 0.8)
    return PushState(pose=pose, pusher=pusher, batch_size=[count]), 0.08 * heading


def push_along(twin, y, angle=0.0, steps=20):
    """A box at the origin pushed from the left at height y, in direction `angle`."""
    state = PushState(pose=torch.zeros(1, 3, dtype=torch.float64), pusher=torch.tensor([[-0.045 - 0.005, y]], dtype=torch.float64), batch_size=[1])
    velocity = torch.tensor([0.02 * math.cos(angle), 0.02 * math.sin(angle)], dtype=torch.float64)
    return twin.rollout(state, velocity.expand(1, steps, 2))


@pytest.mark.parametrize("name", SHAPES)
def test_contract(name):
    twin = PushTwin(SHAPES[name], values=EVERYTHING)
    state, _ = starts(SHAPES[name], 30)
    check_model(twin, state.apply(lambda value: value.float()))
    draws = twin.with_parameters({"friction": torch.tensor([0.1, 0.3, 0.6])})
    assert draws.spec.members == 3
    check_model(draws, state.apply(lambda value: value.float()).unsqueeze(1).expand(30, 3).clone())


@pytest.mark.parametrize("name", SHAPES)
def test_kernel_equals_reference(name):
    """In float64 to 1e-7 (the kernel stops its root search at 1e-7 of the friction cone), in float32 to 1e-5."""
    twin = PushTwin(SHAPES[name], values=EVERYTHING)
    state, velocity = starts(SHAPES[name], 200)
    actions = velocity.unsqueeze(1).expand(-1, 4, -1).contiguous()
    stepped = state
    for t in range(4):
        stepped = twin.step(stepped, actions[:, t])
    assert float((stepped.pose - state.pose)[:, :2].abs().mean()) > 0.005
    rolled = twin.rollout(state, actions).states
    assert torch.allclose(rolled.pose[:, -1], stepped.pose, atol=3e-7)
    assert torch.allclose(rolled.pusher[:, -1], stepped.pusher, atol=1e-12)
    single = twin.rollout(state.apply(lambda value: value.float()), actions.float()).states
    assert torch.allclose(single.pose[:, -1].double(), stepped.pose, atol=2e-5)


def test_threads_do_not_change_the_result():
    twin = PushTwin(SHAPES["box"])
    state, velocity = starts(SHAPES["box"], 3000)
    actions = velocity.unsqueeze(1).expand(-1, 3, -1).contiguous()
    whole = twin.rollout(state, actions).states.pose
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = twin.rollout(state, actions).states.pose
    torch.set_num_threads(threads)
    assert torch.equal(whole, alone)


@pytest.mark.parametrize(("support", "turn"), [(None, 5e-4), (EllipsoidSupport(rectangle(0.09, 0.09)), 1e-6)], ids=["pressure", "ellipsoid"])
def test_push_through_the_centre_of_friction_does_not_turn(support, turn):
    """Exactly so on the ellipsoid; uniform pressure is sampled at 96 points, which are not quite symmetric."""
    twin = PushTwin(rectangle(0.09, 0.09), support=support)
    poses = push_along(twin, 0.0).states.pose[0]
    assert abs(float(poses[-1, 2])) < turn
    assert float(poses[-1, 0]) == pytest.approx(0.04, abs=1e-6)


def test_pushes_beside_the_centre_turn_away_and_mirror():
    twin = PushTwin(rectangle(0.09, 0.09), support=EllipsoidSupport(rectangle(0.09, 0.09)))
    up, down = (push_along(twin, y).states.pose[0, -1] for y in (0.02, -0.02))
    assert float(up[2]) < -0.05
    assert torch.allclose(up * torch.tensor([1.0, -1.0, -1.0]), down, atol=1e-6)


def test_motion_cone_edges():
    """Lynch, Maekawa and Tanie (1992): a push sticks exactly while its direction lies between the contact velocities at the friction cone's edges.

    On the ellipsoid with a push through the centre, the edge force (1, mu) moves the contact along (1, mu (1 + (x / l)^2)), x the distance to the centre.
    """
    mu, length = 0.25, 0.035
    support = EllipsoidSupport(rectangle(0.09, 0.09))
    twin = PushTwin(rectangle(0.09, 0.09), substeps=1, dt=0.01, support=support, values={"friction": mu, "characteristic_length": length})
    edge = math.atan(mu * (1 + (0.045 / length) ** 2))
    for angle, sticks in ((0.98 * edge, True), (1.02 * edge, False), (-0.98 * edge, True), (-1.02 * edge, False)):
        before, after = push_along(twin, 0.0, angle, steps=1).states.pose[0]
        contact = torch.tensor([-0.045, 0.0], dtype=torch.float64)
        moved = after[:2] + rotate(contact, after[2]) - before[:2] - contact
        wanted = 0.0002 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        slip = float((moved - wanted)[1].abs()) / 0.0002
        assert (slip < 1e-3) == sticks, (angle, slip)


@pytest.mark.parametrize("name", SHAPES)
def test_work_is_never_negative_and_nothing_moves_by_itself(name):
    """In a short push the contact force f = -n + tau t, the motion of the contact point and the cone agree: f . v >= 0 for some |tau| <= friction."""
    twin = PushTwin(SHAPES[name], substeps=1, dt=0.01, values={"friction": 0.3})
    state, velocity = starts(SHAPES[name], 300)
    clear = SHAPES[name].nearest(to_body(state.pose, state.pusher)).distance > twin.pusher_radius
    state, velocity = state[clear], velocity[clear]
    still = twin.rollout(state, torch.zeros(len(velocity), 3, 2, dtype=torch.float64)).states.pose
    assert torch.equal(still[:, -1], state.pose)
    approached = twin.rollout(state, velocity.unsqueeze(1).expand(-1, 5, -1).contiguous()).states
    before, after = approached.pose[:, -2], approached.pose[:, -1]
    near = SHAPES[name].nearest(to_body(before, approached.pusher[:, -2]))
    contact, normal = near.point, rotate(near.normal, before[:, 2])
    moved = after[:, :2] + rotate(contact, after[:, 2]) - before[:, :2] - rotate(contact, before[:, 2])
    tangent = torch.stack((-normal[:, 1], normal[:, 0]), -1)
    most = -(normal * moved).sum(-1) + 0.3 * (tangent * moved).sum(-1).abs()
    assert float(moved.norm(dim=-1).max()) > 5e-4
    assert float(most.min()) > -1e-6


def test_a_pusher_that_retreats_leaves_the_slider():
    twin = PushTwin(SHAPES["box"])
    state, velocity = starts(SHAPES["box"], 50)
    poses = twin.rollout(state, -velocity.unsqueeze(1).expand(-1, 3, -1).contiguous()).states.pose
    assert torch.equal(poses[:, -1], state.pose)


def test_substeps_converge():
    state, velocity = starts(SHAPES["box"], 100)
    actions = velocity.unsqueeze(1).expand(-1, 5, -1).contiguous()
    coarse, fine, finest = (PushTwin(SHAPES["box"], substeps=n).rollout(state, actions).states.pose[:, -1] for n in (5, 20, 80))
    assert float((fine - finest).abs().mean()) < 0.4 * float((coarse - finest).abs().mean())
    assert float((coarse - finest)[:, :2].norm(dim=-1).median()) < 1e-3


def test_gradients_of_a_rollout_against_finite_differences():
    twin = PushTwin(SHAPES["box"], values={"pressure_radial": 0.3})
    state, velocity = starts(SHAPES["box"], 12)
    actions = velocity.unsqueeze(1).expand(-1, 3, -1).clone()
    friction = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    pressure = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def final(actions, friction, pressure):
        return twin.with_parameters({"friction": friction, "pressure_x": pressure}).rollout(state, actions).states.pose[:, -1]

    # contact begins and modes change at kinks: count the problems whose derivative agrees
    actions.requires_grad_()
    weight = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad((final(actions, friction, pressure) @ weight).sum(), (actions, friction, pressure))
    step = 1e-6
    direction = torch.randn(actions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        numeric = (final(actions + step * direction, friction, pressure) - final(actions - step * direction, friction, pressure)) @ weight / (2 * step)
        slopes = [
            ((final(actions, friction + step, pressure) - final(actions, friction - step, pressure)) @ weight / (2 * step)).sum(),
            ((final(actions, friction, pressure + step) - final(actions, friction, pressure - step)) @ weight / (2 * step)).sum(),
        ]
    ours = (gradients[0] * direction).sum((1, 2))
    assert float(((ours - numeric).abs() < 1e-3 * (1 + numeric.abs())).double().mean()) >= 0.9
    for gradient, slope in zip(gradients[1:], slopes, strict=True):
        assert float(gradient) == pytest.approx(float(slope), rel=1e-2, abs=1e-4)


def test_views():
    twin = PushTwin(SHAPES["box"], height=0.02)
    state, _ = starts(SHAPES["box"], 4)
    scene = twin.scene
    assert scene.views == {"coordinates", "poses", "points", "signed_distance"}
    assert scene.poses(state).shape == (4, 2, 7) and torch.allclose(scene.poses(state)[..., 3:].norm(dim=-1), torch.ones(4, 2, dtype=torch.float64))
    points = scene.points(state).positions
    assert points.shape == (4, 32, 3) and torch.all(points[..., 2] == 0.01)
    assert torch.allclose(scene.signed_distance(state, points), torch.zeros(4, 32, dtype=torch.float64), atol=1e-9)
    twice = torch.stack((state, state), 1)
    assert torch.allclose(scene.average(twice, 1).pose, state.pose)


def test_proposals_stay_in_bounds_and_reach_the_slider():
    twin = PushTwin(SHAPES["t"])
    state, _ = starts(SHAPES["t"], 6)
    state = state.apply(lambda value: value.float())
    proposals = PushProposals(twin, horizon=40, count=32)(state, Noise.from_seed(0, 6))
    assert proposals.shape == (6, 32, 40, 2)
    twin.spec.action.check(proposals)
    final = twin.rollout(state.unsqueeze(1).expand(6, 32), proposals).states.pose[:, :, -1]
    assert float(((final - state.pose[:, None])[..., :2].norm(dim=-1) > 1e-3).double().mean()) > 0.4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"friction": -0.1}, r"friction must lie in \[0.02, 1.5\] -, got -0.1"),
        ({"mass": 1.0}, "no parameter 'mass'; it has friction"),
        ({"friction": math.nan}, "got nan"),
    ],
)
def test_bad_parameters_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        PushTwin(SHAPES["box"], values=values)
    with pytest.raises(ValueError, match="substeps above zero"):
        PushTwin(SHAPES["box"], substeps=0)
    with pytest.raises(ValueError, match="do not broadcast"):
        PushTwin(SHAPES["box"]).with_parameters({"friction": torch.full((2,), 0.3), "pressure_x": torch.zeros(3)})


def test_a_rollout_sees_parameters_that_changed():
    """In place, by another tensor, and in another precision."""
    twin = PushTwin(SHAPES["box"])
    state, velocities = starts(SHAPES["box"], 8)
    actions = velocities.unsqueeze(1).expand(-1, 10, -1).float()
    state = PushState(pose=state.pose.float(), pusher=state.pusher.float(), batch_size=state.batch_size)

    def final():
        return twin.roll(state, actions).states.pose[:, -1]

    before = final()
    twin.values["friction"].mul_(2.0)
    doubled = final()
    twin.values["friction"] = torch.tensor(0.02)
    assert not torch.equal(before, doubled)
    assert not torch.equal(doubled, final())
    assert torch.allclose(final().double(), twin.roll(state.double(), actions.double()).states.pose[:, -1], atol=1e-4)
