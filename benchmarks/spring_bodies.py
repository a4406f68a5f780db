"""Deformable bodies of foreign engines as spring networks: calibrated on the first 70 % of what three cameras see, scored on the rest.

The shape at rest is known, as from a scan, and where it is in the first frame; the material is not. Errors are those of PhysTwin (Jiang et al., 2025):
one-sided chamfer distance (L1) from what is visible to the predicted surface, and mean distance of tracked points. Predictions start from the state that what
was seen of the last frame before says, and for comparison from the first frame.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, mean_claim
from benchmarks.soft_scenes import KEPT
from structwm.geometry import track_error, visible_chamfer
from structwm.physics import (
    GROUND,
    ParticleState,
    Settings,
    SpringBody,
    SpringTwin,
    calibrate,
    estimate_states,
    fit_springs,
    spring_recording,
    topology_prior,
)
from structwm.physics.recording import Recording
from structwm.render.mesh_views import points_on_mesh
from structwm.worlds import SoftRecording, record_soft

SCENES = (("bullet", "beam"), ("bullet", "cloth"), ("newton", "beam"), ("newton", "cloth"))
PARAMETERS = ("stiffness", "falloff", "damping", "drag", "reach", "neighbours")
SUBSTEPS, STAGES = 60, 4
RADIUS = 0.005  # of a particle on the ground [m]
SURFACE = 1000  # points of the surface that clouds are compared with
PIECE, STRIDE, HELD = 10, 5, 3  # steps of a piece and from piece to piece; how many, the last, choose among fits
SPREADS = (0.5, 0.2)  # of the logarithm of a spring's stiffness: what is chosen from
OURS = "each spring's stiffness"
FIRST = "uniform, from the first frame"
RIVALS = ("persistence", "uniform stiffness", "uniform, and its last residual", FIRST, f"{FIRST}, and its last residual")


@dataclass(frozen=True)
class Effort:
    """How much is recorded and fitted."""

    scenes: int = len(SCENES)  # the first of them
    frames: int = 100
    evaluations: int = 120  # draws of the search for material and topology
    material: int = 20  # rollouts with gradients for the material
    springs: int = 30  # the same for a stiffness of each spring


QUICK = Effort(scenes=1, evaluations=30, material=8, springs=12)


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


def fitted(seen: SoftRecording, effort: Effort) -> Fit:
    """CMA-ES over material and topology, the material by gradients, then a stiffness of each spring where the last pieces, held back, gain by it.

    All that is compared with starts anew again and again from states that are estimated from what was seen.
    """
    begin = time.perf_counter()
    twin = network(seen)
    recording = recorded(twin, seen, slice(0, seen.split))

    def pieces(of: SpringTwin) -> Recording[ParticleState]:
        return recording.windows(estimate_states(of, recording), PIECE, STRIDE)

    settings = Settings(evaluations=effort.evaluations, iterations=0, explore=0)
    prior = topology_prior(twin, PARAMETERS)
    twin = calibrate(twin, pieces(twin), PARAMETERS, held_out=None, prior=prior, settings=settings, progress=False).twin
    whole = pieces(twin)
    parts, late = whole[:-HELD], whole[-HELD:]
    options: dict[str, Any] = {"held_back": late, "progress": False}
    uniform = fit_springs(twin, parts, each=False, steps=effort.material, **options).twin
    fits = [fit_springs(uniform, parts, steps=effort.springs, spread=spread, smooth=0.3 * spread, **options) for spread in SPREADS]
    dense = min(fits, key=lambda fit: min(fit.checks)).twin
    return Fit(uniform, dense, time.perf_counter() - begin)


def predicted(twin: SpringTwin, seen: SoftRecording, *, first: bool = False) -> Tensor:
    """Nodes in the last frame that was seen and in those held out (1 + T, P, 3): from the state that all seen before says, or from the first frame on."""
    whole, last = recorded(twin, seen, slice(None)), seen.split - 1
    with torch.no_grad():
        if first:
            return twin.rollout(whole.state, whole.actions).states.positions[0, last:, : twin.body.points]
        state = estimate_states(twin, recorded(twin, seen, slice(0, seen.split)))[:, -1]
        return twin.rollout(state, whole.actions[:, last:]).states.positions[0, :, : twin.body.points]


def scores(nodes: Tensor, seen: SoftRecording) -> tuple[float, float]:
    """Chamfer and track error of the held-out frames [m]."""
    rest = slice(seen.split, None)
    points = nodes.float()
    return float(visible_chamfer(seen.clouds[rest], seen.surface_points(points))), float(track_error(seen.tracks[rest], seen.material_points(points)))


def candidates(fit: Fit, seen: SoftRecording) -> dict[str, Tensor]:
    """Nodes of the frames held out (T, P, 3) by name of the model."""
    last, rest = seen.split - 1, slice(seen.split, None)
    uniform, far = predicted(fit.uniform, seen), predicted(fit.uniform, seen, first=True)
    return {
        "persistence": seen.nodes[last].expand_as(seen.nodes[rest]),
        "carried along": seen.nodes[last] + (seen.controllers[rest] - seen.controllers[last]).mean(1, keepdim=True),
        FIRST: far[1:],
        f"{FIRST}, and its last residual": far[1:] + (seen.nodes[last] - far[0]),
        "each spring's, from the first frame": predicted(fit.dense, seen, first=True)[1:],
        "uniform stiffness": uniform[1:],
        "uniform, and its last residual": uniform[1:] + (seen.nodes[last] - uniform[0]),
        OURS: predicted(fit.dense, seen)[1:],
        "truth": seen.nodes[rest],
    }


def spring_claims(quick: bool, console: Console, *, effort: Effort | None = None) -> dict[str, Any]:
    """All scenes, or as many as the effort allows, which follows from `quick` if it is not given."""
    effort = effort or (QUICK if quick else Effort())
    table = Table("scene", "model", "chamfer [mm]", "tracks [mm]", title="held-out frames: another motion than that calibrated on")
    found: dict[str, list[tuple[float, float]]] = {}
    seconds = []
    for engine, thing in SCENES[: effort.scenes]:
        seen = record_soft(engine, thing, frames=effort.frames, folder=KEPT)
        fit = fitted(seen, effort)
        seconds.append(fit.seconds)
        values = {name: float(value) for name, value in fit.uniform.values.items() if name in PARAMETERS}
        console.print(f"{engine} {thing}: {fit.seconds:.0f} s; {', '.join(f'{name} {value:.3g}' for name, value in values.items())}")
        for name, nodes in candidates(fit, seen).items():
            score = scores(nodes, seen)
            found.setdefault(name, []).append(score)
            table.add_row(f"{engine} {thing}", name, *(f"{1e3 * value:.1f}" for value in score))
        table.add_section()
    console.print(table)
    ours = torch.tensor(found[OURS])
    rivals = torch.tensor([found[name] for name in RIVALS]).amin(0)
    claims: dict[str, Any] = {}
    for at, name in enumerate(("phystwin_like_chamfer_m", "phystwin_like_track_m")):
        claims[name] = mean_claim(ours[:, at].numpy()) if len(ours) > 1 else claim(float(ours[0, at]), n=1)
        claims[f"{name}_worst_ratio"] = claim(float((rivals[:, at] / ours[:, at]).min()), n=len(ours))
    claims["phystwin_like_seconds"] = claim(max(seconds), n=len(seconds))
    return claims
