"""Subgoals: shortest ways over recorded states, forecasts, and a short-sighted controller that gets out of a U-shaped wall."""

import pytest
import torch

from structwm.demos.toys import Maze, MazeState, Pendulum, PendulumState
from structwm.ensemble import Ensemble
from structwm.interfaces import Forecaster, SubgoalGenerator, Subgoals, Task
from structwm.planning import CEM, MPC, MPPI, CoordinateGoal
from structwm.roles import ForecastSubgoals, StateGraph, SubgoalMPC
from structwm.roles.state_graph import ShortPlans
from structwm.roles.subgoals import Reach
from structwm.training import Batch

TOLERANCE = {"x": 0.08, "y": 0.08}  # below the thickness of the walls, which nodes would be joined through


def at(*positions):
    return MazeState(position=torch.tensor(positions), batch_size=[len(positions)])


def wanderings(count=60, horizon=30, *, seed=0):
    """Random walks in the maze, whose velocity changes every tenth step."""
    generator = torch.Generator().manual_seed(seed)
    start = MazeState(position=torch.rand(count, 2, generator=generator) * torch.tensor([4.0, 4.0]) - torch.tensor([1.5, 2.0]), batch_size=[count])
    inside = Maze().scene.signed_distance(start, torch.nn.functional.pad(start.position, (0, 1))[:, None])[:, 0] > 0.05
    actions = (2 * torch.rand(count, horizon // 10, 2, generator=generator) - 1).repeat_interleave(10, 1)
    trajectory = Maze().rollout(start[inside], actions[inside])
    return Batch(trajectory.states, actions[inside], trajectory.valid)


def short_sighted(**changes):
    return MPPI(**({"horizon": 8, "samples": 64, "std": 0.7, "knots": 3, "temperature": 0.02} | changes))


@pytest.fixture(scope="module")
def graph():
    planner = CEM(horizon=8, samples=32, iterations=3, elites=6, knots=2)
    return StateGraph.fit(Maze(), wanderings(), planner, tolerance=TOLERANCE, stride=5, most=300, neighbours=8)


def steer(control, state, steps):
    """The states (T+1, B) of a closed loop in the maze itself."""
    seen = [state.position]
    for _ in range(steps):
        state = Maze().step(state, control.act(state))
        seen.append(state.position)
    return torch.stack(seen)


def test_short_sighted_mpc_is_stuck_in_the_u_and_arrives_with_subgoals(graph):
    """From inside the wall to behind it and from a place beside it: eight steps of foresight see no way of forty-five."""
    start, goal = at([0.0, 0.0], [0.3, -0.4], [-1.2, 0.0]), torch.tensor([[1.6, 0.0], [1.7, 0.4], [1.6, -0.2]])
    alone = MPC(Maze(), short_sighted(), CoordinateGoal({"x": goal[:, 0], "y": goal[:, 1]}, root=True), seed=0)
    left = (steer(alone, start, 80)[-1] - goal).norm(dim=-1)
    assert (left[:2] > 0.4).all()  # against the back of the U
    control = SubgoalMPC(MPC(Maze(), short_sighted(), CoordinateGoal({"x": 0.0}), seed=0), graph, tolerance=TOLERANCE, patience=15)
    subgoals = control.start(start, Task(goal=goal))
    assert subgoals.reachable.all() and torch.equal(subgoals.coordinates[torch.arange(3), subgoals.count - 1], goal)
    way = steer(control, start, 110)
    assert control.done.all() and ((way - goal).abs().amax(-1).amin(0) <= 0.08 + 1e-6).all()


def test_the_graphs_distances_are_those_of_the_maze_not_of_the_crow(graph):
    """To behind the wall it is far, though near by air; the way keeps out of walls and each leg is one that a short plan can walk."""
    subgoals = graph.propose(at([0.5, 0.0], [1.6, 0.9]), Task(goal=at([1.6, 0.0], [1.6, 0.0])))
    assert subgoals.count[0] > subgoals.count[1] + 3
    legs = subgoals.coordinates[0, : subgoals.count[0]]
    assert float(legs[:, 1].abs().max()) > 0.9  # around an arm
    plan = ShortPlans(Maze(), CEM(horizon=8, samples=64, iterations=4, elites=8, knots=2), Reach(Maze().scene, TOLERANCE))
    steps = plan.steps(MazeState(position=legs[:-1], batch_size=[len(legs) - 1]), legs[1:])
    assert steps.isfinite().double().mean() > 0.8  # found when the graph was made; other draws may miss a narrow one


def test_recorded_actions_join_states_that_no_plan_does():
    """With a planner of one step, only the record joins states five steps apart."""
    start = at([-1.0, -1.5])
    actions = torch.tensor([1.0, 0.0]).expand(1, 20, 2)
    trajectory = Maze().rollout(start, actions)
    record = Batch(trajectory.states, actions, trajectory.valid)
    graph = StateGraph.fit(Maze(), record, CEM(horizon=1, samples=16, elites=4), tolerance={"x": 0.05, "y": 0.05}, stride=5)
    assert graph.edges.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]] and graph.steps.tolist() == [5.0] * 4
    subgoals = graph.propose(start, Task(goal=at([1.0, -1.5])))
    assert subgoals.reachable.all() and torch.allclose(subgoals.coordinates[0, :, 0], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 1.0]), atol=1e-5)
    back = graph.propose(at([1.0, -1.5]), Task(goal=start))
    assert not back.reachable.any() and back.count.tolist() == [1] and torch.equal(back.coordinates[0, 0], start.position[0])


