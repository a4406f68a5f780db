"""Planners of discrete actions: the same promises as of continuous ones, and problems whose answers are known."""

import time
from dataclasses import replace

import pytest
import torch

from structwm.demos import toys
from structwm.ensemble import Ensemble
from structwm.interfaces import Objective
from structwm.planning import MCTS, MPC, CategoricalCEM, CoordinateGoal, PredictedReturn
from structwm.scene import Scene
from structwm.spec import ActionSpec, ModelSpec, Traits
from structwm.transition import Outcome, TransitionModel

PLANNERS = {
    "categorical CEM": CategoricalCEM(horizon=6, samples=64, elites=8, iterations=4),
    "MCTS": MCTS(horizon=6, simulations=48, completions=6),
}


@pytest.fixture(params=PLANNERS, ids=lambda name: name.replace(" ", "-"))
def planner(request):
    return PLANNERS[request.param]


def rooms(*start: int) -> toys.RoomState:
    return toys.RoomState(room=torch.tensor(start), batch_size=[len(start)])


class Lamps(TransitionModel[toys.RoomState]):
    """A walk of digits: action k appends digit k, `room` is the number so far; every action is applicable."""

    def __init__(self, choices: int = 3) -> None:
        super().__init__()
        self.spec = ModelSpec(toys.RoomState, ActionSpec.discrete(choices), dt=1.0, traits=Traits(differentiable=False))
        self.scene = Scene(decoders={"coordinates": lambda state: state.room.double().unsqueeze(-1)}, coordinate_names=("room",))

    def step(self, state, action, *, noise=None):
        return toys.RoomState(room=state.room * self.spec.action.choices + action, batch_size=state.batch_size)


class Chain(TransitionModel[toys.RoomState]):
    """Places 0..n in a row; left pays 0.1 at once and starts again, right pays 1 at the far end only. Values are those of always going right."""

    def __init__(self, length: int = 8, discount: float = 0.95, heads: frozenset = frozenset({"reward", "value"})) -> None:
        super().__init__()
        self.spec = ModelSpec(toys.RoomState, ActionSpec.discrete(("left", "right")), dt=1.0, traits=Traits(differentiable=False, predicts=heads))
        self.scene = Scene(decoders={"coordinates": lambda state: state.room.float().unsqueeze(-1)}, coordinate_names=("room",))
        self.length, self.discount, self.steps = length, discount, 0

    def step(self, state, action, *, noise=None):
        self.steps += 1
        return toys.RoomState(room=torch.where(action == 1, (state.room + 1).clamp_max(self.length), 0), batch_size=state.batch_size)

    def outcome(self, state, action, next_state):
        reward = torch.where(action == 1, (next_state.room == self.length).double(), 0.1)
        return Outcome(reward=reward, value=self.value(next_state) if "value" in self.spec.traits.predicts else None)

    def value(self, state):
        ahead = (self.length - state.room).clamp_min(1)
        return self.discount ** (ahead - 1).double() / (1 - self.discount)


class Matches(Objective):
    """How many digits differ from a code."""

    def __init__(self, code: torch.Tensor) -> None:
        self.code = code

    def __call__(self, trajectory):
        actions = trajectory.actions
        code = self.code if self.code.ndim == 1 else self.code.reshape(len(self.code), *(1,) * (actions.ndim - 2), -1)
        return (actions != code).sum(-1).double()


def test_actions_are_choices_and_plans_repeat_by_seed(planner):
    one, two = (planner.plan(Lamps(), rooms(0, 1), Matches(torch.tensor([2, 1, 0, 2, 1, 0])), seed=4) for _ in range(2))
    assert one.actions.shape == (2, 6) and one.actions.dtype == torch.int64
    Lamps().spec.action.check(one.actions)
    assert torch.equal(one.actions, two.actions)
    assert one.trajectory.batch_shape == (2, 1)
    assert torch.equal(one.cost, Matches(torch.tensor([2, 1, 0, 2, 1, 0]))(one.trajectory)[:, 0])


def test_problems_together_equal_each_alone(planner):
    code = torch.randint(0, 3, (4, 6), generator=torch.Generator().manual_seed(0))
    together = planner.plan(Lamps(), rooms(0, 0, 0, 0), Matches(code), seed=2)
    for b in range(4):
        alone = planner.plan(Lamps(), rooms(0), Matches(code[b : b + 1]), seed=2 + b)
        assert torch.equal(alone.actions[0], together.actions[b])
        assert torch.equal(alone.cost[0], together.cost[b])


