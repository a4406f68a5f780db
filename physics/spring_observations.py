"""Recordings of deformable bodies from what cameras and trackers saw: tracks, clouds, and where the controllers were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .cloud_measurement import CloudMeasurement
from .measurements import Measurement, TrackMeasurement
from .particle_scene import ParticleState
from .recording import Recording
from .spring_twin import SPEED, SpringTwin


def spring_recording(
    twin: SpringTwin,
    controllers: Tensor,
    *,
    positions: Tensor | None = None,
    velocities: Tensor | None = None,
    tracks: Tensor | None = None,
    track_points: Sequence[int] | Tensor | None = None,
    track_weights: Tensor | None = None,
    clouds: Tensor | None = None,
    surface: Sequence[int] | Tensor | None = None,
    surface_weights: Tensor | None = None,
    cloud_points: int = 256,
    measurements: Sequence[Measurement] = (),
    scale: float = 0.005,
    seed: int = 0,
) -> Recording[ParticleState]:
    """What was seen of springs that controllers move.

    Args:
        twin: whose step is the time between two instants.
        controllers: places of the driven groups, the mean of each (N, T, G, 3) [m].
        positions: of the body's particles at the first instant (N, P - C, 3) [m]; where they are at rest if not given.
        velocities: of the same [m/s]; at rest if not given.
        tracks: points followed one by one (N, T, n, 3) [m]; NaN where one was not seen.
        track_points: the particle that each of them is; the first n if not given. With `track_weights` the particles (n, K) of which each is a mean.
        track_weights: (n, K) of these.
        clouds: point clouds (N, T, Q, 3) [m]; NaN where there is no point.
        surface: particles that cameras may see; all of the body if not given. With `surface_weights` the particles (S, K) of which each point of the surface
            is a mean, as on its triangles: where particles are far apart, clouds lie between them.
        surface_weights: (S, K) of these.
        cloud_points: how many points of a cloud are compared, drawn at random.
        measurements: others of the same N and T, such as images; they come after tracks and clouds.
        scale: size of an error that matters [m].
        seed: of the draw.

    Raises:
        ValueError: on another shape, fewer than two instants, a controller that was not seen, one that moves faster than the twin's actions allow, or neither
            tracks, clouds nor measurements.
    """
    body = twin.body
    groups = len(body.driven)
    if controllers.ndim != 4 or controllers.shape[2:] != (groups, 3) or controllers.shape[1] < 2:
        raise ValueError(f"spring_recording needs controllers (N, T, {groups}, 3) with T of 2 or more, got {tuple(controllers.shape)}.")
    seen = controllers.isfinite().all(-1)
    if not bool(seen.all()):
        run, instant, group = (int(number) for number in (~seen).nonzero()[0])
        raise ValueError(f"spring_recording needs every controller seen; group {group} of run {run} was not at instant {instant}.")
    if tracks is None and clouds is None and not measurements:
        raise ValueError("spring_recording needs tracks, clouds or measurements.")
    count, instants = controllers.shape[:2]
    for label, given in (("tracks", tracks), ("clouds", clouds)):
        if given is not None and (given.ndim != 4 or given.shape[:2] != (count, instants) or given.shape[-1] != 3):
            raise ValueError(f"spring_recording needs {label} ({count}, {instants}, n, 3), got {tuple(given.shape)}.")
    assert twin.spec.dt is not None
    actions = (controllers[:, 1:] - controllers[:, :-1]).flatten(2) / twin.spec.dt
    if bool((actions.abs() > SPEED).any()):
        raise ValueError(f"spring_recording got a controller at {float(actions.abs().max()):.3g} m/s, more than {SPEED:g}; are units and dt right?")
    placed = body.positions.to(actions).expand(count, -1, -1).clone()
    speeds = torch.zeros_like(placed)
    if positions is not None:
        placed[:, : body.points] = positions.to(placed)
    if velocities is not None:
        speeds[:, : body.points] = velocities.to(placed)
    for group, members in enumerate(body.driven):
        own = placed[:, list(members)]
        placed[:, list(members)] = own + (controllers[:, 0, group] - own.mean(1)).unsqueeze(1)
    compared: list[Measurement] = []
    if tracks is not None:
        if track_weights is not None:
            compared.append(TrackMeasurement(tracks, scale=scale, corners=torch.as_tensor(track_points), weights=track_weights))
        else:
            points = range(tracks.shape[2]) if track_points is None else [int(k) for k in track_points]
            compared.append(TrackMeasurement(tracks, tuple(points), scale=scale))
    if clouds is not None:
        where: dict[str, Any] = {}
        if surface_weights is not None:
            where = {"corners": torch.as_tensor(surface), "weights": surface_weights}
        elif surface is not None:
            where = {"among": tuple(int(k) for k in surface)}
        compared.append(CloudMeasurement.of_clouds(clouds, cloud_points, seed=seed, scale=scale, **where))
    return Recording(twin.state(placed, speeds), actions, measurements=(*compared, *measurements))
