"""Collect, calibrate, plan, collect again: model predictive control whose model learns from the episodes of the rounds before.

Each object is a box whose centre of mass and friction differ from the model's, pushed by a tip that stands millimetres away from where the robot believes it
is. In the first round the model is the uncalibrated one; after each round it is calibrated on all episodes so far, whose observations are noisy. Every round
has new goals, of the same kind.
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
ROUNDS, GOALS, STEPS, WINDOW = 3, 4, 60, 5  # of a run; goals of a round, control steps of each, steps of a piece that is calibrated on
TOLERANCE = 0.005, math.radians(2.5)  # [m], [rad]
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
    """`loop_error_round_K` [m] and `loop_reached_round_K`, in both engines."""
    claims: dict[str, Any] = {}
    for engine, title in ENGINES.items():
        runs = [one_loop(engine, seed) for seed in range(OBJECTS[0 if quick else 1])]
        suffix = "" if engine == "bullet" else "_second_engine"
        table = Table("round", "mean error, mm", "90 % over objects", "mean error, degrees", "reached", "mean seconds", title=f"{len(runs)} objects in {title}")
        for k in range(ROUNDS):
            position = np.array([run[k].position_error.mean() for run in runs])
            yaw = np.degrees([run[k].yaw_error.mean() for run in runs])
            reached = np.concatenate([run[k].reached for run in runs])
            claims[f"loop_error_round_{k + 1}{suffix}"] = found = mean_claim(position)
            claims[f"loop_reached_round_{k + 1}{suffix}"] = rate = fraction_claim(int(reached.sum()), len(reached))
            interval = f"{1e3 * found['low']:.1f} to {1e3 * found['high']:.1f}"
            took = DT * float(np.mean([run[k].steps.mean() for run in runs]))
            table.add_row(str(k + 1), f"{1e3 * found['value']:.1f}", interval, f"{yaw.mean():.1f}", f"{rate['value']:.2f}", f"{took:.1f}")
        console.print(table)
    return claims


def one_loop(engine: str, seed: int) -> list[PushRun]:
    """All rounds with one object."""
    thing = Thing.draw(seed)
    worlds = [make(engine, dt=DT, pusher_radius=0.01, pusher_friction=thing.friction, center_of_mass=thing.center) for _ in range(GOALS)]
    config = worlds[0].config
    prior = PushTwin(Polygon.of(config.vertices), pusher_radius=config.pusher_radius, dt=config.dt, substeps=5)
    twin, runs, recordings = prior, [], []
    seen = cast(Sequence[PlanarPushing], [Misplaced(world, thing.tip) for world in worlds])
    try:
        for k in range(ROUNDS):
            starts, goals = random_goals(GOALS, seed=100 * seed + k)
            run = push_to_goals(seen, starts, goals, twin, twin, PushGoal(*TOLERANCE, steps=STEPS, seed=100 * seed + k), progress=False)
            runs.append(run)
            recordings.append(pieces(run, config.dt, seed=100 * seed + k))
            if k + 1 < ROUNDS:
                twin = calibrated(prior, join(recordings))
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


def pieces(run: PushRun, dt: float, *, seed: int) -> Recording[PushState]:
    """Episodes as seen, cut into pieces of `WINDOW` steps in which the slider moved; those of one episode err together."""
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
    return cut[moved]


def states(pose: Tensor, pusher: Tensor) -> PushState:
    """States from poses (*B, 3) and pushers (*B, 2)."""
    return PushState(pose=pose, pusher=pusher, batch_size=pose.shape[:-1])
