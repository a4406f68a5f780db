"""Planning with a learned model of points from RGB-D beside planning with the simulator itself: the same MPPI, chamfer goals, in two engines.

A task is a push that was made: from its start, seen through three depth cameras, reach the arrangement that the cameras saw at its end. What plans with the
learned model gets images, depth and the pusher's own place, nothing else; what plans with the simulator gets its state and runs the world itself.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, fraction_claim
from benchmarks.points_tabletop import CONTEXT, KEPT, POINTS, TOOL
from structwm.geometry.set_distances import chamfer
from structwm.noise import Noise
from structwm.planning import MPC, ShapeGoal, SplineMPPI
from structwm.points import Embodied, PointCloud, PointScene, RigidTools, point_cloud
from structwm.spec import Action, ActionSpec, ModelSpec
from structwm.training import load_model
from structwm.transition import Trajectory, TransitionModel, all_valid, regular_times
from structwm.worlds import make_tabletop, table_observation, table_tracker
from structwm.worlds.tabletop import TableSnapshot, Tabletop
from structwm.worlds.tabletop_config import Array, TabletopConfig
from structwm.worlds.tabletop_layout import distances, rectangles
from structwm.worlds.tabletop_recording import sample_config

SPEED = 0.12  # bound of each component of the pusher's velocity [m/s]
STEPS, PUSH = 24, (8, 12)  # control periods of a trial; of the push that made the goal
REACHED = 0.020  # chamfer distance of the worst object, both ways added, at which a goal is reached [m]
MOVED = 0.03  # by which the push must have moved an object [m]
GOAL = 150  # points of each object in the goal: with few, the distance to them hardly changes near it
JUDGED = 128  # points of each object that the judge looks at
UNSEEN = (0.9, 1.2)  # friction of the table in MuJoCo; training saw 0.2 to 0.8
TASKS: dict[str, tuple[float, float] | None] = {"bullet": None, "mujoco": UNSEEN}
TRIALS = (4, 24)  # quick and full
PLANNER: dict[str, Any] = {"horizon": 14, "samples": 32, "iterations": 3, "knots": 3, "spline": "linear", "tail": "zero", "temperature": 0.03}
EVERY = 3  # control periods from plan to plan
PIXELS = {"width": 160, "height": 120}


@dataclass(frozen=True)
class Task:
    """A start, and the arrangement to reach."""

    config: TabletopConfig
    layout: list[Array]
    pusher: Array
    goal: dict[str, NDArray[Any]]  # the observation at the goal
    judged: Array  # points of the objects at the goal (N, 3) [m]
    seed: int


def behind(config: TabletopConfig, prints: Array, number: int, angle: float) -> Array | None:
    """Where a pusher stands that is about to push object `number` in a direction; None if it would touch something."""
    away = np.array([np.cos(angle), np.sin(angle)])
    for distance in np.arange(0.02, 0.12, 0.004):
        place = prints[number, :2] - distance * away
        gap = distances(prints, place)
        if gap[number] > config.pusher_reach + 0.012:
            return place if float(gap.min()) > config.pusher_reach + 0.01 else None
    return None


def draw_task(engine: str, seed: int, friction: tuple[float, float] | None = None) -> Task:
    """A push of an object among two or three that moves one by more than `MOVED`; the same for the same seed."""
    rng = np.random.default_rng((77, seed))
    while True:
        fields = {} if friction is None else {"table_friction": float(rng.uniform(*friction))}
        config = sample_config(rng, (2, 3), "boxes", "cylinder", **PIXELS, **fields)
        world = make_tabletop(engine, config=config, images=True)
        try:
            world.reset(seed=int(rng.integers(2**31)))
            poses = world.truth().poses
            prints = rectangles(config.bodies, poses)
            number, angle = int(rng.integers(len(prints))), float(rng.uniform(-np.pi, np.pi))
            place = behind(config, prints, number, angle)
            if place is None:
                continue
            place = place + rng.uniform(-0.01, 0.01) * np.array([-np.sin(angle), np.cos(angle)])
            if float(distances(prints, place).min()) < config.pusher_reach + 0.002:
                continue
            yaw = 2 * np.arctan2(poses[:, 6], poses[:, 3])
            layout = [np.array([*pose[:2], turn]) for pose, turn in zip(poses, yaw, strict=True)]
            world.reset(options={"layout": layout, "pusher": place})
            material = world.surface_points(JUDGED)
            before, observation, ended = world.truth_points(material), None, False
            speed = float(rng.uniform(0.06, 0.1))
            for _ in range(int(rng.integers(PUSH[0], PUSH[1] + 1))):
                observation, _, ended, _, _ = world.step(speed * np.array([np.cos(angle), np.sin(angle)]))
                if ended:
                    break
            after, upright = world.truth_points(material), np.abs(world.truth().poses[:, 2] - poses[:, 2]).max() < 0.004
            moved = max(np.linalg.norm(after - before, axis=-1)[material.object_ids == k].mean() for k in range(len(prints)))
            if observation is not None and not ended and upright and moved > MOVED:
                return Task(config, layout, place, observation, after, seed)
        finally:
            world.close()


class SimulatorModel(TransitionModel[PointCloud]):
    """The simulator as the model: every rollout runs the world itself from where it is, `snapshot`, whatever the state says."""

    def __init__(self, world: Tabletop) -> None:
        super().__init__()
        self.world, self.material = world, world.surface_points(POINTS)
        self.snapshot: TableSnapshot = world.snapshot()
        bound = [SPEED, SPEED]
        self.spec = ModelSpec(PointCloud, ActionSpec.box([-SPEED, -SPEED], bound, names=("vx", "vy"), units=("m/s", "m/s")), world.config.dt)
        self.scene = PointScene(objects=len(world.config.objects))

    def now(self) -> PointCloud:
        """The state of the world (batch size 1), and from here on that of the model."""
        self.snapshot = self.world.snapshot()
        return self._state(torch.from_numpy(self.world.truth_points(self.material)).float().unsqueeze(0))

    def _state(self, positions: Tensor) -> PointCloud:
        robot = positions.new_zeros(*positions.shape[:-2], 0, 3)
        return point_cloud(positions, robot, context=1, object_ids=torch.from_numpy(self.material.object_ids))

    def step(self, state: PointCloud, action: Action, *, noise: Noise | None = None) -> PointCloud:
        raise NotImplementedError("SimulatorModel rolls out whole sequences.")

    def roll_fields(self, kind: Any, fields: Any, batch: torch.Size, actions: Action, *, noise: Noise | None = None) -> Any:
        assert isinstance(actions, Tensor)
        found = []
        for sequence in actions.reshape(-1, *actions.shape[-2:]).double().numpy():
            self.world.restore(self.snapshot)
            instants = [self.world.truth_points(self.material)]
            for action in sequence:
                self.world.step(action)
                instants.append(self.world.truth_points(self.material))
            found.append(np.stack(instants))
        self.world.restore(self.snapshot)
        positions = torch.from_numpy(np.stack(found)).float()
        states = self._state(positions.reshape(*batch, *positions.shape[1:]))
        times = regular_times(batch, actions.shape[-2], self.world.config.dt, positions.device)
        return Trajectory(self.scene, states, actions, times, all_valid((*batch, actions.shape[-2] + 1), positions.device))


def worst_object(points: Array, task: Task) -> float:
    """Chamfer distance, both ways added, of the object that is farthest from its goal [m]."""
    mine, goal = (torch.from_numpy(value).float().unflatten(0, (-1, JUDGED)) for value in (points, task.judged))
    return float(chamfer(mine, goal).max())


@dataclass(frozen=True)
class Outcome:
    """Of a trial: the distance of the worst object before and after [m], and the time of a plan [s]."""

    start: float
    end: float
    plan_s: float


def attempt(engine: str, kept: Path | None, seed: int) -> Outcome:
    """One trial with the model that is kept at a place, or with the simulator itself."""
    torch.set_num_threads(1)
    task = draw_task(engine, seed, TASKS[engine])
    world = make_tabletop(engine, config=task.config, images=kept is not None)
    try:
        observed, _ = world.reset(options={"layout": task.layout, "pusher": task.pusher})
        material, eyes = world.surface_points(JUDGED), table_tracker(task.config, points=POINTS, robot_points=TOOL, context=CONTEXT)
        goal = table_tracker(task.config, points=GOAL).start(table_observation(world, task.goal)).seen[0]
        planner = SplineMPPI(**PLANNER)
        model: Any = SimulatorModel(world) if kept is None else Embodied(load_model(kept), RigidTools([TOOL], max_speed=SPEED))
        control = MPC(model, planner, ShapeGoal(goal), seed=seed, every=EVERY)
        start, belief, spent = worst_object(world.truth_points(material), task), None, []
        for _ in range(STEPS):
            begin = time.perf_counter()
            if kept is None:
                state = model.now()
            else:
                belief = eyes.update(table_observation(world, observed), belief)
                state = eyes.state(belief)
            with torch.no_grad():
                action = control.act(state)
            spent.append(time.perf_counter() - begin)
            observed = world.step(action[0].double().numpy())[0]
        return Outcome(start, worst_object(world.truth_points(material), task), float(np.median(spent[::EVERY])))
    finally:
        world.close()


def trials(engine: str, kept: Path | None, count: int) -> list[Outcome]:
    """Trials on the tasks of seeds 0 to count - 1, by as many processes as there are processors."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(attempt, engine, kept), range(count)))


