"""Fitting the forces that a network of springs lacks, by whole rollouts, and keeping them only where they help."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.transition import Trajectory, TransitionModel
from structwm.wrappers import Residual

from .particle_gate import folds_of, judged
from .particle_scene import ParticleState
from .recording import Recording, check_recording, predict
from .spring_forces import LAWS, WIND, SpringForces, laws
from .spring_twin import SpringTwin
from .student_t import student_t_loss, student_t_weights

STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, over the mean of the information, of which cross-validation chooses
KICK = 0.05  # by which weights are changed for their derivatives [m/s^2]
ROWS = 1024  # rollouts in one go


@dataclass(frozen=True)
class FittedSpringForces:
    """A twin with forces, or without where the gate dropped them."""

    model: TransitionModel[ParticleState]
    kept: bool
    gain: float  # by how much they lower the mean error of held-out runs [m]; negative where they hurt
    standard_error: float  # of the gain, over runs [m]
    held_out: float  # mean error of the twin alone on these runs [m]
    seconds: float
    why: str  # one sentence
    forces: SpringForces  # what was found, kept or not

    @property
    def weights(self) -> Mapping[str, float]:
        """Acceleration by law, of a law of the size that it had in training [m/s^2]."""
        return dict(zip(self.forces.names, self.forces.weights.tolist(), strict=True))


def fit_spring_forces(
    twin: SpringTwin, recording: Recording[ParticleState], *, wind: bool = False, rounds: int = 3, folds: int = 7, margin: float = 1.0, seed: int = 0
) -> FittedSpringForces:
    """Find the weights of `SpringForces` such that rollouts from the starts meet what was seen: Gauss-Newton steps with a ridge, derivatives by differences.
    Laws stand in for each other, and the ridge spreads what several could explain: weights predict, and are no measured values.

    As whole rollouts are compared, noise of velocities does not matter, and clouds and hidden points do. The strength of the ridge is chosen by
    cross-validation over runs; without data the weights are zero. Each run is predicted by weights that were found without its fold, and the forces are kept
    only if they lower the mean error of these predictions by `margin` standard errors.

    Args:
        twin: calibrated, under one value of each parameter.
        recording: runs with measurements [m].
        wind: fit a constant wind, too, which does not turn with the scene.
        rounds: Gauss-Newton steps.
        folds: of the cross-validation.
        margin: standard errors by which the forces must help to be kept.
        seed: of the folds.

    Raises:
        ValueError: on a recording of something else, fewer than two runs, a twin with members, or particles that are all driven.
    """
    begin = time.perf_counter()
    check_recording(twin, recording)
    if twin.spec.members > 1:
        raise ValueError(f"fit_spring_forces needs a twin under one value of each parameter, got one with {twin.spec.members} members.")
    if len(recording) < 2 or not recording.measurements:
        raise ValueError(f"fit_spring_forces needs two runs with measurements at least, got {len(recording)}.")
    if not bool(twin.body.free.any()):
        raise ValueError("fit_spring_forces needs a particle that is not driven.")
    with torch.no_grad():
        forces = _blank(twin, recording, wind)
        fold = folds_of(len(recording), folds, seed)
        systems = _systems(twin, forces, recording)
        strength = _strength(systems, fold)
        weights = forces.weights
        loss = float(_losses(twin, forces, recording).mean())
        for _ in range(rounds):
            step = _solve(systems, strength, weights)
            better = next(
                (share for share in (1.0, 0.5, 0.25) if float(_losses(twin, forces.with_weights(weights + share * step), recording).mean()) < loss), 0
            )
            if not better:
                break
            weights = weights + better * step
            before, loss = loss, float(_losses(twin, forces.with_weights(weights), recording).mean())
            systems = _systems(twin, forces.with_weights(weights), recording)
            if before - loss < 1e-3 * abs(before):
                break
        without = torch.stack([weights + _solve(_but(systems, fold == k), strength, weights) for k in range(int(fold.max()) + 1)])
        alone = _run_errors(recording, predict(twin, recording))
        others = torch.stack([_run_errors(recording, _rolled(twin, forces.with_weights(each), recording)) for each in without])
    gains = alone - others[fold, torch.arange(len(fold))].nan_to_num(torch.inf)
    seen = alone.isfinite()
    gain, error, kept, why = judged(gains[seen].clamp_min(-1e3), margin)
    found = forces.with_weights(weights)
    model: TransitionModel[ParticleState] = Residual(twin, found) if kept else twin
    held = float(alone[seen].mean()) if bool(seen.any()) else float("nan")
    return FittedSpringForces(model, kept, gain, error, held, time.perf_counter() - begin, why, found)


def _blank(twin: SpringTwin, recording: Recording[ParticleState], wind: bool) -> SpringForces:
    """Laws with the scales of the twin's own rollouts, without weights."""
    states = predict(twin, recording).states[:, 1:]
    body = twin.body
    sizes = [laws(body, part, wind)[..., body.free, :, :].norm(dim=-1).flatten(0, -2).double() for part in states.unbind(0)]
    size = torch.cat(sizes)
    size = size[size.isfinite().all(-1)]
    scales = size.square().mean(0).sqrt().clamp_min(1e-9)
    reach = size.amax(0) / scales
    assert twin.spec.dt is not None
    return SpringForces(body, twin.spec.dt, scales, reach, torch.zeros(len(LAWS) + (len(WIND) if wind else 0)), wind)


