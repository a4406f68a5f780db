"""States of particles from what was seen of them: predictions of a twin, corrected by tracks and clouds (variational data assimilation)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structwm.transition import Trajectory

from .measurements import Measurement
from .particle_scene import ParticleState
from .recording import Recording, check_recording
from .spring_twin import SpringTwin
from .student_t import student_t_loss

FIXED = 1e-9  # standard deviation of particles that are driven [m]


@dataclass(frozen=True)
class Trust:
    """How far predictions and measurements may be off, and how long a correction is searched for.

    Raises:
        ValueError: if one is not above zero.
    """

    measured: float = 0.002  # std of the error of a measured coordinate [m]
    apart: float = 0.002  # std of the error of a particle's prediction beside the mean of those that it is joined with [m]
    moved: float = 0.02  # std of the error of a particle's prediction [m]
    iterations: int = 25  # of L-BFGS, for one instant

    def __post_init__(self) -> None:
        for name in ("measured", "apart", "moved", "iterations"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Trust.{name} must be above zero, got {getattr(self, name)}.")


def estimate_states(twin: SpringTwin, recording: Recording[ParticleState], *, trust: Trust = Trust()) -> ParticleState:
    """States (N, H+1) of all particles, also of those that nobody saw, from tracks and clouds.

    The twin predicts from instant to instant; each prediction is bent to what was seen, alike where particles are joined (three-dimensional variational
    assimilation: Lorenc, Analysis methods for numerical weather prediction, 1986). Velocities are differences of places before and after: what a correction
    leaves in stiff springs would be taken for motion otherwise.

    Args:
        twin: need not be calibrated well.
        recording: trajectories with measurements; instants at which nothing was seen are predicted.
        trust: how far which may be off.

    Raises:
        ValueError: on a recording of something else, or without measurements.
    """
    check_recording(twin, recording)
    if not recording.measurements:
        raise ValueError("States are estimated from measurements, and the recording has none: give tracks or clouds.")
    assert twin.spec.dt is not None
    dt, free = twin.spec.dt, twin.body.free.to(recording.actions.device)[:, None]
    bend = _bend(twin, trust, recording.actions)
    state, places, speeds = recording.state, [recording.state.positions], [recording.state.velocities]
    for t in range(recording.actions.shape[1]):
        with torch.no_grad():
            step = twin.rollout(state, recording.actions[:, t : t + 1])
        place = step.states.positions[:, 1] + _correction(step, _seen(recording, t), bend, trust)
        late = (place - places[-1]) / dt if t == 0 else (3 * place - 4 * places[-1] + places[-2]) / (2 * dt)
        speed = torch.where(free, late, step.states.velocities[:, 1])
        state = ParticleState(positions=place, velocities=speed, batch_size=place.shape[:1])
        places.append(place)
        speeds.append(speed)
    x, v = torch.stack(places, 1), torch.stack(speeds, 1)
    v[:, 1:-1] = torch.where(free, (x[:, 2:] - x[:, :-2]) / (2 * dt), v[:, 1:-1])
    return ParticleState(positions=x, velocities=v, batch_size=x.shape[:2])


def _seen(recording: Recording[ParticleState], start: int) -> tuple[Measurement, ...]:
    """What was measured at the end of a step."""
    there = [measurement for measurement in recording.measurements if bool(measurement.measured[:, start + 1].isfinite().any())]
    return tuple(measurement.windows((start,), 1) for measurement in there)


def _misfit(trajectory: Trajectory, seen: tuple[Measurement, ...], trust: Trust) -> Tensor:
    """Negative log-likelihood of measurements under Student-t errors."""
    total = trajectory.states.positions.new_zeros(())
    for measurement in seen:
        for error in measurement.residual(trajectory).values():
            known = torch.where(error.isnan(), 0.0, error) / trust.measured
            total = total + student_t_loss(known.square())
    return total


def _correction(step: Trajectory, seen: tuple[Measurement, ...], bend: Callable[[Tensor], Tensor], trust: Trust) -> Tensor:
    """By how much the end of one step is most likely off what was seen, (N, P, 3) [m], found by L-BFGS in units of its spread."""
    change = torch.zeros_like(step.states.positions[:, 1])
    if not seen:
        return change
    change.requires_grad_()
    search = torch.optim.LBFGS([change], max_iter=trust.iterations, history_size=trust.iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            total = _misfit(_moved(step, bend(change)), seen, trust) + change.square().sum() / 2
            total.backward()
        return total.detach()

    search.step(loss)
    return bend(change.detach())


def _moved(step: Trajectory, by: Tensor) -> Trajectory:
    """One step (N, 2) whose end (N, P, 3) is elsewhere."""
    positions = step.states.positions + torch.stack((torch.zeros_like(by), by), 1)
    return replace(step, states=ParticleState(positions=positions, velocities=step.states.velocities, batch_size=positions.shape[:2]))


def _bend(twin: SpringTwin, trust: Trust, like: Tensor) -> Callable[[Tensor], Tensor]:
    """From changes in units of their spread, independent, to displacements (..., P, 3) [m]: joined particles go together, driven ones stay."""
    body = twin.body
    joined = body.springs[(twin.gates(torch.zeros((), dtype=torch.float64)) > 0)].unbind(-1)
    precision = torch.zeros(body.particles, body.particles, dtype=torch.float64)
    precision[joined] = -1.0
    precision = precision + precision.T
    neighbours = -precision.sum(-1)
    precision = (precision + neighbours.diag()) / neighbours.mean().clamp_min(1.0) / trust.apart**2
    own = torch.where(body.free, trust.moved, FIXED)
    fixed = ~body.free
    precision[fixed], precision[:, fixed] = 0.0, 0.0
    root = torch.linalg.cholesky(precision + own.double().pow(-2).diag()).T.contiguous().to(like)
    return lambda change: torch.linalg.solve_triangular(root, change, upper=True)
