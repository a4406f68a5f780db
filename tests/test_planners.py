"""The conformance suite of planners: every sampling planner passes it."""

import math
import platform
import time
from dataclasses import replace

import pytest
import torch

from structwm.demos import toys
from structwm.ensemble import Ensemble
from structwm.interfaces import Belief, Objective
from structwm.planning import (
    CEM,
    ICEM,
    MPC,
    MPPI,
    ActionChunks,
    ActionCost,
    ConditionalValueAtRisk,
    CoordinateGoal,
    CoordinateLimit,
    Gaussian,
    GradientPlanner,
    Hybrid,
    Mean,
    PoseGoal,
    PredictiveSampling,
    SplineMPPI,
    WorstCase,
    hybrid,
)
from structwm.scene import ViewMissing
from structwm.spec import ActionSpec, ModelSpec
from tests.models import damped, members, normal, planar

PLANNERS = {
    "MPPI": MPPI(horizon=12, samples=64, iterations=3, anneal=0.7),
    "MPPI in units of the cost": MPPI(horizon=12, samples=64, iterations=2, temperature=0.05, absolute=True),
    "MPPI on knots": MPPI(horizon=12, samples=64, iterations=2, knots=4),
    "MPPI far and near": MPPI(horizon=12, samples=64, iterations=3, narrow=0.05, tail="zero"),
    "MPPI of one iteration": MPPI(horizon=12, samples=64),
    "MPPI with control cost": MPPI(horizon=12, samples=64, iterations=2, control_cost=0.1, covariance=((1.0, 0.5), (0.5, 1.0))),
    "spline MPPI": SplineMPPI(horizon=12, samples=64, iterations=2, knots=5),
    "spline MPPI, held": SplineMPPI(horizon=12, samples=64, iterations=2, knots=5, spline="zero"),
    "predictive sampling": PredictiveSampling(horizon=12, samples=64, iterations=2, knots=4),
    "iCEM": ICEM(horizon=12, samples=64, elites=8),
    "iCEM with decay": ICEM(horizon=12, samples=64, elites=8, decay=1.5, colour=0.0),
    "gradient": GradientPlanner(horizon=12, samples=4, steps=20),
    "hybrid": Hybrid(search=MPPI(horizon=12, samples=64), steps=6, finalists=3),
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


def with_search(planner, **changes):
    """The planner with other settings of its search."""
    return replace(planner, search=replace(planner.search, **changes)) if isinstance(planner, Hybrid) else replace(planner, **changes)


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
    split = with_search(planner, chunk=50).plan(model, state, SPEED)
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
    careful = with_search(planner, risk=WorstCase()).plan(model, planar(3), SPEED)
    assert torch.all(careful.cost >= SPEED(careful.trajectory).mean(-1) - 1e-6)


def test_belief_particles(planner):
    states = planar(3).unsqueeze(1).expand(3, 4).clone()
    plan = with_search(planner, particles=6).plan(toys.DoubleIntegrator(), Belief(states, torch.zeros(3, 4)), SPEED)
    assert plan.trajectory.batch_shape == (3, 6)
    with_members = planner.plan(Ensemble([damped(0.0), damped(0.4)]), Belief(states, torch.zeros(3, 4)), SPEED)
    assert with_members.trajectory.batch_shape == (3, 2)


def test_proposals_are_considered(planner):
    model, state = toys.DoubleIntegrator(), planar(2)
    perfect = torch.full((2, 1, 12, 2), 0.9)
    plan = planner.plan(model, state, Near(0.9), proposals=perfect)
    assert float(plan.cost.max()) < 1e-6
    with pytest.raises(ValueError, match=r"proposals must be \(B, P, H, A\) = \(2, P < \d+, 12, 2\)"):
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
        (lambda: MPPI(samples=0), "samples must be a whole number of at least 1"),
        (lambda: MPPI(horizon=5.0), "horizon must be a whole number of at least 1, got 5.0"),
        (lambda: MPPI(temperature=0.0), "temperature > 0"),
        (lambda: MPPI(horizon=5, knots=6), "knots <= horizon"),
        (lambda: CEM(samples=10, elites=11), "elites <= samples"),
        (lambda: CEM(smoothing=1.0), "smoothing in"),
        (lambda: MPPI(chunk=0), "chunk must be at least 1"),
        (lambda: MPPI(budget=0.0), "budget is a time above 0 s"),
        (lambda: MPPI(covariance=((1.0, 2.0), (2.0, 1.0))), "positive definite matrix"),
        (lambda: MPPI(control_cost=-1.0), "must not be negative"),
        (lambda: MPPI(spline="square"), "'zero' or 'linear' or 'cubic'"),
        (lambda: ICEM(decay=0.5), "decay >= 1"),
        (lambda: Hybrid(steps=-1), "steps of zero or more"),
        (lambda: GradientPlanner(steps=0), "steps of one or more"),
    ],
)
def test_planner_settings_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_shifted_plan_may_end_with_zeros():
    mean = normal(2, 4, 1)
    for tail, last in (("hold", mean[:, -1]), ("zero", torch.zeros(2, 1))):
        planner = MPPI(horizon=4, tail=tail)
        shifted = planner.shift(Gaussian(mean, torch.ones_like(mean), torch.ones_like(mean)))
        assert torch.equal(shifted.mean[:, :-1], mean[:, 1:]) and torch.equal(shifted.mean[:, -1], last)
    with pytest.raises(ValueError, match="tail is 'hold' or 'zero'"):
        MPPI(tail="stop")


