"""The posterior of a twin's parameters given a recording: losses, weights, Jacobians and noise scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .parameters import ParameterSpace
from .recording import Recording, residuals
from .twin import Twin

DRAWS = 1 << 16  # rollouts of parameter draws times trajectories computed at once


@dataclass(frozen=True)
class Evidence:
    """Something that recorded states alone say of parameters, beside the prediction errors: residuals that would be 0 were all exact."""

    residual: Callable[[Twin[Any], Recording[Any]], Tensor]  # (N, E, ...) for a twin with E members, NaN where nothing is said
    scale: float  # of the residuals, which are taken to be Cauchy distributed: a few may be far off


@dataclass(frozen=True)
class Prior:
    """A normal distribution of the unconstrained parameters z."""

    mean: Tensor  # (n,)
    covariance: Tensor  # (n, n)

    @classmethod
    def of(cls, space: ParameterSpace) -> Prior:
        """Around the defaults, as wide as each parameter's `spread` says."""
        return cls(space.default, space.spread.square().diag())


class Likelihood:
    """How well parameters explain a recording.

    Prediction errors of one instant are multivariate Student-t with one scale per coordinate: an instant that is off in one coordinate is trusted less in
    all. Errors are in units of these scales; what was not observed counts as no error.
    """

    def __init__(
        self, twin: Twin[Any], recording: Recording[Any], space: ParameterSpace, *, dof: float, step: float, evidence: Sequence[Evidence] = ()
    ) -> None:
        self.recording = Recording(_double(recording.state), recording.actions.double(), recording.observed, recording.scale, recording.periodic)
        self.twin, self.space, self.dof, self.step, self.evidence = twin, space, dof, step, tuple(evidence)
        self.names = tuple(recording.observed)
        self.noise = {name: float(recording.scale[name]) for name in self.names}
        self.known = torch.stack([recording.observed[name][:, 1:].isfinite().flatten() for name in self.names], -1)  # (G, C) instants, coordinates
        self.counts = self.known.sum(-1).double()  # (G,)

    def errors(self, z: Tensor) -> Tensor:
        """(P, M) of draws z (P, n): G x C prediction errors in units of the noise, then the evidence in units of its scale."""
        width = max(1, DRAWS // (len(self.recording) * self.recording.actions.shape[1]))
        return torch.cat([self._errors(part) for part in z.split(width)], 0)

    def _errors(self, z: Tensor) -> Tensor:
        draws = z if len(z) > 1 else z.expand(2, -1)  # two equal draws keep the member axis
        twin = self.twin.with_parameters(self.space.unpack(draws))
        with torch.no_grad():
            predicted = residuals(twin, self.recording)
            parts = [item.residual(twin, self.recording).transpose(0, 1).flatten(1).nan_to_num(0.0) / item.scale for item in self.evidence]
        parts = [part.expand(len(draws), -1) for part in parts]  # evidence on parameters that are not fitted is the same for every draw
        grouped = torch.stack([predicted[name].transpose(0, 1).flatten(1) / self.noise[name] for name in self.names], -1)  # (P, G, C)
        return torch.cat([torch.where(self.known, grouped, 0.0).flatten(1), *parts], 1)[: len(z)]

    def _split(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        size = self.known.numel()
        return errors[..., :size].unflatten(-1, self.known.shape), errors[..., size:]

    def loss(self, errors: Tensor) -> Tensor:
        """Negative log likelihood (P,) up to a constant."""
        predicted, evidence = self._split(errors)
        squares, nu = predicted.square().sum(-1), self.dof
        fit = 0.5 * squares if np.isinf(nu) else 0.5 * (nu + self.counts) * torch.log1p(squares / nu)
        scales = sum(float(self.known[:, i].sum()) * np.log(self.noise[name] / self.recording.scale[name]) for i, name in enumerate(self.names))
        value = fit.sum(-1) + torch.log1p(evidence.square()).sum(-1) + scales
        return torch.where(value.isfinite(), value, float("inf"))

    def weights(self, errors: Tensor) -> Tensor:
        """(M,) of iteratively reweighted least squares, for errors (M,)."""
        predicted, evidence = self._split(errors)
        nu = self.dof
        each = torch.ones_like(predicted[..., 0]) if np.isinf(nu) else (nu + self.counts) / (nu + predicted.square().sum(-1))
        return torch.cat([each.unsqueeze(-1).expand_as(predicted).flatten(-2), 2.0 / (1.0 + evidence.square())], -1)

    def jacobian(self, z: Tensor) -> Tensor:
        """d errors / d z by central differences, (M, n), all draws in one launch."""
        offsets = self.step * torch.eye(len(z), dtype=z.dtype)
        moved = self.errors(torch.cat((z + offsets, z - offsets), 0))
        return ((moved[: len(z)] - moved[len(z) :]) / (2 * self.step)).T


def update_noise(likelihoods: Sequence[Likelihood], errors: Sequence[Tensor], spreads: Sequence[Tensor] | None = None) -> None:
    """Set one set of noise scales for several recordings to the fixed point of their likelihood equation.

    Args:
        likelihoods: one per recording.
        errors: (M,) of each, at its fitted z.
        spreads: (M,) of each, the variance of the fitted errors under the posterior: what fitting took out of the residuals.
    """
    squares, counts = [], []
    for k, likelihood in enumerate(likelihoods):
        predicted, _ = likelihood._split(errors[k])
        total = predicted.square()
        if spreads is not None:
            total = total + likelihood._split(spreads[k])[0]
        squares.append(total)
        counts.append(likelihood.counts)
    values, count = torch.cat(squares), torch.cat(counts)
    known = torch.cat([likelihood.known for likelihood in likelihoods]).double()
    scale, nu = torch.ones(values.shape[-1], dtype=values.dtype), likelihoods[0].dof
    for _ in range(40):
        scaled = values / scale.square()
        weight = torch.ones_like(count) if np.isinf(nu) else (nu + count) / (nu + scaled.sum(-1))
        scale = scale * ((weight.unsqueeze(-1) * scaled).sum(0) / known.sum(0).clamp_min(1.0)).sqrt().clamp(1e-4, 1e4)
    for likelihood in likelihoods:
        for name, factor in zip(likelihood.names, scale.tolist(), strict=True):
            likelihood.noise[name] = max(likelihood.noise[name] * factor, 1e-9 * likelihood.recording.scale[name])


def scaled_information(information: Tensor, prior: Prior) -> Tensor:
    """Information in units of the prior's standard deviations."""
    spread = prior.covariance.diagonal().sqrt()
    return spread[:, None] * information * spread


def unidentified(names: Sequence[str], information: Tensor, covariance: Tensor, prior: Prior) -> tuple[str, ...]:
    """Sentences for parameters that stay about as uncertain as they were, and for the weakest direction where it joins several."""
    found, loose = [], set()
    ratio = (covariance.diagonal() / prior.covariance.diagonal()).sqrt()
    for name, left in zip(names, ratio.tolist(), strict=True):
        if left > 0.7:
            loose.add(name)
            found.append(f"{name} is not identified by this data: its uncertainty shrank by {100 * (1 - left):.0f} % only; fix it or vary the motions more.")
    spectrum, axes = torch.linalg.eigh(scaled_information(information, prior))
    joined = [name for name, part in zip(names, axes[:, 0].tolist(), strict=True) if abs(part) > 0.4]
    if float(spectrum[0]) < 1.0 and len(joined) > 1 and not loose & set(joined):
        found.append(f"{' and '.join(joined)} are identified only together: the data says less about the direction between them than the prior.")
    return tuple(found)


def values_of(space: ParameterSpace, z: Tensor) -> Mapping[str, Tensor]:
    """Parameter values in float32, for a twin."""
    return {name: value.to(torch.float32) for name, value in space.unpack(z).items()}


def _double(state: Any) -> Any:
    return state.apply(lambda value: value.double() if value.is_floating_point() else value)
