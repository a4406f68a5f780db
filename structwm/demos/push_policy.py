"""A policy that pushes a slider to a goal pose: what it sees, where it learns, and how it does in a foreign world."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from structwm.geometry.planar import rotate, to_body, wrap_angle
from structwm.interfaces import Objective
from structwm.noise import Noise
from structwm.physics.pushing import PushState, PushTwin
from structwm.planning.coordinate_goals import CoordinateGoal
from structwm.roles import Goals, ImaginedEnv
from structwm.transition import Trajectory, TransitionModel
from structwm.worlds import PlanarPushing

Array = NDArray[np.float64]
POSE = ("x", "y", "yaw")
SIZE = 0.1  # length that the network sees as one [m]
FEATURES = 10


@dataclass(frozen=True)
class PushEpisodes:
    """What episodes of pushing are like."""

    distance: float = 0.1  # of the start from the goal, at most [m]
    angle: float = math.radians(60.0)  # between start and goal, at most [rad]
    position_tolerance: float = 0.01  # [m]
    yaw_tolerance: float = math.radians(5.0)  # [rad]
    steps: int = 100  # at most
    bonus: float = 5.0  # of a goal reached, in tolerances; larger hurries
    stray: float = 0.2  # cost of the pusher being one tolerance farther from the slider than it need be; larger keeps it near


@dataclass(frozen=True)
class Learning:
    """How a policy is learned (Schulman et al., "Proximal policy optimization algorithms", 2017)."""

    steps: int = 3_000_000  # of all environments together
    rollout: int = 16  # steps of each environment between updates
    minibatch: int = 4096
    epochs: int = 4
    rate: float = 2e-3  # falls linearly to 0
    discount: float = 0.98
    clip: float = 0.2
    entropy: float = 0.0  # weight; larger explores longer
    spread: float = -0.5  # logarithm of the std of actions at the start
    widths: tuple[int, ...] = (128, 128)
    seed: int = 0


def features(pose: Tensor, pusher: Tensor, goal: Tensor) -> Tensor:
    """What a policy sees (*B, 10), in the slider's frame, so that it need not learn that all places and headings are alike.

    Where the pusher is, where the goal is and how far, linearly and by its logarithm, and how much is still to turn.

    Args:
        pose: (*B, 3) of the slider [m, m, rad].
        pusher: (*B, 2) [m].
        goal: (*B, 3) [m, m, rad].
    """
    tip, aim = to_body(pose, pusher) / SIZE, to_body(pose, goal[..., :2]) / SIZE
    turn = wrap_angle(goal[..., 2] - pose[..., 2])
    far = aim.norm(dim=-1, keepdim=True)
    direction = aim / far.clamp_min(1e-6)
    size = torch.stack((far[..., 0], turn.abs()), -1)
    return torch.cat((tip, aim, direction, (size + 0.01).log() / 2, turn.unsqueeze(-1), (10 * turn).tanh().unsqueeze(-1)), -1)


def world_velocity(pose: Tensor, command: Tensor, speed: float) -> Tensor:
    """The pusher's velocity (*B, 2) [m/s] in the world frame for a command (*B, 2) in the slider's, of which a length of one and more means `speed` [m/s]."""
    turned = rotate(speed * command / command.norm(dim=-1, keepdim=True).clamp_min(1.0), pose[..., 2])
    return turned.clamp(-speed, speed)  # rounding leads beyond


class PushActor(nn.Module):
    """A deterministic policy: a network of rectified layers from `features` to a command in the slider's frame.

    Args:
        widths: of the hidden layers.
    """

    def __init__(self, widths: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.widths = list(widths)
        sizes = [FEATURES, *widths, 2]
        layers = [part for k in range(len(sizes) - 1) for part in (nn.Linear(sizes[k], sizes[k + 1]), nn.ReLU())]
        self.network = nn.Sequential(*layers[:-1])

    def forward(self, pose: Tensor, pusher: Tensor, goal: Tensor, speed: float) -> Tensor:
        """Velocities (*B, 2) [m/s] in the world frame, of `speed` [m/s] at most."""
        return world_velocity(pose, self.network(features(pose, pusher, goal)).clamp(-1.0, 1.0), speed)


class PushCost(Objective):
    """The distance of the slider from its goal in tolerances, less a bonus where it is there, plus a little for a pusher that strays."""

    needs = frozenset({"coordinates"})

    def __init__(self, goals: Goals, goal: Tensor, episodes: PushEpisodes, reach: float) -> None:
        distance = goals.objective(goal)
        assert isinstance(distance, CoordinateGoal)
        self.distance, self.goals, self.goal, self.episodes, self.reach = distance, goals, goal, episodes, reach

    def __call__(self, trajectory: Trajectory) -> Tensor:
        there = self.goals.reached(trajectory.scene, trajectory.states[..., -1], self.goal)
        x, y, _, tip_x, tip_y = trajectory.coordinates()[..., -1, :].unbind(-1)
        stray = (torch.hypot(tip_x - x, tip_y - y) - self.reach).clamp_min(0) / self.episodes.position_tolerance
        return self.distance(trajectory) - self.episodes.bonus * there + self.episodes.stray * stray


def imagined_pushing(model: TransitionModel[PushState], twin: PushTwin, num_envs: int, episodes: PushEpisodes = PushEpisodes()) -> ImaginedEnv:
    """N episodes of pushing in a model. All goals are the origin: where on the table things happen does not matter.

    Args:
        model: what predicts; each episode has a member of its own.
        twin: knows the slider's shape.
        num_envs: N.
        episodes: what they are like.
    """
    side = episodes.position_tolerance / math.sqrt(2)  # of a square within the disc that counts
    tolerance = (side, side, episodes.yaw_tolerance)
    goals = Goals(POSE, torch.zeros(1, 3), tolerance=tolerance)
    reach = float(torch.from_numpy(twin.shape.boundary(360)).norm(dim=-1).max()) + 2 * twin.pusher_radius
    return ImaginedEnv(
        model,
        lambda noise: random_starts(noise, twin, episodes),
        num_envs,
        objective=lambda goal: PushCost(goals, goal, episodes, reach),
        reward="progress",
        goals=goals,
        max_steps=episodes.steps,
        autoreset_mode="SameStep",
    )


def random_starts(noise: Noise, twin: PushTwin, episodes: PushEpisodes) -> PushState:
    """States (n,) around the origin, the pusher 5 to 50 mm off the slider."""
    count = len(noise.seeds)
    u = noise.uniform((count, 5))
    heading, away = 2 * math.pi * u[:, 0], episodes.distance * u[:, 1].sqrt()
    pose = torch.stack((away * heading.cos(), away * heading.sin(), (2 * u[:, 2] - 1) * episodes.angle), -1)
    boundary = torch.from_numpy(twin.shape.boundary(360)).to(pose)
    at = boundary[(u[:, 3] * len(boundary)).long().clamp_max(len(boundary) - 1)]
    normal = twin.shape.nearest(at * 1.0005).normal
    tip = at + (twin.pusher_radius + 0.005 + 0.045 * u[:, 4:]) * normal
    return PushState(pose=pose, pusher=pose[:, :2] + rotate(tip, pose[:, 2]), batch_size=[count])


@dataclass(frozen=True)
class PolicyRun:
    """How a policy did in B worlds."""

    reached: NDArray[np.bool_]  # (B,) within the tolerances
    steps: NDArray[np.int64]  # (B,) that it took, all where the goal was not reached
    position_error: Array  # (B,) at the end [m]
    yaw_error: Array  # (B,) at the end [rad]


def run_policy(
    worlds: Sequence[PlanarPushing], starts: Array, goals: Array, act: Callable[[Tensor, Tensor, Tensor], Tensor], episodes: PushEpisodes, *, seed: int = 0
) -> PolicyRun:
    """Let a policy push the slider of each world from its start to its goal; a world stops when its slider is within the tolerances.

    Args:
        worlds: B worlds.
        starts: (B, 3) poses [m, m, rad].
        goals: (B, 3).
        act: from poses (B, 3), pushers (B, 2) and goals (B, 3) to velocities (B, 2) [m/s].
        episodes: tolerances and steps.
        seed: of where the pushers start.
    """
    seen = [world.reset(seed=seed + i, options={"object_pose": start})[0] for i, (world, start) in enumerate(zip(worlds, starts, strict=True))]
    target, steps = torch.tensor(goals, dtype=torch.float32), np.full(len(worlds), episodes.steps)
    done = np.zeros(len(worlds), bool)
    truth = np.array(starts, dtype=np.float64)
    for step in range(episodes.steps):
        pose, pusher = (torch.tensor(np.stack([observation[name] for observation in seen]), dtype=torch.float32) for name in ("object_pose", "pusher"))
        with torch.no_grad():
            action = act(pose, pusher, target).double().numpy()
        for i in np.flatnonzero(~done).tolist():
            seen[i], *_, info = worlds[i].step(action[i])
            truth[i] = info["object_pose"]
        position, yaw = pose_errors(truth, goals)
        arrived = ~done & (position <= episodes.position_tolerance) & (yaw <= episodes.yaw_tolerance)
        steps[arrived], done = step + 1, done | arrived
        if done.all():
            break
    return PolicyRun(done, steps, position, yaw)


def pose_errors(poses: Array, goals: Array) -> tuple[Any, Any]:
    """Distances (B,) [m] and absolute yaw differences (B,) [rad]."""
    return np.linalg.norm(poses[:, :2] - goals[:, :2], axis=-1), np.abs((poses[:, 2] - goals[:, 2] + math.pi) % (2 * math.pi) - math.pi)