def test_a_code_is_found(planner):
    """One of 729 codes, told by how many digits are right: each problem has its own."""
    code = torch.randint(0, 3, (6, 6), generator=torch.Generator().manual_seed(1))
    longer = replace(planner, simulations=300) if isinstance(planner, MCTS) else planner
    assert float(longer.plan(Lamps(), rooms(*(0,) * 6), Matches(code), seed=1).cost.max()) == 0.0


def test_a_plan_is_not_worse_than_the_one_before(planner):
    code = torch.tensor([2, 1, 0, 2, 1, 0, 0])
    first = planner.plan(Lamps(), rooms(0, 0), Matches(code[:6]), seed=0)
    kept = torch.cat((first.actions[:, 1:], first.actions[:, -1:]), 1)
    again = planner.plan(Lamps(), rooms(0, 0), Matches(code[1:]), previous=first, seed=0)
    assert again.index == 1
    assert torch.all(again.cost <= (kept != code[1:]).sum(1))


@pytest.mark.parametrize("objective", [CoordinateGoal({"room": 5.0}), CoordinateGoal({"room": torch.tensor([5.0, 5.0, 2.0])})], ids=["one", "each"])
def test_only_what_is_applicable_is_done(planner, objective):
    """The lift goes from the first room only; rooms have ends."""
    plan = planner.plan(toys.Corridor(), rooms(0, 3, 5), objective, seed=3)
    assert bool(plan.feasible.all()) and bool(plan.trajectory.valid.all())
    assert int(plan.actions[0, 0]) == 2
    assert float(plan.cost[0]) == pytest.approx(1.4)  # the best there is: one cannot stay in the last room


def test_the_end_of_a_corridor_is_reached_in_closed_loop(planner):
    model, state = toys.Corridor(), rooms(1, 4)
    control = MPC(model, planner, CoordinateGoal({"room": 0.0}))
    for _ in range(5):
        state = model.rollout(state, control.act(state)[:, None]).states[..., -1]
    assert state.room.tolist() == [0, 0] or float(state.room.max()) <= 1  # there is no staying: from the first room one walks on


def test_a_tree_of_values_looks_no_farther_than_it_must():
    """With a true value head, MuZero's form sees the pay at the end of a chain that its horizon does not reach, at one step of the model a simulation."""
    model = Chain()
    planner = MCTS(horizon=4, simulations=24)
    plan = planner.plan(model, rooms(0, 3), PredictedReturn(0.95), seed=0)
    assert plan.actions[:, 0].tolist() == [1, 1]
    expected = 0.95**7 / 0.05
    assert float(-plan.cost[0]) == pytest.approx(expected, rel=1e-6)
    assert model.steps < 24 + 20  # simulations, and the path that is followed in the end
    assert float(plan.candidates.weights.sum(1).min()) == pytest.approx(1.0)


def test_without_values_the_near_pay_wins():
    """The control of the test above: the same horizon, and no head that says what lies behind it."""
    near = MCTS(horizon=4, simulations=24).plan(Chain(heads=frozenset({"reward"})), rooms(0), PredictedReturn(0.95), seed=0)
    assert int(near.actions[0, 0]) == 0


def test_a_prior_directs_the_search():
    """With few simulations among many choices, a policy that knows the way finds the code, and an even one does not."""
    code = torch.tensor([7, 3, 11, 0])

    def knows(state):
        """The digits so far tell how many were chosen: the number grows with each."""
        place = (state.room[:, None] >= 16 ** torch.arange(1, 4)).sum(1)
        return 0.01 + 0.84 * torch.nn.functional.one_hot(code[place.clamp_max(3)], 16).double()

    class Codes(Lamps):
        def __init__(self):
            super().__init__(16)

    even = MCTS(horizon=4, simulations=12, completions=1)
    cost = {
        name: float(planner.plan(Codes(), rooms(1), Matches(code), seed=0).cost) for name, planner in (("even", even), ("told", replace(even, prior=knows)))
    }
    assert cost["told"] < cost["even"]


