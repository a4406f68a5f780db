"""Calibrated soft bodies met again: in another place and shape, held elsewhere, moved in another way.

The twin is calibrated on one motion of a PyBullet object as in `benchmarks.spring_bodies`. Of the second encounter it gets the first frame, a coloured cloud,
and where the grippers are; colours of the shape come from the first frame of the first encounter. What it then predicts is scored as there, on the last 30 %
of the frames, beside default parameters on the same registered shape, what stays where it was or is carried along, and a twin that was given the true first
shape and calibrated on the first 70 % of the second encounter.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, mean_claim
from benchmarks.soft_scenes import KEPT, MEETINGS, Meeting, met_again
from benchmarks.spring_bodies import PARAMETERS, SURFACE, Effort, fitted, network, predicted, recorded, scores
from structwm.geometry import knn
from structwm.physics import Settings, SpringTwin, Transfer, calibrate, spring_recording, topology_prior, transfer
from structwm.render.mesh_views import points_on_mesh
from structwm.worlds import SoftRecording, record_soft

QUICK_FRAMES, QUICK_EVALUATIONS = 60, 40


def surface_of(seen: SoftRecording) -> tuple[Tensor, Tensor, Tensor]:
    """Of a recording's first frame: corners (S, 3) and weights (S, 3) of points of the surface, and the colours (S, 3) of what was seen nearest to them."""
    faces, weights = points_on_mesh(seen.mesh.surface(), SURFACE)
    corners = seen.mesh.triangles[faces]
    points = (weights.double().unsqueeze(-1) * seen.nodes[0].double()[corners]).sum(1)
    there = seen.clouds[0].isfinite().all(-1)
    return corners, weights.double(), seen.colors[0][there][knn(points, seen.clouds[0][there].double(), 1).indices[:, 0]].double()


def brought(twin: SpringTwin, first: SoftRecording, again: SoftRecording, meeting: Meeting, **options: Any) -> Transfer:
    """The twin at the second encounter."""
    corners, weights, colors = surface_of(first)
    there = again.clouds[0].isfinite().all(-1)
    return transfer(
        twin,
        again.clouds[0][there].double(),
        controllers=again.controllers[0].double(),
        grip=meeting.reach,
        surface=corners,
        surface_weights=weights,
        surface_features=colors,
        features=again.colors[0][there].double(),
        **options,
    )


def foreseen(moved: Transfer, again: SoftRecording) -> Tensor:
    """Nodes (T, P, 3) from the first frame and the grippers alone."""
    recording = spring_recording(moved.twin, again.controllers[None].double(), tracks=again.nodes[None, :, :1].double(), track_points=[0])
    with torch.no_grad():
        states = moved.twin.rollout(recording.state, recording.actions).states
    return states.positions[0]


def calibrated(seen: SoftRecording, evaluations: int | None = None) -> SpringTwin:
    """As in `benchmarks.spring_bodies`; or, with so many draws of the search, in a quick way that leaves the springs alike."""
    if evaluations is None:
        return fitted(seen, Effort()).dense
    twin = network(seen)
    settings = Settings(evaluations=evaluations, iterations=2, explore=0, opening=0.4)
    recording = recorded(twin, seen, slice(0, seen.split))
    return calibrate(twin, recording, PARAMETERS, held_out=None, prior=topology_prior(twin, PARAMETERS), settings=settings, progress=False).twin


def transfer_soft_claims(quick: bool, console: Console, *, frames: int = QUICK_FRAMES, evaluations: int = QUICK_EVALUATIONS) -> dict[str, Any]:
    """All encounters; or quickly the first, of so many frames, with so many draws of the search."""
    table = Table("object, second grip", "model", "chamfer [mm]", "tracks [mm]", title="another place, shape, grip and motion; last 30 % of the frames")
    found: dict[str, list[tuple[float, float]]] = {}
    seconds, twins = [], {}
    for meeting in MEETINGS[:1] if quick else MEETINGS:
        length = frames if quick else 100
        again = met_again(meeting, frames=length)
        first = record_soft("bullet", meeting.thing, frames=length, folder=KEPT)
        if meeting.thing not in twins:
            twins[meeting.thing] = in_the_air(calibrated(first, evaluations if quick else None))
        twin, default = twins[meeting.thing], in_the_air(network(first))
        begin = time.perf_counter()
        moved = brought(twin, first, again, meeting)
        seconds.append(time.perf_counter() - begin)
        same: dict[str, Any] = {"registration": moved.registration}
        true = again.nodes[0].double()
        off = float((moved.registration.positions - true).norm(dim=-1).mean())
        console.print(
            f"{meeting.thing}, {meeting.name}: nodes {1e3 * off:.1f} mm off, residual {1e3 * moved.registration.residual:.1f} mm, {seconds[-1]:.1f} s"
        )
        start = moved.registration.positions.float()
        rows = {
            "holding still": start.expand(len(again.nodes), -1, -1),
            "carried along": start + (again.controllers - again.controllers[0]).mean(1, keepdim=True),
            "default parameters": foreseen(brought(default, first, again, meeting, **same), again),
            "default parameters, old rest lengths": foreseen(brought(default, first, again, meeting, **same, rest="old"), again),
            "transferred": foreseen(moved, again),
            "transferred, balanced rest lengths": foreseen(brought(twin, first, again, meeting, **same, rest="balanced"), again),
            "transferred, old rest lengths": foreseen(brought(twin, first, again, meeting, **same, rest="old"), again),
        }
        if not quick:
            rows["calibrated on the new motion"] = predicted(in_the_air(calibrated(again)), again, first=True)
        for name, nodes in rows.items():
            score = scores(nodes[again.split - len(again.nodes) :], again)
            found.setdefault(name, []).append(score)
            table.add_row(f"{meeting.thing}, {meeting.name}", name, *(f"{1e3 * value:.1f}" for value in score))
        table.add_section()
    console.print(table)
    return _claims(found, seconds)


def in_the_air(twin: SpringTwin) -> SpringTwin:
    """The second encounter is in the air."""
    config = twin.config()
    return SpringTwin(**config | {"body": replace(twin.body, obstacles=())})


def _claims(found: dict[str, list[tuple[float, float]]], seconds: list[float]) -> dict[str, Any]:
    claims: dict[str, Any] = {}
    names = {
        "": "transferred",
        "_balanced": "transferred, balanced rest lengths",
        "_old_rest": "transferred, old rest lengths",
        "_default": "default parameters",
        "_own": "calibrated on the new motion",
    }
    for at, what in enumerate(("chamfer", "track")):
        for ending, name in names.items():
            if name in found:
                each = torch.tensor(found[name])[:, at]
                claims[f"spring_transfer{ending}_{what}_m"] = mean_claim(each.numpy()) if len(each) > 1 else claim(float(each[0]), n=1)
    claims["spring_transfer_seconds"] = claim(max(seconds), n=len(seconds))
    return claims
