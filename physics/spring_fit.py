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
from .student_t import student_t_loss

ANYWHERE = 1.5  # standard deviation of a logit for which all places between two bounds are about as likely
WIDE = 3.0  # bound of the steps of parameters, in units of their spread
MATERIAL = ("stiffness", "falloff", "damping", "attachment_stiffness", "drag")  # what is fitted along if nothing else is said


@dataclass(frozen=True)
class SpringFit:
    """What `fit_springs` found."""

    twin: SpringTwin  # with factors, those at which the instants held back were predicted best
    losses: tuple[float, ...]  # of each rollout, on the instants it was fitted on
    checks: tuple[float, ...]  # on what was held back: at the start, then of each rollout that lowered the loss
    seconds: float
    nonfinite: int  # gradients that were not finite, and were left out
    kept: int  # the rollout whose factors were kept, -1: the twin as it was


def fit_springs(
    twin: SpringTwin,
    recording: Recording[ParticleState],
    *,
    steps: int = 60,
    spread: float = 1.0,
    smooth: float = 0.3,
    held_back: float | Recording[ParticleState] = 0.2,
    also: Sequence[str] | None = None,
    each: bool = True,
    progress: bool = True,
) -> SpringFit:
    """Fit the stiffness of each spring, as a factor over what the parameters say, by gradients through rollouts from the start (L-BFGS).

    What the recording does not say is left to the prior: the logarithm of a factor is normal around that of the body, and near springs are alike. What is held
    back says whether and when the factors are kept; so factors that only fit noise are not. A long rollout that swings out of step says little of where to go:
    pieces that start anew from states estimated in between say more (`estimate_states`, `Recording.windows`).

    Args:
        twin: calibrated; its parameters stay but those in `also`.
        recording: trajectories with measurements.
        steps: rollouts with gradients at most.
        spread: standard deviation of the logarithm of a factor.
        smooth: standard deviation of the difference of logarithms between a spring and the mean of those at its ends.
        held_back: share of the instants, the last; or another recording; 0: what fits best is kept.
        also: parameters that are fitted along; if not given, stiffness, falloff, damping, attachment_stiffness and drag, as far as the twin has them: a
            stiffness by place is of little use under a wrong damping.
        each: whether each spring has a stiffness of its own; else only the parameters are fitted.
        progress: show a bar.

    Raises:
        ValueError: on a recording of something else, a share that leaves nothing to fit, no step, or nothing to fit at all.
    """
    check_recording(twin, recording)
    if not recording.measurements:
        raise ValueError("fit_springs needs a recording with measurements: tracks, clouds or images.")
    horizon = recording.actions.shape[1]
    checked, share_back = (held_back, 0.0) if isinstance(held_back, Recording) else (recording, held_back)
    check_recording(twin, checked)
    split = horizon - round(share_back * horizon)
    if not 0 <= share_back < 1 or split < 1:
        raise ValueError(f"fit_springs needs held_back from 0 to below 1 of at least one instant, got {share_back} of {horizon}.")
    if steps < 1:
        raise ValueError(f"fit_springs needs a step at least, got {steps}.")
    also = [name for name in MATERIAL if name in twin.physical] if also is None else list(also)
    if not also and not each:
        raise ValueError("fit_springs needs parameters in `also` where springs have no stiffness of their own.")
    with calibration_progress(progress) as bar:
        held = checked, slice(split, None) if split < horizon else slice(None)
        search = _Search(twin, recording, held, spread, smooth, also, each)
        task = bar.add_task("fitting springs", total=steps, loss=math.nan)
        search.report = lambda loss: bar.update(task, advance=1, loss=loss)
        search.check(search.start)
        search.minimise(split, steps)
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
    """The loss of logarithms of factors (M,), or none, and of the parameters that are fitted along, as steps from where they are over their spread (K,)."""

    def __init__(
        self,
        twin: SpringTwin,
        recording: Recording[ParticleState],
        held: tuple[Recording[ParticleState], slice],
        spread: float,
        smooth: float,
        also: Sequence[str],
        each: bool,
    ) -> None:
        self.twin, self.recording, self.held, self.spread, self.smooth = twin, recording, held, spread, smooth
        self.space = twin.space(also) if also else None
        self.size = len(twin.body.springs) if each else 0
        logs = torch.zeros(len(twin.body.springs), dtype=torch.float64) if twin.factors is None else twin.factors.detach().double().log()
        self.middle = self.widths = logs[:0]
        if self.space is not None:
            self.middle = torch.stack([twin.physical[name].unconstrained(twin.values[name]).double() for name in self.space.names])
            self.widths = Prior.of(self.space).covariance.diagonal().sqrt()
        self.start = torch.cat((logs[: self.size], torch.zeros_like(self.middle)))
        self.around = _Around(twin)
        self.begin = time.perf_counter()
        self.losses: list[float] = []
        self.checks: list[float] = []
        self.best: tuple[float, int, SpringTwin] = (math.inf, -1, twin)
        self.nonfinite = 0
        self.report: Any = lambda loss: None

    def made(self, variables: Tensor) -> SpringTwin:
        """The twin under the variables (M + K,)."""
        dtype = self.recording.actions.dtype
        z = self.middle + self.widths * variables[self.size :]
        given = {} if self.space is None else {p.name: p.constrained(one).to(dtype) for p, one in zip(self.space.parameters, z, strict=True)}
        twin = self.twin.with_parameters(given)
        return twin.with_factors(variables[: self.size].to(dtype).exp()) if self.size else twin

    def prior(self, variables: Tensor) -> Tensor:
        """Negative logarithm of the prior's density."""
        logs, steps = variables[: self.size], variables[self.size :]
        total = steps.square().sum() / 2
        if self.size:
            total = total + (logs / self.spread).square().sum() / 2 + ((logs - self.around(logs)) / self.smooth).square().sum() / 2
        return total

    def check(self, variables: Tensor) -> None:
        """Keep what is best on the instants held back; where none is, what fits best."""
        with torch.no_grad():
            present = self.made(variables)
            checked, instants = self.held
            check = float(_loss(_errors(present, checked), instants))
        if check < self.best[0] or not self.checks:
            self.best = (check, len(self.losses) - 1, self.twin if not self.checks else present)
        self.checks.append(check)

    def minimise(self, length: int, steps: int) -> None:
        """Fit the first instants."""
        part = self.recording.until(length)
        lowest, count = math.inf, 0

        def evaluate(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal count, lowest
            if count >= steps:
                raise StopIteration
            count += 1
            variables = torch.from_numpy(numbers.copy()).requires_grad_()
            data = _loss(_errors(self.made(variables), part), slice(None))
            total = data + self.prior(variables) / len(self.twin.body.springs)
            (gradient,) = torch.autograd.grad(total, variables)
            bad = ~gradient.isfinite()
            self.nonfinite += int(bad.sum())
            self.losses.append(float(data.detach()))
            self.report(self.losses[-1])
            value = float(total.detach())
            if value < lowest:
                lowest = value
                self.check(variables.detach())
            return value if math.isfinite(value) else 1e9, torch.where(bad, 0.0, gradient).numpy()

        bounds = [(-3 * self.spread, 3 * self.spread)] * self.size + [(-WIDE, WIDE)] * len(self.middle)
        with suppress(StopIteration):
            minimize(evaluate, self.start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxls": 8})

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
            parts.append(student_t_loss(torch.where(known, part, 0.0).square()) / known.sum())
    return torch.stack(parts).mean()


def _detached(twin: SpringTwin) -> SpringTwin:
    kept = twin.with_parameters({name: value.detach().clone() for name, value in twin.values.items()})
    return kept.with_factors(None if twin.factors is None else twin.factors.detach().clone())
