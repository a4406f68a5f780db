"""Odd but legal uses of planners, and what is refused in a sentence."""

import math
import time
from dataclasses import replace

import pytest
import torch

from structwm.demos import toys
from structwm.ensemble import Ensemble
from structwm.interfaces import Belief, Constraint, Objective
from structwm.noise import Noise
from structwm.planning import (
    CEM,
    ICEM,
    MCTS,
    MPC,
    MPPI,
    ActionChunks,
    ActionCost,
    CategoricalCEM,
    CoordinateGoal,
    CoordinateLimit,
    GradientPlanner,
    Hybrid,
    KeepAway,
    PredictiveSampling,
    SplineMPPI,
    Valid,
    WorstCase,
)
from structwm.scene import Scene
from structwm.spec import ActionSpec, ModelSpec, Traits
from tests.models import damped, members, planar
from tests.test_discrete_planners import Lamps, Matches, rooms

SPEED = CoordinateGoal({"vx": 0.5, "vy": -0.25}) + 0.01 * ActionCost()
BAND = [CoordinateLimit("vx", low=0.29, high=0.31)]
CONTINUOUS = {
    "MPPI": MPPI(horizon=6, samples=32, iterations=2),
    "iCEM": ICEM(horizon=6, samples=32, elites=8),
    "gradient": GradientPlanner(horizon=6, samples=4, steps=5),
    "hybrid": Hybrid(search=CEM(horizon=6, samples=32, elites=8), steps=5),
    "chunks": ActionChunks(search=MPPI(horizon=3, samples=32), length=2),
}


@pytest.fixture(params=CONTINUOUS, ids=str)
def planner(request):
    return CONTINUOUS[request.param]


class Narrow(toys.DoubleIntegrator):
    """Actions whose bounds leave zero out."""

    def __init__(self):
        super().__init__()
        self.spec = ModelSpec(toys.PlanarState, ActionSpec.box([0.05, -math.inf], [0.1, 0.3]), 0.1)


def test_planned_members_are_dealt_anew_at_each_step():
    """Planners share a model's noise between candidates; the deal of members has no axis of candidates, and must not be shared."""
    model = Ensemble([damped(0.0), damped(0.5), damped(1.0)], propagation="random_member")
    moving = toys.PlanarState(position=torch.zeros(8, 2), velocity=torch.ones(8, 2), batch_size=[8])
    plan = MPPI(horizon=6, samples=4).plan(model, moving, SPEED, seed=0)
    speeds = plan.trajectory.coordinates()[..., 2]  # (B, E, H+1)
    alone = torch.stack([damped(rate).rollout(moving, plan.actions).coordinates()[..., 2] for rate in (0.0, 0.5, 1.0)], 1)
    assert not torch.allclose(speeds, alone, atol=1e-3)
    assert len({tuple(row.argsort().tolist()) for row in speeds[:, :, 1]}) > 1  # problems are dealt to differently


def test_where_no_problem_is_active_all_go_on(planner):
    model, state = toys.DoubleIntegrator(), planar(3)
    steps = planner.stride
    first = planner.plan(model, state, SPEED, seed=0)
    idle = planner.plan(model, state, SPEED, previous=first, elapsed=steps, active=torch.zeros(3, dtype=torch.bool), seed=0)
    assert torch.equal(idle.actions, torch.cat((first.actions[:, steps:], first.actions[:, -1:].expand(-1, steps, -1)), 1))
    assert torch.allclose(idle.cost, SPEED(model.rollout(state, idle.actions)), atol=1e-6)
    assert idle.index == 1


def test_problems_that_go_on_stay_inside_the_bounds():
    """A plan that moves up ends with zeros, which these bounds leave out."""
    planner = MPPI(horizon=4, samples=16, tail="zero")
    first = planner.plan(Narrow(), planar(3), SPEED)
    later = planner.plan(Narrow(), planar(3), SPEED, previous=first, active=torch.tensor([True, False, True]))
    Narrow().spec.action.check(later.actions)
    assert torch.equal(later.actions[1, :-1], first.actions[1, 1:])


