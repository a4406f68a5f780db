"""Calibration of a family of twins together: several objects on several surfaces that share what they have in common."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .calibration import Calibration, Settings, calibration_progress, summarise
from .optimise import damped_steps
from .posterior import Evidence, Likelihood, Prior, update_noise
from .recording import Recording
from .twin import Twin

T = TypeVar("T", bound=Twin[Any])
COMMON = 1.0  # standard deviation of what all twins of a family have in common, in the parameters' prior standard deviations


@dataclass(frozen=True)
class Effects:
    """Random effects of one family: z of twin k is a common value plus one effect per factor level plus its own."""

    levels: tuple[Tensor, ...]  # each (K, L): which level of a factor a twin has, one-hot; the last is the identity, the twin's own effect
    common: float  # standard deviation of the common value around the prior's mean, in prior standard deviations

    @classmethod
    def of(cls, factors: Mapping[str, Sequence[Hashable]], count: int, *, common: float) -> Effects:
        """From labels by factor, for example `{"surface": ["abs", "abs", "plywood"]}`.

        Raises:
            ValueError: if a factor does not label every twin.
        """
        levels = []
        for name, labels in factors.items():
            if len(labels) != count:
                raise ValueError(f"The factor {name!r} labels {len(labels)} twins of {count}.")
            distinct = sorted(set(labels), key=str)
            levels.append(torch.tensor([[float(label == level) for level in distinct] for label in labels], dtype=torch.float64))
        return cls((*levels, torch.eye(count, dtype=torch.float64)), common)

    def covariance(self, spreads: Tensor) -> Tensor:
        """Covariance over twins of each parameter, (n, K, K), for the levels' standard deviations (n, F)."""
        parts = torch.stack([level @ level.T for level in self.levels])  # (F, K, K)
        return self.common**2 + torch.einsum("nf,fab->nab", spreads.square(), parts)


def calibrate_family(
    twins: Sequence[T],
    recordings: Sequence[Recording[Any]],
    parameters: Sequence[str],
    *,
    factors: Mapping[str, Sequence[Hashable]] | None = None,
    held_out: Sequence[Recording[Any]] | None = None,
    evidence: Sequence[Evidence] = (),
    settings: Settings = Settings(evaluations=0, iterations=15),
    common: float = COMMON,
    progress: bool = True,
) -> list[Calibration[T]]:
    """Fit K twins jointly: a hierarchical model whose spreads are estimated from the data (empirical Bayes).

    In units of each parameter's prior standard deviation, z_k = mean + common + sum_f effect_f[level of k] + own_k, all normal. Gauss-Newton steps on all
    twins' z alternate with expectation-maximisation of the effects' standard deviations and of one set of noise scales (Laird and Ware, Biometrics 1982).
    Twins with little data lean on those with the same surface or shape.

    Args:
        twins: K twins with the same parameters.
        recordings: one for each.
        parameters: names of what is fitted.
        factors: labels of the twins by factor.
        held_out: one for each, only to measure errors.
        evidence: what recorded states alone say of the parameters.
        settings: `evaluations` are not used; a Gauss-Newton step and an update of the spreads per iteration.
        common: standard deviation of the common value, in prior standard deviations; larger trusts the parameters' own priors less, which few twins need.
        progress: show a bar.

    Returns:
        One calibration per twin; its prior is what the rest of the family says of it before its own recording is seen.
    """
    start = time.perf_counter()
    if not twins or len(twins) != len(recordings):
        raise ValueError(f"calibrate_family needs one recording per twin, got {len(twins)} twins and {len(recordings)} recordings.")
    spaces = [twin.space(parameters) for twin in twins]
    family = _Family(
        [Likelihood(t, r, s, dof=settings.dof, step=settings.step, evidence=evidence) for t, r, s in zip(twins, recordings, spaces, strict=True)],
        [Prior.of(space) for space in spaces],
        Effects.of(factors or {}, len(twins), common=common),
    )
    with calibration_progress(progress) as bar:
        task = bar.add_task(f"calibrating {len(twins)} twins", total=settings.iterations, loss=float("nan"))
        losses = []
        for iteration in range(settings.iterations):
            losses.append(family.step())
            if iteration >= 2:
                family.update_spreads()
            bar.update(task, advance=1, loss=losses[-1])
    seconds = time.perf_counter() - start
    calibrations = []
    for k, (twin, recording) in enumerate(zip(twins, recordings, strict=True)):
        prior = family.prior_of(k)
        z = family.point(k)
        held = None if held_out is None else held_out[k]
        calibrations.append(summarise(twin, family.likelihoods[k], prior, z, family.information_of(k), losses, recording, held, seconds))
    return calibrations