def test_descent_goes_on_where_sampling_ends() -> None:
    model, state = toys.DoubleIntegrator(), planar(3)
    search = MPPI(horizon=12, samples=16)
    costs = [Hybrid(search=search, steps=steps).plan(model, state, SPEED, seed=0).cost for steps in (0, 10, 60)]
    assert bool((costs[1] < costs[0]).all()) and bool((costs[2] <= costs[1] + 1e-6).all())
    low = CoordinateLimit("vx", high=0.2)
    resting = state.replace(velocity=torch.zeros_like(state.velocity))
    plan = Hybrid(search=search, steps=40).plan(model, resting, SPEED, constraints=(low,), seed=0)
    assert plan.violation is not None and float(plan.violation.max()) <= 1e-5


def test_descent_takes_each_candidate_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, state, taken = toys.DoubleIntegrator(), planar(3), []
    inner = hybrid.descend
    monkeypatch.setattr(hybrid, "descend", lambda rollouts, spec, actions, **options: taken.append(actions) or inner(rollouts, spec, actions, **options))
    for samples, iterations in ((16, 1), (16, 3), (4, 1)):  # after one iteration the best is of the last
        Hybrid(search=MPPI(horizon=12, samples=samples, iterations=iterations), steps=1, finalists=6).plan(model, state, SPEED, seed=0)
        for sequences in taken.pop():
            assert len(sequences.unique(dim=0)) == len(sequences) == min(6, samples)


@pytest.mark.parametrize("planner", [Hybrid(search=MPPI(horizon=3, samples=8)), GradientPlanner(horizon=3)], ids=["hybrid", "gradient"])
def test_descent_needs_gradients(planner) -> None:
    model, state = toys.DoubleIntegrator(), planar(1)
    model.spec = replace(model.spec, traits=replace(model.spec.traits, differentiable=False))
    with pytest.raises(ValueError, match="needs gradients, which DoubleIntegrator does not give"):
        planner.plan(model, state, SPEED)


RULES = [MPPI(horizon=10, samples=128, iterations=4, std=0.3), ICEM(horizon=10, samples=128, std=0.3), Hybrid(search=MPPI(horizon=10, samples=32), steps=30)]


@pytest.mark.parametrize("planner", RULES, ids=["MPPI", "iCEM", "hybrid"])
def test_an_augmented_lagrangian_finds_where_rejection_starves(planner):
    """A speed that must lie in a narrow band at every step: almost no candidate keeps it, and the multipliers lead there."""
    model = toys.DoubleIntegrator()
    state = toys.PlanarState(position=torch.zeros(2, 2), velocity=torch.full((2, 2), 0.3), batch_size=[2])
    band = [CoordinateLimit("vx", low=0.29, high=0.31), CoordinateLimit("vy", low=0.29, high=0.31)]
    lagrangian = with_search(planner, rule="augmented_lagrangian")
    previous, worst = None, []
    for _ in range(6):
        previous = lagrangian.plan(model, state, CoordinateGoal({"x": 1.0}), constraints=band, previous=previous)
        worst.append(float(previous.violation.clamp_min(0).sum(-1).mean()))
    assert worst[-1] < 0.02
    if not isinstance(planner, Hybrid):
        assert previous.multipliers.shape == (2, 4) and float(previous.multipliers.min()) >= 0


