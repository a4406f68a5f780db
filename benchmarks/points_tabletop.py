"""Learned dynamics of several boxes on a table under pushers of other shapes: data, training and errors beside floors."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim
from structwm.geometry.set_distances import chamfer
from structwm.points import CloudRecording, ConstantVelocity, GraphDynamics, PointLoss, RigidMotion, Still
from structwm.points.cloud_model import CloudModel
from structwm.training import Curriculum, FitSettings, fit
from structwm.worlds.tabletop_config import AnyPusher, CylinderPusher, SpherePusher
from structwm.worlds.tabletop_episodes import TabletopEpisodes

TOOL = 24  # points of a pusher's surface
CONTEXT, HORIZON = 2, 12  # earlier instants that are seen; steps of the longest rollouts that are trained on
INSTANTS = (1, 5, 20, 50)  # steps after which drift is told
FLOORS = {"still": Still, "constant velocity": ConstantVelocity, "rigid motion": RigidMotion}


def tool_points(pusher: AnyPusher) -> Tensor:
    """Points (24, 3) [m] of a pusher's surface, in its frame."""
    if isinstance(pusher, CylinderPusher):
        rings = torch.linspace(-1, 1, 3) * pusher.half_height
        turns = [2 * math.pi * (torch.arange(8) / 8 + shift) for shift in (0.0, 1 / 24, 2 / 24)]
        parts = [
            torch.stack((pusher.radius * turn.cos(), pusher.radius * turn.sin(), torch.full_like(turn, float(z))), -1)
            for turn, z in zip(turns, rings, strict=True)
        ]
        return torch.cat(parts)
    if isinstance(pusher, SpherePusher):
        place = torch.arange(TOOL) + 0.5
        height, turn = 1 - 2 * place / TOOL, math.pi * (1 + math.sqrt(5)) * place
        across = (1 - height.square()).sqrt()
        return pusher.radius * torch.stack((turn.cos() * across, turn.sin() * across, height), -1)
    grid = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 3))
    return torch.stack((grid[:, 1] * pusher.half_width, grid[:, 0] * pusher.half_thickness, grid[:, 2] * pusher.half_height), -1)


def tool_at(points: Tensor, configuration: Tensor) -> Tensor:
    """A pusher's points (M, 3) where it is at configurations (*B, 3 or 4) x, y, z [m] and yaw [rad]: (*B, M, 3)."""
    yaw = configuration[..., 3:] if configuration.shape[-1] == 4 else torch.zeros_like(configuration[..., :1])
    cos, sin = yaw.cos(), yaw.sin()
    x, y = cos * points[:, 0] - sin * points[:, 1], sin * points[:, 0] + cos * points[:, 1]
    return torch.stack((x, y, points[:, 2].expand_as(x)), -1) + configuration[..., None, :3]


def recording(episodes: TabletopEpisodes) -> CloudRecording:
    """Recorded pushes as motion of points."""
    robot = torch.stack([tool_at(tool_points(config.pusher), path) for config, path in zip(episodes.configs, episodes.pusher, strict=True)])  # type: ignore[union-attr]
    return CloudRecording(episodes.positions, robot, episodes.dt, object_ids=episodes.object_ids.clamp_min(0), mask=episodes.mask)


def joined(parts: Sequence[CloudRecording]) -> CloudRecording:
    """Recordings of runs of one length as one, padded to the most points."""
    most = max(part.positions.shape[2] for part in parts)

    def stacked(name: str, axis: int) -> Tensor:
        values = [getattr(part, name) for part in parts]
        padded = [torch.nn.functional.pad(value, (0, 0) * (value.ndim - axis - 1) + (0, most - value.shape[axis])) for value in values]
        return torch.cat(padded)

    robot = torch.cat([part.robot for part in parts])
    return CloudRecording(stacked("positions", 2), robot, parts[0].dt, object_ids=stacked("object_ids", 1), mask=stacked("mask", 1))


def trained(train: CloudRecording, held_out: CloudRecording, steps: int, **options: Any) -> tuple[GraphDynamics, float]:
    """A graph network, and how long its training took [s]."""
    windows, judged = train.windows(HORIZON, context=CONTEXT), held_out.windows(20, stride=15, context=CONTEXT)
    torch.manual_seed(0)
    size = {"robot_points": TOOL, "dt": train.dt, "context": CONTEXT, "objects": 8, "rigid": "all", "inertia": 0.0, "ground": True}
    model = GraphDynamics(**(size | options))
    model.fit_scales(windows[::37])
    curriculum = Curriculum(first=2, last=HORIZON, reach=0.6)
    settings = FitSettings(steps=steps, batch=16, learning_rate=2e-3, curriculum=curriculum, evaluate_every=max(steps // 8, 1), patience=10)
    begin = time.perf_counter()
    fit(model, windows, held_out=judged[:], loss=PointLoss(), settings=settings, progress=False)
    return model, time.perf_counter() - begin


@torch.no_grad()
def drift(model: CloudModel, runs: CloudRecording, steps: int = max(INSTANTS)) -> dict[str, Tensor]:
    """Mean distance of corresponding points, and chamfer distance, (R, steps) [m], of rollouts from several instants of each run; points that are masked do not count."""
    batch = runs.windows(steps, stride=max(steps // 5, 1), context=model.context, first=model.context)[:]
    found, seen, mask = model.rollout(batch.start, batch.actions).states.positions, batch.states.positions, batch.states.mask
    at = [step for step in INSTANTS if step <= steps]
    distance = (found - seen)[:, at].norm(dim=-1)
    return {
        "paired": (distance * mask[:, at]).sum(-1) / mask[:, at].sum(-1),
        "chamfer": chamfer(found[:, at], seen[:, at], mask_a=mask[:, at], mask_b=mask[:, at]),
    }


def show(console: Console, title: str, models: Mapping[str, CloudModel], runs: CloudRecording) -> dict[str, dict[str, Tensor]]:
    """Print drift by model; and give it."""
    table = Table("model", *(f"drift {step}, mm" for step in INSTANTS), *(f"chamfer {step}" for step in INSTANTS), title=title)
    found = {name: drift(model, runs) for name, model in models.items()}
    for name, errors in found.items():
        table.add_row(name, *(f"{1e3 * float(value):.2f}" for kind in ("paired", "chamfer") for value in errors[kind].mean(0)))
    console.print(table)
    return found


def ratio_claim(errors: Tensor, reference: Tensor) -> dict[str, Any]:
    """The ratio of mean errors of two sets of runs."""
    return claim(float(errors.mean() / reference.mean()), n=len(errors))