def test_multipliers_of_problems_that_go_on_stay_as_they_are():
    planner = MPPI(horizon=5, samples=16, rule="augmented_lagrangian")
    first = planner.plan(toys.DoubleIntegrator(), planar(3), SPEED, constraints=BAND)
    active = torch.tensor([True, False, True])
    later = planner.plan(toys.DoubleIntegrator(), planar(3), SPEED, constraints=BAND, previous=first, active=active)
    assert torch.equal(later.multipliers[1], first.multipliers[1])
    assert not torch.equal(later.multipliers[0], first.multipliers[0])


def test_multipliers_begin_anew_with_other_constraints():
    planner, model = MPPI(horizon=5, samples=16, rule="augmented_lagrangian"), toys.DoubleIntegrator()
    first = planner.plan(model, planar(3), SPEED, constraints=[CoordinateLimit("vy", high=-5.0)])
    moved, plain = (planner.plan(model, planar(3), SPEED, constraints=BAND, previous=replace(first, multipliers=m)) for m in (first.multipliers, None))
    assert float(first.multipliers.min()) > 0
    assert moved.multipliers.shape == (3, 2) and torch.equal(moved.multipliers, plain.multipliers)


def test_elites_of_problems_that_go_on_stay_theirs():
    planner, model = ICEM(horizon=5, samples=32, elites=4), toys.DoubleIntegrator()
    first = planner.plan(model, planar(2), SPEED)
    later = planner.plan(model, planar(2), SPEED, previous=first, active=torch.tensor([True, False]))
    assert torch.equal(later.sampler.elites[1], planner.shift(first.sampler).elites[1])


def test_the_planners_own_std_counts_after_a_plan_of_another():
    model = toys.DoubleIntegrator()
    wide = MPPI(horizon=4, samples=16, std=0.5).plan(model, planar(2), SPEED)
    for planner in (MPPI(horizon=4, samples=16, std=0.01), ICEM(horizon=4, samples=16, elites=4, std=0.01)):
        near = planner.plan(model, planar(2), SPEED, previous=wide)
        assert float((near.actions - planner.moved_up(wide.actions)).abs().max()) < 0.1
        assert torch.all(near.sampler.wide == 0.01)


def test_a_mask_without_a_plan_to_go_on_with_is_refused():
    for planner, model, state, goal in (
        (MPPI(horizon=3, samples=8), toys.DoubleIntegrator(), planar(2), SPEED),
        (MCTS(horizon=3, simulations=4), Lamps(), rooms(0, 0), Matches(torch.zeros(3))),
    ):
        with pytest.raises(ValueError, match="not active go on with the previous plan, and there is none"):
            planner.plan(model, state, goal, active=torch.tensor([True, False]))
        with pytest.raises(ValueError, match=r"active must be bool of shape \(2,\)"):
            planner.plan(model, state, goal, active=torch.tensor([True]))
        with pytest.raises(ValueError, match="elapsed is a number of steps, 0 or more, got -1"):
            planner.plan(model, state, goal, previous=planner.plan(model, state, goal), elapsed=-1)


class Scalar(Objective):
    def __call__(self, trajectory):
        return trajectory.coordinates()[..., 0].mean()


class Instants(Objective):
    def __call__(self, trajectory):
        return trajectory.coordinates()[..., 0]


class Bare(Constraint):
    def __call__(self, trajectory):
        return trajectory.coordinates()[..., -1, 0]