def test_problems_do_not_disturb_one_another_and_unobserved_states_are_no_nodes(graph):
    starts, goals = at([0.0, 0.0], [-1.0, 1.0]), torch.tensor([[1.6, 0.0], [0.0, -1.5]])
    together, again = graph.propose(starts, Task(goal=goals)), graph.propose(starts, Task(goal=goals))
    assert torch.equal(together.coordinates, again.coordinates) and torch.equal(together.valid, again.valid)
    first = graph.propose(starts[:1], Task(goal=goals[:1]))
    assert torch.equal(first.coordinates[0], together.coordinates[0, : first.count[0]])
    record = wanderings(3, 10)
    record.states.position[:, 5] = torch.nan
    assert len(StateGraph.fit(Maze(), record, short_sighted(), tolerance=TOLERANCE, stride=5).nodes) == 2 * len(record)


def test_members_must_all_arrive():
    """A plan that only one of two members follows is no edge."""

    class Stuck(Maze):
        def step_fields(self, fields, action, *, noise=None):
            return {"position": fields["position"].clone()}

    near, far = torch.tensor([[0.3, 0.0]]), at([0.0, 0.0])
    reach = Reach(Maze().scene, TOLERANCE)
    assert ShortPlans(Maze(), short_sighted(), reach).steps(far, near).isfinite().all()
    pair = Ensemble([Maze(), Stuck()])
    assert ShortPlans(pair, short_sighted(), reach).steps(far, near).isinf().all()


class Spiral(Forecaster):
    """Three futures: to the right, up, and to the left, a metre each."""

    def forecast(self, state, task, horizon):
        actions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[None, :, None].expand(len(state), 3, horizon, 2)
        free = Maze(walls=((9.0, 9.0, 9.1, 9.1),))
        return free.rollout(state.unsqueeze(1).expand(len(state), 3), actions)


def test_forecasts_give_subgoals_of_the_future_that_ends_nearest_the_goal():
    generator = ForecastSubgoals(Spiral(), count=2, horizon=10)
    assert isinstance(generator, SubgoalGenerator)
    subgoals = generator.propose(at([0.0, 0.0], [0.0, 0.0]), Task(goal=torch.tensor([[0.1, 0.9], [-1.0, 0.1]])))
    expected = [[[0.0, 0.5], [0.1, 0.9]], [[-0.5, 0.0], [-1.0, 0.1]]]
    assert torch.allclose(subgoals.coordinates, torch.tensor(expected), atol=1e-5) and subgoals.valid.all()
    said = generator.propose(at([0.0, 0.0]), Task(language="go right"))
    assert torch.allclose(said.coordinates[0], torch.tensor([[0.5, 0.0], [1.0, 0.0]]), atol=1e-5)
    with pytest.raises(ValueError, match="1 <= count <= horizon"):
        ForecastSubgoals(Spiral(), count=5, horizon=4)


class Listed(SubgoalGenerator):
    """The same subgoals for everyone, counted."""

    def __init__(self, coordinates):
        self.coordinates, self.asked = torch.tensor(coordinates), 0

    def propose(self, state, task):
        self.asked += 1
        many = self.coordinates.expand(len(state), *self.coordinates.shape)
        return Subgoals(many, torch.ones(many.shape[:2], dtype=torch.bool), torch.ones(len(state), dtype=torch.bool))


