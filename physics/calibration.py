"""Calibration: from recorded trajectories to a twin with intervals on its parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import cma
import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from scipy import stats
from torch import Tensor

from structwm.ensemble import Ensemble

from .parameters import ParameterSpace
from .recording import Recording, residuals
from .twin import Twin

T = TypeVar("T", bound=Twin[Any])
DRAWS = 1 << 16  # rollouts of parameter draws times trajectories computed at once


@dataclass(frozen=True)
class Prior:
    """A normal distribution of the unconstrained parameters z."""

    mean: Tensor  # (n,)
    covariance: Tensor  # (n, n)

    @classmethod
    def of(cls, space: ParameterSpace) -> Prior:
        """Around the defaults, as wide as each parameter's `spread` says."""
        return cls(space.default, space.spread.square().diag())


@dataclass(frozen=True)
class Settings:
    """How a calibration searches."""

    evaluations: int = 400  # parameter draws of the global search (CMA-ES); 0 starts at the prior's mean
    iterations: int = 30  # Gauss-Newton steps at most
    dof: float = 4.0  # degrees of freedom of the Student-t error model; smaller trusts outliers less, inf is least squares
    tolerance: float = 1e-5  # relative improvement of the loss below which the search stops
    step: float = 1e-3  # of the central differences, in units of z
    seed: int = 0  # of the global search


