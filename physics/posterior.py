"""The posterior of a twin's parameters given a recording: losses, weights, Jacobians and noise scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .parameters import ParameterSpace
from .recording import Recording, persistence
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

    @classmethod
    def around(cls, twin: Twin[Any], parameters: Sequence[str]) -> Prior:
        """Around a twin's values, as wide as each parameter's `spread` says: for a search that goes on where another one ended, with more parameters."""
        space = twin.space(parameters)
        means = [twin.physical[name].unconstrained(twin.values[name].double()) for name in space.names]
        return cls(torch.stack(means), space.spread.square().diag())


class Likelihood:
    """How well parameters explain a recording.

    Prediction errors of one instant are multivariate Student-t with one scale per name (a coordinate, or a kind of measurement): an instant that is off in one
    is trusted less in all. Errors are in units of these scales; what was not observed counts as no error. Where the recording says how far off its start states
    may be, their displacements are unknowns too, normal with that spread.

    Errors of a simulated motion hang together in time. `block` instants in a row count as one: their mean square error is that of one instant, and one weight
    is for all of them.
    """

    def __init__(
        self, twin: Twin[Any], recording: Recording[Any], space: ParameterSpace, *, dof: float, step: float, evidence: Sequence[Evidence] = ()
    ) -> None:
        self.recording = replace(recording, state=_double(recording.state), actions=recording.actions.double())
        self.twin, self.space, self.dof, self.step, self.evidence = twin, space, dof, step, tuple(evidence)
        self.noise = dict(recording.scales)
        self.names = tuple(self.noise)
        self.displacements = tuple(recording.start_spread)
        unknown = [name for name in self.displacements if name not in twin.displacements]
        if unknown:
            raise ValueError(f"Recording.start_spread has {unknown[0]!r}, which {type(twin).__name__} cannot displace; it has {', '.join(twin.displacements)}.")
        with torch.no_grad():
            shapes = self.recording.compare(persistence(twin, self.recording))
        blocks = [shapes[name].flatten(0, 1) for name in self.names]
        self.known = torch.cat([block.isfinite() for block in blocks], -1)  # (G, C) instants, columns
        self.owner = torch.tensor([k for k, block in enumerate(blocks) for _ in range(block.shape[-1])])  # (C,) which name a column belongs to
        self.group(1)

    def group(self, block: int) -> None:
        """Let `block` instants in a row count as one."""
        count, horizon = self.recording.actions.shape[:2]
        self.block = max(1, min(block, horizon))
        each = -(-horizon // self.block)
        time = torch.arange(horizon) // self.block
        self.member = (torch.arange(count)[:, None] * each + time).flatten()  # (G,) which block an instant belongs to
        seen = self.known.any(-1).double()
        self.length = torch.zeros(count * each, dtype=torch.float64).index_add_(0, self.member, seen).clamp_min(1.0)  # (B,) instants seen in each
        self.counts = torch.zeros(count * each, dtype=torch.float64).index_add_(0, self.member, self.known.sum(-1).double()) / self.length  # (B,)

    def mean_squares(self, values: Tensor) -> Tensor:
        """Means over each block's instants (..., B) of numbers (..., G)."""
        total = values.new_zeros(*values.shape[:-1], len(self.length))
        return total.index_add(-1, self.member, values) / self.length

    def errors(self, z: Tensor, start: Tensor | None = None) -> Tensor:
        """(P, M) of draws z (P, n): G x C prediction errors in units of the noise, then the evidence in units of its scale.

        `start` (P, N, D) displaces the start states, in units of their spread. Gradients flow where z or `start` asks for them.
        """
        weight = max((measurement.weight for measurement in self.recording.measurements), default=1)
        width = max(1, DRAWS // (len(self.recording) * self.recording.actions.shape[1] * weight))
        starts = [None] * (-(-len(z) // width)) if start is None else start.split(width)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (z.requires_grad or (start is not None and start.requires_grad))):
            return torch.cat([self._errors(part, begin) for part, begin in zip(z.split(width), starts, strict=True)], 0)

    def _errors(self, z: Tensor, start: Tensor | None) -> Tensor:
        draws = z if len(z) > 1 else z.expand(2, -1)  # two equal draws keep the member axis
        twin = self.twin.with_parameters(self.space.unpack(draws))
        recording = self.recording
        state = recording.state.unsqueeze(1).expand(len(recording), len(draws))
        if start is not None:
            moved = start.expand(len(draws), -1, -1).transpose(0, 1)
            state = twin.displaced(state, {n: moved[..., k] * recording.start_spread[n] for k, n in enumerate(self.displacements)})
        actions = recording.actions.clamp(twin.spec.action.low.to(recording.actions), twin.spec.action.high.to(recording.actions))
        found = recording.compare(twin.roll(state, actions))
        parts = [item.residual(twin, recording).transpose(0, 1).flatten(1).nan_to_num(0.0) / item.scale for item in self.evidence]
        parts = [part.expand(len(draws), -1) for part in parts]  # evidence on parameters that are not fitted is the same for every draw
        grouped = torch.cat([found[name].transpose(0, 1).flatten(1, 2).to(z) / self.noise[name] for name in self.names], -1)  # (P, G, C)
        return torch.cat([torch.where(self.known, grouped, 0.0).flatten(1), *parts], 1)[: len(z)]

    def split(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction errors (..., G, C) and evidence."""
        size = self.known.numel()
        return errors[..., :size].unflatten(-1, self.known.shape), errors[..., size:]

    def losses(self, errors: Tensor) -> Tensor:
        """Negative log likelihood of each trajectory (P, N) up to a constant, without the evidence's."""
        predicted, _ = self.split(errors)
        squares, nu = self.mean_squares(predicted.square().sum(-1)), self.dof
        fit = 0.5 * squares if np.isinf(nu) else 0.5 * (nu + self.counts) * torch.log1p(squares / nu)
        value = fit.unflatten(-1, (len(self.recording), -1)).sum(-1)
        return torch.where(value.isfinite(), value, float("inf"))

    def loss(self, errors: Tensor) -> Tensor:
        """Negative log likelihood (P,) up to a constant."""
        totals, (_, evidence) = self.effective(), self.split(errors)
        scales = sum(float(totals[self.owner == i].sum()) * np.log(self.noise[name] / self.recording.scales[name]) for i, name in enumerate(self.names))
        value = self.losses(errors).sum(-1) + torch.log1p(evidence.square()).sum(-1) + scales
        return torch.where(value.isfinite(), value, float("inf"))

    def weights(self, errors: Tensor) -> Tensor:
        """(M,) of iteratively reweighted least squares, for errors (M,)."""
        predicted, evidence = self.split(errors)
        each = self.block_weights(self.mean_squares(predicted.square().sum(-1)))
        each = (each / self.length)[..., self.member]
        return torch.cat([each.unsqueeze(-1).expand_as(predicted).flatten(-2), 2.0 / (1.0 + evidence.square())], -1)

    def block_weights(self, squares: Tensor) -> Tensor:
        """Weights (..., B) of blocks with mean square errors (..., B)."""
        return torch.ones_like(squares) if np.isinf(self.dof) else (self.dof + self.counts) / (self.dof + squares)

    def curvature(self, errors: Tensor) -> Tensor:
        """(M,) how much of an error's weight its curvature is on average: (nu + p) / (nu + p + 2) of p numbers at once (Lange, Little and Taylor, 1989)."""
        predicted, evidence = self.split(errors)
        each = torch.ones_like(self.counts) if np.isinf(self.dof) else (self.dof + self.counts) / (self.dof + self.counts + 2)
        return torch.cat([each[self.member].unsqueeze(-1).expand_as(predicted).flatten(-2), torch.full_like(evidence, 0.5)], -1)  # of Cauchy errors half

    def effective(self) -> Tensor:
        """(C,) how many independent numbers each column holds."""
        return (self.known.double() / self.length[self.member].unsqueeze(-1)).sum(0)

    def correlation_time(self, errors: Tensor) -> int:
        """Over how many instants errors (M,) hang together: one and twice the sum of their autocorrelations, up to the first that is small (Geyer, 1992)."""
        predicted, _ = self.split(errors)
        horizon = self.recording.actions.shape[1]
        series = torch.where(self.known, predicted, 0.0).unflatten(0, (-1, horizon))  # (N, H, C)
        seen = self.known.unflatten(0, (-1, horizon)).to(series)
        size = (series.square().sum((1, 2), keepdim=True) / seen.sum((1, 2), keepdim=True).clamp_min(1.0)).sqrt().clamp_min(1e-12)
        series = series / size  # one far-off trajectory does not decide
        power, time = float(series.square().sum() / seen.sum().clamp_min(1.0)), 1.0
        for lag in range(1, horizon):
            pairs = (seen[:, lag:] * seen[:, :-lag]).sum()
            if float(pairs) < 1:
                break
            correlation = float((series[:, lag:] * series[:, :-lag]).sum() / pairs) / max(power, 1e-12)
            if correlation < 0.05:
                break
            time += 2 * correlation
        return max(1, min(round(time), horizon))

    def jacobian(self, z: Tensor, start: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        """d errors / d z by central differences, (M, n), all draws in one launch; `steps` (n,) if not the likelihood's own."""
        steps = torch.full_like(z, self.step) if steps is None else steps
        moved = self.errors(torch.cat((z + steps.diag(), z - steps.diag()), 0), None if start is None else start[None].expand(2 * len(z), -1, -1))
        return ((moved[: len(z)] - moved[len(z) :]) / (2 * steps[:, None])).T

    def start_jacobian(self, z: Tensor, start: Tensor) -> Tensor:
        """d errors / d start, (N, H C, D): each displacement of all trajectories at once, all in one launch."""
        count, size = start.shape
        offsets = self.step * torch.eye(size, dtype=z.dtype).unsqueeze(1)
        moved = self.errors(z.expand(2 * size, -1), torch.cat((start + offsets, start - offsets)))
        predicted, _ = self.split((moved[:size] - moved[size:]) / (2 * self.step))
        return predicted.flatten(1).unflatten(1, (count, -1)).permute(1, 2, 0)

    def by_trajectory(self, errors: Tensor) -> Tensor:
        """Prediction errors, or weights, (M,) or (M, n) as (N, H C) or (N, H C, n)."""
        return errors[: self.known.numel()].unflatten(0, (len(self.recording), -1))


def update_noise(likelihoods: Sequence[Likelihood], errors: Sequence[Tensor], spreads: Sequence[Tensor] | None = None) -> None:
    """Set one set of noise scales for several recordings to the fixed point of their likelihood equation.

    Args:
        likelihoods: one per recording.
        errors: (M,) of each, at its fitted z.
        spreads: (M,) of each, the variance of the fitted errors under the posterior: what fitting took out of the residuals.
    """
    squares = []
    for k, likelihood in enumerate(likelihoods):
        predicted, _ = likelihood.split(errors[k])
        total = predicted.square()
        squares.append(total if spreads is None else total + likelihood.split(spreads[k])[0])
    owner, groups = likelihoods[0].owner, len(likelihoods[0].names)
    known = torch.stack([likelihood.effective() for likelihood in likelihoods]).sum(0)
    total = known.new_zeros(groups).index_add(0, owner, known).clamp_min(1e-9)
    scale = torch.ones(groups, dtype=torch.float64)
    for _ in range(40):
        each = torch.zeros(groups, dtype=torch.float64)
        for likelihood, values in zip(likelihoods, squares, strict=True):
            scaled = values / scale[owner].square()
            weight = likelihood.block_weights(likelihood.mean_squares(scaled.sum(-1))) / likelihood.length
            each = each.index_add(0, owner, (weight[likelihood.member].unsqueeze(-1) * scaled).sum(0))
        scale = scale * (each / total).sqrt().clamp(1e-4, 1e4)
    for likelihood in likelihoods:
        for name, factor in zip(likelihood.names, scale.tolist(), strict=True):
            likelihood.noise[name] = max(likelihood.noise[name] * factor, 1e-9 * likelihood.recording.scales[name])


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
