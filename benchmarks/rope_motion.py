"""Parts of `benchmarks.deformable`: real cables in motion, scored as DEFORM is (Chen et al., CoRL 2024).

Given two frames and the driven vertices for five seconds: the mean absolute error of all coordinates of all vertices, of 14 runs.
"""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.claims import claim, mean_claim
from structwm.data import read_rope_motion
from structwm.data.rope_motion import CABLES, RATE, RopeMotion
from structwm.physics import (
    Calibration,
    FittedParticleResidual,
    Prior,
    ResidualSettings,
    Rod,
    RodTwin,
    Settings,
    calibrate,
    fit_particle_residual,
    rod_recording,
)
from structwm.transition import TransitionModel

MATERIAL = ("bend_stiffness", "bend_damping", "drag", "length")
PARAMETERS = (*MATERIAL, "curvature_scale")
STRAIGHT = (*MATERIAL, "quadratic_drag")  # of a rod that is straight at rest, and beside each vertex's curvature
SEGMENT = 250  # instants
PUBLISHED = {"DLO1": 0.0103, "DLO2": 0.0102}  # mean [m], best epoch chosen on the evaluation runs
KINDS = (
    ("straight", "straight at rest", "rope_straight"),
    ("curvature_scale", "curved as the tracks show in the middle", "rope"),
    ("curvatures", "natural curvature of every vertex calibrated", "rope_curvatures"),
)
MET_AGAIN = {
    "scratch": "from scratch",
    "transfer": "from DLO1",
    "curvatures": "from DLO1, natural curvature of every vertex",
    "ridge": "that and ridge",
    "residual": "that and recurrent",
}
COUNTS, CHOICES = (1, 4, 14), 3  # sequences of a cable that is new, and how many choices of them


@cache
def runs_of(cable: str) -> tuple[RopeMotion, Tensor, Tensor]:
    """A cable, its runs to learn from and those to be scored on."""
    motion = read_rope_motion(cable)
    return motion, torch.tensor(motion.train), torch.tensor(motion.test)


def predicted(model: TransitionModel[Any], twin: RodTwin, tracks: Tensor) -> Tensor:
    """Vertices (N, T-2, V, 3) behind the first two frames of tracks (N, T, V, 3)."""
    recording = rod_recording(twin, tracks)
    with torch.no_grad():
        positions: Tensor = model.rollout(recording.state, recording.actions).states.positions[:, 1:]
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


def calibrated(tracks: Tensor, motion: RopeMotion, *, straight: bool = False, prior: Prior | None = None, every: bool = False) -> Calibration[RodTwin]:
    """A twin of a cable under what recorded runs say.

    Args:
        tracks: of the runs (N, T, V, 3) [m].
        motion: of the cable, which says what is driven.
        straight: whether the rod is taken for straight at rest; otherwise it is curved as the tracks show in the middle.
        prior: of the material; curvature is the cable's own.
        every: whether the natural curvature of every vertex is calibrated along.
    """
    shape = {} if straight else {"curved": True, "director": motion.director}
    twin = RodTwin(Rod.from_tracks(tracks, driven=motion.driven, **shape), dt=1 / RATE, substeps=2)
    names = (*STRAIGHT, *twin.curvatures) if every else STRAIGHT if straight else PARAMETERS
    settings = Settings(evaluations=40, iterations=12 if every else 5, dof=8.0, explore=0)
    if prior is not None:
        own, shared = Prior.of(twin.space(names)), len(prior.mean)
        prior = Prior(torch.cat((prior.mean, own.mean[shared:])), torch.block_diag(prior.covariance, own.covariance[shared:, shared:]))
    return calibrate(twin, rod_recording(twin, tracks, segment=SEGMENT), names, held_out=None, prior=prior, settings=settings)