def test_problems_that_are_not_active_go_on(planner):
    model, state = toys.DoubleIntegrator(), planar(4)
    first = planner.plan(model, state, SPEED, seed=0)
    active = torch.tensor([True, False, True, False])
    goal = CoordinateGoal({"vx": torch.tensor([0.5, 0.1, -0.5, 0.2])})
    both = planner.plan(model, state, goal, previous=first, active=active, seed=0)
    anew = planner.plan(model, state, goal, previous=first, seed=0)
    kept = torch.cat((first.actions[:, 1:], first.actions[:, -1:]), 1)
    if getattr(planner, "tail", "hold") == "hold":
        assert torch.equal(both.actions[~active], kept[~active])
    assert torch.allclose(both.actions[active], anew.actions[active], atol=1e-5)
    assert torch.allclose(both.cost, goal(model.rollout(state, both.actions)), atol=1e-5)
    with pytest.raises(ValueError, match="not active go on with the previous plan, and there is none"):
        planner.plan(model, state, goal, active=active)


def test_only_active_problems_are_rolled_out():
    rows = []

    class Counted(toys.DoubleIntegrator):
        def roll(self, state, actions, *, noise=None):
            rows.append(state.batch_size[0])
            return super().roll(state, actions, noise=noise)

    first = CEM(horizon=4, samples=32).plan(Counted(), planar(6), SPEED)
    rows.clear()
    CEM(horizon=4, samples=32).plan(Counted(), planar(6), SPEED, previous=first, active=torch.tensor([True, True] + [False] * 4))
    assert set(rows) == {2}


def test_a_plan_says_where_its_cost_comes_from(planner):
    model, state = toys.DoubleIntegrator(), planar(3)
    limit = CoordinateLimit("vx", high=0.3)
    plan = planner.plan(model, state, SPEED, constraints=[limit])
    assert torch.allclose(sum(plan.terms.values()), plan.cost, atol=1e-5)
    assert list(plan.terms) == ["CoordinateGoal", "ActionCost"]
    seen = plan.candidates
    count = seen.cost.shape[1]
    assert torch.all((plan.effective_sample_size >= 1 - 1e-4) & (plan.effective_sample_size <= count + 1e-3))
    spread = seen.histogram(10)
    assert torch.all(spread.counts.sum(1) + spread.infinite == count)
    (rejected,) = seen.rejected.values()
    assert torch.all((rejected >= 0) & (rejected <= count))
    told = plan.explain(1)
    assert told.startswith(f"cost {float(plan.cost[1]):.4g}: CoordinateGoal") and "stopped: " in told and "rejected" in told


