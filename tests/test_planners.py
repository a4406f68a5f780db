"""The conformance suite of planners: every sampling planner passes it."""

import math
from dataclasses import replace

import pytest
import torch

from structwm.demos import toys
from structwm.ensemble import Ensemble
from structwm.interfaces import Belief, Objective
from structwm.noise import Noise
from structwm.planning import CEM, MPC, MPPI, ActionCost, CoordinateGoal, CoordinateLimit, Gaussian, PoseGoal, WorstCase
from structwm.scene import ViewMissing
from structwm.spec import ActionSpec, ModelSpec
from tests.models import damped, members, normal, pendulum, planar

PLANNERS = {
    "MPPI": MPPI(horizon=12, samples=64, iterations=3, anneal=0.7),
    "MPPI in units of the cost": MPPI(horizon=12, samples=64, iterations=2, temperature=0.05, absolute=True),
    "MPPI on knots": MPPI(horizon=12, samples=64, iterations=2, knots=4),
    "MPPI far and near": MPPI(horizon=12, samples=64, iterations=3, narrow=0.05, tail="zero"),
    "MPPI polished": MPPI(horizon=12, samples=64, polish=4, polished=3),
    "CEM": CEM(horizon=12, samples=64, elites=8),
    "CEM with one elite": CEM(horizon=12, samples=64, elites=1, smoothing=0.0, min_std=0.0),
    "CEM on knots": CEM(horizon=12, samples=64, elites=8, knots=3),
}
SPEED = CoordinateGoal({"vx": 0.5, "vy": -0.25}) + 0.01 * ActionCost()


