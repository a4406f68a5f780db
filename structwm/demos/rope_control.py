"""Closed-loop shaping of ropes: MPC on any model of a rope whose grippers it commands, judged in PyBullet, many problems at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from structwm.noise import Noise
from structwm.planning import MPC, MPPI, Hybrid, ShapeGoal, StretchLimit
from structwm.transition import Trajectory
from structwm.wrappers import ModelWrapper

from .rope_models import Gripped, RopeModel
from .rope_proposals import carry_proposals, shape_ends
from .rope_task import RopeTask, RopeTrial, move, rest, shape_distance, stretch_of

Array = NDArray[np.float64]
CALM = 0.03  # speed of the grippers at which little is learned of what the model's rest misses [m/s]
NEAR = 0.01  # chamfer distance below which a shape counts as reached [m]


@dataclass(frozen=True)
class RopeControl:
    """How a run goes. Seconds are those of the control period."""

    steps: int = 64  # control steps
    horizon: int = 16  # steps looked ahead
    samples: int = 64  # candidates per iteration
    iterations: int = 2  # refinements per plan
    opening: int = 8  # of the first plan, which has none to start from
    polish: int = 4  # steps along the gradient at the end of a plan
    opening_polish: int = 40  # of the first
    polished: int = 16  # candidates of the first plan from which they start
    knots: int = 6  # of a candidate's velocities over the horizon
    std: float = 0.5  # exploration, as a fraction of the speed bound
    narrow: float = 0.02  # the least exploration among the candidates, as a share of the greatest
    anneal: float = 0.7  # by which it shrinks from one refinement to the next
    temperature: float = 0.02
    stage: float = 0.5  # weight of the way, beside the end
    stretch: float = 0.9  # of the stretch limit that plans keep to; the rest is for errors of the model
    thin: int = 6  # of the goal's points every how many are compared
    noise: float = 0.002  # std of each coordinate of an observed node [m]
    position_gain: float = 0.6  # share of the difference to what was observed that the estimated positions take over
    velocity_gain: float = 0.3  # the same of velocities, over the control period
    gain: float = 0.1  # share of the cost of staying still that a plan must save to be carried out
    lead: int = 6  # steps ahead at which predictions are compared with what came, to correct the next ones
    correction: float = 0.4  # share of the last comparison in their average; 0 trusts the model
    lifts: tuple[float, ...] = (0.0, 0.1, 0.2)  # heights of the arcs over which grippers are proposed to go to the goal's ends, as shares of the rope's length
    seed: int = 0


@dataclass(frozen=True)
class RopeRun:
    """What happened, for B trials."""

    name: str
    kinds: tuple[str, ...]
    before: Array  # (B,) chamfer distance of the start from the goal [m]
    after: Array  # (B,) at the end, at rest [m]
    stretch: Array  # (B,) greatest elongation of an edge of the centre line during the run [-]
    nodes: Array  # (B, P, 3) at the end [m]
    path: Array  # (B, T) chamfer distance after each control step [m]
    plan_seconds: Array  # (T,) wall time of each plan of all problems
    step_seconds: Array  # (T,) wall time of each step of the controller, the filter with it
    limit: float  # of the stretch

    @property
    def reached(self) -> NDArray[np.bool_]:
        """(B,) the shape is reached and the rope was not overstretched."""
        return (self.after <= NEAR) & (self.stretch <= self.limit)

    def arrival(self, dt: float) -> Array:
        """(B,) time from which on the distance stays below `NEAR` [s]; the whole time of the run where it does not, NaN where no path was kept."""
        far = self.path > NEAR
        if not far.shape[1]:
            return np.full(len(far), np.nan)
        found: Array = dt * np.where(far.any(1), far.shape[1] - far[:, ::-1].argmax(1), 0)
        return found


def join_runs(parts: Sequence[tuple[Sequence[int], RopeRun]]) -> RopeRun:
    """Runs of parts of the trials as one, each with the numbers of its trials; seconds are those of all parts together."""
    order = np.argsort([number for numbers, _ in parts for number in numbers])
    runs = [run for _, run in parts]
    joined = {name: np.concatenate([getattr(run, name) for run in runs])[order] for name in ("before", "after", "stretch", "nodes", "path")}
    seconds = {name: np.sum([getattr(run, name) for run in runs], 0) for name in ("plan_seconds", "step_seconds")}
    kinds = [kind for run in runs for kind in run.kinds]
    return RopeRun(runs[0].name, tuple(kinds[k] for k in order), **joined, **seconds, limit=runs[0].limit)


def blurring_mean_shift(cloud: Tensor, bandwidth: float) -> Tensor:
    """Each of the points (*B, M, 3) at the mean of all, weighted by a normal distribution around it of a standard deviation `bandwidth` [m]: one round of
    blurring mean shift (Cheng, PAMI 1995).

    With its radius as the bandwidth, points of a rope's surface come to its middle: the distance of a shape from points of a surface hardly changes while it is
    within a radius of it.
    """
    weights = torch.exp(-0.5 * (torch.cdist(cloud, cloud) / bandwidth).square())
    return weights @ cloud / weights.sum(-1, keepdim=True)


class Disturbed(ModelWrapper[Any]):
    """A model of particles with an output disturbance, as in dynamic matrix control (Cutler and Ramaker, 1980): what predictions some steps ahead have lately
    missed is added to what is predicted now, in proportion to how far ahead, and whole from there on.

    Args:
        model: whose states have positions.
        missed: (B, K, 3) [m].
        lead: steps ahead at which that was missed.
    """

    def __init__(self, model: Gripped, missed: Tensor, lead: int) -> None:
        super().__init__(model)
        self.missed, self.lead = missed, lead

    def roll(self, state: Any, actions: Any, *, noise: Noise | None = None) -> Trajectory:
        trajectory = self.model.roll(state, actions, noise=noise)
        ramp = (torch.arange(trajectory.horizon + 1) / self.lead).clamp_max(1.0)[:, None, None]
        missed = self.missed.reshape(len(self.missed), *(1,) * len(state.batch_size), *self.missed.shape[1:])
        states = trajectory.states.replace(positions=trajectory.states.positions + ramp * missed)
        return replace(trajectory, states=states)


class MissedOutput:
    """Keeps what predictions missed: a moving average of the difference between what is observed and what was predicted `lead` steps before.

    It learns while the grippers hardly move. Then it is by how much the model's rest is off, which lasts; what is missed in fast motion does not.
    """

    def __init__(self, rope: RopeModel, lead: int, rate: float) -> None:
        self.rope, self.lead, self.rate = rope, lead, rate
        self._past: list[tuple[Any, Tensor]] = []
        self.missed: Tensor | None = None

    def update(self, state: Any, seen: Tensor, action: Tensor | None) -> Tensor:
        """(B, K, 3) [m], for the estimated state and the particles (B, K, 3) that are observed now, and the action that led here."""
        if self.missed is None or action is None:
            self.missed = torch.zeros_like(seen)
        else:
            self._past = [(before, torch.cat((done, action.unsqueeze(1)), 1)) for before, done in self._past][-self.lead :]
            before, done = self._past[0]
            with torch.no_grad():
                predicted = self.rope.model.rollout(before, done).states.positions[:, -1]
            calm = torch.exp(-(done.abs().amax((1, 2)) / CALM).square())[:, None, None]
            self.missed = self.missed + self.rate * calm * ((seen - predicted) - self.missed)
        self._past.append((state, seen.new_zeros(len(seen), 0, self.rope.model.spec.action.size)))
        return self.missed


class AlphaBetaFilter:
    """Estimates particles and their velocities from noisy places: the model predicts, the difference to what was observed corrects both with constant gains
    (Benedict and Bordner, IRE Transactions on Automatic Control 1962).

    Args:
        rope: predicts.
        position_gain: share of the difference that positions take over.
        velocity_gain: share that velocities take over, by the time between two observations.
    """

    def __init__(self, rope: RopeModel, position_gain: float, velocity_gain: float) -> None:
        self.rope, self.gains = rope, (position_gain, velocity_gain)
        self.state: Any = None

    def update(self, nodes: Tensor, grippers: Tensor, action: Tensor | None) -> Any:
        """The state now.

        Args:
            nodes: (B, P, 3) observed [m].
            grippers: (B, G, 3), known exactly [m].
            action: (B, 3 G) since the last observation [m/s]; None at the start, where the rope is at rest.
        """
        seen = self.rope.place(nodes, grippers)
        if action is None or self.state is None:
            self.state = self.rope.state(seen)
            return self.state
        with torch.no_grad():
            predicted = self.rope.model.step(self.state, action)
        wrong = seen - predicted.positions
        alpha, beta = self.gains
        positions = predicted.positions + alpha * wrong
        velocities = predicted.velocities + beta * wrong / self.rope.model.spec.dt
        self.state = self.rope.state(self.rope.hold(positions, grippers), velocities)
        return self.state


def reach_shapes(
    task: RopeTask, trials: Sequence[RopeTrial], rope: RopeModel, control: RopeControl = RopeControl(), *, name: str = "MPC", progress: bool = True
) -> RopeRun:
    """Bring each rope to its goal with MPC, all trials together; they are of kinds with the same number of grippers.

    The controller sees, once a control period, every node with noise (as of tracked points), the grippers' places exactly, and the cloud of the goal. It
    estimates velocities (`AlphaBetaFilter`). It knows neither the grippers' places at the goal nor which point of the cloud is which.

    Args:
        task: the rope.
        trials: B of them.
        rope: what predicts.
        control: planner, filter and noise.
        name: of the run.
        progress: show a bar.
    """
    count, model = len(trials), rope.model
    middle = blurring_mean_shift(torch.tensor(np.stack([trial.cloud for trial in trials]), dtype=torch.float32), task.radius)
    ends = torch.stack([shape_ends(cloud) for cloud in middle])
    objective = ShapeGoal(middle[:, :: control.thin], corners=rope.corners, weights=rope.shares, stage=control.stage)
    limit = StretchLimit(rope.pairs, torch.full((len(rope.pairs),), rope.rest_length), control.stretch * task.stretch)
    search = MPPI(
        horizon=control.horizon,
        samples=control.samples,
        iterations=control.iterations,
        knots=control.knots,
        std=control.std,
        temperature=control.temperature,
        anneal=control.anneal,
        tail="zero",
        narrow=control.narrow,
    )
    planner = Hybrid(search=search, steps=control.polish)
    first = Hybrid(
        search=replace(search, iterations=control.opening, anneal=control.anneal ** (control.iterations / control.opening)),
        steps=control.opening_polish,
        finalists=control.polished,
    )
    lifts = [share * task.length for share in control.lifts]

    def carry(state: Any, noise: Noise) -> Tensor:
        return carry_proposals(model.places(state), ends, horizon=control.horizon, dt=task.dt, speed=task.speed, lifts=lifts)

    mpc = MPC(model, planner, objective, constraints=(limit,), seed=control.seed, propose=carry)
    estimate, noise = AlphaBetaFilter(rope, control.position_gain, control.velocity_gain), Noise.from_seed(control.seed, count).child(7)
    misses = MissedOutput(rope, control.lead, control.correction)
    worlds = [task.world(trial.kind) for trial in trials]
    try:
        nodes = [world.reset(nodes=trial.start) for world, trial in zip(worlds, trials, strict=True)]
        goals = np.stack([trial.goal for trial in trials])
        stretch, path, plans, steps = np.zeros(count), [], [], []
        action: Tensor | None = None
        with Progress(disable=not progress, transient=True) as bar:
            job = bar.add_task(f"{name}: {count} ropes", total=control.steps)
            for step in range(control.steps):
                grippers = torch.tensor(np.stack([world.controllers for world in worlds]), dtype=torch.float32)
                observed = torch.tensor(np.stack(nodes), dtype=torch.float32)
                observed = observed + control.noise * noise.at(step).normal(observed.shape)
                begin = time.perf_counter()
                state = estimate.update(observed, grippers, action)
                mpc.model = Disturbed(model, misses.update(state, rope.place(observed, grippers), action), control.lead)
                planning = time.perf_counter()
                mpc.planner = planner if step else first
                action = mpc.act(state)
                resting = stay(mpc, state, control.gain)
                action = torch.where(resting[:, None], 0.0, action)
                action = model.spec.action.project(model.within(grippers, action.unflatten(-1, (-1, 3))).flatten(-2))
                steps.append(time.perf_counter() - begin)
                plans.append(time.perf_counter() - planning)
                nodes = [world.step(command) for world, command in zip(worlds, action.unflatten(-1, (-1, 3)).double().numpy(), strict=True)]
                path.append(shape_distance(np.stack(nodes), goals).numpy())
                stretch = np.maximum(stretch, stretch_of(np.stack(nodes), task).numpy())
                bar.update(job, advance=1)
        final = np.stack([rest(world) for world in worlds])
    finally:
        for world in worlds:
            world.close()
    return _run(name, task, trials, final, stretch, path, plans, steps)


def stay(mpc: MPC, state: Any, gain: float) -> Tensor:
    """(B,) bool, where the last plan does not cost less than staying still by a share `gain`: there the rope is let be, and the next plan starts from there.

    Without it a controller near its goal fidgets for gains that are smaller than the errors of its model.
    """
    plan = mpc.plan
    assert plan is not None
    with torch.no_grad():
        still = mpc.objective(mpc.model.rollout(state, torch.zeros_like(plan.actions)))
    resting = plan.cost > (1 - gain) * still
    actions = torch.where(resting[:, None, None], 0.0, plan.actions)
    mpc.plan = plan.with_actions(actions)
    return resting


def straight_to_ends(task: RopeTask, trials: Sequence[RopeTrial], *, name: str = "grippers straight to their goals") -> RopeRun:
    """What an oracle of the grippers' places at the goal reaches without a model: straight there, within the speed of the goals' making."""
    final, stretch = [], []
    for trial in trials:
        with task.world(trial.kind) as world:
            world.reset(nodes=trial.start)
            move(world, trial.grippers, speed=0.75 * task.speed)
            stretch.append(float(stretch_of(world.nodes, task)))
            final.append(rest(world))
    return _run(name, task, trials, np.stack(final), np.array(stretch), [], [], [])


def do_nothing(task: RopeTask, trials: Sequence[RopeTrial]) -> RopeRun:
    """The ropes stay where they are."""
    nodes = np.stack([trial.start for trial in trials])
    return _run("do nothing", task, trials, nodes, stretch_of(nodes, task).numpy(), [], [], [])


def _run(
    name: str, task: RopeTask, trials: Sequence[RopeTrial], nodes: Array, stretch: Array, path: Sequence[Array], plans: Sequence[float], steps: Sequence[float]
) -> RopeRun:
    goals = np.stack([trial.goal for trial in trials])
    return RopeRun(
        name,
        tuple(trial.kind for trial in trials),
        np.array([trial.distance for trial in trials]),
        shape_distance(nodes, goals).numpy(),
        np.maximum(stretch, stretch_of(nodes, task).numpy()),
        nodes,
        np.stack(path, 1) if path else np.zeros((len(trials), 0)),
        np.array(plans),
        np.array(steps),
        task.stretch,
    )