@cache
def calibration_of(cable: str, quick: bool, kind: str = "curvature_scale") -> Calibration[RodTwin]:
    """Of a cable on all its runs, or on some.

    Args:
        cable: its name.
        quick: whether every fourth run has to do, and every eighth where all curvatures are calibrated.
        kind: `straight`, `curvature_scale` (five parameters each), or `curvatures`: the natural curvature of every vertex as well.
    """
    motion, train, _ = runs_of(cable)
    every = kind == "curvatures"
    return calibrated(train[:: (8 if every else 4) if quick else 1], motion, straight=kind == "straight", every=every)


def rope_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Both cables by physics alone: rods straight at rest, curved as the tracks show, and with the natural curvature of every vertex calibrated."""
    table = Table("cable", "model", "fitted", "mean [m]", "median [m]", title="14 runs of five seconds each")
    claims: dict[str, Any] = {}
    for cable in CABLES:
        motion, _, test = runs_of(cable)
        suffix = cable.lower()
        floors = {"held still": test[:, 1:2].expand_as(test[:, 2:]), "blend of the ends": blend(test, motion.driven)}
        for name, found in floors.items():
            _add(table, cable, name, "-", errors(found, test))
        for kind, label, claimed in KINDS:
            calibration = calibration_of(cable, quick, kind)
            begin = time.perf_counter()
            found = predicted(calibration.twin, calibration.twin, test)
            frames = found.shape[0] * found.shape[1] / (time.perf_counter() - begin)
            each = errors(found, test)
            _add(table, cable, f"RodTwin, {label}, {calibration.seconds:.0f} s to calibrate", str(len(calibration.values)), each)
            claims |= pair(f"{claimed}_{{}}_m_{suffix}", each)
            claims[f"{claimed}_calibration_s_{suffix}"] = claim(calibration.seconds, n=1)
            intervals = calibration.intervals()
            told = [name for name in calibration.values if name not in calibration.twin.curvatures]
            values = ", ".join("{} {:.3g} ({:.3g} to {:.3g})".format(name, float(calibration.values[name]), *intervals[name]) for name in told)
            console.print(f"{cable}, {label}: {values}; {frames:,.0f} frames a second on one thread")
        claims[f"rope_frames_per_s_{suffix}"] = claim(frames, n=1)
        table.add_row(cable, "published model", "-", f"{PUBLISHED[cable]:.4f}", "-")
    console.print(table)
    return claims


def _add(table: Table, cable: str, name: str, fitted: str, each: Tensor) -> None:
    table.add_row(cable, name, fitted, f"{each.mean():.4f}", f"{each.median():.4f}")


def residual_claims(quick: bool, console: Console) -> dict[str, Any]:
    """Both cables by physics, natural curvature of every vertex included, and a residual of it; networks in the full run only."""
    table = Table("cable", "residual", "mean [m]", "median [m]", "training [s]", "gate", title="Physics and a residual: 14 runs of five seconds each")
    claims: dict[str, Any] = {}
    for cable in CABLES:
        _, train, test = runs_of(cable)
        twin, suffix = calibration_of(cable, quick, "curvatures").twin, cable.lower()
        for method, name in (("ridge", "rope_ridge_{}_m_"), ("recurrent", "rope_residual_{}_m_")):
            if method == "recurrent" and quick:
                claims |= dict.fromkeys((name.format(kind) + suffix for kind in ("l1", "median")), claim(None, why="networks are trained in the full run"))
                continue
            fitted = fit_particle_residual(twin, train, method=method, parameters=STRAIGHT)  # type: ignore[arg-type]
            each = errors(predicted(fitted.model, twin, test), test)
            table.add_row(cable, method, f"{each.mean():.4f}", f"{each.median():.4f}", f"{fitted.seconds:.0f}", fitted.why)
            claims |= pair(name + suffix, each)
            claims[f"rope_{'ridge' if method == 'ridge' else 'residual'}_training_s_{suffix}"] = claim(fitted.seconds, n=1)
    console.print(table)
    return claims


def transfer_claims(quick: bool, console: Console) -> dict[str, Any]:
    """A cable that is new, DLO2, from few of its runs: from scratch, and from what DLO1 said; the mean over choices of runs."""
    motion, train, test = runs_of("DLO2")
    table = Table("runs", "model", "mean [m]", "median [m]", "residual kept", title="DLO2 from few of its runs, 14 runs of five seconds each")
    claims: dict[str, Any] = {}
    zero = RodTwin(Rod.from_tracks(train[:1], driven=motion.driven), dt=1 / RATE, substeps=2, values=calibration_of("DLO1", quick, "straight").values)
    claims |= _row(table, "rope_transfer", 0, "DLO1's material, a straight rod with lengths of one run", [errors(predicted(zero, zero, test), test)], "-")
    for count in COUNTS[: 2 if quick else None]:
        found: dict[str, list[Tensor]] = {name: [] for name in MET_AGAIN}
        kept, choices = dict.fromkeys(found, 0), 1 if quick else CHOICES
        for choice in range(choices):
            runs = train[choice :: len(train) // count][:count]
            for name, twin in (
                ("scratch", calibrated(runs, motion).twin),
                ("transfer", calibrated(runs, motion, prior=from_first(quick)).twin),
            ):
                found[name].append(errors(predicted(twin, twin, test), test))
            twin = calibrated(runs, motion, prior=from_first(quick), every=True).twin
            found["curvatures"].append(errors(predicted(twin, twin, test), test))
            for method in ("ridge",) if quick else ("ridge", "recurrent"):
                name = "ridge" if method == "ridge" else "residual"
                fitted = learned(twin, runs, method)
                kept[name] += fitted is not None and fitted.kept
                found[name].append(errors(predicted(fitted.model if fitted else twin, twin, test), test))
        for name, label in MET_AGAIN.items():
            if found[name]:
                claimed = "rope_transfer" if name == "transfer" else f"rope_transfer_{name}"
                share = f"{kept[name]} of {choices}" if name in ("ridge", "residual") else "-"
                claims |= _row(table, claimed, count, label, found[name], share)
    console.print(table)
    return claims


def from_first(quick: bool) -> Prior:
    """What DLO1 says of another cable's material: it is about its own, and may differ from it as much as ropes do."""
    first, shared = calibration_of("DLO1", quick, "curvature_scale"), len(MATERIAL)
    return Prior(first.z[:shared], first.prior.covariance[:shared, :shared])


