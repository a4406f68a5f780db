"""The action filter: guarantees on exchangeable data, reasons in words, every kind of model and action, and policies behind it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from structwm.data.episode import Episode
from structwm.demos.toys import CartPole, Corridor, DoubleIntegrator, Maze, MazeState, PlanarState, RoomState
from structwm.ensemble import Ensemble
from structwm.interfaces import Belief, Constraint, Policy, Task
from structwm.planning import MCTS, MPC, MPPI, ActionRateLimit, CoordinateGoal, CoordinateLimit, CoordinateTube, KeepAway
from structwm.roles import ActionFilter, Collision, FilteredMPC, FilteredPolicy, Novelty, Reason, SafeAction, Uncertainty, Violation
from structwm.roles.checks import Check, Measured
from structwm.roles.filtered_policy import decide
from structwm.scene import ViewMissing
from structwm.spec import ActionSpec, ModelSpec
from structwm.state import fields_of
from structwm.training import Batch, EpisodeWindows
from structwm.transition import TransitionModel
from structwm.wrappers import Residual


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def planar(count, horizon=4, *, seed=0, speed=0.3, model=None):
    """Windows of a point mass that was near the origin and pushed gently."""
    generator = random(seed)
    start = PlanarState(position=torch.randn(count, 2, generator=generator), velocity=speed * torch.randn(count, 2, generator=generator), batch_size=[count])
    actions = 0.5 * (2 * torch.rand(count, horizon, 2, generator=generator) - 1)
    trajectory = (model or DoubleIntegrator()).rollout(start, actions)
    return Batch(trajectory.states, actions, trajectory.valid)


def cousins(*rates):
    """Point masses with different damping."""
    return Ensemble([Residual(DoubleIntegrator(), lambda s, a, f, r=rate: {"velocity": -r * f.velocity}) for rate in rates])


def maze_state(*positions):
    return MazeState(position=torch.tensor(positions), batch_size=[len(positions)])


def towards(*velocities, horizon=6):
    """Constant actions (1, S, H, 2)."""
    return torch.tensor(velocities)[None, :, None].expand(1, len(velocities), horizon, 2)


# thresholds and margins


# checks and their words


def test_collision_names_step_clearance_and_margin():
    screen = ActionFilter(Maze(), [Collision(lambda trajectory: trajectory.points().positions, margin=0.05)])
    verdict = screen(maze_state([0.5, 0.0]), towards([1.0, 0.0], [-1.0, 0.0], [0.4, 0.0]))
    assert verdict.accepted.tolist() == [[False, True, True]]
    (rejection,) = verdict.reasons(0, 0)
    assert rejection.reason is Reason.COLLISION and rejection.step == 4  # 0.5 m before the wall, 0.1 m a step: within 0.05 m after the fifth
    assert "0.05 m is asked for" in rejection.words and verdict.explain(0, 0).startswith("rejected for collision: at step 4 comes within")
    assert verdict.explain(0, 1) == "accepted" and verdict.rejected_by() == {"invalid": 0, "collision": 1}


def test_collision_with_posts_of_each_problem():
    """Posts per problem: what collides in one problem does not in the other."""
    screen = ActionFilter(Maze(), [Collision(torch.zeros(2, 1, 3), radii=0.1)])
    away = ActionFilter(Maze(), [Collision(torch.tensor([[[1.05, 0.0, 0.0]], [[-2.0, 0.0, 0.0]]]), radii=0.1, margin=0.0)])
    state, actions = maze_state([0.0, 0.5], [0.0, 0.5]), towards([0.0, 0.1]).expand(2, 1, 6, 2)
    assert screen(state, actions).accepted.all() and away(state, actions).accepted[:, 0].tolist() == [False, True]


def test_obstacles_move_and_their_margin_stays():
    collision = Collision(torch.tensor([[0.3, 0.0, 0.0]]), radii=0.05, margin=0.02)
    screen = ActionFilter(Maze(walls=((0.25, -0.05, 0.35, 0.05),)), [collision])
    state, actions = maze_state([0.0, 0.0]), towards([0.1, 0.0])
    assert not screen(state, actions).accepted.any()
    moved = screen.replaced(collision.moved(torch.tensor([[9.0, 0.0, 0.0]])))
    assert moved(state, actions).accepted.all() and moved.check("collision").limit == -0.02
    assert not screen(state, actions).accepted.any()  # the first filter is as it was
    with pytest.raises(ValueError, match="no check 'wall'; this filter has invalid, collision"):
        screen.check("wall")


def test_a_scene_without_signed_distance_is_refused_in_a_sentence():
    with pytest.raises(ViewMissing, match="Collision needs the view 'signed_distance', which PlanarScene does not offer"):
        ActionFilter(DoubleIntegrator(), [Collision(torch.zeros(1, 3))])
    with pytest.raises(ViewMissing, match="Uncertainty needs the view 'points'"):
        ActionFilter(CartPole(), [Uncertainty(limit=1.0)])


def test_a_constraint_names_its_first_step_and_agrees_with_the_constraint():
    model, limit = DoubleIntegrator(), CoordinateLimit("x", high=0.2)
    batch = planar(5, 8)
    actions = 2 * torch.rand(5, 30, 8, 2, generator=random(3)) - 1
    verdict = ActionFilter(model, [Violation(limit, unit="m"), Violation(KeepAway(torch.zeros(1, 3), 0.3), unit="m")])(batch.start, actions)
    trajectory = model.rollout(batch.start.unsqueeze(1).expand(5, 30), actions)
    excess = limit(trajectory)[..., 0]
    assert torch.equal(verdict.values[..., 1].float(), excess) and torch.equal(verdict.failed[..., 1], excess > 0)
    over = trajectory.coordinates()[..., 1:, 0] > 0.2
    assert torch.equal(verdict.first_step[..., 1], torch.where(over.any(-1), over.int().argmax(-1), -1))
    assert 0 < int(verdict.failed[..., 1].sum()) < 150


def test_a_condition_on_the_whole_counts_at_its_last_step():
    class FarEnough(Constraint):
        """The whole way is at least a metre, which no single step is."""

        needs = frozenset({"coordinates"})

        def __call__(self, trajectory):
            return 1.0 * (trajectory.coordinates().shape[-2] > 2) - trajectory.coordinates()[..., :2].diff(dim=-2).norm(dim=-1).sum(-1).unsqueeze(-1)

    verdict = ActionFilter(Maze(), [Violation(FarEnough())])(maze_state([0.0, 0.0]), towards([0.1, 0.0], [-1.0, 0.0], horizon=12))
    assert verdict.accepted.tolist() == [[False, True]] and int(verdict.first_step[0, 0, 1]) == 11


def test_the_step_is_that_of_the_change_or_of_the_reference_that_is_broken():
    """A change of action needs two steps to be seen, and a reference that moves is another one at every step."""
    model, start = DoubleIntegrator(), PlanarState(position=torch.zeros(1, 2), velocity=torch.zeros(1, 2), batch_size=[1])
    actions = torch.tensor([0.0, 0.4, 0.8, 0.8, 0.8, 0.0, 0.4])[None, None, :, None].expand(1, 1, 7, 2)
    for previous in (None, torch.zeros(2)):
        verdict = ActionFilter(model, [Violation(ActionRateLimit(0.5, previous=previous))])(start, actions)
        assert int(verdict.first_step[0, 0, 1]) == 5
        assert math.isclose(float(verdict.values[0, 0, 1]), 0.3, abs_tol=1e-6)
    still = torch.zeros(1, 1, 7, 2)  # a reference that leaves by 0.1 at every instant, and what stays where it is
    verdict = ActionFilter(model, [Violation(CoordinateTube({"x": 0.1 * torch.arange(8.0)}, 0.25))])(start, still)
    assert int(verdict.first_step[0, 0, 1]) == 2


def test_what_is_no_check_is_refused():
    for checks, match in (([CoordinateLimit("x", high=1.0)], "got CoordinateLimit; a constraint"), (Uncertainty(limit=1.0), "put it into a list")):
        with pytest.raises(TypeError, match=match):
            ActionFilter(DoubleIntegrator(), checks)
    corridor = MPC(Corridor(), MCTS(horizon=3), CoordinateGoal({"room": 2.0}))
    with pytest.raises(ValueError, match="Corridor takes discrete ones"):
        FilteredMPC(corridor, ActionFilter(Corridor(), []), SafeAction("stay", torch.zeros(1)))


class Gusty(Maze):
    """A maze in which the wind takes what moves."""

    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, traits=replace(self.spec.traits, stochastic=True))

    def step_fields(self, fields, action, *, noise=None):
        position = super().step_fields(fields, action)["position"]
        return {"position": position if noise is None else position + 0.05 * noise.normal(position.shape, like=position)}


def test_futures_of_a_stochastic_model_are_judged_where_they_are_asked_for():
    checks = [Collision(lambda trajectory: trajectory.points().positions, margin=0.02)]
    state, actions = maze_state([0.85, 0.0]), towards([0.0, 0.0], [-1.0, 0.0])
    mean, drawn = ActionFilter(Gusty(), checks), ActionFilter(Gusty(), checks, particles=32)
    assert mean(state, actions).accepted.all()
    verdict = drawn(state, actions, seed=3)
    assert verdict.trajectory.batch_shape == (1, 2, 32) and verdict.accepted[0].tolist() == [False, True]
    assert torch.equal(verdict.values, drawn(state, actions, seed=3).values) and not torch.equal(verdict.values, drawn(state, actions, seed=4).values)
    parts = ActionFilter(Gusty(), checks, particles=32, chunk=1)
    assert torch.equal(verdict.values, parts(state, actions, seed=3).values)


def test_all_particles_of_a_belief_are_judged_by_default():
    belief = Belief(
        PlanarState(position=torch.linspace(-1, 1, 9)[None, :, None].expand(1, 9, 2), velocity=torch.zeros(1, 9, 2), batch_size=[1, 9]), torch.zeros(1, 9)
    )
    verdict = ActionFilter(DoubleIntegrator(), [Violation(CoordinateLimit("x", high=0.9))])(belief, torch.zeros(1, 1, 4, 2))
    assert verdict.trajectory.batch_shape == (1, 1, 9) and not verdict.accepted.any()


def test_a_filter_takes_actions_at_the_bound_in_double_precision():
    class Tenths(DoubleIntegrator):
        def __init__(self):
            super().__init__()
            self.spec = ModelSpec(PlanarState, ActionSpec.box(-0.7, 0.7, 2), 0.1)

    start = PlanarState(position=torch.zeros(1, 2), velocity=torch.zeros(1, 2), batch_size=[1]).double()
    assert ActionFilter(Tenths(), [])(start, torch.full((1, 1, 4, 2), 0.7, dtype=torch.float64)).accepted.all()


def test_a_filtered_controller_goes_forward_by_the_age_of_a_belief():
    model, start = DoubleIntegrator(), PlanarState(position=torch.zeros(1, 2), velocity=torch.ones(1, 2), batch_size=[1])
    control = FilteredMPC(MPC(model, MPPI(horizon=3, samples=8), CoordinateGoal({"x": 1.0})), ActionFilter(model, []), SafeAction("stop", torch.zeros(2)))
    first = control.act(Belief.certain(start), time=0.0)
    control.act(Belief.certain(start), time=0.1)
    assert torch.allclose(control.mpc.start.states[:, 0].velocity, model.step(start, first).velocity)


def test_invalid_candidates_are_rejected_and_the_others_judged_as_ever():
    screen = ActionFilter(Maze(), [Collision(lambda trajectory: trajectory.points().positions)])
    actions = towards([0.3, 0.0], [0.3, 0.0], [0.3, 0.0]).clone()
    actions[0, 1, 3, 0], actions[0, 2, 0, 1] = 5.0, math.nan
    verdict = screen(maze_state([0.0, 0.0]), actions)
    assert verdict.accepted.tolist() == [[True, False, False]] and verdict.first_step[0, :, 0].tolist() == [-1, 3, 0]
    assert "invalid: at step 3" in verdict.explain(0, 1)
    assert [rejection.reason for rejection in verdict.reasons(0, 2)] == [Reason.INVALID]


def test_discrete_actions_and_what_is_not_applicable():
    rooms = RoomState(room=torch.tensor([0, 3]), batch_size=[2])
    verdict = ActionFilter(Corridor(), [])(rooms, torch.tensor([[[1, 0, 2], [0, 1, 1]], [[1, 1, 0], [7, 1, 1]]]))
    assert verdict.accepted.tolist() == [[True, False], [True, False]] and verdict.first_step[..., 0].tolist() == [[-1, 0], [-1, 0]]


def test_novelty_knows_familiar_actions_and_finds_others_strange():
    model, train, safe = DoubleIntegrator(), planar(300), planar(200, seed=1)
    for method in ("nearest", "mahalanobis"):
        check = Novelty.fit(model, train, method=method)
        screen = ActionFilter(model, [check]).calibrated(safe, 0.05)
        new = planar(300, seed=2)
        assert float(screen(new.start, new.actions[:, None]).accepted.double().mean()) > 0.88
        wild = screen(new.start, new.actions[:, None].sign())  # full throttle all the time
        assert float(wild.accepted.double().mean()) < 0.05, method
        far = PlanarState(position=torch.full((1, 2), 9.0), velocity=torch.zeros(1, 2), batch_size=[1])
        assert screen(far, new.actions[None, :1]).reasons(0, 0)[0].reason is Reason.OUT_OF_DISTRIBUTION
    blind = ActionFilter(model, [Novelty.fit(model, train, coordinates=("vx", "vy"))]).calibrated(safe, 0.05)
    assert blind(far, torch.zeros(1, 1, 4, 2)).accepted.all()  # where it is does not count


def test_novelty_of_discrete_actions_reads_choices():
    model = Corridor()
    start = RoomState(room=torch.ones(60, dtype=torch.int64), batch_size=[60])
    actions = torch.ones(60, 3, dtype=torch.int64)
    actions[:, 1] = torch.arange(60) % 2
    trajectory = model.rollout(start, actions)
    check = Novelty.fit(model, Batch(trajectory.states, actions, trajectory.valid))
    screen = ActionFilter(model, [check.limited(3.0)])
    verdict = screen(start[:1], torch.tensor([[[1, 0, 1], [1, 1, 2]]]))
    assert verdict.accepted.tolist() == [[True, False]] and verdict.reasons(0, 1)[0].reason is not Reason.COLLISION


def test_uncertainty_grows_with_what_members_disagree_about():
    model = cousins(0.0, 0.02, 0.05)
    start = PlanarState(position=torch.zeros(1, 2), velocity=torch.zeros(1, 2), batch_size=[1])
    actions = towards([0.05, 0.0], [1.0, 0.0], horizon=10)
    for check in (Uncertainty(limit=0.01), Uncertainty(scales={"x": 1.0, "y": 1.0}, limit=0.01)):
        verdict = ActionFilter(model, [check])(start, actions)
        assert verdict.accepted.tolist() == [[True, False]] and 0 < int(verdict.first_step[0, 1, 1]) < 10
        assert verdict.reasons(0, 1)[0].reason is Reason.UNCERTAIN
    with pytest.raises(ValueError, match=r"Uncertainty needs a model with members"):
        ActionFilter(DoubleIntegrator(), [Uncertainty(limit=1.0)])(start, actions)


def test_a_belief_is_judged_by_its_worst_particle():
    screen = ActionFilter(Maze(), [Collision(lambda trajectory: trajectory.points().positions, margin=0.1)], particles=64)
    particles = MazeState(position=torch.stack((torch.linspace(0.0, 0.6, 64), torch.zeros(64)), -1)[None], batch_size=[1, 64])
    belief = Belief(particles, torch.zeros(1, 64))
    assert screen(belief, towards([0.6, 0.0], [0.2, 0.0])).accepted.tolist() == [[False, True]]
    assert screen(maze_state([0.3, 0.0]), towards([0.6, 0.0])).accepted.all()


# properties of the whole


def test_pure_batched_and_the_same_in_chunks():
    model, train = cousins(0.0, 0.03), planar(200)
    checks = [Novelty.fit(model.members[0], train, coordinates=("vx", "vy")), Uncertainty(), Violation(CoordinateLimit("x", high=1.0))]
    screen = ActionFilter(model, checks).calibrated(planar(200, seed=5, model=DoubleIntegrator()), 0.5)
    start, actions = planar(7, seed=6).start, 1.2 * torch.rand(7, 20, 4, 2, generator=random(7)) - 0.6
    before = {name: value.clone() for name, value in fields_of(start).items()}, actions.clone()
    first = screen(start, actions)
    kept = first.values.clone(), first.first_step.clone()
    again = screen(start, actions)
    assert torch.equal(first.values, again.values) and torch.equal(first.values, kept[0]) and torch.equal(first.first_step, kept[1])
    assert all(torch.equal(value, before[0][name]) for name, value in fields_of(start).items()) and torch.equal(actions, before[1])
    screen.chunk = 3
    parts = screen(start, actions)
    assert torch.allclose(parts.values, first.values, rtol=1e-6) and parts.trajectory is None
    alone = screen(start[2:3], actions[2:3])
    assert torch.allclose(alone.values[0], first.values[2], rtol=1e-6) and 0 < int(first.accepted.sum()) < first.accepted.numel()


def test_all_checks_together_hold_one_false_alarm_rate():
    """Mean over 60 calibrations on 60 windows each: two learnt checks and a fixed one raise no more false alarms than the rate."""
    model, rate = cousins(0.0, 0.05), 0.2
    novelty = Novelty.fit(model.members[0], planar(300))
    screen = ActionFilter(model, [novelty, Uncertainty(), Violation(CoordinateLimit("x", high=3.0))])
    data = planar(6000, seed=8)
    alarms = []
    for k in range(60):
        part = data[k * 100 : (k + 1) * 100]
        fitted = screen.calibrated(part[:60], rate, seed=k)
        new = part[60:]
        alarms.append(float((~fitted(new.start, new.actions[:, None]).accepted).double().mean()))
    error = np.std(alarms) / math.sqrt(len(alarms))
    assert rate / 2 < np.mean(alarms) < rate + 2.5 * error


def test_episodes_are_the_unit_where_windows_come_from_episodes():
    model = DoubleIntegrator()
    data = planar(40, 12)
    episodes = [
        Episode.from_steps({"position": p.numpy(), "velocity": v.numpy()}, a.numpy(), dt=0.1)
        for p, v, a in zip(data.states.position, data.states.velocity, data.actions, strict=True)
    ]
    windows = EpisodeWindows(episodes, PlanarState, horizon=3)
    screen = ActionFilter(model, [Novelty.fit(model, planar(300, 3, seed=9))])
    by_window, by_episode = (screen.calibrated(windows, 0.2, unit=unit).checks[1].limit for unit in ("window", "episode"))
    assert by_episode > by_window
    with pytest.raises(ValueError, match="needs at least 49 calibration episodes, got 40"):  # 400 windows, but 40 episodes
        screen.calibrated(windows, 0.02)


def test_margins_make_a_hopeful_model_careful():
    """The model believes in stronger brakes than there are: without a margin many violations pass, with one the stated rate of them."""
    true, hopeful = DoubleIntegrator(), Residual(DoubleIntegrator(), lambda state, action, following: {"velocity": -0.2 * following.velocity})
    limit = CoordinateLimit("x", high=0.5)
    plain = ActionFilter(hopeful, [Violation(limit, unit="m")])
    screen = plain.with_margins(planar(2000, 10, seed=10, speed=1.0, model=true), 0.1)
    new = planar(2000, 10, seed=11, speed=1.0, model=true)
    unsafe = limit(true.rollout(new.start, new.actions))[:, 0] > 0
    missed = [float(f(new.start, new.actions[:, None]).accepted[unsafe, 0].double().mean()) for f in (plain, screen)]
    assert missed[0] > 0.15 and 0.06 < missed[1] < 0.13
    assert "a margin of" in next(screen(new.start, new.actions[:, None]).explain(b, 0) for b in unsafe.nonzero()[:, 0].tolist())


def test_misuse_is_refused():
    model, train = DoubleIntegrator(), planar(100)
    screen = ActionFilter(model, [Novelty.fit(model, train)])
    with pytest.raises(ValueError, match="'novelty' has no limit yet"):
        screen(train.start, train.actions[:, None])
    with pytest.raises(ValueError, match=r"calibrated on windows of 4 steps, got candidates of 6"):
        screen.calibrated(planar(50, seed=1), 0.1)(train.start, torch.zeros(100, 1, 6, 2))
    with pytest.raises(ValueError, match="this filter has none"):
        ActionFilter(model, []).calibrated(train, 0.1)
    with pytest.raises(ValueError, match="of which this filter has none"):
        screen.with_margins(train, 0.1)
    with pytest.raises(ValueError, match="too much for a rate of 0.1; loosen them"):
        ActionFilter(model, [Novelty.fit(model, train), Violation(CoordinateLimit("x", high=-1.0))]).calibrated(planar(50, seed=1), 0.1)
    with pytest.raises(ValueError, match=r"actions \(B, S, H, ...\) for 100 problems"):
        ActionFilter(model, [])(train.start, train.actions)
    with pytest.raises(ValueError, match=r"S at least 1, got axes \(100, 0, 4\)"):
        ActionFilter(model, [])(train.start, train.actions[:, None][:, :0])
    with pytest.raises(ValueError, match="different names"):
        ActionFilter(model, [Violation(CoordinateLimit("x", high=1.0)), Violation(CoordinateLimit("y", high=1.0))])


class Below(Check):
    """A learnt check whose values are below zero."""

    reason, name, learnt = Reason.UNCERTAIN, "below", True

    def measure(self, trajectory, risk):
        steps = -1e6 - trajectory.coordinates()[..., 1:, 0].mean(2).double().abs()
        return Measured(steps.amax(-1), steps)

    def words(self, value, limit):
        return "too high"


def test_learnt_limits_below_zero_hold_the_rate():
    """Of 99 calibration windows at most 9 may be rejected at a rate of a tenth: the score at the threshold is accepted."""
    windows = planar(99)
    screen = ActionFilter(DoubleIntegrator(), [Below()]).calibrated(windows, 0.1)
    assert int((~screen(windows.start, windows.actions[:, None]).accepted).sum()) == 9


def test_labels_of_episodes_may_be_given():
    screen = ActionFilter(DoubleIntegrator(), [Novelty.fit(DoubleIntegrator(), planar(100))])
    with pytest.raises(ValueError, match="needs at least 9 calibration episodes, got 5"):
        screen.calibrated(planar(50, seed=1), 0.1, groups=torch.arange(50) // 10)
    with pytest.raises(ValueError, match="the episode of each of 50 windows"):
        screen.calibrated(planar(50, seed=1), 0.1, groups=torch.arange(10))


# policies behind the filter


class Straight(Policy):
    """Always right."""

    def act(self, belief, task):
        return towards([1.0, 0.0])[0].expand(belief.states.batch_size[0], 6, 2)


def test_the_next_best_candidate_or_the_safe_action_takes_its_place():
    screen = ActionFilter(Maze(), [Collision(lambda trajectory: trajectory.points().positions, margin=0.05)])
    stop = SafeAction("stop", torch.zeros(2))
    state = maze_state([0.5, 0.0], [-3.0, 0.0])
    policy = FilteredPolicy(Straight(), screen, stop)
    assert policy.act(Belief.certain(state), Task())[:, 0].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    decision = policy.decide(Belief.certain(state), Task())
    assert "'stop' is done" in decision.explain(0) and decision.explain(1) == "the first candidate is accepted"
    candidates = towards([1.0, 0.0], [0.2, 0.0], [0.0, 1.0]).expand(2, 3, 6, 2)
    assert decide(screen, state, candidates, stop).chosen.tolist() == [1, 0]
    goal = CoordinateGoal({"x": 0.5, "y": 0.6})
    assert decide(screen, state, candidates, stop, objective=goal).chosen.tolist() == [2, 0]


def test_filtered_mpc_stays_clear_where_mpc_does_not_and_tells_it_what_was_sent():
    """A controller drives at a wall; behind the filter it keeps its distance, and the sent action is known to MPC."""
    model = Maze()
    screen = ActionFilter(model, [Collision(lambda trajectory: trajectory.points().positions, margin=0.1)])
    least = []
    for filtered in (False, True):
        mpc = MPC(model, MPPI(horizon=8, samples=64, temperature=0.01), CoordinateGoal({"x": 2.0, "y": 0.0}, root=True), seed=3)
        control = FilteredMPC(mpc, screen, SafeAction("stop", torch.zeros(2)), steps=2) if filtered else mpc
        state, clearance = maze_state([0.0, 0.0], [0.3, 0.5]), []
        for _ in range(15):
            action = control.act(state)
            assert torch.equal(mpc._sent[-1], action)
            state = model.step(state, action)
            clearance.append(model.scene.signed_distance(state, torch.nn.functional.pad(state.position, (0, 1))[:, None]))
        least.append(float(torch.stack(clearance).min()))
    assert least[0] < 0.05 and least[1] >= 0.1 - 1e-6


def test_filtered_mpc_sends_what_is_next_where_a_plan_serves_several_steps():
    """Nothing is rejected: the actions are those of the controller alone."""
    model, start = DoubleIntegrator(), planar(3).start
    controls = [MPC(model, MPPI(horizon=6, samples=32), CoordinateGoal({"x": 1.0}), every=3) for _ in range(2)]
    filtered, state = FilteredMPC(controls[0], ActionFilter(model, []), SafeAction("stop", torch.zeros(2)), alternatives=2), start
    for _ in range(5):
        action = filtered.act(state)
        assert torch.equal(action, controls[1].act(state))
        state = model.step(state, action)


def test_any_transition_model_can_be_filtered():
    """Every model of the conformance suite, with checks that its scene allows."""
    from tests.models import CASES

    for name, (make, states) in CASES.items():
        if name.startswith(("springs", "rope")):
            continue  # slow, and like the others
        model: TransitionModel = make()
        state = states(3)
        spec = model.spec.action
        actions = torch.randint(spec.choices, (3, 5, 2)) if spec.kind == "discrete" else spec.project(torch.randn(3, 5, 2, spec.size, generator=random()))
        checks = [Uncertainty(limit=1e9)] if model.spec.members > 1 and "points" in model.scene.views else []
        verdict = ActionFilter(model, checks)(state, actions)
        assert verdict.accepted.shape == (3, 5), name
        assert spec.kind == "discrete" or verdict.accepted.all(), name


def test_the_benchmarks_judge_measures_as_the_outlines_do():
    """PyBullet's least clearance from ghost posts, against that of the outline at the recorded poses: the same motion, seen at fewer instants.

    At 0.1 m/s, 4 ms between the engine's steps are 0.4 mm, 40 ms between observations 4 mm, so the engine may see up to that less, and nothing more but
    the tilt and sinking of the slider, below half a millimetre. Ghosts change nothing: without posts the slider goes the same way.
    """
    pytest.importorskip("pybullet")
    from benchmarks.planning_filter import POST, STEPS, record
    from structwm.demos.push_stages import OBJECT
    from structwm.geometry.outline import signed_distance
    from structwm.worlds import make, record_pushes
    from structwm.worlds.pushing import place_points

    beside = record(4, seed=5)
    with make("bullet", dt=0.04, **OBJECT) as world:
        plain, vertices = record_pushes(world, 4, seed=5, steps=STEPS), world.config.vertices
    assert np.allclose(beside.windows.states.pose[::4].numpy(), plain.object_pose, atol=1e-6)
    for row in range(len(beside.push)):
        poses, post = beside.windows.states.pose[row].double().numpy(), beside.posts[row, 0, :2].double().numpy()
        seen = min(float(signed_distance(place_points(pose, vertices), post)) - POST for pose in poses)
        measured = float(beside.clearance[row])  # how deep it is, where a post's middle is inside, the engine measures upwards too
        assert math.isinf(measured) or -0.004 < max(measured, -POST) - max(seen, -POST) < 5e-4
