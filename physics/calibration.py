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
from .posterior import Evidence, Likelihood, Prior, scaled_information, unidentified, update_noise, values_of
from .recording import Recording, residuals
from .twin import Twin

T = TypeVar("T", bound=Twin[Any])


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
        spectrum = torch.linalg.eigvalsh(scaled_information(self.information, self.prior))
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
    evidence: Sequence[Evidence] = (),
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
        evidence: what recorded states alone say of the parameters.
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
    likelihood = Likelihood(twin, recording, space, dof=settings.dof, step=settings.step, evidence=evidence)
    posterior = _Posterior(likelihood, prior)
    first = posterior.loss(prior.mean[None])
    if not bool(first.isfinite().all()):
        raise ValueError(f"{type(twin).__name__} predicts values that are not finite at the start of the search; check the recording's units.")
    with calibration_progress(progress) as bar:
        task = bar.add_task("calibrating", total=settings.evaluations + settings.iterations, loss=float(first))

        def report(done: int, loss: float) -> None:
            bar.update(task, advance=done, loss=loss)

        z = posterior.search(settings, report) if settings.evaluations else prior.mean
        z, losses = posterior.refine(z, settings, report)
    information = posterior.information(z)
    return summarise(twin, likelihood, prior, z, information, losses, recording, held_out, time.perf_counter() - start)


def calibration_progress(show: bool) -> Progress:
    """A bar that also shows the loss."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("loss {task.fields[loss]:.5g}"), TimeElapsedColumn())
    return Progress(*columns, disable=not show, transient=True)


def summarise(
    twin: T,
    likelihood: Likelihood,
    prior: Prior,
    z: Tensor,
    information: Tensor,
    losses: Sequence[float],
    recording: Recording[Any],
    held_out: Recording[Any] | None,
    seconds: float,
) -> Calibration[T]:
    """A calibration from its optimum: covariance, errors by split and warnings."""
    space = likelihood.space
    precision = information + torch.linalg.inv(prior.covariance)
    covariance = torch.linalg.inv((precision + precision.T) / 2)
    fitted = twin.with_parameters(values_of(space, z))
    errors = {"calibration": mean_errors(fitted, recording)}
    if held_out is not None:
        errors |= {"held out": mean_errors(fitted, held_out), "persistence": _persistence(fitted, held_out)}
    return Calibration(
        twin=fitted,
        space=space,
        z=z,
        covariance=covariance,
        prior=prior,
        noise=dict(likelihood.noise),
        dof=likelihood.dof,
        information=information,
        losses=tuple(losses),
        errors=errors,
        seconds=seconds,
        warnings=unidentified(space.names, information, covariance, prior),
    )


def mean_errors(model: Twin[Any], recording: Recording[Any]) -> dict[str, float]:
    """Mean absolute prediction error by coordinate, in its unit."""
    return {name: float(values.abs().nanmean()) for name, values in residuals(model, recording).items()}


def _persistence(model: Twin[Any], recording: Recording[Any]) -> dict[str, float]:
    """Mean absolute error of holding the start state still, by coordinate."""
    names, start = model.scene.coordinate_names(recording.state), model.scene.coordinates(recording.state)
    still = {name: start[:, names.index(name), None].expand_as(values) for name, values in recording.observed.items()}
    return {name: float(recording.difference(name, value).abs().nanmean()) for name, value in still.items()}


class _Posterior:
    """The likelihood of one recording times the prior."""

    def __init__(self, likelihood: Likelihood, prior: Prior) -> None:
        self.likelihood, self.prior = likelihood, prior
        self.precision = torch.linalg.inv(prior.covariance)

    def loss(self, z: Tensor) -> Tensor:
        """Negative log posterior (P,) up to a constant."""
        away = z - self.prior.mean
        return self.likelihood.loss(self.likelihood.errors(z)) + 0.5 * ((away @ self.precision) * away).sum(-1)

    def information(self, z: Tensor) -> Tensor:
        """Fisher information of the data in z, (n, n)."""
        jacobian, weight = self.likelihood.jacobian(z), self.likelihood.weights(self.likelihood.errors(z[None])[0])
        return (jacobian.T * weight) @ jacobian

    def search(self, settings: Settings, report: Callable[[int, float], None]) -> Tensor:
        """The best draw of CMA-ES (Hansen and Ostermeier, 2001), started at the prior."""
        widths = self.prior.covariance.diagonal().sqrt().clamp_max(2.0).numpy()
        options = {"seed": settings.seed + 1, "verbose": -9, "CMA_stds": widths, "maxfevals": settings.evaluations}
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

    def refine(self, z: Tensor, settings: Settings, report: Callable[[int, float], None]) -> tuple[Tensor, list[float]]:
        """Damped Gauss-Newton steps (Levenberg-Marquardt, all dampings tried in one launch), the noise scales re-estimated before each."""
        update_noise([self.likelihood], [self.likelihood.errors(z[None])[0]])
        losses = [float(self.loss(z[None]))]
        for _ in range(settings.iterations):
            errors, jacobian = self.likelihood.errors(z[None])[0], self.likelihood.jacobian(z)
            weight = self.likelihood.weights(errors)
            hessian = (jacobian.T * weight) @ jacobian + self.precision
            gradient = (jacobian.T * weight) @ errors + self.precision @ (z - self.prior.mean)
            before = float(self.loss(z[None]))
            tried = z - damped_steps(hessian, gradient)
            after = self.loss(tried)
            winner = int(after.argmin())
            improvement = before - float(after[winner])
            if improvement > 0:
                z = tried[winner]
            spread = ((jacobian @ torch.linalg.inv(hessian)) * jacobian).sum(-1)
            update_noise([self.likelihood], [self.likelihood.errors(z[None])[0]], [spread])
            losses.append(float(self.loss(z[None])))
            report(1, losses[-1])
            if improvement <= settings.tolerance * (abs(before) + 1.0):
                break
        return z, losses


def damped_steps(hessian: Tensor, gradient: Tensor) -> Tensor:
    """Levenberg-Marquardt steps (D, n) under D dampings from none to strong."""
    dampings = torch.tensor([0.0, *np.logspace(-3, 3, 7)], dtype=hessian.dtype)
    systems = hessian + dampings[:, None, None] * hessian.diagonal().diag()
    return torch.linalg.solve(systems, gradient.expand(len(dampings), -1))
