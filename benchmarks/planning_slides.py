"""A box that is pushed, let go and slides on: the model, the task of delivering it across a table, and its trials in foreign engines.

The pusher reaches no farther than a line, the goal lies behind it, and behind the goal the table ends. Friction with the ground decides how far the box slides
from where it is let go, `v^2 / (2 mu g)`; it is known to a quarter. The box moves along x and is hit in the middle, so that it hardly turns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.ensemble import Ensemble
from structwm.noise import Noise
from structwm.physics.parameters import Parameter
from structwm.physics.twin import Twin
from structwm.planning import MPC, CoordinateGoal, CoordinateLimit, SamplingPlanner
from structwm.scene import Scene
from structwm.spec import ActionSpec, ModelSpec
from structwm.state import State
from structwm.transition import TransitionModel
from structwm.worlds import PlanarPushing, make

Array = NDArray[np.float64]
GRAVITY = 9.81  # [m/s^2]
SIDE, RADIUS = 0.1, 0.005  # of the box and of the pusher [m]
REACH = SIDE / 2 + RADIUS  # from the pusher's centre to the box's where they touch [m]
DT, SPEED = 0.1, 1.2  # control step [s], fastest pusher [m/s]
SUBSTEPS = 5  # of a control step, in which the drive's speed changes
ACCELERATION = 6.0  # of the drive, at most [m/s^2]
FRICTION, SPREAD = 0.16, 0.3  # what friction is thought to be, and the standard deviation of the logarithm of the true one about it
START = (0.25, 0.4)  # of the box behind where it leaves the pusher's reach [m]
LINE = -0.3  # where the box's centre is when the pusher is at the end of its reach, the goal at 0 [m]
EDGE = 0.06  # a box whose centre passes it falls [m]
STEPS = 30  # of a trial


class SlideState(State):
    """Where box and pusher are along x, the goal at 0, and how fast the box moves."""

    place: Tensor  # (*B, 1) [m] of the box's centre
    speed: Tensor  # (*B, 1) [m/s]
    pusher: Tensor  # (*B, 1) [m]
    drive: Tensor  # (*B, 1) speed of the pusher [m/s]


class SlideScene(Scene):
    """Everything as coordinates."""

    def coordinates(self, state: Any) -> Tensor:
        return torch.cat((state.place, state.speed, state.pusher, state.drive), -1)


class SlideTwin(Twin[SlideState]):
    """A sliding box on a plane with Coulomb friction; the pusher takes it along without bounce, and never back. The action is the speed (*B, 1) that the
    pusher's drive is to reach."""

    def __init__(self, values: Mapping[str, Tensor | float] | None = None) -> None:
        self.physical = {"friction": Parameter("friction", "-", FRICTION, 0.01, 2.0, "log", 0.5, help="between box and ground")}
        super().__init__(values)
        self.spec = ModelSpec(SlideState, ActionSpec.box(0.0, SPEED, 1, names=("pusher_vx",), units=("m/s",), convention="velocity"), DT)
        self.scene = SlideScene(coordinate_names=("x", "vx", "pusher", "drive"))
        self.spec = replace(self.spec, members=self.batch_shape[-1] if self.batch_shape else 1)

    def config(self) -> dict[str, Any]:
        return {"values": dict(self.values)}

    def step_fields(self, fields: dict[str, Tensor], action: Any, *, noise: Noise | None = None) -> dict[str, Tensor]:
        place, speed, pusher, drive = (fields[name][..., 0] for name in ("place", "speed", "pusher", "drive"))
        if self.spec.members > 1:
            action = action.unsqueeze(-2)
        step = DT / SUBSTEPS
        slowing = self.values["friction"].to(place) * (GRAVITY * step)
        for _ in range(SUBSTEPS):
            drive = driven(drive, action[..., 0], pusher)
            pusher = pusher + step * drive
            after = (speed - slowing).clamp_min(0.0)
            free = place + 0.5 * step * (speed + after)
            front = pusher + REACH
            taken = front > free
            place, speed = torch.where(taken, front, free), torch.where(taken, torch.maximum(after, drive), after)
        following = {"place": place, "speed": speed, "pusher": pusher, "drive": drive}
        return {name: value.expand(place.shape).unsqueeze(-1) for name, value in following.items()}


def driven(drive: Tensor, wanted: Tensor, pusher: Tensor) -> Tensor:
    """The pusher's speed in the next substep [m/s]: the drive's acceleration is bounded, and at the end of its reach it stands."""
    step = DT / SUBSTEPS
    change = (wanted - drive).clamp(-ACCELERATION * step, ACCELERATION * step)
    return torch.minimum(drive + change, (LINE - REACH - pusher) / step)


def goal() -> CoordinateGoal:
    """The distance of the box from the goal [m]: mean over time, and at the end."""
    return CoordinateGoal({"x": 0.0}, root=True)


def edge() -> CoordinateLimit:
    """The box stays on the table; its members' violations, how far past the edge or, negative, before it, go through the planner's risk."""
    return CoordinateLimit("x", high=EDGE)


