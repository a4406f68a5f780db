"""Recordings of springs of which all particles were followed, as residuals learn from them, and what was not seen filled in over the springs."""

from __future__ import annotations

import torch
from torch import Tensor

from .measurements import TrackMeasurement
from .particle_scene import ParticleState
from .recording import Recording
from .spring_body import SpringBody
from .spring_twin import SpringTwin

ANCHOR = 1e-6  # weight of "nothing there" in filling, beside that of a spring; holds what hangs on nothing that was seen


def spring_tracks(twin: SpringTwin, tracks: Tensor, *, scale: float = 0.005) -> Recording[ParticleState]:
    """What tracked particles say of springs: they start at their second instant with the velocity since the first, driven particles move as recorded, and the
    others are compared. As `rod_recording` for rods, and so what `fit_particle_residual` learns from.

    Args:
        twin: whose step is the time between two instants.
        tracks: all particles, controllers last (N, T, P, 3) [m]; NaN where one that is not driven was not seen. At the start, such ones are moved as their
            neighbours are (`filled_over`).
        scale: size of an error that matters [m].

    Raises:
        ValueError: on another shape, fewer than three instants, a driven particle that was not always seen, no free particle that was seen at the start, or
            driven groups that move faster than the twin's actions allow.
    """
    body = twin.body
    if tracks.ndim != 4 or tracks.shape[2:] != (body.particles, 3) or tracks.shape[1] < 3:
        raise ValueError(f"spring_tracks needs tracks (N, T, {body.particles}, 3) with T of 3 or more, got {tuple(tracks.shape)}.")
    tracks = tracks.double()
    seen = tracks.isfinite().all(-1)
    held = (~body.free).nonzero().flatten()
    if not bool(seen[:, :, held].all()):
        run, instant, number = (int(k) for k in (~seen[:, :, held]).nonzero()[0])
        raise ValueError(f"spring_tracks needs every driven particle seen; particle {int(held[number])} of run {run} was not at instant {instant}.")
    free = body.free.nonzero().flatten()
    if not len(free) or not bool(seen[:, :2][:, :, free].any(-1).all()):
        raise ValueError("spring_tracks needs a particle that is not driven and was seen in the first two instants of each run.")
    start = filled_over(body, tracks[:, :2] - body.positions, seen[:, :2]) + body.positions
    assert twin.spec.dt is not None
    pace = [(tracks[:, 2:, list(group)] - tracks[:, 1:-1, list(group)]).mean(2) / twin.spec.dt for group in body.driven]
    actions = torch.cat(pace, -1) if pace else tracks.new_zeros(len(tracks), tracks.shape[1] - 2, 0)
    top = twin.spec.action.high.to(actions)
    if bool((actions.abs() > top).any()):
        raise ValueError(f"spring_tracks got a controller at {float(actions.abs().max()):.3g} m/s, more than {float(top[0]):g}; are units and dt right?")
    shown = free[free < body.points]
    measurement = TrackMeasurement(tracks[:, 1:][:, :, shown], tuple(shown.tolist()), scale=scale)
    return Recording(twin.state(start[:, 1], (start[:, 1] - start[:, 0]) / twin.spec.dt), actions, measurements=(measurement,))


def filled_over(body: SpringBody, values: Tensor, known: Tensor) -> Tensor:
    """Values of particles (*B, P, C), where they are not `known` (*B, P), such that neighbours are alike: each is the mean of those it is joined with
    (harmonic functions on the graph: Zhu, Ghahramani and Lafferty, ICML 2003)."""
    flat, there = values.reshape(-1, *values.shape[-2:]), known.reshape(-1, known.shape[-1])
    found = torch.where(there.unsqueeze(-1), flat, 0.0)
    laplacian = torch.zeros(body.particles, body.particles, dtype=flat.dtype)
    a, b = body.springs.unbind(-1)
    for i, k in ((a, b), (b, a)):
        laplacian.index_put_((i, k), -torch.ones(len(a), dtype=flat.dtype), accumulate=True)
        laplacian.index_put_((i, i), torch.ones(len(a), dtype=flat.dtype), accumulate=True)
    laplacian += ANCHOR * torch.eye(body.particles, dtype=flat.dtype)
    patterns, which = there.unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if bool(pattern.all()) or not bool(pattern.any()):
            continue
        rows = which == number
        hidden = ~pattern
        pull = -laplacian[hidden][:, pattern] @ found[rows][:, pattern]
        filled = found[rows]
        filled[:, hidden] = torch.linalg.solve(laplacian[hidden][:, hidden], pull)
        found[rows] = filled
    return found.reshape(values.shape)
