"""Networks of springs for `structwm calibrate`: thinned, brought to where they are in a recording's first frame, held as it says, and beside what was seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from structwm.geometry import knn
from structwm.physics.recording import Recording
from structwm.physics.rigid_world import GROUND
from structwm.physics.soft_runs import SoftRun
from structwm.physics.soft_shapes import SpringShape, between, farthest
from structwm.physics.spring_body import SpringBody
from structwm.physics.spring_observations import spring_recording
from structwm.physics.spring_registration import BodySurface, register_body
from structwm.physics.spring_transfer import check_registration, clamped_groups
from structwm.physics.spring_twin import SpringTwin
from structwm.render import splats_from_points

from .soft_images import DrivenImages

if TYPE_CHECKING:
    from .calibrating_soft import CalibrateSoftConfig

RADIUS = 2.6  # of springs between points that are joined anew, in spacings
FITS = 0.7  # spacings that the first frame may be away on average from a body that is not looked for
BELOW = -0.02  # height of what was seen under which there is no ground at z = 0 [m]
NEAR = 2.0  # spacings from the body within which a track begins that is followed
TILE = 4  # pixels a side in which masks are compared
UNSEEN = "the first frame has fewer than four points of clouds and tracks"


@dataclass(frozen=True, eq=False)
class Thinned:
    """A body at rest, and which of the shape's points its particles are."""

    body: SpringBody
    kept: Tensor  # int64 (P,)
    surface: BodySurface
    spacing: float  # between particles [m]
    held: tuple[tuple[int, ...], ...] | None  # particles that controllers hold, if it is known


@dataclass(frozen=True, eq=False)
class Placed:
    """A body where it is in the first frame, with what moves it."""

    body: SpringBody
    surface: BodySurface
    spacing: float
    velocities: Tensor | None  # (P, 3) [m/s]
    words: str


def matched(run: SoftRun, shape: SpringShape, register: str) -> tuple[SoftRun, str]:
    """The run without what it says of points that are not the shape's, and that in words.

    Raises:
        ValueError: if the shape is to be looked for, and too little was seen in the first frame.
    """
    if register == "yes" and _first(run) is None:
        raise ValueError(f"structwm calibrate cannot look for the shape: {UNSEEN}; leave --register away.")
    count = len(shape.points)
    told = {len(part) for part in (run.positions, run.velocities) if part is not None}
    last = max((k for group in run.held or () for k in group), default=-1)
    if told <= {count} and last < count:
        return run, ""
    own = replace(run, positions=None, velocities=None, held=None)
    return own, f"what the recording says of {max((*told, last + 1))} points is of another shape than this of {count}, and is not used"