def learned(twin: RodTwin, runs: Tensor, method: Any) -> FittedParticleResidual | None:
    """A residual from few runs, None of one run, which leaves nothing to judge it by. Its training is shorter than on many runs."""
    if len(runs) < 2:
        return None
    return fit_particle_residual(twin, runs, method=method, parameters=STRAIGHT, settings=ResidualSettings(steps=200), progress=False)


def _row(table: Table, name: str, count: int, label: str, each: list[Tensor], kept: str) -> dict[str, Any]:
    """A row of the table, and its claims: means over choices of runs."""
    mean, median = (sum(float(f(part)) for part in each) / len(each) for f in (torch.mean, torch.median))
    low, high = (f(float(part.mean()) for part in each) for f in (min, max))
    table.add_row(str(count), label, f"{mean:.4f}" + (f" ({low:.4f} to {high:.4f})" if len(each) > 1 else ""), f"{median:.4f}", kept)
    return {f"{name}_l1_m_{count}": claim(mean, n=len(each), low=low, high=high), f"{name}_median_m_{count}": claim(median, n=len(each))}


def pair(name: str, each: Tensor) -> dict[str, Any]:
    """The claims of mean and median; `name` has a place for which."""
    assert math.isfinite(float(each.mean()))
    return {name.format("l1"): mean_claim(each.numpy()), name.format("median"): claim(float(each.median()), n=len(each))}