def test_each_problem_goes_on_by_itself_and_a_later_subgoal_counts_for_those_before():
    listed = Listed([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]])
    control = SubgoalMPC(MPC(Maze(), short_sighted(), CoordinateGoal({"x": 0.0})), listed, tolerance=TOLERANCE)
    with pytest.raises(RuntimeError, match=r"start\(state, task\)"):
        control.act(at([0.0, 0.0]))
    state = at([0.0, 0.0], [0.5, 0.05], [-1.0, 0.0], [0.5, 0.5])
    control.start(state, Task())
    control.act(state)
    assert control.place.tolist() == [1, 2, 0, 2] and control.done.tolist() == [False, False, False, True]


def test_patience_asks_again_for_those_who_wait():
    listed = Listed([[3.0, 0.0]])
    control = SubgoalMPC(MPC(Maze(), short_sighted(), CoordinateGoal({"x": 0.0})), listed, tolerance=TOLERANCE, patience=3)
    state = at([3.0, 0.0], [0.0, 0.0])
    control.start(state, Task())
    for _ in range(5):
        control.act(state)
    assert listed.asked == 2 and control.done.tolist() == [True, False]


def test_a_way_that_failed_is_not_proposed_again(graph):
    """A barrier that the record knows nothing of stands in one of two ways around the wall: the first try is stuck there, the second goes the other way."""
    goal, patience = Task(goal=torch.tensor([[1.6, 0.0]])), 8
    control = SubgoalMPC(MPC(Maze(), short_sighted(), CoordinateGoal({"x": 0.0}), seed=0), graph, tolerance=TOLERANCE, patience=patience)
    side = float(control.start(at([0.5, 0.0]), goal).coordinates[0, :, 1].sum().sign())
    state, stuck = at([0.5, 0.0]), 0
    for _ in range(250):
        following = Maze().step(state, control.act(state))
        blocked = (following.position[:, 1] * side > 0.85) & (following.position[:, 0].abs() < 2.0)
        stuck += int(blocked)
        state = MazeState(position=torch.where(blocked[:, None], state.position, following.position), batch_size=[1])
        if control.done.all():
            break
    assert stuck > patience and len(control.failed[0]) > 0 and control.done.all()


def test_what_failed_is_passed_and_a_goal_that_failed_is_not_gone_for_straight(graph):
    goal, start = torch.tensor([[0.4, 0.3]]), at([0.2, 0.1])
    straight = graph.propose(start, Task(goal=goal))
    assert straight.count.tolist() == [1]
    around = graph.propose_again(start, Task(goal=goal), goal[:, None])
    assert around.count[0] > 1 and torch.equal(around.coordinates[0, around.count[0] - 1], goal[0])
    past = graph.propose_again(start, Task(goal=goal), torch.stack((goal, around.coordinates[:, 0]), 1))
    assert ((past.coordinates[0, :-1] - around.coordinates[0, 0]).abs().amax(-1) > 0.08).all()
    none = graph.propose_again(start, Task(goal=goal), torch.full((1, 1, 2), torch.nan))
    assert torch.equal(none.coordinates, straight.coordinates)
    sealed = graph.propose_again(start, Task(goal=goal), torch.cat((goal, graph.places))[None])
    assert torch.equal(sealed.coordinates, straight.coordinates) and sealed.reachable.all()  # nothing else is left: the same once more


def test_angles_count_around_the_circle():
    state = PendulumState(angle=torch.tensor([[3.1]]), rate=torch.zeros(1, 1), batch_size=[1])
    reach = Reach(Pendulum().scene, {"angle": 0.1})
    assert float(reach.distance(state, torch.tensor([[-3.1, 9.0]]))) == pytest.approx((2 * torch.pi - 6.2) / 0.1, rel=1e-3)


def test_misuse_is_refused(graph):
    with pytest.raises(ValueError, match="need a task with a goal"):
        graph.propose(at([0.0, 0.0]), Task(language="around"))
    with pytest.raises(ValueError, match="no coordinate 'z'"):
        StateGraph.fit(Maze(), wanderings(4), short_sighted(), tolerance={"z": 0.1})
    with pytest.raises(ValueError, match="tolerance above zero"):
        Reach(Maze().scene, {"x": 0.0})
    with pytest.raises(ValueError, match=r"coordinates \(B, G, D\)"):
        Subgoals(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, dtype=torch.bool))


def test_distances_do_not_depend_on_how_many_are_planned_at_once():
    planner = CEM(horizon=4, samples=8, iterations=2, elites=2)
    starts = MazeState(position=torch.zeros(12, 2), batch_size=[12])
    goals = torch.rand(12, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    whole, split = (ShortPlans(Maze(), planner, Reach(Maze().scene, {"x": 0.1, "y": 0.1}), chunk).steps(starts, goals) for chunk in (1024, 5))
    assert torch.equal(whole, split) and 0 < int(whole.isfinite().sum()) < 12
