"""The stages of the pushing demo: each turns a configuration and what came before into arrays and plain facts that a run folder keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from structwm.data import DataUnavailable, Pushes, fetch, read_mit_push, split
from structwm.geometry.outline import triangle
from structwm.geometry.planar import Polygon
from structwm.physics.calibration import Calibration, Settings, calibrate
from structwm.physics.family import calibrate_family
from structwm.physics.limit_surface import gradient
from structwm.physics.predictive import PredictiveIntervals
from structwm.physics.pushing import CALIBRATED, PushTwin
from structwm.physics.recorded_pushes import CONTACT, PARAMETERS, final_pose, push_recording, push_twin
from structwm.training import load_model, save_model
from structwm.worlds import PlanarPushing, PushingConfig, make, record_pushes

from .push_control import PushGoal, push_to_goals, random_goals
from .push_models import WORDS, ModelName, find_model, retimed

Array = NDArray[Any]
ENGINES = {"bullet": "PyBullet", "mujoco": "MuJoCo"}
PUBLISHED = {"quadratic": "published, quadratic", "poly4": "published, 4th order"}
STILL, BEFORE, AFTER = "hold still", "twin, uncalibrated", "twin, calibrated"
OBJECT: dict[str, Any] = {"pusher_radius": 0.01, "pusher_friction": 0.4, "center_of_mass": (0.015, -0.008)}  # a box of 100 x 60 mm, heavier at one corner
UNSEEN: dict[str, Any] = {"latency": 1, "friction": 0.25, "mass": 0.8, "pusher_friction": 0.3}  # what the last world has and calibration did not see
SUBSTEPS = 5  # of a control step
LEVEL = 0.9  # of all intervals


class Options(Protocol):
    """What the stages read of the demo's configuration (`structwm.demos.pushing.DemoConfig`)."""

    @property
    def engines(self) -> Sequence[str]: ...
    @property
    def goals(self) -> int: ...
    @property
    def pushes(self) -> int: ...
    @property
    def cells(self) -> Sequence[str]: ...
    @property
    def recorded(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def model(self) -> ModelName: ...


@dataclass(frozen=True)
class Part:
    """What a stage leaves: enough to draw the report and to go on from."""

    arrays: dict[str, Array]
    facts: dict[str, Any]  # plain JSON


def available(engines: Sequence[str]) -> list[str]:
    """Those of the engines that are installed.

    Raises:
        ImportError: if none is.
    """
    found = []
    for engine in engines:
        try:
            make(engine).close()
        except ImportError:
            continue
        found.append(engine)
    if not found:
        names = " or ".join("pybullet" if engine == "bullet" else engine for engine in engines)
        raise ImportError(f"the demo needs a foreign engine to push things in and found none; run `pip install {names}`.")
    return found


def calibrate_cells(options: Options, console: Console) -> Part:
    """Twins of several objects from a fifth of their pushes, judged on the rest: real pushes, or where these are not to be had, recorded ones."""
    note, source = "", "mit_push"
    try:
        cells = _real_cells(options.cells)
    except DataUnavailable as error:
        engine = available(("mujoco", "bullet"))[0]
        source = engine
        note = (
            f"The real pushes are not to be had here, so pushes recorded in {ENGINES[engine]} stand in for them; `structwm fetch mit_push` gets the real ones."
        )
        console.print(f"{note} The cause: {error}", style="yellow", markup=False)
        with console.status(f"recording pushes of two objects in {ENGINES[engine]}"):
            cells = _recorded_cells(engine, options)
    splits = [split(pushes, seed=0) for pushes in cells]
    fitted = [pushes[few] for pushes, (few, _) in zip(cells, splits, strict=True)]
    tests = [pushes[rest] for pushes, (_, rest) in zip(cells, splits, strict=True)]
    calibrations = _fit_together(fitted) if source == "mit_push" else [_fit(pushes, options) for pushes in fitted]
    arrays: dict[str, Array] = {}
    facts: list[dict[str, Any]] = []
    for k, (pushes, test, calibration) in enumerate(zip(fitted, tests, calibrations, strict=True)):
        arrays |= {f"{k}/{name}": values for name, values in _judged(test, calibration).items()}
        facts.append(_facts(pushes, len(test), calibration))
    intervals = PredictiveIntervals.fit(calibrations, [push_recording(pushes) for pushes in fitted], level=LEVEL)
    return Part(arrays, {"source": source, "note": note, "cells": facts, "intervals": _coverage(intervals, calibrations, tests)})


def _fit_together(cells: Sequence[Pushes]) -> list[Calibration[PushTwin]]:
    """Twins of real objects: the geometry is calibrated too, and objects that share a surface or shape inform each other."""
    factors = {"surface": [pushes.surface for pushes in cells], "shape": [pushes.shape for pushes in cells]}
    twins, recordings = [push_twin(pushes) for pushes in cells], [push_recording(pushes) for pushes in cells]
    return calibrate_family(twins, recordings, PARAMETERS, factors=factors, evidence=[CONTACT])


def _coverage(intervals: PredictiveIntervals, calibrations: Sequence[Calibration[PushTwin]], tests: Sequence[Pushes]) -> dict[str, Any]:
    """Share of the test pushes that the predictive intervals cover, and their median full widths, by coordinate."""
    predictions = [intervals.predict(calibration, push_recording(test)) for calibration, test in zip(calibrations, tests, strict=True)]
    return {
        name: {
            "covered": float(np.concatenate([prediction[name].covered.numpy().ravel() for prediction in predictions]).mean()),
            "width": float(np.median(np.concatenate([2 * prediction[name].half_width.numpy().ravel() for prediction in predictions]))),
            "level": LEVEL,
        }
        for name in predictions[0]
    }


def _real_cells(names: Sequence[str]) -> list[Pushes]:
    found = {pushes.name: pushes for pushes in read_mit_push(fetch("mit_push"))}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ValueError(f"expected cells among {', '.join(found)}, got {unknown[0]!r}.")
    return [found[name] for name in names]


def _recorded_cells(engine: str, options: Options) -> list[Pushes]:
    """Pushes of a box and of a triangle with another friction, observed with half a millimetre of noise."""
    noise = {"observation_noise": (0.0005, 0.004)}
    worlds = {"box": make(engine, pusher_friction=0.15, **noise), "triangle": make(engine, outline=triangle(0.12, 0.09), pusher_friction=0.4, **noise)}
    return [_record(world, options.recorded, seed=options.seed + k, surface=engine, shape=shape) for k, (shape, world) in enumerate(worlds.items())]


def _record(world: PlanarPushing, count: int, *, seed: int, surface: str, shape: str) -> Pushes:
    config = world.config
    made = record_pushes(world, count, seed=seed)
    fields = {name: getattr(made, name) for name in ("init_pose", "final_pose", "init_tip", "final_tip")}
    return Pushes(surface=surface, shape=shape, outline=config.vertices, tip_radius=config.pusher_radius, source=f"{surface}/{shape}", **fields)


def _fit(pushes: Pushes, options: Options) -> Calibration[PushTwin]:
    settings = Settings(evaluations=0, seed=options.seed)  # the prior's mean is close enough for Gauss-Newton
    return calibrate(push_twin(pushes), push_recording(pushes), CALIBRATED, held_out=None, settings=settings)


def _judged(pushes: Pushes, calibration: Calibration[PushTwin]) -> dict[str, Array]:
    """Measured pushes and what each model predicts of their final poses."""
    twins = {BEFORE: push_twin(pushes), AFTER: calibration.twin}
    predicted = {STILL: pushes.init_pose} | {PUBLISHED[name]: pushes.published[name] for name in PUBLISHED if name in pushes.published}
    predicted |= {name: final_pose(twin, pushes) for name, twin in twins.items()}
    measured = {name: getattr(pushes, name) for name in ("outline", "init_pose", "final_pose", "init_tip", "final_tip")}
    return measured | {f"predicted/{name}": values for name, values in predicted.items()}


def _facts(pushes: Pushes, tests: int, calibration: Calibration[PushTwin]) -> dict[str, Any]:
    """A calibration as plain JSON."""
    intervals, parameters = calibration.intervals(LEVEL), {parameter.name: parameter for parameter in calibration.space.parameters}
    return {
        "name": pushes.name,
        "tip_radius": float(pushes.tip_radius),
        "calibration_pushes": len(pushes),
        "test_pushes": tests,
        "parameters": {
            name: {
                "value": value,
                "interval": list(intervals[name]),
                "level": LEVEL,
                "unit": parameters[name].unit,
                "default": parameters[name].default,
                "bounds": [parameters[name].low, parameters[name].high],
                "help": parameters[name].help,
            }
            for name, value in calibration.values.items()
        },
        "noise": {name: float(value) for name, value in calibration.noise.items()},
        "warnings": list(calibration.warnings),
        "seconds": calibration.seconds,
    }


def calibrate_object(options: Options, console: Console, folder: Path) -> Part:
    """A twin of an object in the first engine from its own pushes, and the model to plan with, saved in `folder`; both judged on as many other pushes."""
    engine = available(options.engines)[0]
    with make(engine, **OBJECT) as world:
        with console.status(f"recording {2 * options.pushes} pushes in {ENGINES[engine]}"):
            pushes = _record(world, 2 * options.pushes, seed=options.seed + 1, surface=engine, shape="box")
        centre = world.config.center_of_mass
        truth = {"friction": world.config.pusher_friction, "centre of friction, x": centre[0], "centre of friction, y": centre[1]}
    calibration = _fit(pushes[: options.pushes], options)
    tests = pushes[options.pushes :]
    arrays = {f"0/{name}": values for name, values in _judged(tests, calibration).items()}
    facts = _facts(pushes[: options.pushes], options.pushes, calibration)
    with console.status(f"finding {WORDS[options.model]}"):
        found = find_model(options.model, pushes[: options.pushes], calibration)
    save_model(found.model, folder / "model", facts={"model": options.model, "gate": found.gate})
    if options.model != "physics":
        arrays[f"0/predicted/{WORDS[options.model].split(',')[0]}"] = final_pose(found.model, tests)
    if found.gate is not None:
        kept = f"the gate uses {100 * found.gate:.0f} % of the correction" if found.gate else "the gate dropped the correction: the twin is no better with it"
        console.print(f"    {kept}, judged on pushes left out")
    planner = {"model": options.model, "words": WORDS[options.model], "gate": found.gate}
    return Part(arrays, {"engine": engine, "truth": truth, "derived": _centre(calibration), "cells": [facts], "planner": planner})


def _centre(calibration: Calibration[PushTwin], *, draws: int = 64) -> dict[str, Any]:
    """The twin's centre of friction with its interval, described as a parameter is."""
    twin, support = calibration.twin, calibration.twin.support

    def centres(values: Mapping[str, Tensor]) -> Array:
        everything = {name: value.double() for name, value in twin.values.items()} | dict(values)
        centre: Array = support.centroid + support.gyration * centre_of_friction(support.coefficients(everything).reshape(-1, 15)).numpy()
        return centre

    (value,), spread = centres({}), centres(calibration.draw(draws))
    low, high = np.quantile(spread, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2), axis=0)
    help_text = "where the ground's friction acts, from the middle of the box; from the pressure parameters"
    return {
        f"centre of friction, {axis}": {
            "value": float(value[i]),
            "interval": [float(low[i]), float(high[i])],
            "level": LEVEL,
            "unit": "m",
            "default": float(support.centroid[i]),
            "help": help_text if i == 0 else "as above",
        }
        for i, axis in enumerate("xy")
    }


