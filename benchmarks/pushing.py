"""Planar pushing: `python -m benchmarks.pushing [--quick]`.

Real pushes (`mit_push`): mean and median error on the test split for hold-still, the two published models, the uncalibrated and the calibrated twin, per cell
and in all; coverage and width of 90 % predictive intervals; speed of the twin; models that learn beside it (`benchmarks.push_learning`); goals reached by MPC
with each model in PyBullet, and in MuJoCo with friction, mass and one control step of latency that calibration did not see. The full run calibrates and
trains, some twenty minutes on two cores, and keeps the results beside this file; `--quick` evaluates what was kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from benchmarks.claims import claim, differing, fraction_claim, interval_claim, mean_claim, median_claim, publish, settings_hash
from benchmarks.push_learning import learning
from structwm.data import Pushes, fetch, read_mit_push, split
from structwm.demos.push_models import ModelName
from structwm.demos.push_stages import calibrate_object, push_objects
from structwm.demos.pushing import DemoConfig, one_thread
from structwm.physics import Settings, calibrate_family, push_recording, push_twin
from structwm.physics.calibration import Calibration
from structwm.physics.family import COMMON
from structwm.physics.posterior import Prior, values_of
from structwm.physics.predictive import PredictiveIntervals
from structwm.physics.pushing import PushState, PushTwin
from structwm.physics.recorded_pushes import CONTACT, PARAMETERS, final_pose
from structwm.roles import Interval

KEPT = Path(__file__).parent / "artefacts" / "pushing"
SETTINGS = Settings(evaluations=0, iterations=15)
LEVEL = 0.9
BATCH = 4096
MODELS: tuple[tuple[ModelName, int], ...] = (("learned", 20), ("hybrid", 20), ("hybrid", 40), ("ensemble", 20))  # and from how many pushes of the object


def main() -> None:
    """Measure, print tables, end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="evaluate the kept calibration and push fewer goals; under 60 seconds")
    options = parser.parse_args()
    console = Console(width=150)
    cells = read_mit_push(fetch("mit_push"))
    calibrations, intervals = kept(cells) if options.quick else calibrated(cells, console)
    claims = real_pushes(cells, calibrations, intervals, console)
    claims["steps_per_s"] = speed(console)
    claims |= learning(cells, calibrations, options.quick, console)
    claims |= closed_loop("physics", 5 if options.quick else 20, console)
    for model, pushes in MODELS:
        why = "the full run only: a hundred plans with a learned model take minutes"
        prefix = f"hybrid_goals_reached_{model}" + ("" if pushes == DemoConfig().pushes else f"_{pushes}_pushes")
        quick = {name: claim(None, why=why) for name in (prefix, f"{prefix}_second_engine")}
        claims |= quick if options.quick else closed_loop(model, 20, console, prefix=prefix, pushes=pushes)
    publish("pushing", claims)


def real_pushes(cells: tuple[Pushes, ...], calibrations: list[Calibration[PushTwin]], intervals: PredictiveIntervals, console: Console) -> dict[str, Any]:
    """Errors on the test split and predictive intervals."""
    tests = [pushes[split(pushes)[1]] for pushes in cells]
    rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    inside, widths = [], {name: [] for name in intervals.factors}
    for pushes, calibration in zip(tests, calibrations, strict=True):
        recording = push_recording(pushes)
        models = {"hold still": pushes.init_pose, **{f"published {name}": poses for name, poses in pushes.published.items()}}
        models |= {name: final_pose(twin, pushes) for name, twin in (("twin, uncalibrated", push_twin(pushes)), ("twin, calibrated", calibration.twin))}
        for name, poses in models.items():
            rows.setdefault(name, []).append(pushes.errors(poses))
        predictions = intervals.predict(calibration, recording)
        inside.append(torch.stack([prediction.covered for prediction in predictions.values()], -1).numpy())
        for name, prediction in predictions.items():
            widths[name].append(2 * prediction.half_width.flatten().numpy())
    show_cells(cells, rows, console)
    covered = np.concatenate(inside)
    middle = {name: float(np.median(np.concatenate(parts))) for name, parts in widths.items()}
    each = ", ".join(f"{name} {share:.3f}" for name, share in zip(middle, covered.mean(axis=0), strict=True))
    console.print(f"90 % predictive intervals cover {covered.mean():.3f} of the test pushes ({each});")
    console.print(f"median full widths x {1e3 * middle['x']:.2f} mm, y {1e3 * middle['y']:.2f} mm, yaw {middle['yaw']:.3f} rad")
    ours, theirs = (pooled(rows[name]) for name in ("twin, calibrated", "published poly4"))
    return {
        "error_mm": mean_claim(1e3 * ours[0]),
        "error_rad": mean_claim(ours[1]),
        "published_error_mm": mean_claim(1e3 * theirs[0]),
        "published_error_rad": mean_claim(theirs[1]),
        "predictive_coverage": interval_claim(Interval.of_mean(covered.mean(axis=1)), len(covered)),
        "interval_width_mm": claim(1e3 * (middle["x"] + middle["y"]) / 2, n=len(covered)),
    }


def calibrated(cells: tuple[Pushes, ...], console: Console) -> tuple[list[Calibration[PushTwin]], PredictiveIntervals]:
    """All cells calibrated together on their fifth of the pushes, and kept beside this file."""
    recordings = [push_recording(pushes[split(pushes)[0]]) for pushes in cells]
    factors = {"surface": [pushes.surface for pushes in cells], "shape": [pushes.shape for pushes in cells]}
    start = time.perf_counter()
    calibrations = calibrate_family([push_twin(p) for p in cells], recordings, PARAMETERS, factors=factors, evidence=[CONTACT], settings=SETTINGS)
    console.print(f"calibrated {len(cells)} cells on {sum(map(len, recordings))} pushes in {time.perf_counter() - start:.1f} s")
    intervals = PredictiveIntervals.fit(calibrations, recordings, level=LEVEL)
    KEPT.parent.mkdir(exist_ok=True)
    arrays = {f"{p.name}/{part}": getattr(c, part).numpy() for p, c in zip(cells, calibrations, strict=True) for part in ("z", "covariance", "information")}
    save_file(arrays, KEPT.with_suffix(".safetensors"))
    facts = {"config": config_hash(), "noise": calibrations[0].noise, "factors": intervals.factors}
    KEPT.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    return calibrations, intervals