@pytest.mark.parametrize("model", [toys.DoubleIntegrator(), Ensemble([damped(0.0), damped(0.1)])], ids=["one", "members"])
def test_costs_of_another_shape_are_named(model):
    planner, count = MPPI(horizon=3, samples=1), model.spec.members
    with pytest.raises(ValueError, match=rf"Scalar needs to give one cost a trajectory, \(2, 1, {count}\), got \(\)"):
        planner.plan(model, planar(2), Scalar())
    with pytest.raises(ValueError, match=rf"Instants needs to give one cost a trajectory, \(2, 1, {count}\), got \(2, 1, {count}, 4\)"):
        planner.plan(model, planar(2), SPEED + Instants())
    with pytest.raises(ValueError, match=rf"Bare needs to give violations \(2, 1, {count}, C\), got \(2, 1, {count}\)"):
        planner.plan(model, planar(2), SPEED, constraints=[Bare()])


def test_states_that_do_not_fit_the_model_are_named():
    planner = MPPI(horizon=3, samples=8)
    with pytest.raises(ValueError, match="Pendulum takes PendulumState, got PlanarState"):
        planner.plan(toys.Pendulum(), planar(2), SPEED)
    with pytest.raises(ValueError, match=r"states \(B,\) or a belief over \(B, E\), got a state of batch_size \(2, 3\)"):
        planner.plan(toys.DoubleIntegrator(), planar(6).reshape(2, 3), SPEED)
    with pytest.raises(ValueError, match=r"states \(B,\) or a belief over \(B, E\), got a belief of batch_size \(6,\)"):
        planner.plan(toys.DoubleIntegrator(), Belief(planar(6), torch.zeros(6)), SPEED)
    with pytest.raises(ValueError, match=r"Ensemble has 2 members, got states of batch_size \(2, 3\)"):
        planner.plan(Ensemble([damped(0.0), damped(0.1)]), members(planar(2), 3), SPEED)
    with pytest.raises(ValueError, match="at least one problem, got states of batch_size"):
        planner.plan(toys.DoubleIntegrator(), planar(0), SPEED)


def test_proposals_that_are_no_actions_are_refused():
    hole = torch.zeros(2, 1, 6, 2)
    hole[1, 0, 3] = math.nan
    with pytest.raises(ValueError, match="proposals must be finite"):
        MPPI(horizon=6, samples=16).plan(toys.DoubleIntegrator(), planar(2), SPEED, proposals=hole)
    with pytest.raises(ValueError, match=r"lies in 0\.\.2, got values from 7 to 7"):
        CategoricalCEM(horizon=6).plan(Lamps(), rooms(0), Matches(torch.zeros(6)), proposals=torch.full((1, 1, 6), 7))


def test_what_a_planner_cannot_search_with_is_refused():
    class Smooth(Lamps):
        def __init__(self):
            super().__init__()
            self.spec = replace(self.spec, traits=Traits())

    with pytest.raises(ValueError, match="Hybrid refines continuous actions; Smooth takes discrete ones"):
        Hybrid(search=CategoricalCEM(horizon=6)).plan(Smooth(), rooms(0), Matches(torch.zeros(6)))
    with pytest.raises(ValueError, match=r"ActionChunks.search is a sampling planner or Hybrid, got MCTS"):
        ActionChunks(search=MCTS(horizon=3))


class Held(toys.DoubleIntegrator):
    """The second number of an action is always the same."""

    def __init__(self):
        super().__init__()
        self.spec = ModelSpec(toys.PlanarState, ActionSpec.box([-1.0, 0.5], [1.0, 0.5]), 0.1)


def test_descent_moves_the_other_axes_where_one_is_fixed():
    start = planar(3)
    search = CEM(horizon=6, samples=8, elites=2, iterations=1)
    before, after = (planner.plan(Held(), start, SPEED, seed=0) for planner in (search, Hybrid(search=search, steps=20)))
    assert torch.all(after.cost < before.cost - 1e-4)
    Held().spec.action.check(after.actions)
    alone = GradientPlanner(horizon=6, samples=2, steps=20).plan(Held(), start, SPEED)
    assert torch.all(alone.cost < SPEED(Held().rollout(start, Held().spec.action.centre.expand(3, 6, 2))) - 1e-4)


