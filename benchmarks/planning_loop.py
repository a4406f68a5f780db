"""Collect, calibrate, plan, collect again: model predictive control whose model learns from the episodes of the rounds before.

Each object is a box whose centre of mass and friction differ from the model's, pushed by a tip that stands millimetres away from where the robot believes it
is. In each round the robot pushes towards a new goal for some seconds with the model that it has, and calibrates that model on all it has seen so far, noise
included. What the model is worth after each round is told by goals that it never collects on: the same ones each time, so that rounds are compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import fraction_claim, mean_claim
from structwm.demos.push_control import PushGoal, PushRun, push_to_goals, random_goals
from structwm.geometry.planar import Polygon
from structwm.physics import Settings, calibrate
from structwm.physics.posterior import Prior
from structwm.physics.pushing import CALIBRATED, PushState, PushTwin
from structwm.physics.recording import Recording, join
from structwm.worlds import PlanarPushing, make

Array = NDArray[np.float64]
ENGINES = {"bullet": "PyBullet", "mujoco": "MuJoCo"}
ROUNDS, COLLECTED, WINDOW = 3, 25, 5  # of a run; control steps of a round's episode, steps of a piece that is calibrated on
GOALS, STEPS = 4, 60  # that a model is tested on, control steps of each
TOLERANCE = 0.003, math.radians(1.5)  # [m], [rad]
OBJECTS = 2, 20  # in each engine, quick and full
DT = 0.1  # control step [s]
TIP = 0.006  # how far the tip stands from where it is believed to be [m], in any direction
TIP_SPREAD = 0.005  # what the prior thinks of that [m]
NOISE = (0.0005, 0.004)  # std of observed positions [m] and yaws [rad]
PARAMETERS = (*CALIBRATED, "tip_offset_x", "tip_offset_y")


@dataclass(frozen=True)
class Thing:
    """What is unknown of an object."""

    friction: float  # of the pusher on the box
    center: tuple[float, float]  # of mass [m]
    tip: Array  # (2,) true position of the tip less the believed one [m]

    @classmethod
    def draw(cls, seed: int) -> Thing:
        """An object."""
        rng = np.random.default_rng(seed)
        heading = rng.uniform(-math.pi, math.pi)
        center = rng.uniform(-0.02, 0.02), rng.uniform(-0.012, 0.012)
        return cls(float(rng.uniform(0.1, 0.6)), center, TIP * np.array([math.cos(heading), math.sin(heading)]))


class Misplaced:
    """A pushing world whose observed pusher is where the robot believes it to be."""

    def __init__(self, world: PlanarPushing, tip: Array) -> None:
        self.world, self.tip, self.config = world, tip, world.config

    def reset(self, **options: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        """As the world's."""
        observation, info = self.world.reset(**options)
        return self._believed(observation), info

    def step(self, action: Array) -> tuple[Any, ...]:
        """As the world's."""
        observation, *rest = self.world.step(action)
        return self._believed(observation), *rest

    def _believed(self, observation: dict[str, Array]) -> dict[str, Array]:
        return {**observation, "pusher": observation["pusher"] - self.tip}


