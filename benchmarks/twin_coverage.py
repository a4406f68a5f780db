"""Do intervals hold what they say? Made-up worlds with parameters drawn at random, their motion seen with noise, fitted: how often the truth is inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.claims import fraction_claim
from structwm.geometry import quaternion_multiply, rotation_vector_to_quaternion
from structwm.physics import (
    Actuator,
    Body,
    BoxShape,
    Geometry,
    Joint,
    Measurement,
    PoseMeasurement,
    Recording,
    RigidTwin,
    RigidWorld,
    Settings,
    SphereShape,
    WorldTwin,
    box_inertia,
    calibrate,
)
from structwm.physics.posterior import Prior, values_of
from structwm.physics.rigid_scene import RigidState

FITS = 50  # of every world
LEVEL = 0.9
NOISE = {"position": 0.002, "rotation": 0.01, "angle": 0.005}  # [m], [rad], [rad]
SETTINGS = Settings(evaluations=60, iterations=12, explore=0)
STEPS, DT = 60, 0.01


def ball() -> tuple[RigidTwin, tuple[str, ...]]:
    """A ball thrown onto a plane with spin."""
    world = RigidWorld((Body("ball", 0.2, 0.4 * 0.2 * 0.04**2, geometries=(Geometry(SphereShape(0.04)),)),))
    return RigidTwin(world, dt=DT, substeps=4), ("friction", "restitution", "gravity")


def block() -> tuple[RigidTwin, tuple[str, ...]]:
    """A block that slides along a plane and is pulled by a force known."""
    half = (0.05, 0.04, 0.03)
    body = Body("block", 0.5, box_inertia(0.5, half), (Geometry(BoxShape(half)),))
    world = RigidWorld((body,), actuators=(Actuator("block", "wrench", -5.0, 5.0, name="pull"),))
    return RigidTwin(world, dt=DT, substeps=4), ("friction", "mass")


def pendulum() -> tuple[RigidTwin, tuple[str, ...]]:
    """Two links on hinges, a motor in the first."""
    links = tuple(
        Body(
            name,
            0.4,
            (0.002, 0.002, 0.0005),
            com=(0, 0, -0.1),
            parent=parent,
            joint=Joint("hinge", (0, -1, 0), position=(0, 0, at), damping=0.005, friction=0.01),
        )
        for name, parent, at in (("upper", None, 0.0), ("lower", "upper", -0.2))
    )
    world = RigidWorld(links, (), (Actuator("upper", "effort", -1.0, 1.0),))
    return RigidTwin(world, dt=DT, substeps=4), ("upper.joint_damping", "lower.joint_friction", "lower.com_z", "upper_effort.gain")


def starts(name: str, twin: WorldTwin, runs: int, draw: torch.Generator) -> tuple[RigidState, torch.Tensor]:
    """Start states and actions of the runs of a world."""

    def uniform(*shape: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=draw, dtype=torch.float64)

    actions = torch.zeros(runs, STEPS, twin.spec.action.size, dtype=torch.float64)
    if name == "pendulum":
        actions[:, : STEPS // 2] = uniform(runs, 1, 1, low=-0.8, high=0.8)
        positions = {link: uniform(runs, low=-1.0, high=1.0) for link in ("upper", "lower")}
        return twin.state(positions=positions, rates={link: uniform(runs, low=-3.0, high=3.0) for link in positions}, dtype=torch.float64), actions
    pose, twist = torch.zeros(runs, 7, dtype=torch.float64), torch.zeros(runs, 6, dtype=torch.float64)
    pose[:, 3] = 1.0
    twist[:, :2] = uniform(runs, 2, low=-1.0, high=1.0)
    if name == "ball":
        pose[:, 2] = uniform(runs, low=0.1, high=0.2)
        twist[:, 3:] = uniform(runs, 3, low=-20.0, high=20.0)
    else:
        pose[:, 2] = 0.0298
        twist[:, 0] = uniform(runs, low=0.5, high=1.5)
        actions[:, : STEPS // 3] = uniform(runs, 1, 1, low=1.0, high=4.0)
    return twin.state(pose, twist, dtype=torch.float64), actions


def seen(name: str, twin: WorldTwin, state: RigidState, actions: torch.Tensor, draw: torch.Generator) -> Recording[RigidState]:
    """What a camera with noise sees of a twin's motion."""
    with torch.no_grad():
        states = twin.roll(state, actions).states

    def noise(like: torch.Tensor, size: float) -> torch.Tensor:
        return size * torch.randn(like.shape, generator=draw, dtype=torch.float64)

    if name == "pendulum":
        angles = {f"{link}.angle": states.configuration[..., k] for k, link in enumerate(("upper", "lower"))}
        observed = {label: values + noise(values, NOISE["angle"]) for label, values in angles.items()}
        return Recording(state, actions, observed, dict.fromkeys(observed, 2 * NOISE["angle"]))
    poses = twin.scene.poses(states)
    turned = quaternion_multiply(rotation_vector_to_quaternion(noise(poses[..., :3], NOISE["rotation"])), poses[..., 3:])
    noisy = torch.cat((poses[..., :3] + noise(poses[..., :3], NOISE["position"]), turned), -1)
    measurement: Measurement = PoseMeasurement(noisy, twin.scene.body_names, 2 * NOISE["position"], 2 * NOISE["rotation"])
    return Recording(state, actions, measurements=(measurement,))


WORLDS: dict[str, Callable[[], tuple[RigidTwin, tuple[str, ...]]]] = {"ball": ball, "block": block, "pendulum": pendulum}


def fit_once(name: str, seed: int) -> dict[str, tuple[float, float, float]]:
    """Truth and interval of every parameter of one fit, whose truth is drawn from half the width of the prior."""
    draw = torch.Generator().manual_seed(seed)
    twin, names = WORLDS[name]()
    space = twin.space(names)
    prior = Prior.of(space)
    z = prior.mean + 0.5 * torch.linalg.cholesky(prior.covariance) @ torch.randn(len(space), generator=draw, dtype=torch.float64).clamp(-2, 2)
    truth = values_of(space, z)
    recording = seen(name, twin.with_parameters(truth), *starts(name, twin, 6, draw), draw)
    calibration = calibrate(twin, recording, names, held_out=None, settings=SETTINGS, progress=False)
    return {key: (float(truth[key]), *calibration.intervals(LEVEL)[key]) for key in calibration.values}


def coverage_claims(quick: bool, console: Console) -> dict[str, Any]:
    """How many of all intervals hold the truth; quick: of fewer fits."""
    fits = 10 if quick else FITS
    table = Table("world", "parameter", "intervals that hold the truth", "median width over truth", title=f"{fits} fits of each world, {LEVEL:.0%} intervals")
    hits: list[bool] = []
    for name in WORLDS:
        found = [fit_once(name, seed) for seed in range(fits)]
        for key in found[0]:
            inside = [low <= truth <= high for truth, low, high in (fit[key] for fit in found)]
            width = sorted((high - low) / abs(truth) for truth, low, high in (fit[key] for fit in found))[fits // 2]
            table.add_row(name, key, f"{sum(inside)} of {fits}", f"{width:.3g}")
            hits += inside
    console.print(table)
    return {"interval_coverage": fraction_claim(sum(hits), len(hits))}