def _rolled(twin: SpringTwin, forces: SpringForces, recording: Recording[ParticleState]) -> Trajectory:
    """Rollouts (N,), or (N, E) of E weights."""
    model = Residual(twin, forces)
    low, high = (bound.to(recording.actions) for bound in (twin.spec.action.low, twin.spec.action.high))
    actions, state = recording.actions.clamp(low, high), recording.state
    if forces.weights.ndim > 1:
        members = len(forces.weights)
        state, actions = state.unsqueeze(1).expand(len(recording), members), actions.unsqueeze(1).expand(-1, members, -1, -1)
    return model.rollout(state, actions)


@dataclass(frozen=True)
class _Normal:
    """Normal equations of each run, and the loss at the weights."""

    matrix: Tensor  # (N, K, K)
    vector: Tensor  # (N, K)


def _but(systems: _Normal, out: Tensor) -> _Normal:
    return _Normal(systems.matrix[~out], systems.vector[~out])


def _systems(twin: SpringTwin, forces: SpringForces, recording: Recording[ParticleState]) -> _Normal:
    """Linearised at the weights, each error with the weight that it has under Student-t errors."""
    count = forces.weights.shape[-1]
    kicked = forces.with_weights(torch.cat((forces.weights[None], forces.weights + KICK * torch.eye(count, dtype=torch.float64))))
    matrices, vectors = [], []
    part = max(1, ROWS // (count + 1))
    for first in range(0, len(recording), part):
        few = recording[torch.arange(first, min(first + part, len(recording)))]
        errors = _errors(few, few.compare(_rolled(twin, kicked, few)))  # (n, E, C)
        at = errors[:, 0]
        slopes = (errors[:, 1:] - at.unsqueeze(1)) / KICK
        weight = torch.where(at.isfinite() & slopes.isfinite().all(1), student_t_weights(at.square()), 0.0)
        at, slopes = at.nan_to_num(0.0, 0.0, 0.0), slopes.nan_to_num(0.0, 0.0, 0.0)
        matrices.append(torch.einsum("nic,nc,njc->nij", slopes, weight, slopes))
        vectors.append(-torch.einsum("nic,nc,nc->ni", slopes, weight, at))
    return _Normal(torch.cat(matrices), torch.cat(vectors))


def _errors(recording: Recording[Any], differences: Mapping[str, Tensor]) -> Tensor:
    """Over their scales, each kind of measurement as much as the others, (n, ..., C)."""
    parts = []
    for name, value in differences.items():
        flat = value.double().flatten(-2) / recording.scales[name]
        parts.append(flat / flat.isfinite().sum(-1, keepdim=True).clamp_min(1).double().sqrt() * 30.0)
    return torch.cat(parts, -1)


def _solve(systems: _Normal, strength: float, weights: Tensor) -> Tensor:
    """The step (K,) of the weights, pulled to zero weights by the ridge."""
    matrix, vector = systems.matrix.sum(0), systems.vector.sum(0)
    ridge = strength * float(matrix.diagonal().mean()) + 1e-12
    return torch.linalg.solve(matrix + ridge * torch.eye(len(vector), dtype=matrix.dtype), vector - ridge * weights)


def _strength(systems: _Normal, fold: Tensor) -> float:
    """The strength of the ridge under which runs are predicted best by weights found without their fold, as far as all is linear."""
    zero = torch.zeros(systems.vector.shape[-1], dtype=torch.float64)
    found = []
    for strength in STRENGTHS:
        total = 0.0
        for k in range(int(fold.max()) + 1):
            own = fold == k
            step = _solve(_but(systems, own), strength, zero)
            total += float((0.5 * torch.einsum("i,nij,j->n", step, systems.matrix[own], step) - systems.vector[own] @ step).sum())
        found.append(total)
    return STRENGTHS[int(torch.tensor(found).argmin())]


def _losses(twin: SpringTwin, forces: SpringForces, recording: Recording[ParticleState]) -> Tensor:
    """Student-t loss of each run (N,); infinite where a prediction is not finite."""
    found = recording.compare(_rolled(twin, forces, recording))
    errors = _errors(recording, found)
    lost = torch.stack([value.isinf().flatten(1).any(-1) for value in found.values()]).any(0)
    loss = student_t_loss(errors.nan_to_num(0.0, 0.0, 0.0).square(), -1)
    return torch.where(lost, torch.inf, loss)


def _run_errors(recording: Recording[ParticleState], trajectory: Trajectory) -> Tensor:
    """Mean error of each run (N,) over instants and kinds of measurement [m]."""
    found = recording.magnitudes(recording.compare(trajectory))
    return torch.stack([value.double().nanmean(-1) for value in found.values()]).nanmean(0)
