"""A real double pendulum: each run held back in turn, predicted one step and 0.5 s ahead by the authors' models and by a twin calibrated on the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.claims import claim
from structwm.data.double_pendulum import DESIGN, RATE, read_identified_parameters
from structwm.demos.real_worlds import double_pendulum
from structwm.physics import Calibration, Recording, RigidTwin, Settings, calibrate, rigid_recording
from structwm.physics.recorded_runs import read_runs
from structwm.physics.timed_runs import at_steps

Array = NDArray[np.float64]

STEPS = 250  # 0.5 s
STRIDE = 125
SUBSTEPS = 2
PARAMETERS = (
    "upper.com_z",
    "upper.inertia",
    "lower.mass",
    "lower.com_z",
    "lower.inertia",
    *(f"{link}.joint_{name}" for name in ("damping", "friction") for link in ("upper", "lower")),
    *(f"{link}.armature" for link in ("upper", "lower")),
    *(f"{link}_effort.gain" for link in ("upper", "lower")),
)  # the upper link's mass enters only by its moments, and gravity is known
SETTINGS = Settings(evaluations=0, iterations=15, explore=0)
SCALE = (0.02, 0.02)
START = f"{DESIGN}/model_1.0"  # where the search starts


def windows(recording: Recording[Any]) -> tuple[Array, Array, Array, Array]:
    """Angles and rates (N, 2) at starts, torques (N, H, 2), angles behind each step (N, H, 2); N whole windows."""
    seen = np.stack([recording.observed[f"{link}.angle"].numpy() for link in ("upper", "lower")], -1)
    whole = np.isfinite(seen).all((1, 2))
    parts = (recording.state.configuration, recording.state.velocity, recording.actions)
    q, v, u = (part.numpy()[whole] for part in parts)
    return q, v, u, seen[whole, 1:]


def rms(found: Array, seen: Array) -> float:
    """Root mean square over windows, instants and joints [rad]."""
    return float(np.sqrt(np.square(found - seen).mean()))


def twin_angles(twin: RigidTwin, q: Array, v: Array, u: Array) -> Array:
    """Angles (N, H, 2) that a twin predicts."""
    with torch.no_grad():
        return twin.advance(torch.tensor(q), torch.tensor(v), torch.tensor(u))[0][:, 1:].numpy()


def authors_angles(p: dict[str, float], q: Array, v: Array, u: Array) -> Array:
    """Angles (N, H, 2) by the authors' equations (see `structwm.data.double_pendulum`), with the classical Runge-Kutta method at the recording's step."""
    h = p["m2"] * p["l1"] * p["r2"]

    def acceleration(q: Array, v: Array, u: Array) -> Array:
        c, s = np.cos(q[:, 1]), np.sin(q[:, 1])
        coupled = p["I2"] + h * c - p["gr"] * p["Ir"]
        m11 = p["I1"] + p["I2"] + p["m2"] * p["l1"] ** 2 + 2 * h * c + (p["gr"] ** 2 + 1) * p["Ir"]
        m22 = np.full_like(c, p["I2"] + p["gr"] ** 2 * p["Ir"])
        lower = p["m2"] * p["r2"] * np.sin(q.sum(1))
        r1 = u[:, 0] + h * s * (2 * v[:, 0] * v[:, 1] + v[:, 1] ** 2) - p["g"] * ((p["m1"] * p["r1"] + p["m2"] * p["l1"]) * np.sin(q[:, 0]) + lower)
        r2 = u[:, 1] - h * s * v[:, 0] ** 2 - p["g"] * lower
        r1 = r1 - p["b1"] * v[:, 0] - p["cf1"] * np.arctan(100 * v[:, 0])
        r2 = r2 - p["b2"] * v[:, 1] - p["cf2"] * np.arctan(100 * v[:, 1])
        return np.stack((m22 * r1 - coupled * r2, m11 * r2 - coupled * r1), 1) / (m11 * m22 - coupled**2)[:, None]

    found, dt, parts = [], 1 / RATE, 8  # friction is stiff around rest
    for k in range(u.shape[1]):
        for _ in range(parts):
            d = dt / parts
            a1 = acceleration(q, v, u[:, k])
            a2 = acceleration(q + d / 2 * v, v + d / 2 * a1, u[:, k])
            a3 = acceleration(q + d / 2 * v + d * d / 4 * a1, v + d / 2 * a2, u[:, k])
            a4 = acceleration(q + d * v + d * d / 2 * a2, v + d * a3, u[:, k])
            q, v = q + d * v + d * d / 6 * (a1 + a2 + a3), v + d / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
        found.append(q)
    return np.stack(found, 1)


def calibrated(twin: RigidTwin, recording: Recording[Any]) -> Calibration[RigidTwin]:
    """The twin on what is not held back."""
    return calibrate(twin, recording, PARAMETERS, held_out=None, settings=SETTINGS, progress=False)


def pendulum_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Errors on runs held back; quick: of the first only."""
    identified = {name: p for name, p in read_identified_parameters().items() if name.startswith(DESIGN)}
    twin = RigidTwin(double_pendulum(identified[START]), dt=1 / RATE, substeps=SUBSTEPS)
    runs = [at_steps(run, twin.world, 1 / RATE) for run in read_runs("double_pendulum", twin.world)]
    cut = [rigid_recording(twin, [run], windows=(STEPS, STRIDE), scale=SCALE) for run in runs]
    steps = [rigid_recording(twin, [run], windows=(1, 1), scale=SCALE) for run in runs]
    table = Table("run held back", "ahead", *(name.partition("/")[2] for name in identified), "calibrated", title="RMS error \\[rad], both joints")
    errors: dict[str, list[list[float]]] = {"0.5 s": [], "one step": []}
    for held in range(1 if quick else len(runs)):
        rest = rigid_recording(twin, [run for k, run in enumerate(runs) if k != held], windows=(STEPS, STRIDE), scale=SCALE)
        calibration = calibrated(twin, rest)
        for ahead, recording in (("0.5 s", cut[held]), ("one step", steps[held])):
            q, v, u, seen = windows(recording)
            row = [rms(authors_angles(p, q, v, u), seen) for p in identified.values()] + [rms(twin_angles(calibration.twin, q, v, u), seen)]
            errors[ahead].append(row)
            table.add_row(runs[held].name.rpartition(", ")[2], ahead, *(f"{value:.5f}" for value in row))
    console.print(table)
    claims = {}
    for ahead, rows in errors.items():
        together = np.sqrt(np.square(rows).mean(0))  # over runs, which are equally long
        name = "pendulum_rms" if ahead == "0.5 s" else "pendulum_one_step_rms"
        best = float(together[:-1].min())
        ratios = [row[-1] / min(row[:-1]) for row in rows]
        claims[f"{name}_ratio"] = claim(float(together[-1]) / best, n=len(rows), low=min(ratios), high=max(ratios))
        claims[name] = claim(float(together[-1]), n=len(rows), low=min(row[-1] for row in rows), high=max(row[-1] for row in rows))
    return claims