def thinned(shape: SpringShape, most: int, neighbours: int, held: tuple[tuple[int, ...], ...] | None) -> Thinned:
    """The body of a shape; of one with more than `most` points, or none joined, near points are joined as `SpringBody.from_points` does."""
    count = len(shape.points)
    kept = farthest(shape.points, most, None if held is None else torch.tensor(sorted({k for group in held for k in group})[: most // 2]))
    points = shape.points[kept]
    spacing = float(knn(points, points, 1, exclude_self=True).distances.median())
    if shape.edges is not None and len(kept) == count:
        body = SpringBody(points, shape.edges, rest_lengths=shape.rest_lengths)
    else:
        try:
            body = SpringBody.from_points(points, radius=RADIUS * spacing, neighbours=neighbours)
        except ValueError as error:
            raise ValueError(f"The shape's points cannot be joined: {str(error).rstrip('.')}; are parts of it apart?") from error
    number = torch.full((count,), -1)
    number[kept] = torch.arange(len(kept))
    groups = None if held is None else tuple(tuple(int(number[k]) for k in group if number[k] >= 0) for group in held)
    return Thinned(body, kept, BodySurface(*between(shape.surface, points)), spacing, groups if groups is not None and all(groups) else None)


def placed_body(thin: Thinned, run: SoftRun, config: CalibrateSoftConfig) -> Placed:
    """The body where it is in the first frame, of a run that speaks of its shape's points (`matched`).

    Raises:
        ValueError: if it is not found there, or a controller is near none of it.
    """
    body, words = thin.body, []
    velocities = None if run.velocities is None else run.velocities[thin.kept]
    if config.register != "yes" and run.positions is not None and bool(run.positions.isfinite().all()):
        body = replace(body, positions=run.positions[thin.kept], rest_lengths=body.lengths)
        words.append("its first frame is that of the recording")
    else:
        body, how = _found(thin, run, config.register)
        words.append(how)
    if _grounded(run, body, config.ground):
        body = replace(body, obstacles=(GROUND,))
        words.append("on the ground z = 0")
    places = run.controllers[0]
    if config.attach is not None or config.push is not None:
        body = body.with_controllers(places, attach=config.attach, push=config.push)
        words.append(f"{len(places)} controllers, {int(body.attached.sum())} springs to them")
    else:
        known = thin.held if config.grip is None else None
        groups = clamped_groups(body, places, 1.5 * thin.spacing if config.grip is None else config.grip) if known is None else known
        body = replace(body, driven=groups)
        words.append(f"{len(groups)} controllers that hold {', '.join(str(len(group)) for group in groups)} particles")
    if run.filled:
        words.append(f"{run.filled} places of controllers filled from before and after")
    return Placed(body, thin.surface, thin.spacing, velocities, ", ".join(words))


def _found(thin: Thinned, run: SoftRun, register: str) -> tuple[SpringBody, str]:
    """The body as it is, or registered to the first frame."""
    body = thin.body
    seen = _first(run)
    if seen is None:
        return body, f"where its file says, for {UNSEEN}"
    away = float(knn(seen, thin.surface.at(body.positions).contiguous(), 1).distances.mean())
    if register == "no" or (register == "auto" and away <= FITS * thin.spacing):
        return body, f"where its file says, {1000 * away:.1f} mm from the first frame"
    found = register_body(body, seen, thin.surface)
    check_registration(found, thin.spacing)
    placed = replace(body, positions=found.positions, rest_lengths=body.lengths)
    return placed, f"registered to the first frame, {1000 * found.residual:.1f} mm are left"


def _first(run: SoftRun) -> Tensor | None:
    """Points seen in the first frame (M, 3), if there are four."""
    parts = [part[0] for part in (run.clouds, run.tracks) if part is not None]
    seen = torch.cat(parts) if parts else torch.zeros(0, 3)
    seen = seen[seen.isfinite().all(-1)]
    return seen.double() if len(seen) >= 4 else None


def _grounded(run: SoftRun, body: SpringBody, ground: str) -> bool:
    if ground != "auto":
        return ground == "yes"
    lows = [float(part[..., 2][part.isfinite().all(-1)].quantile(0.01)) for part in (run.clouds, run.tracks) if part is not None and part.numel() < 10_000_000]
    return min([*lows, float(body.positions[:, 2].min())]) > BELOW


def soft_recording(twin: SpringTwin, placed: Placed, run: SoftRun, config: CalibrateSoftConfig) -> tuple[Recording[Any], str]:
    """What was seen beside the twin, and that in words.

    Raises:
        ValueError: if nothing of it can be compared.
    """
    body = twin.body
    own = body.positions[: body.points]
    given: dict[str, Any] = {}
    words = []
    if run.tracks is not None:
        begun = run.tracks[0].isfinite().all(-1)
        spots = run.tracks[0].nan_to_num(0.0)
        near = knn(spots.contiguous(), placed.surface.at(own).contiguous(), 1).distances[:, 0] <= NEAR * placed.spacing
        used = (begun & near).nonzero().flatten()
        if len(used):
            corners, weights = between(spots[used], own)
            given |= {"tracks": run.tracks[None][:, :, used], "track_points": corners, "track_weights": weights}
        hidden, apart = int((~begun).sum()), int((begun & ~near).sum())
        words.append(f"{len(used)} tracks" + (f" (left out: {hidden} not seen in the first frame, {apart} not on the body)" if hidden + apart else ""))
    if run.clouds is not None:
        given |= {"clouds": run.clouds[None], "surface": placed.surface.corners, "surface_weights": placed.surface.weights}
        words.append(f"clouds of up to {int(run.clouds.isfinite().all(-1).sum(-1).max())} points")
    pictures = () if run.masks is None else (_masks(run, placed, own),)
    words += [f"masks of {part.images.shape[2]} cameras" for part in pictures]
    if not given and not pictures:
        raise ValueError("structwm calibrate can compare nothing: no track begins on the body in the first frame, and there are no clouds, depth or masks.")
    speeds = None if placed.velocities is None else placed.velocities[None]
    options: dict[str, Any] = given | {"measurements": pictures, "scale": config.scale, "seed": config.seed}
    return spring_recording(twin, run.controllers[None], positions=own[None], velocities=speeds, **options), ", ".join(words)


def _masks(run: SoftRun, placed: Placed, own: Tensor) -> DrivenImages:
    """Masks, cut to whole tiles, and splats on the surface."""
    assert run.masks is not None and run.camera is not None
    height, width = (size // TILE * TILE for size in run.masks.shape[-2:])
    camera = replace(run.camera, width=width, height=height)
    surface = placed.surface.at(own)
    return DrivenImages(run.masks[None, :, :, :height, :width].float(), camera, tile=TILE, splats=splats_from_points(surface.float()), nodes=own.float())


def held_out_part(recording: Recording[Any], split: int) -> tuple[Recording[Any], str]:
    """The same trajectories, of which only the frames from `split` on are compared, by what was seen in them; and in words what was not.

    Raises:
        ValueError: if nothing was seen in them.
    """
    seen = [bool(measurement.measured[:, split:].isfinite().any()) for measurement in recording.measurements]
    if not any(seen):
        raise ValueError("structwm calibrate holds out frames in which nothing was seen; hold out more, or none.")
    late = tuple(measurement.since(split) for measurement, there in zip(recording.measurements, seen, strict=True) if there)
    missing = [name for measurement, there in zip(recording.measurements, seen, strict=True) if not there for name in measurement.scales]
    return replace(recording, measurements=late), f"; of {' and '.join(missing)} nothing was seen there" if missing else ""
