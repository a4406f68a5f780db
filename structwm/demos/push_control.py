"""Closed-loop planar pushing: MPC on any model of `PushState`, judged in a foreign world, many problems at once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from structwm.interfaces import Belief
from structwm.physics.push_proposals import PushProposals
from structwm.physics.pushing import PushState, PushTwin
from structwm.planning import MPC, MPPI, CoordinateGoal
from structwm.planning.latency import estimate_latency
from structwm.transition import TransitionModel
from structwm.worlds import PlanarPushing

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PushGoal:
    """What counts as reached, and how a run goes."""

    position_tolerance: float = 0.01  # [m]
    yaw_tolerance: float = math.radians(5.0)  # [rad]
    margin: float = 0.6  # pushing stops within this fraction of the tolerances; smaller is more careful
    steps: int = 150  # control steps at most
    settle: int = 5  # steps at rest within the tolerances after which a problem is done
    horizon: int = 40  # steps looked ahead
    samples: int = 128  # candidates per plan
    seed: int = 0  # of the planner


@dataclass(frozen=True)
class PushRun:
    """What happened, for B problems over T steps at most."""

    goals: Array  # (B, 3) [m, m, rad]
    poses: Array  # (T+1, B, 3), true poses of the slider
    pushers: Array  # (T+1, B, 2) [m]
    reached: NDArray[np.bool_]  # (B,) within the tolerances at the end
    steps: NDArray[np.int64]  # (B,) control steps until the slider rested at its goal; T where it never did
    position_error: Array  # (B,) at the end [m]
    yaw_error: Array  # (B,) at the end [rad]
    plan_seconds: Array  # (T,) wall time of each plan of all B problems


def random_goals(count: int, *, seed: int, distance: float = 0.1, angle: float = math.radians(60.0)) -> tuple[Array, Array]:
    """Start poses (count, 3) at the origin with any yaw, and goal poses (count, 3) uniform within `distance` [m] and `angle` [rad] of them."""
    rng = np.random.default_rng(seed)
    start = np.stack([np.zeros(count), np.zeros(count), rng.uniform(-math.pi, math.pi, count)], axis=-1)
    reach, heading = distance * np.sqrt(rng.uniform(size=count)), rng.uniform(-math.pi, math.pi, count)
    shift = np.stack([reach * np.cos(heading), reach * np.sin(heading), rng.uniform(-angle, angle, count)], axis=-1)
    return start, start + shift


def push_to_goals(
    worlds: Sequence[PlanarPushing],
    starts: Array,
    goals: Array,
    model: TransitionModel[PushState],
    twin: PushTwin,
    goal: PushGoal = PushGoal(),
    *,
    progress: bool = True,
) -> PushRun:
    """Push the slider of each world from its start to its goal with MPC.

    The latency of the worlds is not told: it is read from how the pusher follows its commands, and compensated.

    Args:
        worlds: B worlds with the same slider.
        starts: (B, 3) poses [m, m, rad].
        goals: (B, 3).
        model: what predicts.
        twin: knows the slider's shape, for the push proposals.
        goal: tolerances and search.
        progress: show a bar.
    """
    count = len(worlds)
    observations = [world.reset(seed=goal.seed + i, options={"object_pose": start})[0] for i, (world, start) in enumerate(zip(worlds, starts, strict=True))]
    truth = np.stack([observation["object_pose"] for observation in observations])
    target = torch.tensor(goals, dtype=torch.float32)
    arm = goal.position_tolerance / goal.yaw_tolerance  # metres that matter as much as a radian
    objective = CoordinateGoal({"x": target[:, 0], "y": target[:, 1], "yaw": target[:, 2]}, weights={"yaw": arm**2}, root=True, stage=0.5)
    planner = MPPI(horizon=goal.horizon, samples=goal.samples, std=0.2, knots=10, temperature=0.02)
    control = MPC(model, planner, objective, seed=goal.seed, propose=PushProposals(twin, goal.horizon, goal.samples // 2))
    dt = worlds[0].config.dt
    poses, pushers, seconds = [truth], [_pushers(observations)], []
    resting, rested, finished = np.zeros(count, bool), np.zeros(count, int), np.full(count, goal.steps)
    commands: list[torch.Tensor] = []
    responses: list[torch.Tensor] = []
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task(f"pushing {count} sliders to their goals", total=goal.steps)
        for step in range(goal.steps):
            control.latency = estimate_latency(commands[-30:], responses[-30:])
            state = _state(observations)
            begin = time.perf_counter()
            action = control.act(state)
            seconds.append(time.perf_counter() - begin)
            begun = control.start
            start = (model.scene.average(begun.states, 1) if isinstance(begun, Belief) else cast(PushState, begun)).pose
            position, yaw = _errors(start.double().numpy(), goals)
            inside = np.maximum(position / goal.position_tolerance, yaw / goal.yaw_tolerance)
            resting = np.where(resting, inside < 0.9, inside < goal.margin)  # hysteresis: pushing starts again only when the slider left
            action[torch.from_numpy(resting)] = 0.0
            control.replace_last(action)
            outcomes = [world.step(command) for world, command in zip(worlds, action.double().numpy(), strict=True)]
            observations = [outcome[0] for outcome in outcomes]
            poses.append(np.stack([outcome[4]["object_pose"] for outcome in outcomes]))
            pushers.append(_pushers(observations))
            commands.append(action)
            responses.append(torch.tensor((pushers[-1] - pushers[-2]) / dt))
            rested = np.where(resting, rested + 1, 0)
            finished = np.where((rested == goal.settle) & (finished == goal.steps), step + 1, finished)
            bar.update(task, advance=1)
            if (rested >= goal.settle).all():
                break
    position, yaw = _errors(poses[-1], goals)
    reached = (position <= goal.position_tolerance) & (yaw <= goal.yaw_tolerance)
    return PushRun(goals, np.stack(poses), np.stack(pushers), reached, finished, position, yaw, np.array(seconds))


def _state(observations: Sequence[dict[str, Array]]) -> PushState:
    pose = torch.tensor(np.stack([observation["object_pose"] for observation in observations]), dtype=torch.float32)
    return PushState(pose=pose, pusher=torch.tensor(_pushers(observations), dtype=torch.float32), batch_size=[len(observations)])


def _pushers(observations: Sequence[dict[str, Array]]) -> Array:
    return np.stack([observation["pusher"] for observation in observations])


def _errors(poses: Array, goals: Array) -> tuple[Array, Array]:
    """Distance (B,) [m] and absolute wrapped yaw difference (B,) [rad]."""
    return np.linalg.norm(poses[:, :2] - goals[:, :2], axis=-1), np.abs((poses[:, 2] - goals[:, 2] + math.pi) % (2 * math.pi) - math.pi)