class _Family:
    """The joint posterior in standardised parameters y_k = (z_k - prior mean) / prior spread, (K, n)."""

    def __init__(self, likelihoods: Sequence[Likelihood], priors: Sequence[Prior], effects: Effects) -> None:
        self.likelihoods, self.effects = likelihoods, effects
        self.means = torch.stack([prior.mean for prior in priors])
        self.widths = torch.stack([prior.covariance.diagonal().sqrt() for prior in priors])
        self.y = torch.zeros_like(self.means)
        self.spreads = torch.full((self.means.shape[1], len(effects.levels)), 0.5, dtype=torch.float64)
        self.posterior = torch.zeros(self.y.numel(), self.y.numel(), dtype=torch.float64)
        self.jacobians: list[Tensor] = [torch.zeros(0)] * len(likelihoods)

    def point(self, k: int) -> Tensor:
        """z of twin k."""
        return self.means[k] + self.widths[k] * self.y[k]

    def _system(self) -> tuple[Tensor, Tensor]:
        """Hessian (K n, K n) and gradient (K n,) of the negative log posterior."""
        count, size = self.y.shape
        hessian = torch.zeros(count, size, count, size, dtype=torch.float64)
        gradient = torch.zeros(count, size, dtype=torch.float64)
        self.information = torch.zeros(count, size, size, dtype=torch.float64)
        for k, likelihood in enumerate(self.likelihoods):
            z = self.point(k)
            errors, jacobian = likelihood.errors(z[None])[0], likelihood.jacobian(z) * self.widths[k]
            self.jacobians[k] = jacobian
            weighted = jacobian.T * likelihood.weights(errors)
            self.information[k] = weighted @ jacobian
            hessian[k, :, k] += self.information[k]
            gradient[k] += weighted @ errors
        precision = torch.linalg.inv(self.effects.covariance(self.spreads))  # (n, K, K)
        for j in range(size):
            hessian[:, j, :, j] += precision[j]
            gradient[:, j] += precision[j] @ self.y[:, j]
        return hessian.reshape(count * size, count * size), gradient.reshape(-1)

    def _loss(self, y: Tensor) -> Tensor:
        """Negative log posterior (D,) of draws y (D, K, n)."""
        precision = torch.linalg.inv(self.effects.covariance(self.spreads))
        total = 0.5 * torch.einsum("dan,nab,dbn->d", y, precision, y)
        for k, likelihood in enumerate(self.likelihoods):
            total = total + likelihood.loss(likelihood.errors(self.means[k] + self.widths[k] * y[:, k]))
        return total

    def step(self) -> float:
        """One damped Gauss-Newton step of all twins, then new noise scales; the loss after it."""
        hessian, gradient = self._system()
        steps = damped_steps(hessian, gradient).unflatten(-1, self.y.shape)
        size = steps.abs().amax(dim=(-1, -2), keepdim=True)
        tried = torch.cat((self.y[None], self.y - steps * (2.0 / size).clamp_max(1.0)))
        losses = self._loss(tried)
        self.y = tried[int(losses.argmin())]
        self.posterior = torch.linalg.inv(hessian)
        blocks = self.posterior.reshape(*self.y.shape, *self.y.shape)
        spreads = [((jacobian @ blocks[k, :, k]) * jacobian).sum(-1) for k, jacobian in enumerate(self.jacobians)]
        update_noise(self.likelihoods, [likelihood.errors(self.point(k)[None])[0] for k, likelihood in enumerate(self.likelihoods)], spreads)
        return float(losses.min())

    def update_spreads(self) -> None:
        """Expectation-maximisation of the effects' standard deviations, with a weak prior that keeps them off zero."""
        blocks = self.posterior.reshape(*self.y.shape, *self.y.shape)
        for j in range(self.y.shape[1]):
            second = torch.outer(self.y[:, j], self.y[:, j]) + blocks[:, j, :, j]
            for _ in range(3):
                inverse = torch.linalg.inv(self.effects.covariance(self.spreads[j : j + 1])[0])
                for f, level in enumerate(self.effects.levels):
                    variance = self.spreads[j, f] ** 2
                    gain = variance * level.T @ inverse  # E[effect | y] = gain y
                    spread = variance * torch.eye(level.shape[1], dtype=torch.float64) - gain @ level * variance
                    expected = (gain @ second @ gain.T + spread).diagonal()
                    self.spreads[j, f] = ((expected.sum() + 0.04) / (level.shape[1] + 2.0)).sqrt().clamp_min(0.02)

    def information_of(self, k: int) -> Tensor:
        """Fisher information of twin k's own recording in z."""
        return self.information[k] / self.widths[k][:, None] / self.widths[k]

    def prior_of(self, k: int) -> Prior:
        """What the other twins say of twin k, in z: the joint posterior with its own information taken out."""
        count, size = self.y.shape
        blocks = self.posterior.reshape(count, size, count, size)
        own = torch.linalg.inv(blocks[k, :, k])
        rest = own - self.information[k]
        values, axes = torch.linalg.eigh((rest + rest.T) / 2)
        rest = axes @ values.clamp_min(1e-2).diag() @ axes.T  # each parameter's prior spread times ten at most
        covariance = torch.linalg.inv(rest)
        gradient_free = self.y[k] @ own - self.y[k] @ self.information[k]
        mean = covariance @ gradient_free
        return Prior(self.means[k] + self.widths[k] * mean, self.widths[k][:, None] * covariance * self.widths[k])
