"""Deformable bodies of foreign engines as spring networks: calibrated on the first 70 % of what three cameras see, scored on the rest.

The shape at rest is known, as from a scan, and where it is in the first frame; the material is not. Errors are those of PhysTwin (Jiang et al., 2025):
one-sided chamfer distance (L1) from what is visible to the predicted surface, and mean distance of tracked points.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, mean_claim
from structwm.geometry import track_error, visible_chamfer
from structwm.physics import (
    Fixture,
    Geometry,
    ParticleState,
    PlaneShape,
    Settings,
    SpringBody,
    SpringTwin,
    calibrate,
    fit_springs,
    spring_recording,
    topology_prior,
)
from structwm.physics.recording import Recording
from structwm.render.mesh_views import points_on_mesh
from structwm.worlds import SoftRecording, record_soft

SCENES = (("bullet", "beam"), ("bullet", "cloth"), ("newton", "beam"), ("newton", "cloth"))
PARAMETERS = ("stiffness", "falloff", "damping", "drag", "reach", "neighbours")
KEPT = Path(__file__).parents[1] / "build" / "soft_recordings"
SUBSTEPS, STAGES = 60, 4
GROUND = Fixture((Geometry(PlaneShape()),))  # on which bodies lie until they are lifted
RADIUS = 0.005  # of a particle on the ground [m]
SURFACE = 1000  # points of the surface that clouds are compared with


@dataclass(frozen=True)
class Fit:
    """What came of one scene."""

    uniform: SpringTwin
    dense: SpringTwin
    seconds: float


def network(seen: SoftRecording, mass: float = 0.2) -> SpringTwin:
    """Springs between the nodes of the shape at rest, more and longer ones than will be kept."""
    nodes = seen.mesh.nodes.double()
    spacing = float((nodes[seen.mesh.triangles[:, 0]] - nodes[seen.mesh.triangles[:, 1]]).norm(dim=-1).median())
    body = SpringBody.from_points(nodes, radius=2.6 * spacing, neighbours=24, driven=seen.held, obstacles=(GROUND,))
    return SpringTwin(body, dt=float(seen.times[1] - seen.times[0]), substeps=SUBSTEPS, stages=STAGES, values={"mass": mass, "radius": RADIUS})


def recorded(twin: SpringTwin, seen: SoftRecording, frames: slice) -> Recording[ParticleState]:
    """Tracks and clouds of some frames."""
    corners = seen.mesh.triangles[seen.track_faces]
    faces, weights = points_on_mesh(seen.mesh.surface(), SURFACE)
    return spring_recording(
        twin,
        seen.controllers[None, frames].double(),
        positions=seen.nodes[:1].double(),
        velocities=seen.velocities[None].double(),
        tracks=seen.tracks[None, frames].double(),
        track_points=corners,
        track_weights=seen.track_weights.double(),
        clouds=seen.clouds[None, frames].double(),
        surface=seen.mesh.triangles[faces],
        surface_weights=weights.double(),
    )


def fitted(seen: SoftRecording, quick: bool) -> Fit:
    """CMA-ES over material and topology, a few steps downhill, then a stiffness of each spring."""
    begin = time.perf_counter()
    twin = network(seen)
    recording = recorded(twin, seen, slice(0, seen.split))
    settings = Settings(evaluations=30 if quick else 150, iterations=3 if quick else 6, explore=0, opening=0.4)
    uniform = calibrate(twin, recording, PARAMETERS, held_out=None, prior=topology_prior(twin, PARAMETERS), settings=settings, progress=False).twin
    dense = fit_springs(uniform, recording, steps=9 if quick else 36, spread=0.5, smooth=0.15, progress=False).twin
    return Fit(uniform, dense, time.perf_counter() - begin)


def predicted(twin: SpringTwin, seen: SoftRecording) -> Tensor:
    """Nodes (T, P, 3) from the first frame to the last."""
    recording = recorded(twin, seen, slice(None))
    with torch.no_grad():
        states = twin.rollout(recording.state, recording.actions).states
    return states.positions[0, :, : twin.body.points]


def scores(nodes: Tensor, seen: SoftRecording) -> tuple[float, float]:
    """Chamfer and track error of the held-out frames [m]."""
    rest = slice(seen.split, None)
    points = nodes[rest].float()
    return float(visible_chamfer(seen.clouds[rest], seen.surface_points(points))), float(track_error(seen.tracks[rest], seen.material_points(points)))


def candidates(fit: Fit, seen: SoftRecording) -> dict[str, Tensor]:
    """Nodes (T, P, 3) by name of the model."""
    uniform = predicted(fit.uniform, seen)
    last = seen.split - 1
    return {
        "persistence": seen.nodes[last].expand_as(seen.nodes),
        "carried along": seen.nodes[last] + (seen.controllers - seen.controllers[last]).mean(1, keepdim=True),
        "uniform stiffness": uniform,
        "uniform, last residual": uniform + (seen.nodes[last] - uniform[last]),
        "stiffness of each spring": predicted(fit.dense, seen),
        "truth": seen.nodes,
    }


def spring_claims(quick: bool, console: Console) -> dict[str, Any]:
    """All scenes."""
    table = Table("scene", "model", "chamfer [mm]", "tracks [mm]", title="held-out frames: another motion than that calibrated on")
    found: dict[str, list[tuple[float, float]]] = {}
    seconds = []
    for engine, thing in SCENES[:1] if quick else SCENES:
        seen = record_soft(engine, thing, folder=KEPT)
        fit = fitted(seen, quick)
        seconds.append(fit.seconds)
        values = {name: float(value) for name, value in fit.uniform.values.items() if name in PARAMETERS}
        console.print(f"{engine} {thing}: {fit.seconds:.0f} s; {', '.join(f'{name} {value:.3g}' for name, value in values.items())}")
        for name, nodes in candidates(fit, seen).items():
            score = scores(nodes, seen)
            found.setdefault(name, []).append(score)
            table.add_row(f"{engine} {thing}", name, *(f"{1e3 * value:.1f}" for value in score))
        table.add_section()
    console.print(table)
    ours = torch.tensor(found["stiffness of each spring"])
    rivals = torch.tensor([found[name] for name in ("persistence", "uniform stiffness", "uniform, last residual")]).amin(0)
    claims: dict[str, Any] = {}
    for at, name in enumerate(("phystwin_like_chamfer_m", "phystwin_like_track_m")):
        claims[name] = mean_claim(ours[:, at].numpy()) if len(ours) > 1 else claim(float(ours[0, at]), n=1)
        claims[f"{name}_worst_ratio"] = claim(float((rivals[:, at] / ours[:, at]).min()), n=len(ours))
    claims["phystwin_like_seconds"] = claim(max(seconds), n=len(seconds))
    return claims