@dataclass(frozen=True)
class Trials:
    """What is drawn for each of N trials: the same for all that are compared."""

    friction: Array  # (N,), of the ground; unknown to the planner
    start: Array  # (N,) places of the box [m]
    gap: Array  # (N,) to the pusher [m]

    @classmethod
    def draw(cls, count: int, *, seed: int) -> Trials:
        """N trials."""
        rng = np.random.default_rng(seed)
        return cls(FRICTION * np.exp(SPREAD * rng.normal(size=count)), LINE - rng.uniform(*START, count), rng.uniform(0.005, 0.02, count))


def cousins(count: int, *, seed: int) -> Ensemble[SlideState]:
    """A model of E members whose frictions are drawn like those of the trials."""
    kicks = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return Ensemble(SlideTwin({"friction": FRICTION * (SPREAD * kicks).exp()}))


@dataclass(frozen=True)
class Outcomes:
    """How N trials went."""

    place: Array  # (N,) of the box at the end [m]
    seconds: Array  # (N,) until it came to rest or fell
    turned: Array  # (N,) yaw at the end [rad]: how far the box left what the model thinks of
    plans: tuple[float, ...]  # [s] of each plan, for all that were planned for at once

    @property
    def fell(self) -> NDArray[np.bool_]:
        """(N,)"""
        return self.place > EDGE


def run_trials(engine: str, trials: Trials, model: TransitionModel[SlideState], planner: SamplingPlanner, *, seed: int) -> Outcomes:
    """Model predictive control of all trials at once, each in a world of its own that has the trial's friction."""
    worlds = [_world(engine, friction) for friction in trials.friction]
    try:
        return _run(worlds, trials, MPC(model, planner, goal(), constraints=[edge()], seed=seed))
    finally:
        for world in worlds:
            world.close()


def _world(engine: str, friction: float) -> PlanarPushing:
    half = SIDE / 2
    outline = ((-half, -half), (half, -half), (half, half), (-half, half))
    return make(engine, outline=outline, pusher_radius=RADIUS, friction=float(friction), max_speed=SPEED, dt=DT / SUBSTEPS, workspace=1.5)


def _run(worlds: Sequence[PlanarPushing], trials: Trials, control: MPC) -> Outcomes:
    count = len(worlds)
    options = [
        {"object_pose": np.array([start, 0.0, 0.0]), "pusher": np.array([start - REACH - gap, 0.0])}
        for start, gap in zip(trials.start, trials.gap, strict=True)
    ]
    seen = [world.reset(seed=k, options=option)[0] for k, (world, option) in enumerate(zip(worlds, options, strict=True))]
    poses, pushers, drive = [_poses(seen)], [_pushers(seen)], torch.zeros(count, dtype=torch.float64)
    speed, seconds, done = np.zeros(count), np.full(count, DT * STEPS), np.zeros(count, bool)
    plans: list[float] = []
    for number in range(STEPS):
        active = torch.tensor(poses[-1][:, 0] <= LINE)  # boxes beyond the line are out of reach
        wanted = torch.zeros_like(drive)
        if active.any():
            state = _state(poses[-1][:, 0], speed, pushers[-1], drive.numpy())
            began = time.perf_counter()
            wanted[active] = control.act(state, active=active)[active, 0].double()
            plans.append(time.perf_counter() - began)
        for _ in range(SUBSTEPS):
            drive = driven(drive, wanted, torch.tensor(pushers[-1]))
            for k in np.flatnonzero(~done):
                seen[k] = worlds[k].step(np.array([float(drive[k]), 0.0]))[0]
            poses.append(_poses(seen))
            pushers.append(_pushers(seen))
        speed = _speed(poses, pushers)
        rests = (poses[-1][:, 0] > LINE) & (poses[-1][:, 0] - poses[-2][:, 0] < 1e-6)
        ends = ~done & (rests | (poses[-1][:, 0] > EDGE))
        seconds[ends], done = DT * (number + 1), done | ends
        if done.all():
            break
    return Outcomes(poses[-1][:, 0], seconds, np.abs(poses[-1][:, 2]), tuple(plans))


def _poses(seen: Sequence[dict[str, Array]]) -> Array:
    return np.stack([observation["object_pose"] for observation in seen])


def _pushers(seen: Sequence[dict[str, Array]]) -> Array:
    return np.stack([observation["pusher"][0] for observation in seen])


def _speed(poses: Sequence[Array], pushers: Sequence[Array]) -> Array:
    """The box's speed (N,) now, from how it moved, since observations hold no velocity: what is pushed moves with the pusher, what slides slows down evenly."""
    step = DT / SUBSTEPS
    place = np.stack([pose[:, 0] for pose in poses[-3:]])
    before, moved = np.diff(place, axis=0) / step
    touches = place[-1] - pushers[-1] < REACH + 5e-4
    return np.where(touches, np.maximum(moved, 0.0), np.clip(1.5 * moved - 0.5 * before, 0.0, None))


def _state(place: Array, speed: Array, pusher: Array, drive: Array) -> SlideState:
    named = {"place": place, "speed": speed, "pusher": pusher, "drive": drive}
    return SlideState(**{name: torch.tensor(value, dtype=torch.float32).unsqueeze(-1) for name, value in named.items()}, batch_size=[len(place)])