def test_time_is_kept(monkeypatch):
    """By a clock that only rollouts move."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Slow(Lamps):
        def roll(self, state, actions, *, noise=None):
            clock[0] += 1e-3
            return super().roll(state, actions, noise=noise)

    plan = MCTS(horizon=6, simulations=100_000, budget=0.1).plan(Slow(), rooms(0), Matches(torch.zeros(6)), seed=0)
    assert plan.seconds <= 0.1 and 90 <= plan.iterations <= 100 and plan.stopped.startswith("time was up after")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MCTS(simulations=0), "simulations must be a whole number of at least 1"),
        (lambda: MCTS(exploration=-1.0), "exploration must not be negative"),
        (lambda: CategoricalCEM(elites=500), "elites <= samples"),
        (lambda: CategoricalCEM(floor=2.0), "floor and restart"),
    ],
)
def test_settings_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_continuous_models_are_refused(planner):
    with pytest.raises(ValueError, match="plans discrete actions; DoubleIntegrator takes continuous ones"):
        planner.plan(toys.DoubleIntegrator(), toys.PlanarState(position=torch.zeros(1, 2), velocity=torch.zeros(1, 2), batch_size=[1]), PredictedReturn())
    with pytest.raises(ValueError, match="previous plan does not fit"):
        planner.plan(Lamps(), rooms(0), Matches(torch.zeros(6)), previous=planner.plan(Lamps(), rooms(0, 0), Matches(torch.zeros(6))))


def test_a_tree_of_values_goes_on_greedily_where_it_ends():
    """Few simulations for so many steps: behind the tree's end the model's values choose."""
    plan = MCTS(horizon=8, simulations=4).plan(Chain(), rooms(0, 2), PredictedReturn(0.95), seed=0)
    assert plan.actions.tolist() == [[1] * 8] * 2


class Ladder(Chain):
    """A chain where one cannot turn back at the second place, nor go on from the last."""

    def applicable(self, state):
        return torch.stack((state.room != 1, state.room < self.length), -1)


def test_a_tree_of_values_keeps_to_what_is_applicable():
    """Of all sequences that are possible the best is found, at one step of the model a simulation, as where everything applies."""
    model, objective = Ladder(length=4), PredictedReturn(0.95)
    every = torch.cartesian_prod(*[torch.arange(2)] * 5)
    found = model.rollout(rooms(0, 1).unsqueeze(1).expand(2, 32), every.expand(2, 32, 5))
    best = objective(found).masked_fill(~found.valid[..., -1], torch.inf).amin(1)
    model.steps = 0
    plan = MCTS(horizon=5, simulations=80).plan(model, rooms(0, 1), objective, seed=0)
    assert bool(plan.feasible.all()) and torch.allclose(plan.cost, best)
    assert model.steps <= 80 + 25  # simulations, three rollouts, and a look ahead with every step of the path


def test_members_plan_discrete_actions(planner):
    """Two corridors with lifts of their own: planned is what applies in both."""

    class Locked(toys.Corridor):
        def applicable(self, state):
            return super().applicable(state) & torch.tensor([True, True, False])

    goal = CoordinateGoal({"room": 5.0})
    both, alone = (planner.plan(Ensemble([toys.Corridor(), second]), rooms(0, 3), goal, seed=1) for second in (Locked(), toys.Corridor()))
    assert both.trajectory.batch_shape == (2, 2) and bool(both.feasible.all()) and bool(alone.feasible.all())
    assert int(both.actions[0, 0]) == 1 and int(alone.actions[0, 0]) == 2


def test_a_prior_reads_the_first_member():
    code = torch.tensor([2, 1, 0, 2])
    asked = []

    def even(state):
        asked.append(tuple(state.batch_size))
        return torch.full((*state.batch_size, 3), 1 / 3)

    plan = MCTS(horizon=4, simulations=20, prior=even).plan(Ensemble([Lamps(), Lamps()]), rooms(0, 0), Matches(code), seed=0)
    assert plan.trajectory.batch_shape == (2, 2) and set(asked) == {(2,)}


def test_problems_that_are_not_active_go_on(planner):
    code, state = torch.randint(0, 3, (3, 6), generator=torch.Generator().manual_seed(3)), rooms(0, 0, 0)
    first = planner.plan(Lamps(), state, Matches(torch.tensor([2, 1, 0, 2, 1, 0])), seed=0)
    kept = torch.cat((first.actions[:, 1:], first.actions[:, -1:]), 1)
    anew = planner.plan(Lamps(), state, Matches(code), previous=first, seed=0)
    for active in (torch.tensor([True, False, True]), torch.zeros(3, dtype=torch.bool)):
        both = planner.plan(Lamps(), state, Matches(code), previous=first, active=active, seed=0)
        assert torch.equal(both.actions[~active], kept[~active]) and torch.equal(both.actions[active], anew.actions[active])
        assert torch.equal(both.cost, Matches(code)(both.trajectory)[:, 0])


def test_plans_are_made_where_the_states_are():
    """States of whole numbers alone have a device too."""
    found = CategoricalCEM(horizon=3, samples=8, elites=4).begin(
        Lamps(), toys.RoomState(room=torch.zeros(2, dtype=torch.int64, device="meta"), batch_size=[2]), Matches(torch.zeros(3)), (), None, 0, None, 1, None
    )
    assert found.sampler.probabilities.device.type == found.sampler.chosen.device.type == "meta"