def planning_claims(quick: bool, console: Console) -> dict[str, Any]:
    """`mpc_success_ratio`, `mpc_success_ratio_mujoco`, and of both engines `mpc_success_...`, `mpc_success_simulator_...`."""
    claims: dict[str, Any] = {}
    names = ("mpc_success_ratio", "mpc_success_ratio_mujoco")
    if not KEPT.with_suffix(".safetensors").is_file():
        return {name: claim(None, why="no model is kept; run --only boxes first, which trains one") for name in names}
    count = TRIALS[0] if quick else TRIALS[1]
    table = Table("engine", "planning with", "goals reached", "median error, mm", "plan, s", title=f"chamfer goals, {count} pushes")
    for engine, name in zip(TASKS, names, strict=True):
        reached = {}
        for title, kept in (("the learned model, from RGB-D", KEPT), ("the simulator itself", None)):
            found = trials(engine, kept, count)
            reached[title] = sum(one.end <= REACHED for one in found)
            error, spent = (1e3 * float(np.median([one.end for one in found])), float(np.median([one.plan_s for one in found])))
            table.add_row(engine, title, f"{reached[title]} of {count}", f"{error:.1f}", f"{spent:.2f}")
        learned, simulator = reached.values()
        claims[f"mpc_success_{engine}"], claims[f"mpc_success_simulator_{engine}"] = fraction_claim(learned, count), fraction_claim(simulator, count)
        claims[name] = claim(learned / simulator, n=count) if simulator else claim(None, why="the simulator as a model reached no goal")
    console.print(table)
    return claims