def test_a_time_budget_is_kept(monkeypatch):
    """By a clock that only rollouts move: a fifth of a millisecond, and ten microseconds for each."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(toys.DoubleIntegrator):
        def roll(self, state, actions, *, noise=None):
            clock[0] += 2e-4 + 1e-5 * actions.shape[:-2].numel()
            return super().roll(state, actions, noise=noise)

    whole = CEM(horizon=4, samples=200, iterations=50)
    assert replace(whole, iterations=1).plan(Slow(), planar(10), SPEED).stopped == "all iterations were done"
    for budget in (0.1, 0.01):  # an iteration takes 20 ms
        plan = None
        for _ in range(3):
            plan = replace(whole, budget=budget).plan(Slow(), planar(10), SPEED, previous=plan)
            assert 0.4 * budget < plan.seconds <= budget
            assert torch.isfinite(plan.cost).all()
        if budget > 0.02:
            assert 1 < plan.iterations < 50 and plan.stopped.startswith("time was up after")
    assert bool(plan.candidates.cost.isinf().any())  # candidates of the first iteration that time did not suffice for
    for planner in (MPPI(horizon=4, samples=200, budget=0.05), Hybrid(search=MPPI(horizon=4, samples=200, budget=0.05), steps=500)):
        assert planner.plan(Slow(), planar(10), SPEED).seconds <= 0.055


def test_chunks_of_actions_look_farther():
    """Six decisions of four steps are held between; constraints are seen at every step; plans go on after whole chunks."""
    model, state = toys.DoubleIntegrator(), toys.PlanarState(position=torch.zeros(2, 2), velocity=torch.zeros(2, 2), batch_size=[2])
    planner = ActionChunks(search=CEM(horizon=6, samples=128), length=4)
    goal = CoordinateGoal({"x": 1.0, "vx": 0.0}, stage=0.0)
    plan = planner.plan(model, state, goal, constraints=[CoordinateLimit("vx", high=0.8)])
    assert plan.actions.shape == (2, 24, 2) and planner.horizon == 24
    assert torch.equal(plan.actions[:, 0::4], plan.actions[:, 3::4])
    assert plan.trajectory.states.batch_size == (2, 1, 25)
    assert float(plan.trajectory.coordinates()[..., 2].max()) <= 0.8 + 1e-6
    assert torch.allclose(plan.cost, goal(model.rollout(state, plan.actions)), atol=1e-6) and float(plan.cost.max()) < 0.1
    control = MPC(model, planner, goal)
    assert control.every == 4
    for _ in range(9):
        state = model.step(state, control.act(state))
    assert control.plan.index == 2
    with pytest.raises(ValueError, match="goes on after whole chunks, not after 3 steps"):
        planner.plan(model, state, goal, previous=plan, elapsed=3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep memory in other ways")
def test_the_next_plan_uses_the_memory_of_the_last_one():
    """Two thousand pages would otherwise be asked of the system again for every plan."""
    resource = pytest.importorskip("resource")
    planner, state, pages = MPPI(horizon=15, samples=256), planar(64), []
    for _ in range(24):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        planner.plan(toys.DoubleIntegrator(), state, SPEED)
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert sum(pages[4:]) / 20 < 400


def test_risks_order_the_costs_of_plans():
    """At equal actions mean <= CVaR <= worst case, for the plans that planners return too."""
    model, state = Ensemble([damped(rate) for rate in (0.0, 0.1, 0.2, 0.6)]), planar(3)
    for planner in (MPPI(horizon=8, samples=64), ICEM(horizon=8, samples=64)):
        plan = replace(planner, risk=WorstCase()).plan(model, state, SPEED)
        costs = SPEED(plan.trajectory)
        mean, tail, worst = (risk(costs.unsqueeze(1))[:, 0] for risk in (Mean(), ConditionalValueAtRisk(0.5), WorstCase()))
        assert torch.all(mean <= tail + 1e-6) and torch.all(tail <= worst + 1e-6)
        assert torch.allclose(worst, plan.cost, atol=1e-5)
        assert torch.all(worst <= WorstCase()(SPEED(replace(planner, risk=Mean()).plan(model, state, SPEED).trajectory).unsqueeze(1))[:, 0] + 0.05)


def test_a_risk_is_taken_of_the_whole_cost():
    """Not of each term: members that are bad in one term may be good in another, and a cost to be subtracted is worst where it is lowest."""
    model, state = Ensemble([damped(rate) for rate in (0.0, 0.1, 0.2, 0.6)]), planar(3)
    for objective in (SPEED + (-1.0) * CoordinateGoal({"x": 0.3}), (-1.0) * CoordinateGoal({"vx": 0.5})):
        plan = MPPI(horizon=8, samples=64, risk=WorstCase()).plan(model, state, objective)
        assert torch.allclose(plan.cost, objective(plan.trajectory).amax(-1), atol=1e-5)


def test_what_does_not_fit_into_caches_is_computed_in_parts(monkeypatch, planner):
    model, state = toys.DoubleIntegrator(), planar(3).double()
    whole = planner.plan(model, state, SPEED)
    monkeypatch.setattr("structwm.planning.rollouts.CACHED", 50)
    parts = planner.plan(model, state, SPEED)
    assert torch.equal(whole.actions, parts.actions)
    assert torch.equal(whole.cost, parts.cost)


def test_hybrid_over_an_unverified_average_knows_the_best_candidate():
    search = MPPI(horizon=12, samples=64, verify=False)
    one, both = (Hybrid(search=replace(search, verify=verify), steps=1, rate=1e-6).plan(toys.DoubleIntegrator(), planar(3), SPEED) for verify in (False, True))
    assert torch.all(one.cost <= both.cost * 1.05)


def test_constraints_can_go_through_a_risk_of_their_own():
    """Members may break a limit that their mean keeps."""
    model, state = Ensemble([damped(rate) for rate in (0.0, 0.1, 0.2, 0.6)]), 0.1 * planar(3)
    planner, fast, limit = SplineMPPI(horizon=12, samples=128), (-1.0) * CoordinateGoal({"vx": 0.0}), [CoordinateLimit("vx", low=-0.5, high=0.5)]
    loose = planner.plan(model, state, fast, constraints=limit)
    strict = replace(planner, constraint_risk=WorstCase()).plan(model, state, fast, constraints=limit)
    assert torch.all(loose.prediction.breaking.sum(1) > 0) and torch.all(loose.feasible)
    assert torch.all(strict.prediction.breaking == 0) and torch.all(strict.feasible)
    assert torch.all(strict.cost > loose.cost)
    with pytest.raises(TypeError, match="constraint_risk"):
        replace(planner, constraint_risk=0.9)
