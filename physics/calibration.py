"""Calibration: from recorded trajectories to a twin with intervals on its parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from scipy import stats
from torch import Tensor

from structwm.ensemble import Ensemble

from .explore import explore, is_rough
from .journal import Journal, digest, fingerprint
from .optimise import Found, Posterior, System, adam, gauss_newton, search, system
from .parameters import ParameterSpace
from .posterior import Evidence, Likelihood, Prior, scaled_information, unidentified, update_noise, values_of
from .recording import Recording, check_recording, persistence, predict
from .twin import Twin

T = TypeVar("T", bound=Twin[Any])

BLOCKS = 8  # parts that err independently, at least, by which the intervals are widened where errors hang together
UNTOLD = 1e-9  # of the variance of the prior, below which the data moves a parameter by rounding alone


@dataclass(frozen=True)
class Settings:
    """How a calibration searches."""

    evaluations: int = 400  # parameter draws of the global search (CMA-ES); 0 starts at the prior's mean
    opening: float = 1.0  # share of the instants, from the start, that the global search looks at: a long motion that swings out of step misleads it
    iterations: int = 30  # steps downhill at most
    dof: float = 4.0  # degrees of freedom of the Student-t error model; smaller trusts outliers less, inf is least squares
    tolerance: float = 1e-5  # relative improvement of the loss below which the search stops
    step: float = 1e-3  # of the central differences, in units of z
    seed: int = 0  # of the global search
    refine: Literal["gauss_newton", "adam"] = "gauss_newton"  # adam takes the twin's own gradients
    rate: float = 0.03  # Adam's step, in units of z
    explore: int = 200  # draws a round that explore the posterior where the loss is rough, as motion with impacts makes it; 0 never does
    rounds: int = 3  # of them
    block: int | None = None  # instants in a row whose errors hang together and count as one; None: as many as the residuals show

    def __post_init__(self) -> None:
        if self.refine not in ("gauss_newton", "adam"):
            raise ValueError(f"Settings.refine is gauss_newton or adam, got {self.refine!r}.")
        for name in ("dof", "step", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Settings.{name} must be above zero, got {getattr(self, name)}.")
        if not 0 < self.opening <= 1:
            raise ValueError(f"Settings.opening must be above 0 and at most 1, got {self.opening}.")
        for name, least in (("evaluations", 0), ("iterations", 0), ("explore", 0), ("rounds", 1), ("block", 1)):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < least):
                raise ValueError(f"Settings.{name} must be a whole number of {least} or more, got {value}.")


@dataclass(frozen=True)
class Calibration(Generic[T]):
    """A calibrated twin and what the data says of its parameters."""

    twin: T  # under the fitted values
    space: ParameterSpace
    z: Tensor  # (n,) fitted, unconstrained
    covariance: Tensor  # (n, n) of z: inverse of the information of data and prior, times `inflation`
    prior: Prior
    noise: Mapping[str, float]  # scale of the Student-t prediction errors by coordinate, in its unit
    dof: float
    information: Tensor  # (n, n) Fisher information of the data alone, in z
    losses: tuple[float, ...]  # negative log posterior after the global search and after each step
    errors: Mapping[str, Mapping[str, float]]  # mean absolute error by split and coordinate; the split `persistence` is the held-out one, held still
    seconds: float
    warnings: tuple[str, ...] = field(default=())  # one sentence per parameter or direction that the data does not identify, and what else went wrong
    inflation: float = 1.0  # by how much errors that hang together make the data say less: variances times this
    nonfinite: int = 0  # numbers in gradients that were not finite, and were left out
    start: Tensor | None = None  # (N, D) fitted displacements of the start states, in units of their spread
    explored: bool = False  # whether the intervals are the bootstrap's over runs, because the loss is rough, rather than a linearisation's

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

    def directions(self) -> list[tuple[float, dict[str, float]]]:
        """The data's principal directions, weakest first: how much narrower than the prior it makes each (1: not at all), and its parts by parameter."""
        spectrum, axes = torch.linalg.eigh(scaled_information(self.information, self.prior) / self.inflation)
        shrink = (1 + spectrum.clamp_min(0)).sqrt()
        return [(float(shrink[k]), dict(zip(self.space.names, axes[:, k].tolist(), strict=True))) for k in range(len(spectrum))]

    def correlations(self) -> Tensor:
        """(n, n) posterior correlations of the parameters."""
        deviation = self.covariance.diagonal().sqrt()
        return self.covariance / deviation[:, None] / deviation

    def draw(self, count: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Parameter draws from the posterior, each (count,), in their units."""
        kicks = torch.randn(count, len(self.space), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self.space.unpack(self.z + kicks @ torch.linalg.cholesky(self.covariance).T)

    def sample(self, count: int, *, seed: int = 0) -> Ensemble[Any]:
        """An ensemble of twins under parameters drawn from the posterior ("digital cousins")."""
        draws = {name: value.to(torch.float32) for name, value in self.draw(count, seed=seed).items()}
        return Ensemble(self.twin.with_parameters(draws))

    def update(self, recording: Recording[Any], *, forget: float = 0.0, settings: Settings | None = None) -> Calibration[T]:
        """What is known after new trajectories: this posterior is the prior, a few Gauss-Newton steps find the new one (an iterated extended Kalman filter over
        parameters; Bell and Cathey, 1993).

        Args:
            recording: the new trajectories, not seen before.
            forget: by how much parameters may have changed since, as a share of the first prior's standard deviations; 0 for things that do not change.
            settings: default: no global search, eight steps.
        """
        if not 0 <= forget < math.inf:
            raise ValueError(f"Calibration.update needs forget of zero or more, got {forget}.")
        drift = forget**2 * self.prior.covariance.diagonal().diag()
        prior = Prior(self.z, self.covariance + drift)
        quick = settings or Settings(evaluations=0, iterations=8, dof=self.dof)
        after = calibrate(self.twin, recording, self.space.names, held_out=None, prior=prior, settings=quick, progress=False)
        known = precise(after.covariance, torch.linalg.inv(self.prior.covariance))  # what all data so far says
        warnings = unidentified(self.space.names, known, after.covariance, self.prior) + blown_up(after.nonfinite)
        return replace(after, prior=self.prior, information=known * after.inflation, warnings=warnings)

    def suggest_actions(self, planner: Any, state: Any, *, horizon: int | None = None, seed: int = 0) -> Any:
        """The actions that would tell most about the parameters, from a state: `structwm.physics.experiment.suggest_actions`."""
        from .experiment import suggest_actions

        return suggest_actions(self, planner, state, horizon=horizon, seed=seed)


def calibrate(
    twin: T,
    recording: Recording[Any],
    parameters: Sequence[str],
    *,
    held_out: Recording[Any] | float | None = 0.2,
    prior: Prior | None = None,
    evidence: Sequence[Evidence] = (),
    settings: Settings = Settings(),
    folder: str | Path | None = None,
    progress: bool = True,
) -> Calibration[T]:
    """Fit parameters of a twin to recorded trajectories.

    Maximum a posteriori under Student-t prediction errors, whose scales are estimated along, and a normal prior on the unconstrained parameters: a global
    search by CMA-ES, then Gauss-Newton steps whose Jacobian comes from central differences, or Adam. All draws of a step are rolled out in one launch. Start
    states are fitted along where the recording says how far off they may be. The intervals allow for errors that hang together within a trajectory: the
    jackknife over runs (over parts of them, where they are few) says by how much the data says less than independent errors would (Efron and Stein, 1981).

    Args:
        twin: the twin; parameters that are not named keep its values.
        recording: N trajectories.
        parameters: names of what is fitted.
        held_out: trajectories that only measure the error; or the fraction of `recording` that is set aside; or None.
        prior: of z, in the order of `parameters`; default `Prior.of(twin.space(parameters))`.
        evidence: what recorded states alone say of the parameters.
        settings: how to search.
        folder: keeps every result, so that the same call goes on where it stopped, even after it was killed.
        progress: show a bar.

    Raises:
        ValueError: on unknown parameters, a recording of something else, a twin whose prediction is not finite at the prior's mean, a twin without gradients
            for Adam, or a folder that holds another calibration.
    """
    begin = time.perf_counter()
    space = twin.space(parameters)
    prior = prior or Prior.of(space)
    if prior.mean.shape != (len(space),) or prior.covariance.shape != (len(space), len(space)):
        raise ValueError(f"calibrate needs a prior of the {len(space)} parameters {', '.join(space.names)}, got one of {tuple(prior.mean.shape)}.")
    if twin.spec.members > 1:
        raise ValueError(f"calibrate needs a twin under one value of each parameter, got one with {twin.spec.members} members.")
    check_recording(twin, recording)
    if settings.refine == "adam" and not twin.spec.traits.differentiable:
        raise ValueError(f"{type(twin).__name__} has no gradients, which Adam needs; take refine='gauss_newton'.")
    if isinstance(held_out, int | float):
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is a share between 0 and 1, a Recording, or None; got {held_out}.")
        recording, held_out = recording.split(held_out, seed=settings.seed)
    elif held_out is not None:
        check_recording(twin, held_out)
    likelihood = Likelihood(twin, recording, space, dof=settings.dof, step=settings.step, evidence=evidence)
    posterior = Posterior(likelihood, prior)
    first = posterior.loss(prior.mean[None])
    if not bool(first.isfinite().all()):
        raise ValueError(f"{type(twin).__name__} predicts values that are not finite at the start of the search; check the recording's units.")
    journal = Journal(None if folder is None else Path(folder), _inputs(twin, recording, space, prior, settings) if folder is not None else {})
    with calibration_progress(progress) as bar:
        task = bar.add_task("calibrating", total=settings.evaluations + settings.iterations, loss=float(first))

        def report(done: int, loss: float) -> None:
            bar.update(task, advance=done, loss=loss)

        def regroup(z: Tensor, of: Likelihood = likelihood) -> None:
            of.group(settings.block or journal.once("block", lambda: of.correlation_time(of.errors(z[None])[0])))

        z = prior.mean
        if settings.evaluations:
            searched = posterior
            if settings.opening < 1:
                early = recording.until(max(1, round(settings.opening * recording.actions.shape[1])))
                searched = Posterior(Likelihood(twin, early, space, dof=settings.dof, step=settings.step, evidence=evidence), prior)
            regroup(z, searched.likelihood)
            z = search(searched, settings.evaluations, settings.seed, journal, report)
        regroup(z)
        start = torch.zeros(len(recording), len(likelihood.displacements), dtype=torch.float64) if likelihood.displacements else None
        found = Found(z, start)
        if settings.refine == "adam":
            found = adam(posterior, found, settings.iterations, settings.rate, journal, report)
        else:
            found = gauss_newton(posterior, found, settings.iterations, settings.tolerance, journal, report)
        regroup(found.z)
        settle(likelihood, found)
        at = over_posterior(posterior, found)
        found.nonfinite += at.nonfinite
        inflation = hanging_together(likelihood, found, at, prior)
        sure = torch.linalg.inv(at.information + posterior.precision)  # as of independent errors: wider ones would step over what is rough
        explored = settings.explore > 0 and len(recording.runs.unique()) > 1 and is_rough(posterior, found, at, sure, journal)
        if explored:
            ends = explore(posterior, found, at, settings.explore, settings.rounds, settings.seed, journal, report)
            found.z, inflation = ends.mean, 1.0
            settle(likelihood, found)
            at = replace(at, information=precise(ends.covariance, posterior.precision))
    journal.close()
    calibration = summarise(
        twin, likelihood, prior, found.z, at.information, found.losses, recording, held_out, time.perf_counter() - begin, inflation=inflation
    )
    warnings = calibration.warnings + blown_up(found.nonfinite)
    return replace(calibration, warnings=warnings, nonfinite=found.nonfinite, start=found.start, explored=explored)


def blown_up(nonfinite: int) -> tuple[str, ...]:
    """A sentence if numbers in gradients were not finite."""
    return (f"{nonfinite} numbers in gradients were not finite and were left out: some predictions are about to blow up.",) if nonfinite else ()


def precise(covariance: Tensor, prior_precision: Tensor) -> Tensor:
    """The data's information that makes a posterior covariance of a prior: none where the posterior is no narrower."""
    values, axes = torch.linalg.eigh(torch.linalg.inv(covariance) - prior_precision)
    return axes @ values.clamp_min(0.0).diag() @ axes.T


def settle(likelihood: Likelihood, found: Found) -> None:
    """The noise scales at the point found."""
    update_noise([likelihood], [likelihood.errors(found.z[None], None if found.start is None else found.start[None])[0]])


def over_posterior(posterior: Posterior, found: Found) -> System:
    """Linearised over the width of the posterior rather than at a point: what a rough loss does on average."""
    steps = torch.full_like(found.z, posterior.likelihood.step)
    for _ in range(3):
        at = system(posterior, found, steps, expected=True)
        width = torch.linalg.inv(at.information + posterior.precision).diagonal().clamp_min(0).sqrt()
        steps = width.clamp(posterior.likelihood.step, 0.5)
    return at


def _inputs(twin: Twin[Any], recording: Recording[Any], space: ParameterSpace, prior: Prior, settings: Settings) -> dict[str, Any]:
    """What the results of a calibration depend on."""
    data = [*(value for value in recording.state.values()), recording.actions, *recording.observed.values(), recording.origin]
    for measurement in recording.measurements:
        data += [value for value in vars(measurement).values() if isinstance(value, Tensor)]
    config: Any = getattr(twin, "config", dict)
    return {
        "twin": f"{type(twin).__name__} {twin.spec.dt} {digest(*twin.values.values())} {fingerprint(config())}",
        "recording": digest(*data),
        "scales": recording.scales,
        "start_spread": dict(recording.start_spread),
        "parameters": list(space.names),
        "bounds": [[p.low, p.high, p.scale] for p in space.parameters],
        "prior": digest(prior.mean, prior.covariance),
        "settings": asdict(settings) | {"dof": str(settings.dof)},
    }


def hanging_together(likelihood: Likelihood, found: Found, at: System, prior: Prior) -> float:
    """By how much errors that hang together widen the intervals, as a factor of the variances, 1 or more.

    The mean over parameters of the jackknife's variance over the one that independent errors would give. Where there are fewer than `BLOCKS` runs, each
    trajectory is cut into blocks of time.
    """
    runs = likelihood.recording.runs
    names, owner = runs.unique(return_inverse=True)
    n = len(found.z)
    precision = torch.linalg.inv(prior.covariance)
    if len(names) >= BLOCKS or likelihood.recording.actions.shape[1] < 2:
        count = len(names)
        scores = torch.zeros(count, n, dtype=torch.float64).index_add_(0, owner, at.scores)
        each = torch.zeros(count, n, n, dtype=torch.float64).index_add_(0, owner, at.each)
    else:
        errors = likelihood.errors(found.z[None], None if found.start is None else found.start[None])[0]
        weight, curvature = likelihood.weights(errors), likelihood.curvature(errors)
        parts = [likelihood.by_trajectory(part) for part in (at.jacobian, errors, weight, weight * curvature)]
        if at.starts is not None and found.start is not None:  # where the parameters move, the fitted starts follow
            parts[0] = parts[0] - likelihood.start_jacobian(found.z, found.start) @ torch.linalg.solve(*at.starts[:2])
        rows, e, w, c = (part.unflatten(1, (-1, likelihood.known.shape[1])) for part in parts)
        blocks = [piece for k in range(len(rows)) for piece in _blocks(likelihood, k, math.ceil(BLOCKS / len(rows)))]
        count = len(blocks)
        scores = torch.stack([torch.einsum("rci,rc,rc->i", rows[k, s], w[k, s], e[k, s]) for k, s in blocks])
        each = torch.stack([torch.einsum("rci,rc,rcj->ij", rows[k, s], c[k, s], rows[k, s]) for k, s in blocks])
    if count < 2:
        return 1.0
    whole = at.information + precision
    left = whole - each
    values, axes = torch.linalg.eigh((left + left.mT) / 2)
    left = axes @ values.clamp_min(float(torch.linalg.eigvalsh(precision)[0])).diag_embed() @ axes.mT
    moved = torch.linalg.solve(left, scores.unsqueeze(-1)).squeeze(-1)  # how the fit moves when a block is left out
    moved = moved - moved.mean(0)
    jackknife = moved.square().sum(0)
    expected = torch.linalg.solve(left, each @ torch.linalg.inv(whole)).diagonal(dim1=-2, dim2=-1).sum(0)  # of independent errors: few blocks may hold all
    told = expected > UNTOLD * torch.linalg.inv(precision).diagonal()  # of the others the data says nothing, and rounding alone would
    return max(1.0, float((jackknife[told] / expected[told]).mean())) if bool(told.any()) else 1.0


def _blocks(likelihood: Likelihood, trajectory: int, count: int) -> list[tuple[int, slice]]:
    """Slices of time in which something was observed of a trajectory, about equally long."""
    seen = likelihood.known.any(-1).unflatten(0, (len(likelihood.recording), -1))[trajectory].nonzero().flatten()
    if not len(seen):
        return []
    low, high = int(seen[0]), int(seen[-1]) + 1
    bounds = [low + (high - low) * k // count for k in range(count + 1)]
    return [(trajectory, slice(a, b)) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if b > a]


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
    *,
    inflation: float = 1.0,
) -> Calibration[T]:
    """A calibration from its optimum: covariance, errors by split and warnings."""
    space = likelihood.space
    precision = information / inflation + torch.linalg.inv(prior.covariance)
    covariance = torch.linalg.inv((precision + precision.T) / 2)
    fitted = twin.with_parameters(values_of(space, z))
    errors = {"calibration": mean_errors(fitted, recording)}
    if held_out is not None:
        still = held_out.magnitudes(held_out.compare(persistence(fitted, held_out)))
        errors |= {"held out": mean_errors(fitted, held_out), "persistence": {name: float(value.nanmean()) for name, value in still.items()}}
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
        warnings=unidentified(space.names, information / inflation, covariance, prior),
        inflation=inflation,
    )


def mean_errors(model: Twin[Any], recording: Recording[Any]) -> dict[str, float]:
    """Mean prediction error by coordinate or kind of measurement, in its unit."""
    with torch.no_grad():
        found = recording.magnitudes(recording.compare(predict(model, recording)))
    return {name: float(value.nanmean()) for name, value in found.items()}
