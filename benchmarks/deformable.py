"""Deformable twins: `python -m benchmarks.deformable [--quick] [--only PART ...]`.

Real cables: `RodTwin` with five parameters calibrated on recorded runs, scored on others as DEFORM is (Chen et al., CoRL 2024): given two frames and the driven
vertices for five seconds, the mean absolute error of all coordinates of all vertices. `--quick` calibrates on fewer runs with fewer draws.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, mean_claim
from benchmarks.parts import Part, run_parts
from structwm.data import read_rope_motion
from structwm.data.rope_motion import CABLES, RATE
from structwm.physics import Calibration, Rod, RodTwin, Settings, calibrate, rod_recording

PARAMETERS = ("bend_stiffness", "bend_damping", "drag", "quadratic_drag", "length")
PUBLISHED = {"DLO1": 0.0103, "DLO2": 0.0102}  # mean [m], best epoch chosen on the evaluation runs


def predicted(twin: RodTwin, tracks: Tensor) -> Tensor:
    """Vertices (N, T-2, V, 3) behind the first two frames of tracks (N, T, V, 3)."""
    recording = rod_recording(twin, tracks)
    with torch.no_grad():
        positions: Tensor = twin.rollout(recording.state, recording.actions).states.positions[:, 1:]
    return positions


def errors(found: Tensor, tracks: Tensor) -> Tensor:
    """Of each run (N,): mean absolute error over frames, vertices and coordinates [m]."""
    return (found - tracks[:, 2:]).abs().mean((1, 2, 3))


def blend(tracks: Tensor, driven: tuple[int, ...]) -> Tensor:
    """The floor: every vertex keeps its place between the driven ends, moved as they move, weighted by its place along the cable."""
    vertices = tracks.shape[2]
    share = torch.linspace(0, 1, vertices, dtype=tracks.dtype)[:, None]
    first, last = (tracks[:, 2:, k] - tracks[:, 1:2, k] for k in (driven[0], driven[-1]))
    return tracks[:, 1:2] + (1 - share) * first.unsqueeze(2) + share * last.unsqueeze(2)


def calibrated(tracks: Tensor, driven: tuple[int, ...], quick: bool) -> Calibration[RodTwin]:
    """A twin of a cable under what recorded runs say."""
    twin = RodTwin(Rod.from_tracks(tracks, driven=driven), dt=1 / RATE)
    runs = tracks[:: 4 if quick else 1]
    settings = Settings(evaluations=60 if quick else 200, iterations=5 if quick else 15, explore=0)
    return calibrate(twin, rod_recording(twin, runs), PARAMETERS, held_out=None, settings=settings)


def rope_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Both cables."""
    table = Table("cable", "model", "mean [m]", "median [m]", title="14 runs of five seconds each")
    claims: dict[str, Any] = {}
    for cable in CABLES:
        motion = read_rope_motion(cable)
        train, test = torch.tensor(motion.train), torch.tensor(motion.test)
        begin = time.perf_counter()
        calibration = calibrated(train, motion.driven, quick)
        seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        found = predicted(calibration.twin, test)
        frames = found.shape[0] * found.shape[1] / (time.perf_counter() - begin)
        scores = {"held still": errors(test[:, 1:2].expand_as(test[:, 2:]), test), "blend of the ends": errors(blend(test, motion.driven), test)}
        scores[f"RodTwin, {len(PARAMETERS)} parameters, {seconds:.0f} s to calibrate"] = errors(found, test)
        for name, each in scores.items():
            table.add_row(cable, name, f"{each.mean():.4f}", f"{each.median():.4f}")
        table.add_row(cable, "published model", f"{PUBLISHED[cable]:.4f}", "-")
        suffix = cable.lower()
        claims[f"rope_l1_m_{suffix}"] = mean_claim(scores[name].numpy())
        claims[f"rope_median_m_{suffix}"] = claim(float(scores[name].median()), n=len(test))
        claims[f"rope_frames_per_s_{suffix}"] = claim(frames, n=1)
        values = ", ".join(
            f"{key} {value:.3g} ({low:.3g} to {high:.3g})"
            for (key, value), (low, high) in zip(calibration.values.items(), calibration.intervals().values(), strict=True)
        )
        console.print(f"{cable}: {values}; {frames:,.0f} frames a second on one thread")
    console.print(table)
    return claims


PARTS: dict[str, Part] = {"rope": rope_claims}


if __name__ == "__main__":
    run_parts("deformable", __doc__, PARTS, quick="fewer runs and draws")