@dataclass(frozen=True)
class Calibration(Generic[T]):
    """A calibrated twin and what the data says of its parameters."""

    twin: T  # under the fitted values
    space: ParameterSpace
    z: Tensor  # (n,) fitted, unconstrained
    covariance: Tensor  # (n, n) of z: inverse of the information of data and prior
    prior: Prior
    noise: Mapping[str, float]  # scale of the Student-t prediction errors by coordinate, in its unit
    dof: float
    information: Tensor  # (n, n) Fisher information of the data alone, in z
    losses: tuple[float, ...]  # negative log posterior after the global search and after each Gauss-Newton step
    errors: Mapping[str, Mapping[str, float]]  # mean absolute error by split and coordinate; the split `persistence` is the held-out one, held still
    seconds: float
    warnings: tuple[str, ...] = field(default=())  # one sentence per parameter or direction that the data does not identify

    @property
    def values(self) -> dict[str, float]:
        """The fitted parameters, in their units."""
        return {name: float(value) for name, value in self.space.unpack(self.z).items()}

    def intervals(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """Central intervals of the parameters at a confidence level, in their units."""
        reach = float(stats.norm.ppf(0.5 + level / 2)) * self.covariance.diagonal().sqrt()
        low, high = self.space.unpack(self.z - reach), self.space.unpack(self.z + reach)
        return {name: (float(low[name]), float(high[name])) for name in self.space.names}

    @property
    def condition(self) -> float:
        """Condition number of the data's Fisher information, in units of the prior's standard deviations."""
        spectrum = torch.linalg.eigvalsh(_scaled(self.information, self.prior))
        return float(spectrum[-1] / spectrum[0].clamp_min(1e-300))

    def draw(self, count: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Parameter draws from the posterior, each (count,), in their units."""
        kicks = torch.randn(count, len(self.space), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self.space.unpack(self.z + kicks @ torch.linalg.cholesky(self.covariance).T)

    def sample(self, count: int, *, seed: int = 0) -> Ensemble[Any]:
        """An ensemble of twins under parameters drawn from the posterior ("digital cousins")."""
        draws = {name: value.to(torch.float32) for name, value in self.draw(count, seed=seed).items()}
        return Ensemble(self.twin.with_parameters(draws))


def calibrate(
    twin: T,
    recording: Recording[Any],
    parameters: Sequence[str],
    *,
    held_out: Recording[Any] | float | None = 0.2,
    prior: Prior | None = None,
    settings: Settings = Settings(),
    progress: bool = True,
) -> Calibration[T]:
    """Fit parameters of a twin to recorded trajectories.

    Maximum a posteriori under Student-t prediction errors, whose scales are estimated along, and a normal prior on the unconstrained parameters: a global
    search by CMA-ES, then Gauss-Newton steps whose Jacobian comes from central differences. All draws of a step are rolled out in one launch.

    Args:
        twin: the twin; parameters that are not named keep its values.
        recording: N trajectories.
        parameters: names of what is fitted.
        held_out: trajectories that only measure the error; or the fraction of `recording` that is set aside; or None.
        prior: of z, in the order of `parameters`; default `Prior.of(twin.space(parameters))`.
        settings: how to search.
        progress: show a bar.

    Raises:
        ValueError: on unknown parameters or coordinates, or a twin whose prediction is not finite at the prior's mean.
    """
    start = time.perf_counter()
    space = twin.space(parameters)
    prior = prior or Prior.of(space)
    if isinstance(held_out, float):
        recording, held_out = recording.split(held_out, seed=settings.seed)
    problem = _Problem(twin, recording, space, prior, settings)
    first = problem.loss(prior.mean[None])
    if not bool(first.isfinite().all()):
        raise ValueError(f"{type(twin).__name__} predicts values that are not finite at the start of the search; check the recording's units.")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("loss {task.fields[loss]:.4g}"), TimeElapsedColumn())
    with Progress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("calibrating", total=settings.evaluations + settings.iterations, loss=float(first))

        def report(done: int, loss: float) -> None:
            bar.update(task, advance=done, loss=loss)

        z = problem.search(report) if settings.evaluations else prior.mean
        z, losses = problem.refine(z, report)
    information = problem.information(z)
    precision = information + problem.precision
    covariance = torch.linalg.inv((precision + precision.T) / 2)
    fitted = twin.with_parameters({name: value.to(torch.float32) for name, value in space.unpack(z).items()})
    errors = {"calibration": mean_errors(fitted, recording)}
    if held_out is not None:
        errors |= {"held out": mean_errors(fitted, held_out), "persistence": _persistence(fitted, held_out)}
    return Calibration(
        twin=fitted,
        space=space,
        z=z,
        covariance=covariance,
        prior=prior,
        noise=dict(problem.noise),
        dof=settings.dof,
        information=information,
        losses=tuple(losses),
        errors=errors,
        seconds=time.perf_counter() - start,
        warnings=_unidentified(space, information, covariance, prior),
    )


def mean_errors(model: Twin[Any], recording: Recording[Any]) -> dict[str, float]:
    """Mean absolute prediction error by coordinate, in its unit."""
    return {name: float(values.abs().nanmean()) for name, values in residuals(model, recording).items()}


def _persistence(model: Twin[Any], recording: Recording[Any]) -> dict[str, float]:
    """Mean absolute error of holding the start state still, by coordinate."""
    names, start = model.scene.coordinate_names(recording.state), model.scene.coordinates(recording.state)
    still = {name: start[:, names.index(name), None].expand_as(values) for name, values in recording.observed.items()}
    return {name: float(recording.difference(name, value).abs().nanmean()) for name, value in still.items()}


class _Problem:
    """The posterior of z: losses, Jacobians and the noise scales that go with them."""

    def __init__(self, twin: Twin[Any], recording: Recording[Any], space: ParameterSpace, prior: Prior, settings: Settings) -> None:
        self.recording = Recording(_double(recording.state), recording.actions.double(), recording.observed, recording.scale, recording.periodic)
        self.twin, self.space, self.prior, self.settings = twin, space, prior, settings
        self.precision = torch.linalg.inv(prior.covariance)
        self.noise = {name: float(recording.scale[name]) for name in recording.observed}
        self.known = {name: values[:, 1:].isfinite() for name, values in recording.observed.items()}

    def errors(self, z: Tensor) -> Tensor:
        """Prediction errors in units of the noise, (P, M), of draws z (P, n)."""
        width = max(1, DRAWS // (len(self.recording) * self.recording.actions.shape[1]))
        return torch.cat([self._errors(part) for part in z.split(width)], 0)

    def _errors(self, z: Tensor) -> Tensor:
        values = self.space.unpack(z if len(z) > 1 else z.expand(2, -1))  # two equal draws keep the member axis
        with torch.no_grad():
            by_name = residuals(self.twin.with_parameters(values), self.recording)
        columns = [delta.transpose(0, 1)[: len(z)][:, self.known[name]] / self.noise[name] for name, delta in by_name.items()]
        return torch.cat(columns, dim=1)

    def loss(self, z: Tensor, errors: Tensor | None = None) -> Tensor:
        """Negative log posterior up to a constant, (P,)."""
        errors = self.errors(z) if errors is None else errors
        nu, away = self.settings.dof, z - self.prior.mean
        fit = 0.5 * errors.square() if np.isinf(nu) else 0.5 * (nu + 1) * torch.log1p(errors.square() / nu)
        scales = sum(int(self.known[name].sum()) * np.log(noise / self.recording.scale[name]) for name, noise in self.noise.items())
        value = fit.sum(-1) + scales + 0.5 * ((away @ self.precision) * away).sum(-1)
        return torch.where(value.isfinite(), value, float("inf"))

    def weights(self, errors: Tensor) -> Tensor:
        """Of the Gauss-Newton step under Student-t errors (iteratively reweighted least squares)."""
        nu = self.settings.dof
        return torch.ones_like(errors) if np.isinf(nu) else (nu + 1) / (nu + errors.square())

    def jacobian(self, z: Tensor) -> Tensor:
        """d errors / d z by central differences, (M, n)."""
        h = self.settings.step
        offsets = h * torch.eye(len(z), dtype=z.dtype)
        moved = self.errors(torch.cat((z + offsets, z - offsets), 0))
        return ((moved[: len(z)] - moved[len(z) :]) / (2 * h)).T

    def search(self, report: Callable[[int, float], None]) -> Tensor:
        """The best draw of CMA-ES (Hansen and Ostermeier, 2001), started at the prior."""
        widths = self.prior.covariance.diagonal().sqrt().clamp_max(2.0).numpy()
        options = {"seed": self.settings.seed + 1, "verbose": -9, "CMA_stds": widths, "maxfevals": self.settings.evaluations}
        strategy = cma.CMAEvolutionStrategy(self.prior.mean.numpy(), 0.5, options)
        best, lowest = self.prior.mean, float(self.loss(self.prior.mean[None]))
        while not strategy.stop():
            asked = strategy.ask()
            losses = self.loss(torch.tensor(np.array(asked)))
            strategy.tell(asked, losses.clamp_max(1e30).tolist())
            if float(losses.min()) < lowest:
                best, lowest = torch.tensor(asked[int(losses.argmin())]), float(losses.min())
            report(len(asked), lowest)
        return best

    def refine(self, z: Tensor, report: Callable[[int, float], None]) -> tuple[Tensor, list[float]]:
        """Damped Gauss-Newton steps (Levenberg-Marquardt, all dampings tried in one launch), the noise scales re-estimated before each."""
        losses: list[float] = []
        dampings = torch.tensor([0.0, *np.logspace(-3, 3, 7)], dtype=torch.float64)
        for _ in range(self.settings.iterations):
            self._estimate_noise(z)
            errors = self.errors(z[None])[0]
            before = float(self.loss(z[None], errors[None]))
            if not losses:
                losses.append(before)
            jacobian, weight = self.jacobian(z), self.weights(errors)
            hessian = (jacobian.T * weight) @ jacobian + self.precision
            gradient = (jacobian.T * weight) @ errors + self.precision @ (z - self.prior.mean)
            systems = hessian + dampings[:, None, None] * hessian.diagonal().diag()
            tried = z - torch.linalg.solve(systems, gradient.expand(len(dampings), -1))
            after = self.loss(tried)
            winner = int(after.argmin())
            improvement = before - float(after[winner])
            if improvement > 0:
                z = tried[winner]
            losses.append(min(before, float(after[winner])))
            report(1, losses[-1])
            if improvement <= self.settings.tolerance * (abs(before) + 1.0):
                break
        self._estimate_noise(z)
        return z, losses

    def _estimate_noise(self, z: Tensor) -> None:
        """Scales of the Student-t errors by coordinate: fixed point of the likelihood equation, from where they are."""
        errors = self.errors(z[None])[0]
        sizes = [int(self.known[name].sum()) for name in self.recording.observed]
        for name, part in zip(self.recording.observed, errors.split(sizes), strict=True):
            scale = 1.0
            for _ in range(30):
                squares = (part / scale).square()
                weight = self.weights(part / scale)
                scale *= float((weight * squares).mean().sqrt().clamp(1e-6, 1e6))
            self.noise[name] = max(self.noise[name] * scale, 1e-9 * self.recording.scale[name])

    def information(self, z: Tensor) -> Tensor:
        """Fisher information of the data in z, (n, n)."""
        jacobian = self.jacobian(z)
        weight = self.weights(self.errors(z[None])[0])
        return (jacobian.T * weight) @ jacobian


def _double(state: Any) -> Any:
    return state.apply(lambda value: value.double() if value.is_floating_point() else value)


def _scaled(information: Tensor, prior: Prior) -> Tensor:
    spread = prior.covariance.diagonal().sqrt()
    return spread[:, None] * information * spread


def _unidentified(space: ParameterSpace, information: Tensor, covariance: Tensor, prior: Prior) -> tuple[str, ...]:
    """Sentences for parameters that stay about as uncertain as they were, and for the weakest direction where it joins several."""
    found = []
    ratio = (covariance.diagonal() / prior.covariance.diagonal()).sqrt()
    for name, left in zip(space.names, ratio.tolist(), strict=True):
        if left > 0.7:
            found.append(f"{name} is not identified by this data: its uncertainty shrank by {100 * (1 - left):.0f} % only; fix it or vary the motions more.")
    spectrum, axes = torch.linalg.eigh(_scaled(information, prior))
    weakest = axes[:, 0]
    joined = [name for name, part in zip(space.names, weakest.tolist(), strict=True) if abs(part) > 0.4]
    if float(spectrum[0]) < 1.0 and len(joined) > 1 and not any(name in sentence.split()[0] for sentence in found for name in joined):
        found.append(f"{' and '.join(joined)} are identified only together: the data says less about the direction between them than the prior.")
    return tuple(found)