def centre_of_friction(surface: Tensor) -> Tensor:
    """The point (P, 2) [radii of gyration from the centroid] about which the ground's friction has no moment while the slider moves without turning.

    Newton's method on dH / dw = twist for the two translations finds their wrenches w = (fx, fy, m).

    Args:
        surface: coefficients of limit surfaces (P, 15).
    """

    def normal(wrench: Tensor) -> Tensor:
        return torch.stack(gradient(surface[:, None], *wrench.unbind(-1)), -1)

    twists = torch.eye(3, dtype=surface.dtype)[:2].expand(len(surface), 2, 3)
    wrench, small = 0.6 * twists, 1e-5 * torch.eye(3, dtype=surface.dtype)
    for _ in range(30):
        slope = torch.stack([(normal(wrench + step) - normal(wrench - step)) / 2e-5 for step in small], -1)
        wrench = wrench - torch.linalg.solve(slope, (normal(wrench) - twists).unsqueeze(-1)).squeeze(-1)
    return torch.stack((wrench[:, 1, 2] / wrench[:, 1, 1], -wrench[:, 0, 2] / wrench[:, 0, 0]), -1)


def push_objects(options: Options, calibrated: Part, folder: Path, *, engine: str, unseen: bool) -> Part:
    """MPC with the model in `folder` moves the object to random goals in an engine, as calibrated or with other physics and latency."""
    changes: Mapping[str, Any] = UNSEEN if unseen else {}
    worlds = [make(engine, **{**OBJECT, **changes}) for _ in range(options.goals)]
    twin = _control_twin(worlds[0].config, {name: entry["value"] for name, entry in calibrated.facts["cells"][0]["parameters"].items()})
    starts, goals = random_goals(options.goals, seed=options.seed)
    goal = PushGoal(samples=options.samples, steps=options.steps, seed=options.seed)
    try:
        run = push_to_goals(worlds, starts, goals, retimed(load_model(folder), twin), twin, goal)
    finally:
        for world in worlds:
            world.close()
    usual = PushingConfig(**OBJECT)
    arrays = {name: getattr(run, name) for name in ("goals", "poses", "pushers", "reached", "steps", "position_error", "yaw_error", "plan_seconds")}
    return Part(
        arrays | {"outline": usual.vertices},
        {
            "engine": engine,
            "changes": {name: [getattr(usual, name), value] for name, value in changes.items()},
            "dt": usual.dt,
            "pusher_radius": usual.pusher_radius,
            "position_tolerance": goal.position_tolerance,
            "yaw_tolerance": goal.yaw_tolerance,
            "plan_ms": 1000 * float(np.median(run.plan_seconds)),
            "model": options.model,
        },
    )


def _control_twin(config: PushingConfig, values: Mapping[str, float]) -> PushTwin:
    """The calibrated twin with the world's control period and speed limit."""
    return PushTwin(
        Polygon.of(config.vertices), pusher_radius=config.pusher_radius, dt=config.dt, max_speed=config.max_speed, substeps=SUBSTEPS, values=dict(values)
    )