def kept(cells: tuple[Pushes, ...]) -> tuple[list[Calibration[PushTwin]], PredictiveIntervals]:
    """What the last full run calibrated.

    Raises:
        ValueError: if it was calibrated under other settings.
    """
    facts = json.loads(KEPT.with_suffix(".json").read_text())
    if facts["config"] != config_hash():
        raise ValueError("The kept calibration was made under other settings; run python -m benchmarks.pushing once without --quick.")
    arrays = load_file(KEPT.with_suffix(".safetensors"))
    calibrations = []
    for pushes in cells:
        twin = push_twin(pushes)
        space = twin.space(PARAMETERS)
        z, covariance, information = (torch.from_numpy(arrays[f"{pushes.name}/{part}"]) for part in ("z", "covariance", "information"))
        fitted = twin.with_parameters(values_of(space, z))
        calibrations.append(Calibration(fitted, space, z, covariance, Prior.of(space), facts["noise"], SETTINGS.dof, information, (), {}, 0.0))
    return calibrations, PredictiveIntervals(facts["factors"], LEVEL)


def config_hash() -> str:
    """Changes when what is calibrated, or how, changes."""
    return settings_hash(PARAMETERS, differing(SETTINGS), COMMON, CONTACT.scale, LEVEL)


def pooled(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Errors of all cells: position [m], yaw [rad]."""
    return np.concatenate([part[0] for part in parts]), np.abs(np.concatenate([part[1] for part in parts]))


def show_cells(cells: tuple[Pushes, ...], rows: dict[str, list[tuple[np.ndarray, np.ndarray]]], console: Console) -> None:
    """Mean error per cell and model; mean and median in all."""
    table = Table("cell", "test pushes", *rows, title="mean error on the test pushes [mm | rad]")
    for k, pushes in enumerate(cells):
        table.add_row(
            pushes.name, str(len(next(iter(rows.values()))[k][0])), *(f"{1e3 * p[k][0].mean():.2f} | {np.abs(p[k][1]).mean():.4f}" for p in rows.values())
        )
    table.add_section()
    everything = [pooled(parts) for parts in rows.values()]
    table.add_row("all, mean", str(len(everything[0][0])), *(f"{1e3 * p.mean():.3f} | {a.mean():.4f}" for p, a in everything))
    table.add_row("all, median", "", *(f"{1e3 * np.median(p):.3f} | {np.median(a):.4f}" for p, a in everything))
    console.print(table)


def speed(console: Console) -> dict[str, Any]:
    """Push-steps per second at a batch of 4096 rollouts in contact: one push-step is one contact solve of the quasi-static integrator."""
    cells = [pushes for pushes in read_mit_push(fetch("mit_push")) if pushes.shape == "rect1"]
    start, tip, end = (
        np.concatenate([getattr(p, name) for p in cells])[np.arange(BATCH) % sum(map(len, cells))] for name in ("init_pose", "init_tip", "final_tip")
    )
    twin, horizon = push_twin(cells[0]).with_timing(dt=0.1, substeps=10), 10
    state = PushState(pose=torch.tensor(start, dtype=torch.float32), pusher=torch.tensor(tip, dtype=torch.float32), batch_size=[BATCH])
    actions = torch.tensor((end - tip) / (0.1 * horizon), dtype=torch.float32).clamp(-0.1, 0.1).unsqueeze(1).expand(-1, horizon, -1).contiguous()
    twin.rollout(state, actions)
    rates = []
    for _ in range(7):
        begin = time.perf_counter()
        twin.rollout(state, actions)
        rates.append(BATCH * horizon * twin.substeps / (time.perf_counter() - begin))
    console.print(f"speed: {np.median(rates) / 1e6:.2f} million push-steps/s, B = {BATCH}, H = {horizon}, {twin.substeps} substeps, float32")
    return median_claim(rates)


def closed_loop(model: ModelName, goals: int, console: Console, *, prefix: str = "goals_reached", pushes: int = 20) -> dict[str, Any]:
    """Goals reached to 1 cm and 5 degrees by MPC with a model of an object found from some of its pushes in PyBullet."""
    config = DemoConfig(goals=goals, seed=0, model=model, pushes=pushes)
    claims = {}
    with TemporaryDirectory() as folder, one_thread():
        part = calibrate_object(config, console, Path(folder))
        for name, engine, unseen in ((prefix, "bullet", False), (f"{prefix}_second_engine", "mujoco", True)):
            begin = time.perf_counter()
            run = push_objects(config, part, Path(folder), engine=engine, unseen=unseen)
            reached = run.arrays["reached"]
            console.print(
                f"{model} from {pushes} pushes, {engine}: {int(reached.sum())} of {goals} goals reached; "
                f"MPC step {run.facts['plan_ms']:.0f} ms for {goals} problems at once; "
                f"errors up to {1e3 * run.arrays['position_error'].max():.1f} mm and {np.degrees(run.arrays['yaw_error'].max()):.1f} degrees; "
                f"{time.perf_counter() - begin:.0f} s"
            )
            claims[name] = fraction_claim(int(reached.sum()), goals)
    return claims


if __name__ == "__main__":
    main()
