"""A stiffness of each spring, by gradients through whole rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from .calibration import calibration_progress
from .particle_scene import ParticleState
from .posterior import Prior
from .recording import Recording, check_recording, predict
from .spring_twin import SpringTwin

ANYWHERE = 1.5  # standard deviation of a logit for which all places between two bounds are about as likely
DOF = 4.0  # of the Student-t loss, which lets outliers be


@dataclass(frozen=True)
class SpringFit:
    """What `fit_springs` found."""

    twin: SpringTwin  # with factors, those at which the instants held back were predicted best
    losses: tuple[float, ...]  # of each rollout, on the instants it was fitted on
    checks: tuple[float, ...]  # of each rollout, on those held back; NaN where they were not reached
    seconds: float
    nonfinite: int  # gradients that were not finite, and were left out
    kept: int  # the rollout whose factors were kept, -1: the twin as it was


def fit_springs(
    twin: SpringTwin,
    recording: Recording[ParticleState],
    *,
    steps: int = 40,
    horizons: Sequence[float] = (0.3, 0.6, 1.0),
    spread: float = 1.0,
    smooth: float = 0.3,
    held_back: float = 0.2,
    also: Sequence[str] = (),
    seconds: float = math.inf,
    progress: bool = True,
) -> SpringFit:
    """Fit the stiffness of each spring, as a factor over what the parameters say, by gradients through rollouts from the start (L-BFGS).

    The beginning is fitted first, then more and more: a long rollout that swings out of step says little of where to go. What the recording does not say is
    left to the prior: the logarithm of a factor is normal around that of the body, and near springs are alike. The last instants are held back, and say whether
    and when the factors are kept; so factors that only fit noise are not.

    Args:
        twin: calibrated; its parameters stay but those in `also`.
        recording: trajectories with measurements.
        steps: rollouts with gradients at most.
        horizons: shares of the instants that are fitted one after another, rising to 1.
        spread: standard deviation of the logarithm of a factor.
        smooth: standard deviation of the difference of logarithms between a spring and the mean of those at its ends.
        held_back: share of the instants, the last.
        also: parameters that are fitted along.
        seconds: time after which it ends.
        progress: show a bar.

    Raises:
        ValueError: on a recording of something else, a share that leaves nothing to fit, or horizons that do not rise to 1.
    """
    check_recording(twin, recording)
    if not recording.measurements:
        raise ValueError("fit_springs needs a recording with measurements: tracks, clouds or images.")
    horizon = recording.actions.shape[1]
    split = horizon - round(held_back * horizon)
    if not 0 <= held_back < 1 or split < 1:
        raise ValueError(f"fit_springs needs held_back from 0 to below 1 of at least one instant, got {held_back} of {horizon}.")
    if not horizons or list(horizons) != sorted(horizons) or horizons[0] <= 0 or horizons[-1] != 1 or steps < len(horizons):
        raise ValueError(f"fit_springs needs horizons above 0 that rise to 1 and a step for each, got {tuple(horizons)} and {steps} steps.")
    lengths = sorted({max(1, round(share * split)) for share in horizons})
    with calibration_progress(progress) as bar:
        search = _Search(twin, recording, split, spread, smooth, tuple(also), time.perf_counter() + seconds)
        task = bar.add_task("fitting springs", total=steps, loss=math.nan)
        search.report = lambda loss: bar.update(task, advance=1, loss=loss)
        search.check(search.start)
        point = search.start.numpy()
        for stage, length in enumerate(lengths):
            share = steps * (stage + 1) // len(lengths) - steps * stage // len(lengths)
            point = search.minimise(point, length, share)
    return search.result()


def topology_prior(twin: SpringTwin, parameters: Sequence[str]) -> Prior:
    """A prior with which `calibrate` searches for what is joined: `reach` and `neighbours` anywhere between their bounds, where by default all springs are
    there; other parameters as `Prior.of` says.

    Raises:
        ValueError: on an unknown parameter.
    """
    prior = Prior.of(twin.space(parameters))
    mean, covariance = prior.mean.clone(), prior.covariance.clone()
    for k, name in enumerate(map(twin.full_name, parameters)):
        if name in ("reach", "neighbours"):
            mean[k] = 0.0
            covariance[k] = covariance[:, k] = 0.0
            covariance[k, k] = ANYWHERE**2
    return Prior(mean, covariance)


class _Search:
    """The loss of logarithms of factors (M,) and the unconstrained parameters that are fitted along."""

    def __init__(
        self, twin: SpringTwin, recording: Recording[ParticleState], split: int, spread: float, smooth: float, also: tuple[str, ...], until: float
    ) -> None:
        self.twin, self.recording, self.split, self.spread, self.smooth, self.until = twin, recording, split, spread, smooth, until
        self.space = twin.space(also) if also else None
        self.size = len(twin.body.springs)
        logs = torch.zeros(self.size, dtype=torch.float64) if twin.factors is None else twin.factors.detach().double().log()
        extra = [] if self.space is None else [twin.physical[name].unconstrained(twin.values[name]) for name in self.space.names]
        self.start = torch.cat((logs, torch.stack(extra) if extra else logs[:0]))
        self.around = _Around(twin)
        self.begin = time.perf_counter()
        self.losses: list[float] = []
        self.checks: list[float] = []
        self.best: tuple[float, int, SpringTwin] = (math.inf, -1, twin)
        self.nonfinite = 0
        self.report: Any = lambda loss: None

    def made(self, variables: Tensor) -> SpringTwin:
        """The twin under the variables (M + K,)."""
        variables = variables.to(self.recording.actions.dtype)
        given = {} if self.space is None else {p.name: p.constrained(z) for p, z in zip(self.space.parameters, variables[self.size :], strict=True)}
        return self.twin.with_parameters(given).with_factors(variables[: self.size].exp())

    def check(self, variables: Tensor) -> None:
        """Keep what is best on the instants held back; where none is, what fits best."""
        with torch.no_grad():
            present = self.made(variables)
            errors = _errors(present, self.recording)
            held = slice(self.split, None) if self.split < self.recording.actions.shape[1] else slice(None)
            check = float(_loss(errors, held))
        if check < self.best[0] or not self.checks:
            self.best = (check, len(self.losses) - 1, self.twin if not self.checks else present)
        self.checks.append(check)

    def minimise(self, point: np.ndarray, length: int, steps: int) -> np.ndarray:
        """Fit the first instants, from a point."""
        part = self.recording.until(length)
        last: list[tuple[float, np.ndarray]] = [(math.inf, point)]
        count = 0

        def evaluate(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal count
            if count >= steps or time.perf_counter() > self.until:
                raise StopIteration
            count += 1
            variables = torch.from_numpy(numbers.copy()).requires_grad_()
            data = _loss(_errors(self.made(variables), part), slice(None))
            own = variables[: self.size]
            prior = (own / self.spread).square().sum() / 2 + ((own - self.around(own)) / self.smooth).square().sum() / 2
            total = data + prior / self.size
            (gradient,) = torch.autograd.grad(total, variables)
            bad = ~gradient.isfinite()
            self.nonfinite += int(bad.sum())
            self.losses.append(float(data.detach()))
            self.report(self.losses[-1])
            value = float(total.detach())
            if value < last[0][0]:
                last[0] = (value, numbers.copy())
                self.check(variables.detach())
            return value if math.isfinite(value) else 1e9, torch.where(bad, 0.0, gradient).numpy()

        with suppress(StopIteration):
            minimize(evaluate, point, jac=True, method="L-BFGS-B", bounds=[(-3 * self.spread, 3 * self.spread)] * len(point), options={"maxls": 8})
        return last[0][1]

    def result(self) -> SpringFit:
        """What was found."""
        _, kept, twin = self.best
        return SpringFit(_detached(twin), tuple(self.losses), tuple(self.checks), time.perf_counter() - self.begin, self.nonfinite, kept)


class _Around:
    """The mean over the springs at both ends of each spring."""

    def __init__(self, twin: SpringTwin) -> None:
        self.ends = twin.body.springs
        self.degree = torch.bincount(self.ends.flatten(), minlength=twin.body.particles).double().clamp_min(1.0)

    def __call__(self, values: Tensor) -> Tensor:
        sums = torch.zeros_like(self.degree)
        for end in self.ends.unbind(-1):
            sums = sums.index_add(0, end, values)
        means = sums / self.degree
        return (means[self.ends[:, 0]] + means[self.ends[:, 1]]) / 2


def _errors(twin: SpringTwin, recording: Recording[ParticleState]) -> list[Tensor]:
    """Of each kind of measurement, over its scale: (N, H, C)."""
    found = recording.compare(predict(twin, recording))
    return [value / recording.scales[name] for name, value in found.items()]


def _loss(errors: Sequence[Tensor], instants: slice) -> Tensor:
    """Mean over kinds of the mean negative log-likelihood under Student-t errors."""
    parts = []
    for error in errors:
        part = error[:, instants]
        known = ~part.isnan()
        if bool(known.any()):
            each = (torch.where(known, part, 0.0) ** 2 / DOF).log1p()
            parts.append((DOF + 1) / 2 * torch.where(known, each, 0.0).sum() / known.sum())
    return torch.stack(parts).mean()


def _detached(twin: SpringTwin) -> SpringTwin:
    kept = twin.with_parameters({name: value.detach().clone() for name, value in twin.values.items()})
    return kept.with_factors(None if twin.factors is None else twin.factors.detach().clone())