class Strange(Objective):
    """Costs that no planner should be confused by."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, trajectory):
        first = trajectory.actions[..., 0, 0]
        return {
            "infinite": torch.full_like(first, float("inf")),
            "nan": torch.full_like(first, float("nan")),
            "equal": torch.ones_like(first),
            "half infinite": torch.where(first > 0, float("inf"), first),
            "minus infinite": torch.where(first > 0, -float("inf"), first),
            "huge": 1e30 * first,
        }[self.kind]


@pytest.fixture(params=PLANNERS, ids=lambda name: name.replace(" ", "-"))
def planner(request):
    return PLANNERS[request.param]


class Far(toys.DoubleIntegrator):
    """Bounds that are narrow, lopsided and partly absent."""

    def __init__(self):
        super().__init__()
        self.spec = ModelSpec(toys.PlanarState, ActionSpec.box([0.05, -math.inf], [0.1, 0.3]), 0.1)


@pytest.mark.parametrize("kind", ["infinite", "nan", "equal", "half infinite", "minus infinite", "huge"])
@pytest.mark.parametrize("model", [toys.DoubleIntegrator(), Far()], ids=["bounded", "lopsided"])
def test_actions_stay_in_bounds_and_finite_whatever_the_cost(planner, kind, model):
    previous = None
    for _ in range(3):
        previous = planner.plan(model, planar(3), Strange(kind), previous=previous)
        assert torch.isfinite(previous.actions).all()
        model.spec.action.check(previous.actions)


def test_same_seed_same_plan(planner):
    one, two, other = (planner.plan(toys.DoubleIntegrator(), planar(3), SPEED, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.actions, two.actions)
    assert not torch.equal(one.actions, other.actions)


def test_problems_together_equal_each_alone_bit_for_bit_in_float64(planner):
    state = planar(5).double()
    together, first = None, [None] * 5
    for _ in range(2):  # the second plan starts from the first
        together = planner.plan(toys.DoubleIntegrator(), state, SPEED, previous=together, seed=11)
        for b in range(5):
            first[b] = planner.plan(toys.DoubleIntegrator(), state[b : b + 1], SPEED, previous=first[b], seed=11 + b)
            assert torch.equal(together.actions[b], first[b].actions[0])
            assert torch.equal(together.cost[b], first[b].cost[0])


def test_network_costs_agree_within_a_ten_thousandth(planner):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))

    class Learned(toys.DoubleIntegrator):
        def step_fields(self, fields, action, *, noise=None):
            kick = network(torch.cat((fields["position"], fields["velocity"], action), -1))
            following = super().step_fields(fields, action)
            return {**following, "velocity": following["velocity"] + 0.02 * kick}

    together = planner.plan(Learned(), planar(4), SPEED, seed=1)
    for b in range(4):
        alone = planner.plan(Learned(), planar(4)[b : b + 1], SPEED, seed=1 + b)
        assert float(alone.cost[0]) == pytest.approx(float(together.cost[b]), rel=1e-4)


def test_chunks_do_not_change_the_plan(planner):
    model, state = Ensemble([toys.NoisyIntegrator(), toys.NoisyIntegrator()]), members(planar(3), 2)
    whole = planner.plan(model, state, SPEED)
    split = replace(planner, chunk=50).plan(model, state, SPEED)
    assert torch.allclose(whole.actions, split.actions, atol=1e-6)


def test_plan_is_not_worse_than_staying_with_the_previous(planner):
    model, state = toys.DoubleIntegrator(), planar(4)
    first = planner.plan(model, state, SPEED)
    middle = model.rollout(state, torch.zeros(4, 12, 2))
    assert torch.all(first.cost <= SPEED(middle) + 1e-6)
    assert torch.allclose(first.cost, SPEED(model.rollout(state, first.actions)), atol=1e-6)
    assert first.trajectory.batch_shape == (4, 1)
    assert bool(first.feasible.all())


def test_reaches_a_velocity(planner):
    model, state, goal = toys.DoubleIntegrator(), planar(6) * 0.2, CoordinateGoal({"vx": 0.3, "vy": 0.0}, stage=0.0)
    plan = planner.plan(model, state, goal)
    assert float(plan.cost.mean()) < 0.2 * float(goal(model.rollout(state, torch.zeros(6, 12, 2))).mean())


def test_constraints_are_kept_where_feasible_and_reported_where_not(planner):
    model = toys.DoubleIntegrator()
    still = toys.PlanarState(position=torch.zeros(2, 2), velocity=torch.zeros(2, 2), batch_size=[2])
    goal = CoordinateGoal({"x": 1.0})
    plan = planner.plan(model, still, goal, constraints=[CoordinateLimit("x", high=0.1)])
    assert bool(plan.feasible.all())
    assert float(plan.trajectory.coordinates()[..., 0].max()) <= 0.1 + 1e-6
    impossible = planner.plan(model, still, goal, constraints=[CoordinateLimit("x", low=50.0)])
    assert not bool(impossible.feasible.any())
    assert impossible.violation.shape == (2, 1) and torch.all(impossible.violation > 40.0)
    assert torch.isfinite(impossible.actions).all()


def test_members_and_risk(planner):
    model = Ensemble([damped(0.0), damped(0.4)])
    plan = planner.plan(model, planar(3), SPEED)
    assert plan.trajectory.batch_shape == (3, 2)
    careful = replace(planner, risk=WorstCase()).plan(model, planar(3), SPEED)
    assert torch.all(careful.cost >= SPEED(careful.trajectory).mean(-1) - 1e-6)


def test_belief_particles(planner):
    states = planar(3).unsqueeze(1).expand(3, 4).clone()
    plan = replace(planner, particles=6).plan(toys.DoubleIntegrator(), Belief(states, torch.zeros(3, 4)), SPEED)
    assert plan.trajectory.batch_shape == (3, 6)
    with_members = planner.plan(Ensemble([damped(0.0), damped(0.4)]), Belief(states, torch.zeros(3, 4)), SPEED)
    assert with_members.trajectory.batch_shape == (3, 2)


def test_proposals_are_considered(planner):
    model, state = toys.DoubleIntegrator(), planar(2)
    perfect = torch.full((2, 1, 12, 2), 0.9)
    plan = planner.plan(model, state, Near(0.9), proposals=perfect)
    assert float(plan.cost.max()) < 1e-6
    with pytest.raises(ValueError, match=r"proposals must be \(B, P, H, A\) = \(2, P < 64, 12, 2\)"):
        planner.plan(model, state, SPEED, proposals=torch.zeros(2, 64, 12, 2))


class Near(Objective):
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, trajectory):
        return (trajectory.actions - self.value).square().sum((-1, -2))


def test_refusals_come_before_work(planner):
    model = toys.DoubleIntegrator()
    with pytest.raises(ViewMissing, match="PoseGoal needs the view 'poses', which PlanarScene does not offer"):
        planner.plan(model, planar(2), PoseGoal(torch.tensor([0.0, 0, 0, 1, 0, 0, 0])))
    with pytest.raises(ValueError, match="Corridor takes discrete ones"):
        planner.plan(toys.Corridor(), toys.RoomState(room=torch.zeros(2, dtype=torch.int64), batch_size=[2]), SPEED)
    with pytest.raises(ValueError, match="previous plan does not fit"):
        planner.plan(model, planar(2), SPEED, previous=planner.plan(model, planar(3), SPEED))
    with pytest.raises(ValueError, match=r"int64 of shape \(2,\)"):
        planner.plan(model, planar(2), SPEED, seed=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no coordinate 'speed'; this scene has x, y, vx, vy"):
        planner.plan(model, planar(2), CoordinateGoal({"speed": 1.0}))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MPPI(samples=0), "samples must be at least 1"),
        (lambda: MPPI(temperature=0.0), "temperature > 0"),
        (lambda: MPPI(horizon=5, knots=6), "knots <= horizon"),
        (lambda: CEM(samples=10, elites=11), "elites <= samples"),
        (lambda: CEM(smoothing=1.0), "smoothing in"),
        (lambda: MPPI(chunk=0), "chunk must be at least 1"),
    ],
)
def test_planner_settings_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_swing_up_in_closed_loop():
    """MPC swings eight pendulums up that start anywhere near the bottom, and keeps them there."""
    model = toys.Pendulum()
    goal = CoordinateGoal({"angle": math.pi, "rate": 0.0}, weights={"rate": 0.1}, periodic=("angle",))
    control = MPC(model, MPPI(horizon=25, samples=256, iterations=2, knots=8), goal)
    state = pendulum(8) * 0.3
    for _ in range(80):
        state = model.step(state, control.act(state))
    off = (state.angle - math.pi + math.pi).remainder(2 * math.pi) - math.pi
    assert float(off.abs().max()) < 0.15


def test_latency_is_compensated():
    """In a world that runs four steps behind, a controller that knows it holds the mark at least twice as closely."""
    model, goal = toys.DoubleIntegrator(), CoordinateGoal({"x": 0.0, "y": 0.0, "vx": 0.0, "vy": 0.0})
    settled = {}
    for known in (0, 4):
        control = MPC(model, MPPI(horizon=15, samples=128, iterations=2), goal, latency=known)
        state, queue, errors = planar(4), [torch.zeros(4, 2)] * 4, []
        for _ in range(80):
            queue.append(control.act(state))
            state = model.step(state, queue.pop(0))
            errors.append(float(torch.cat((state.position, state.velocity), -1).norm(dim=-1).mean()))
        settled[known] = sum(errors[-30:])
    assert settled[4] < 0.5 * settled[0]


def test_mpc_on_a_belief_with_latency():
    states = planar(2).unsqueeze(1).expand(2, 4).clone()
    control = MPC(toys.DoubleIntegrator(), MPPI(horizon=5, samples=16, particles=4), SPEED, latency=1)
    belief = Belief(states, torch.zeros(2, 4))
    for _ in range(3):
        assert control.act(belief).shape == (2, 2)
    control.reset()
    assert control.plan is None


def test_common_noise_ranks_equal_actions_equally():
    plan = MPPI(horizon=5, samples=16).plan(toys.NoisyIntegrator(), planar(2), SPEED, seed=2)
    noise = Noise.from_seed(2, 2).child(2).sharing(1)
    twice = plan.actions[:, None].expand(2, 3, 5, 2)
    trajectory = toys.NoisyIntegrator().rollout(planar(2).unsqueeze(1).expand(2, 3), twice, noise=noise)
    cost = SPEED(trajectory)
    assert torch.equal(cost[:, 0], cost[:, 2])
    assert torch.allclose(cost[:, 0], plan.cost)


def test_a_shifted_plan_may_end_with_zeros():
    mean = normal(2, 4, 1)
    for tail, last in (("hold", mean[:, -1]), ("zero", torch.zeros(2, 1))):
        planner = MPPI(horizon=4, tail=tail)
        shifted = planner.shift(Gaussian(mean, torch.ones_like(mean), torch.ones_like(mean)))
        assert torch.equal(shifted.mean[:, :-1], mean[:, 1:]) and torch.equal(shifted.mean[:, -1], last)
    with pytest.raises(ValueError, match="tail is 'hold' or 'zero'"):
        MPPI(tail="stop")


def test_candidates_may_search_far_and_near_at_once():
    planner, flat = MPPI(horizon=3, samples=64, narrow=0.01), torch.zeros(1, 3, 2)
    sampler = Gaussian(flat, torch.ones_like(flat), torch.ones_like(flat))
    found, all_far = (p.sample(sampler, Noise.from_seed(0, 1)) for p in (planner, MPPI(horizon=3, samples=64)))
    assert not bool(found[:, 0].any())
    ratio = (found / all_far)[0, 1:, 0, 0]
    assert torch.allclose(ratio, 0.01 ** (torch.arange(1, 64) / 63), rtol=1e-4)
    with pytest.raises(ValueError, match="narrow is a share"):
        MPPI(narrow=0.0)


def test_polish_follows_gradients_where_sampling_ends() -> None:
    model, state = toys.DoubleIntegrator(), planar(3)
    plain = MPPI(horizon=12, samples=16)
    costs = [planner.plan(model, state, SPEED, seed=0).cost for planner in (plain, replace(plain, polish=10), replace(plain, polish=60))]
    assert bool((costs[1] < costs[0]).all()) and bool((costs[2] <= costs[1] + 1e-6).all())
    low = CoordinateLimit("vx", high=0.2)
    resting = state.replace(velocity=torch.zeros_like(state.velocity))
    plan = replace(plain, polish=40).plan(model, resting, SPEED, constraints=(low,), seed=0)
    assert plan.violation is not None and float(plan.violation.max()) <= 1e-5


def test_polish_takes_each_candidate_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, state, taken = toys.DoubleIntegrator(), planar(3), []
    polish = MPPI._polish
    monkeypatch.setattr(MPPI, "_polish", lambda self, evaluate, actions, spec: taken.append(actions) or polish(self, evaluate, actions, spec))
    for samples, iterations in ((16, 1), (16, 3), (4, 1)):  # after one iteration the best is of the last
        MPPI(horizon=12, samples=samples, iterations=iterations, polish=1, polished=6).plan(model, state, SPEED, seed=0)
        for sequences in taken.pop():
            assert len(sequences.unique(dim=0)) == len(sequences) == min(6, samples + 1)


def test_polish_needs_gradients() -> None:
    model, state = toys.DoubleIntegrator(), planar(1)
    model.spec = replace(model.spec, traits=replace(model.spec.traits, differentiable=False))
    with pytest.raises(ValueError, match="needs gradients"):
        MPPI(horizon=3, samples=8, polish=1).plan(model, state, SPEED)
    with pytest.raises(ValueError, match="polish of zero or more"):
        MPPI(polish=-1)
