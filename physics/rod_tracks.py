"""Recordings of rods from tracked vertices, and calibrated rods met again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .measurements import TrackMeasurement
from .recording import Recording
from .rod_scene import Rod, RodState
from .rod_twin import RodTwin


def rod_recording(twin: RodTwin, tracks: Tensor, *, scale: float = 0.01, segment: int | None = None) -> Recording[RodState]:
    """What tracked vertices say of a rod: it starts at their second instant with the velocity since the first, its driven vertices move as recorded, and the
    others are compared.

    Args:
        twin: whose step is the time between two instants.
        tracks: vertices (N, T, V, 3) [m]; NaN where a free vertex was not seen.
        scale: size of an error that matters [m].
        segment: cut each run into equal parts of about so many instants, each with a start of its own. Errors grow with time, and where the motion is chaotic
            whole runs say little more of the parameters than their beginnings.

    Raises:
        ValueError: on another shape, fewer than three instants in a run or segment, a driven vertex that was not always seen, a free one that was not seen in
            the first two instants, or a rod of which all vertices are driven.
    """
    rod = twin.rod
    if tracks.ndim != 4 or tracks.shape[2:] != (rod.vertices, 3) or tracks.shape[1] < 3:
        raise ValueError(f"rod_recording needs tracks (N, T, {rod.vertices}, 3) with T of 3 or more, got {tuple(tracks.shape)}.")
    if segment is not None and segment < 3:
        raise ValueError(f"rod_recording needs segments of three instants at least, got {segment}.")
    runs, instants = tracks.shape[:2]
    parts = 1 if segment is None else max(1, round(instants / segment))
    tracks = tracks[:, : instants // parts * parts].reshape(runs * parts, instants // parts, rod.vertices, 3)
    if rod.rolled:
        raise ValueError("rod_recording knows no spins, which tracks do not show; give the actions of a rod with rolled edges yourself.")
    free = [k for k in range(rod.vertices) if k not in rod.driven]
    if not free:
        raise ValueError("rod_recording needs a vertex that is not driven.")
    tracks = tracks.double()
    seen = tracks.isfinite().all(-1)
    for k in range(rod.vertices):
        part = seen[:, :, k] if k in rod.driven else seen[:, :2, k]
        if not bool(part.all()):
            run, instant = (int(number) for number in (~part).nonzero()[0])
            what = "driven vertex" if k in rod.driven else "vertex at the start"
            raise ValueError(
                f"rod_recording needs every {what} seen; vertex {k} of run {run // parts} was not at instant {instant + run % parts * tracks.shape[1]}."
            )
    assert twin.spec.dt is not None
    velocities = (tracks[:, 1:] - tracks[:, :-1]) / twin.spec.dt
    actions = velocities[:, 1:][:, :, list(rod.driven)].flatten(2)
    top = twin.spec.action.high.to(actions)
    if bool((actions.abs() > top).any()):
        raise ValueError(f"rod_recording got a driven vertex at {float(actions.abs().max()):.3g} m/s, more than {float(top[0]):g}; are units and dt right?")
    measurement = TrackMeasurement(tracks[:, 1:][:, :, free], tuple(free), scale=scale)
    origin = None if parts == 1 else torch.arange(runs).repeat_interleave(parts)
    return Recording(twin.state(tracks[:, 1], velocities[:, 0]), actions, measurements=(measurement,), origin=origin)


def transfer_rod(twin: RodTwin, tracks: Tensor, *, driven: Sequence[int] | None = None, same: bool = False) -> RodTwin:
    """A calibrated rod for a new cable of the same kind, or the same one with other vertices or grips.

    Rest lengths are the new cable's own; parameters stay, but for the mass of each vertex, which goes with its share of the length as that of a coating does.
    Natural curvature is each cable's own: a new one is straight at rest until it is calibrated.
    `calibrate(..., prior=Prior.around(moved, names))` goes on from there where the new cable was recorded in motion.

    Args:
        twin: calibrated.
        tracks: vertices (..., V, 3) [m]; NaN where one was not seen.
        driven: vertices that are held; the same numbers as before if not given, where there are as many.
        same: whether it is the same cable with the same vertices, which keeps its natural curvature.

    Raises:
        ValueError: if the same cable has another number of vertices, two neighbours were never seen together, a driven vertex is not there, or the number of
            vertices changed and `driven` is not given.
    """
    old = twin.rod
    if driven is None and tracks.shape[-2] != old.vertices:
        raise ValueError(f"transfer_rod needs driven where the number of vertices changes, here from {old.vertices} to {tracks.shape[-2]}.")
    lengths = Rod.from_tracks(tracks).rest_lengths
    rolled = old.rolled if driven is None else ()
    if same and len(lengths) != old.edges:
        raise ValueError(f"transfer_rod keeps the natural curvature of the same vertices, of which there were {old.vertices}, now {len(lengths) + 1}.")
    natural = old.natural_curvature if same else ()
    rod = replace(old, rest_lengths=lengths, natural_curvature=natural, driven=old.driven if driven is None else tuple(driven), rolled=rolled)
    assert twin.spec.dt is not None
    share = (rod.length / rod.vertices) / (old.length / old.vertices)
    values = {name: value for name, value in twin.values.items() if same or name not in (*twin.curvatures, "curvature_scale")}
    values["vertex_mass"] = values["vertex_mass"] * share
    return RodTwin(rod, dt=twin.spec.dt, substeps=twin.substeps, values=values)
