"""Intermediate goals on the way to a far one: where a forecast passes, and a controller that goes from one to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from structwm.interfaces import Forecaster, Objective, SubgoalGenerator, Subgoals, Task
from structwm.planning import CoordinateGoal
from structwm.planning.mpc import MPC
from structwm.scene import Scene
from structwm.state import State

from .episode_goals import coordinate_errors


def goal_coordinates(scene: Scene, goal: Any, problems: int) -> Tensor:
    """Coordinates (B, D) of a task's goal, a state (B,) or coordinates (B, D).

    Raises:
        ValueError: if there is none, or not one for each problem.
    """
    if goal is None:
        raise ValueError("Subgoals need a task with a goal, a state (B,) or coordinates (B, D); got none.")
    values = scene.coordinates(goal) if isinstance(goal, State) else torch.as_tensor(goal)
    if values.ndim != 2 or values.shape[0] not in (1, problems):
        raise ValueError(f"Subgoals need a goal (B, D) for {problems} problems, got coordinates of shape {tuple(values.shape)}.")
    return values.expand(problems, -1)


class Reach:
    """Which coordinates count, and how near is reached: the distance is the largest error in units of its tolerance, reached at 1.

    Args:
        scene: names the coordinates.
        tolerance: by coordinate name, in its unit.

    Raises:
        ValueError: if there is none, or one that is not above zero.
    """

    def __init__(self, scene: Scene, tolerance: Mapping[str, float]) -> None:
        if not tolerance or not all(value > 0 for value in tolerance.values()):
            raise ValueError(f"Subgoals need a tolerance above zero for some coordinates, got {dict(tolerance)}.")
        self.scene, self.tolerance = scene, dict(tolerance)

    def columns(self, state: Any, coordinates: Tensor) -> Tensor:
        """Those of coordinates (*B, D) that count, (*B, G)."""
        known = self.scene.coordinate_names(state)
        unknown = [name for name in self.tolerance if name not in known]
        if unknown:
            raise ValueError(f"There is no coordinate {unknown[0]!r}; this scene has {', '.join(known)}.")
        return coordinates[..., [known.index(name) for name in self.tolerance]]

    def distance(self, state: Any, coordinates: Tensor) -> Tensor:
        """Of states (*B) from coordinates (*B, D), (*B)."""
        names = list(self.tolerance)
        error = coordinate_errors(self.scene, state, names, self.columns(state, coordinates))
        return (error.abs() / torch.tensor(list(self.tolerance.values())).to(error)).amax(-1)

    def objective(self, state: Any, coordinates: Tensor) -> Objective:
        """The Euclidean distance to coordinates (B, D), in tolerances."""
        targets = dict(zip(self.tolerance, self.columns(state, coordinates).unbind(-1), strict=True))
        return CoordinateGoal(targets, weights={name: value**-2 for name, value in self.tolerance.items()}, root=True)


class ForecastSubgoals(SubgoalGenerator[Any]):
    """Where a forecast passes, at instants spread evenly over it.

    Of several sampled futures the one is taken that ends nearest to the goal, in standard deviations of each coordinate over the forecasts, or the first where
    the task has no goal in coordinates. A goal takes the place of the forecast's end.

    Args:
        forecaster: language- or goal-conditioned.
        count: G, subgoals.
        horizon: steps of the forecast.
    """

    def __init__(self, forecaster: Forecaster[Any], *, count: int, horizon: int) -> None:
        if not 1 <= count <= horizon:
            raise ValueError(f"ForecastSubgoals needs 1 <= count <= horizon, got {count} and {horizon}.")
        self.forecaster, self.count, self.horizon = forecaster, count, horizon

    def propose(self, state: Any, task: Task) -> Subgoals:
        problems = int(state.batch_size[0])
        trajectory = self.forecaster.forecast(state, task, self.horizon)
        instants = torch.linspace(0, trajectory.horizon, self.count + 1).round().long()[1:]
        goal = None if task.goal is None else goal_coordinates(trajectory.scene, task.goal, problems)
        if len(trajectory.batch_shape) == 2:
            chosen = torch.zeros(problems, dtype=torch.int64)
            if goal is not None:
                ends = trajectory.coordinates()
                scale = ends.flatten(0, 2).std(0, correction=0).clamp_min(1e-9)
                targets = goal.unsqueeze(1).expand(ends[:, :, -1].shape)
                error = coordinate_errors(trajectory.scene, trajectory.states[:, :, -1], trajectory.scene.coordinate_names(state), targets)
                chosen = (error / scale).norm(dim=-1).argmin(1)
            trajectory = trajectory[torch.arange(problems), chosen]
        found = trajectory.coordinates()[:, instants].clone()
        if goal is not None:
            found[:, -1] = goal.to(found)
        yes = torch.ones(problems, self.count, dtype=torch.bool, device=found.device)
        return Subgoals(found, yes, yes[:, 0])


class SubgoalMPC:
    """MPC that is given one subgoal after another, for B problems at once; each problem goes on when it has reached its own.

    A later subgoal that is reached counts for all before it. Where none is reached for `patience` steps, new ones are asked for from where the problem is, by
    a way that leads past those that were not reached.

    Args:
        mpc: plans to the subgoal of the moment; its objective is replaced.
        generator: proposes.
        tolerance: by coordinate name, in its unit, how near is reached; the coordinates that are planned for.
        objective: from subgoals (B, D) to what is planned with; by default the distance in tolerances.
        patience: steps; None: for ever.
    """

    def __init__(
        self,
        mpc: MPC,
        generator: SubgoalGenerator[Any],
        *,
        tolerance: Mapping[str, float],
        objective: Callable[[Tensor], Objective] | None = None,
        patience: int | None = None,
    ) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"SubgoalMPC.patience is a number of steps of at least 1 or None, got {patience}.")
        self.mpc, self.generator, self.objective, self.patience = mpc, generator, objective, patience
        self.reach = Reach(mpc.model.scene, tolerance)
        self.subgoals: Subgoals | None = None

    def start(self, state: Any, task: Task) -> Subgoals:
        """Ask for subgoals from states (B,), and forget what was before."""
        self.mpc.reset()
        self.task, self.subgoals = task, self.generator.propose(state, task)
        self.place = torch.zeros(len(self.subgoals.valid), dtype=torch.int64)  # of the subgoal under way
        self._waited = torch.zeros_like(self.place)
        self.done = torch.zeros(len(self.place), dtype=torch.bool)  # which problems have come to their last one
        self.failed: list[list[Tensor]] = [[] for _ in self.place]  # of each problem, the subgoals (D,) that it was stuck on its way to
        return self.subgoals

    def act(self, state: Any) -> Tensor:
        """The action (B, A) to send now, for states (B,).

        Raises:
            RuntimeError: before `start`.
        """
        if self.subgoals is None:
            raise RuntimeError("SubgoalMPC needs start(state, task) before act(state).")
        self._advance(state)
        if self.patience is not None and bool((self._waited > self.patience).any()):
            self._ask_again(state)
        current = self.subgoals.coordinates[torch.arange(len(self.place)), self.place]
        self.mpc.objective = self.objective(current) if self.objective is not None else self.reach.objective(state, current)
        return self.mpc.act(state)

    def _advance(self, state: Any) -> None:
        assert self.subgoals is not None
        count = self.subgoals.valid.shape[1]
        near = self.reach.distance(state.unsqueeze(1).expand(len(self.place), count), self.subgoals.coordinates) <= 1
        order = torch.arange(count)
        reached = torch.where(near.cpu() & self.subgoals.valid.cpu() & (order >= self.place[:, None]), order, -1).amax(1)
        last = self.subgoals.count.cpu() - 1
        self.done = self.done | (reached == last)
        following = torch.maximum(self.place, torch.minimum(reached + 1, last))
        self._waited = torch.where((following > self.place) | self.done, 0, self._waited + 1)
        self.place = following

    def _ask_again(self, state: Any) -> None:
        """New subgoals for the problems that wait too long; the others keep theirs."""
        assert self.subgoals is not None and self.patience is not None
        old, stuck = self.subgoals, (self._waited > self.patience).nonzero().squeeze(-1)
        for b in stuck.tolist():
            self.failed[b].append(old.coordinates[b, self.place[b]])
        failed = pad_sequence([torch.stack(self.failed[b]) for b in stuck.tolist()], batch_first=True, padding_value=math.nan)
        goal = self.task.goal
        task = self.task if goal is None or len(goal) == 1 else replace(self.task, goal=goal[stuck])
        new, place = self.generator.propose_again(state[stuck], task, failed), stuck.to(old.valid.device)
        width = max(new.valid.shape[1], old.valid.shape[1])
        coordinates, valid, reachable = _padded(old.coordinates, width), _padded(old.valid, width), old.reachable.clone()
        coordinates[place], valid[place], reachable[place] = _padded(new.coordinates, width), _padded(new.valid, width), new.reachable
        self.subgoals = Subgoals(coordinates, valid, reachable)
        self.place[stuck], self._waited[stuck] = 0, 0


def _padded(values: Tensor, width: int) -> Tensor:
    """(B, G, ...) with zeros behind, up to G = width."""
    return torch.cat((values, values.new_zeros(values.shape[0], width - values.shape[1], *values.shape[2:])), 1)