def test_descent_leaves_a_cost_that_does_not_depend_on_the_actions():
    """A network's numbers ask for gradients, and the position after one step knows of them but not of the action."""

    class Drifting(toys.DoubleIntegrator):
        def __init__(self):
            super().__init__()
            self.drift = torch.nn.Parameter(torch.ones(2))
            self.scene = Scene(decoders={"coordinates": lambda state: state.position}, coordinate_names=("x", "y"))

        def step_fields(self, fields, action, *, noise=None):
            following = super().step_fields(fields, action)
            return {**following, "position": fields["position"] + self.drift}

    plan = GradientPlanner(horizon=1, samples=4, steps=3).plan(Drifting(), planar(2), CoordinateGoal({"x": 0.0}, stage=0.0))
    assert torch.allclose(plan.cost, (planar(2).position[:, 0] + 1).square())


@pytest.mark.parametrize("planner", [GradientPlanner(horizon=4, samples=32), Hybrid(search=MPPI(horizon=4, samples=128))], ids=["gradient", "hybrid"])
def test_descent_keeps_a_time_budget(planner, monkeypatch):
    """By a clock that only rollouts move, half a millisecond each: one of all starts takes 32 ms."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(toys.DoubleIntegrator):
        def roll(self, state, actions, *, noise=None):
            clock[0] += 5e-4 * actions.shape[:-2].numel()
            return super().roll(state, actions, noise=noise)

    for budget in (0.02, 0.06, 0.2):
        timed = replace(planner, search=replace(planner.search, budget=budget)) if isinstance(planner, Hybrid) else replace(planner, budget=budget)
        plan = timed.plan(Slow(), planar(2), SPEED)
        again = timed.plan(Slow(), planar(2), SPEED, previous=plan)
        assert max(plan.seconds, again.seconds) <= 1.05 * budget
        assert torch.isfinite(plan.cost).all()


@pytest.mark.parametrize("start", ["state", "parted", "belief", "weighted"])
def test_a_controller_of_members_makes_up_for_latency(start):
    """Actions under way are rolled out through the members, whatever the plan starts from."""
    model = Ensemble([damped(0.0), damped(0.5)])
    state = planar(3)
    particles = state.unsqueeze(1).expand(3, 6).clone()
    sure = torch.full((3, 6), -math.inf)
    sure[:, 4] = 0.0
    given = {
        "state": state,
        "parted": members(state, 2),
        "belief": Belief(particles, torch.zeros(3, 6), time=0.5),
        "weighted": Belief(particles.replace(position=particles.position + torch.arange(6.0)[:, None] - 4.0), sure, time=0.5),
    }[start]
    control = MPC(model, MPPI(horizon=4, samples=16), SPEED, latency=2)
    sent = [control.act(given) for _ in range(3)][:2]
    expected = model.rollout(members(state, 2), torch.stack(sent, 1)).states[..., -1]
    assert torch.allclose(control.start.states.velocity, expected.velocity) and torch.allclose(control.start.states.position, expected.position)
    if start in ("belief", "weighted"):
        assert control.start.time == pytest.approx(0.7)


def test_proposals_are_made_for_particles_that_have_weight():
    asked = []

    def propose(state, noise):
        asked.append(state.position.clone())
        return torch.zeros(2, 1, 4, 2)

    states = members(planar(2), 3)
    states = states.replace(position=states.position + torch.tensor([0.0, 50.0, 70.0])[:, None])
    belief = Belief(states, torch.tensor([[0.0, -math.inf, -math.inf]] * 2))
    MPC(toys.DoubleIntegrator(), MPPI(horizon=4, samples=16, particles=2), SPEED, propose=propose).act(belief)
    assert torch.allclose(asked[0], planar(2).position)


def test_particles_without_weight_are_never_drawn():
    """Also at the ends of the unit interval, where the draws are 0 or just below 1."""

    class Ends(Noise):
        def uniform(self, shape, *, like=None):
            return torch.tensor([[0.0], [1.0 - 2**-24]]).expand(*shape)

    states = toys.PlanarState(position=torch.arange(5.0)[None, :, None].expand(2, 5, 2), velocity=torch.zeros(2, 5, 2), batch_size=[2, 5])
    belief = Belief(states, torch.tensor([[-math.inf, 0.1, 0.3, 0.7, -math.inf]] * 2))
    drawn = belief.resample(7, Ends(torch.zeros(2, dtype=torch.int64))).position
    assert float(drawn.min()) == 1.0 and float(drawn.max()) == 3.0


def test_stated_weights_are_those_that_the_update_took():
    """With a cost of controls, what moves the mean is not the order of the costs alone."""
    model, state = toys.DoubleIntegrator(), planar(2)
    start = MPPI(horizon=4, samples=64).plan(model, state, SPEED).with_actions(torch.full((2, 4, 2), 0.8))
    planner = MPPI(horizon=4, samples=64, control_cost=5.0, verify=False)
    plan = planner.plan(model, state, SPEED, previous=start, elapsed=0)
    drawn = planner.project(model.spec.action, planner.sample(start.sampler, Noise.from_seed(0, 2, step=1).stream(0)))
    assert torch.allclose((plan.candidates.weights[..., None, None] * drawn).sum(1), plan.actions, atol=1e-5)


def test_a_plan_that_went_on_tells_nothing_of_candidates_it_had_none_of():
    planner, limit = MPPI(horizon=4, samples=16), [CoordinateLimit("vx", high=-5.0)]
    first = planner.plan(toys.DoubleIntegrator(), planar(2), SPEED, constraints=limit)
    later = planner.plan(toys.DoubleIntegrator(), planar(2), SPEED, constraints=limit, previous=first, active=torch.tensor([True, False]))
    assert "rejected 16 of 16" in later.explain(0)
    assert "no candidate has a finite cost" in later.explain(1) and "nan" not in later.explain(1) and "rejected" not in later.explain(1)


# what stands in the way, and what is said of it


class Ahead(toys.DoubleIntegrator):
    """Explicit Euler: the action moves the velocity alone, so that no action changes the next position."""

    def step_fields(self, fields, action, *, noise=None):
        return {"position": fields["position"] + self.dt * fields["velocity"], "velocity": fields["velocity"] + self.dt * action}


@pytest.mark.parametrize("rule", ["rejection", "augmented_lagrangian"])
def test_of_candidates_that_break_a_constraint_alike_the_cheapest_is_taken(rule):
    """Inside a sphere that is left in two steps at the earliest, all that move outwards break it by what the next state does."""
    model, post = Ahead(), KeepAway(torch.zeros(1, 3), 0.3)
    state = toys.PlanarState(position=torch.tensor([[-0.25, 0.02]]), velocity=torch.zeros(1, 2), batch_size=[1])
    control = MPC(model, PredictiveSampling(horizon=20, rule=rule), CoordinateGoal({"x": -1.0, "y": 0.0}), constraints=[post])
    for _ in range(30):
        state = model.step(state, control.act(state))
    assert (state.position - torch.tensor([-1.0, 0.0])).norm() < 0.1


def test_candidates_without_time_break_nothing(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(toys.DoubleIntegrator):
        def roll(self, state, actions, *, noise=None):
            clock[0] += 1e-4 * actions.shape[:-2].numel()
            return super().roll(state, actions, noise=noise)

    plan = MPPI(horizon=4, samples=200, budget=0.012).plan(Slow(), planar(1), SPEED, constraints=[CoordinateLimit("vx", high=10.0)])
    known = int(plan.candidates.cost.isfinite().sum())
    assert 25 <= known < 120 and plan.candidates.tried == known
    assert plan.candidates.rejected == {"vx is at most 10": torch.tensor([0])}
    assert f"{known} of 200 candidates" in plan.explain() and plan.stopped.startswith(f"time was up after {known} of 200 candidates")


def test_problems_that_go_on_count_no_rejections():
    limits, planner = [CoordinateLimit("vx", high=-10.0)], MPPI(horizon=4, samples=16)
    first = planner.plan(toys.DoubleIntegrator(), planar(3), SPEED, constraints=limits)
    later = planner.plan(toys.DoubleIntegrator(), planar(3), SPEED, constraints=limits, previous=first, active=torch.tensor([True, False, True]))
    assert later.candidates.rejected["vx is at most -10"].tolist() == [16, 0, 16] and later.violation.gt(0).all()


def test_a_cost_that_some_candidates_lack_is_told():
    class Hole(Objective):
        def __call__(self, trajectory):
            speed = trajectory.coordinates()[..., -1, 2]
            return torch.where(speed > 0, torch.nan, speed.square())

    still = toys.PlanarState(position=torch.zeros(1, 2), velocity=torch.zeros(1, 2), batch_size=[1])
    plan = MPPI(horizon=4, samples=64).plan(toys.DoubleIntegrator(), still, Hole())
    known = int(plan.candidates.cost.isfinite().sum())
    assert 0 < known < 64 and f"64 candidates of which {known} have a finite cost, " in plan.explain()


def test_members_that_break_what_their_mean_keeps_are_named():
    model, limit = Ensemble([damped(0.0), damped(0.9)]), CoordinateLimit("vx", low=0.25)
    moving = toys.PlanarState(position=torch.zeros(1, 2), velocity=torch.tensor([[0.5, 0.0]]), batch_size=[1])
    plan = MPPI(horizon=1, samples=64).plan(model, moving, CoordinateGoal({"vx": 0.0}), constraints=[limit])
    assert bool(plan.feasible) and plan.prediction.breaking.tolist() == [[1]]
    assert "keeps every constraint by the risk over members, of which 1 of 2 break that vx is at least 0.25" in plan.explain()
    careful = MPPI(horizon=1, samples=64, risk=WorstCase()).plan(model, moving, CoordinateGoal({"vx": 0.0}), constraints=[CoordinateLimit("vx", low=-0.35)])
    assert "keeps every constraint\n" in careful.explain()


# particles


def test_all_particles_of_a_belief_count_by_default():
    belief = Belief(planar(12).reshape(3, 4), torch.zeros(3, 4))
    plan = MPPI(horizon=4, samples=16).plan(toys.DoubleIntegrator(), belief, SPEED)
    assert plan.trajectory.batch_shape == (3, 4)


def test_a_stochastic_model_is_planned_with_several_futures():
    """With one future a plan knows the noise to come, and is worse under any other noise."""
    model, start = toys.NoisyIntegrator(std=0.3), toys.PlanarState(position=torch.zeros(32, 2), velocity=torch.zeros(32, 2), batch_size=[32])
    goal, costs = CoordinateGoal({"x": 1.0, "y": 0.0}), {}
    for particles in (None, 16):
        plan = SplineMPPI(horizon=20, particles=particles, iterations=2).plan(model, start, goal)
        assert plan.trajectory.batch_shape == (32, particles or 1)
        many = plan.actions.unsqueeze(1).expand(32, 100, 20, 2)
        costs[particles] = goal(model.rollout(start.unsqueeze(1).expand(32, 100), many, noise=Noise.from_seed(9, 32))).mean()
    assert costs[16] < 0.8 * costs[None]


# gradients, bounds, refusals


def test_gradients_start_from_the_best_of_all_iterations():
    """Of one start, which is the plan so far, a second iteration is lost unless it begins where the first ended."""
    model, seen = toys.DoubleIntegrator(), []

    class Kept(GradientPlanner):
        def update(self, sampler, candidates, scores):
            seen.append((candidates, scores))
            return super().update(sampler, candidates, scores)

    Kept(horizon=6, samples=8, iterations=3, steps=1).plan(model, planar(2), SPEED)
    best = [scores.amin(1) for _, scores in seen]
    assert len(seen) == 3 and (best[1] <= best[0]).all() and (best[2] <= best[1]).all()
    assert torch.equal(seen[2][0][:, 0], seen[1][0][torch.arange(2), seen[1][1].argmin(1)])


def test_a_first_plan_explores_where_only_one_bound_is_finite():
    class Far(toys.DoubleIntegrator):
        def __init__(self):
            super().__init__()
            self.spec = ModelSpec(toys.PlanarState, ActionSpec.box([5.0, -math.inf], [math.inf, -5.0]), 0.1)

    plan = PredictiveSampling(horizon=4, samples=64).plan(Far(), planar(1), CoordinateGoal({"vx": 9.0, "vy": -9.0}))
    assert plan.actions[..., 0].max() > 5.1 and plan.actions[..., 1].min() < -5.1


def test_bounds_hold_in_double_precision():
    spec = ActionSpec.box(-0.7, 0.7, 2)
    spec.check(torch.full((3, 2), 0.7, dtype=torch.float64))
    with pytest.raises(ValueError, match="must lie in"):
        spec.check(torch.full((3, 2), 0.7001, dtype=torch.float64))


def test_sequences_that_stay_applicable_for_longer_break_it_less():
    """In a corridor whose only way is a long one, random sequences all leave it, and the search finds in by the length of what is applicable."""

    class Lane(Lamps):
        def step(self, state, action, *, noise=None):
            return toys.RoomState(room=state.room + 1, batch_size=state.batch_size)

        def applicable(self, state):
            return torch.nn.functional.one_hot(state.room % 3, 3).bool()

    plan = CategoricalCEM(horizon=12, samples=256, iterations=15).plan(Lane(), rooms(0, 1), CoordinateGoal({"room": 0.0}))
    assert plan.feasible.all() and plan.actions[0].tolist() == [0, 1, 2] * 4
    part = Lane().rollout(rooms(0), torch.tensor([[0, 1, 0, 0]]))
    assert Valid()(part).tolist() == [[0.5]]


@pytest.mark.parametrize(
    "given, match",
    [
        (lambda p, m, s: p.plan(m, torch.zeros(2, 4), SPEED), "State of batch_size"),
        (lambda p, m, s: p.plan(m, s, lambda trajectory: 0.0), "needs to be an Objective"),
        (lambda p, m, s: p.plan(m, s, BAND[0]), "needs to be an Objective"),
        (lambda p, m, s: p.plan(m, s, SPEED, constraints=BAND[0]), "put it into a list"),
        (lambda p, m, s: p.plan(m, s, SPEED, constraints=[SPEED]), "of the class Constraint, got WeightedSum"),
        (lambda p, m, s: p.plan(m, s, SPEED, active=[True, True]), "tensor of bool, got list"),
        (lambda p, m, s: MPPI(risk=WorstCase), "risk needs to be a Risk"),
        (lambda p, m, s: MCTS(risk="mean"), "risk needs to be a Risk"),
        (lambda p, m, s: SPEED + 1.0, "unsupported operand"),
    ],
)
def test_what_is_no_state_objective_or_constraint_is_refused(given, match):
    with pytest.raises(TypeError, match=match):
        given(MPPI(horizon=4, samples=8), toys.DoubleIntegrator(), planar(2))


def test_a_controller_refuses_at_once_what_it_could_not_go_on_with():
    with pytest.raises(ValueError, match="decides for 2 steps at once"):
        MPC(toys.DoubleIntegrator(), CONTINUOUS["chunks"], SPEED, every=3)
    with pytest.raises(RuntimeError, match="call act"):
        MPC(toys.DoubleIntegrator(), MPPI(), SPEED).replace_last(torch.zeros(1, 2))