def loop_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`loop_error_round_K` [m] and `loop_reached_round_K` on the goals that are tested, round 0 before anything was collected; `loop_gain_round_K` [m], by how
    much the error is less than before the round, object by object. In both engines."""
    claims: dict[str, Any] = {}
    for engine, title in ENGINES.items():
        runs = [one_loop(engine, seed) for seed in range(OBJECTS[0 if quick else 1])]
        suffix = "" if engine == "bullet" else "_second_engine"
        columns = ("round", "mean error, mm", "90 % over objects", "less than before, mm", "mean error, degrees", "reached", "mean seconds")
        table = Table(*columns, title=f"{len(runs)} objects in {title}, {GOALS} goals each")
        before: Array | None = None
        for k in range(ROUNDS + 1):
            position = np.array([run[k].position_error.mean() for run in runs])
            yaw = np.degrees([run[k].yaw_error.mean() for run in runs])
            reached = np.concatenate([run[k].reached for run in runs])
            claims[f"loop_error_round_{k}{suffix}"] = found = mean_claim(position)
            claims[f"loop_reached_round_{k}{suffix}"] = rate = fraction_claim(int(reached.sum()), len(reached))
            gained = ""
            if before is not None:
                claims[f"loop_gain_round_{k}{suffix}"] = gain = mean_claim(before - position)
                gained = f"{1e3 * gain['value']:.2f} ({1e3 * gain['low']:.2f} to {1e3 * gain['high']:.2f})"
            before = position
            interval = f"{1e3 * found['low']:.2f} to {1e3 * found['high']:.2f}"
            took = DT * float(np.mean([run[k].steps.mean() for run in runs]))
            table.add_row(str(k), f"{1e3 * found['value']:.2f}", interval, gained, f"{yaw.mean():.2f}", f"{rate['value']:.2f}", f"{took:.1f}")
        console.print(table)
    return claims


def one_loop(engine: str, seed: int) -> list[PushRun]:
    """The tests of one object: before the first round, and after each."""
    thing = Thing.draw(seed)
    worlds = [make(engine, dt=DT, pusher_radius=0.01, pusher_friction=thing.friction, center_of_mass=thing.center) for _ in range(GOALS)]
    config = worlds[0].config
    prior = PushTwin(Polygon.of(config.vertices), pusher_radius=config.pusher_radius, dt=config.dt, substeps=5)
    seen = cast(Sequence[PlanarPushing], [Misplaced(world, thing.tip) for world in worlds])
    recordings: list[Recording[PushState]] = []

    def pushed(twin: PushTwin, count: int, steps: int, key: int) -> PushRun:
        return push_to_goals(seen[:count], *random_goals(count, seed=key), twin, twin, PushGoal(*TOLERANCE, steps=steps, seed=key), progress=False)

    try:
        twin, runs = prior, [pushed(prior, GOALS, STEPS, 100 * seed)]
        for k in range(1, ROUNDS + 1):
            recordings += pieces(pushed(twin, 1, COLLECTED, 100 * seed + k), config.dt, seed=100 * seed + k)
            if recordings:
                twin = calibrated(prior, join(recordings))
            runs.append(pushed(twin, GOALS, STEPS, 100 * seed))
    finally:
        for world in worlds:
            world.close()
    return runs


def calibrated(twin: PushTwin, recording: Recording[PushState]) -> PushTwin:
    """The twin calibrated on pieces of episodes."""
    space = twin.space(PARAMETERS)
    around = Prior.of(space)
    wide = torch.tensor([TIP_SPREAD / twin.physical[name].spread if name.startswith("tip") else 1.0 for name in space.names], dtype=torch.float64)  # type: ignore[operator]
    prior = Prior(around.mean, around.covariance * wide.square().diag())
    return calibrate(twin, recording, PARAMETERS, held_out=None, prior=prior, settings=Settings(evaluations=0, iterations=15), progress=False).twin


def pieces(run: PushRun, dt: float, *, seed: int) -> list[Recording[PushState]]:
    """Episodes as seen, cut into pieces of `WINDOW` steps in which the slider moved, those of one episode err together; none where it never did."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=run.poses.shape) * np.array([NOISE[0], NOISE[0], NOISE[1]])
    pose, pusher = torch.tensor(np.unwrap(run.poses, axis=0) + noise).transpose(0, 1), torch.tensor(run.pushers).transpose(0, 1)
    actions = pusher.diff(dim=1) / dt
    whole = Recording(
        state=states(pose[:, 0], pusher[:, 0]),
        actions=actions,
        observed={name: pose[..., i] for i, name in enumerate(("x", "y", "yaw"))},
        scale={"x": 0.001, "y": 0.001, "yaw": 0.01},
        periodic=frozenset({"yaw"}),
        start_spread={"x": NOISE[0], "y": NOISE[0], "yaw": NOISE[1]},
    )
    cut = whole.windows(states(pose, pusher), WINDOW, WINDOW)
    last = torch.stack([cut.observed[name][:, -1] for name in ("x", "y")], -1)
    moved = (last - cut.state.pose[:, :2]).norm(dim=-1) > 4 * NOISE[0]
    return [cut[moved]] if bool(moved.any()) else []


def states(pose: Tensor, pusher: Tensor) -> PushState:
    """States from poses (*B, 3) and pushers (*B, 2)."""
    return PushState(pose=pose, pusher=pusher, batch_size=pose.shape[:-1])
