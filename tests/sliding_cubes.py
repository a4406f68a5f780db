"""Recorded slides of a cube over a plane, small enough to be calibrated on in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from structwm.physics.rigid import RigidTwin
from structwm.physics.rigid_runs import RigidRun
from structwm.physics.rigid_scene import POSE_NAMES, TWIST_NAMES
from structwm.physics.rigid_world import Body, BoxShape, Geometry, Material, RigidWorld
from structwm.physics.scene_files import write_world

DT, STEPS, STIFFNESS = 0.02, 20, 3000.0
TRUTH = {"friction": 0.3}
WORLD = RigidWorld((Body("cube", 0.4, 0.0007, (Geometry(BoxShape((0.05, 0.05, 0.05))),), material=Material(friction=0.5, stiffness=STIFFNESS)),))


def slides(count: int, *, noise: float = 1.5e-3, seed: int = 0) -> list[RigidRun]:
    """Runs, seen with noise after their first instant, that start on the plane at different speeds and turn about the vertical, under `TRUTH`."""
    generator = torch.Generator().manual_seed(seed)
    twin = RigidTwin(WORLD, dt=DT, substeps=4, values=TRUTH)
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    poses = torch.zeros(count, 7, dtype=torch.float64)
    poses[:, 2], poses[:, 3] = 0.05 - 0.4 * 9.81 / (4 * STIFFNESS), 1.0  # where four springs carry the weight
    twists = torch.zeros(count, 6, dtype=torch.float64)
    twists[:, 0], twists[:, 1], twists[:, 5] = 0.4 + 0.6 * draws[:, 0], 0.4 * draws[:, 1] - 0.2, 1.5 + 2.0 * draws[:, 2]
    states = twin.rollout(twin.state(poses, twists), torch.zeros(count, STEPS, 0, dtype=torch.float64)).states
    seen = states.configuration.clone()
    seen[:, 1:] += noise * torch.tensor([1.0] * 3 + [3.0] * 4) * torch.randn(count, STEPS, 7, generator=generator, dtype=torch.float64)
    seen[..., 3:] /= seen[..., 3:].norm(dim=-1, keepdim=True)
    return [RigidRun({"cube": seen[k]}, {"cube": states.velocity[k]}, name=f"slide {k}") for k in range(count)]


def write_slides(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """The world as a JSON scene, and the runs as a CSV file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_world(WORLD, folder / "scene.json")
    lines = [",".join(("run", "time", *(f"cube.{label}" for label in (*POSE_NAMES, *TWIST_NAMES))))]
    for k, run in enumerate(slides(count)):
        rows = np.c_[DT * np.arange(STEPS + 1), run.poses["cube"].numpy(), run.twists["cube"].numpy()]
        lines += [",".join((str(k), *(repr(float(value)) for value in row))) for row in rows]
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    return folder / "scene.json", folder / "slides.csv"
