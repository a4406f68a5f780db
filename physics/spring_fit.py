"""A stiffness of each spring, by gradients through whole rollouts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .calibration import calibration_progress
from .recording import Recording, check_recording, predict
from .spring_body import SpringState
from .spring_twin import SpringTwin

DOF = 4.0  # of the Student-t loss, which lets outliers be


@dataclass(frozen=True)
class SpringFit:
    """What `fit_springs` found."""

    twin: SpringTwin  # with factors, those at which the held-back instants were predicted best
    losses: tuple[float, ...]  # of each step, on the instants it was fitted on
    checks: tuple[float, ...]  # of each step, on those held back; NaN without
    seconds: float
    nonfinite: int  # gradients that were not finite, and were left out
    kept: int  # the step whose factors were kept; 0: the twin as it was


def fit_springs(
    twin: SpringTwin,
    recording: Recording[SpringState],
    *,
    steps: int = 40,
    rate: float = 0.1,
    spread: float = 1.0,
    smooth: float = 0.3,
    held_back: float = 0.2,
    also: Sequence[str] = (),
    patience: int = 15,
    seconds: float = math.inf,
    progress: bool = True,
) -> SpringFit:
    """Fit the stiffness of each spring, as a factor over what the parameters say, by Adam through rollouts from start to end.

    What the recording does not say is left to the prior: the logarithm of a factor is normal around that of the body, and near springs are alike. The last
    instants are held back, and say which step's factors are kept; so factors that only fit noise are not.

    Args:
        twin: calibrated; its parameters stay but those in `also`.
        recording: trajectories with measurements.
        steps: of Adam at most.
        rate: its step, of logarithms.
        spread: standard deviation of the logarithm of a factor.
        smooth: standard deviation of the difference of logarithms between a spring and the mean of those at its ends.
        held_back: share of the instants, the last.
        also: parameters that are fitted along.
        patience: steps without progress on what is held back after which it ends.
        seconds: time after which it ends.
        progress: show a bar.

    Raises:
        ValueError: on a recording of something else, or a share that leaves nothing to fit.
    """
    check_recording(twin, recording)
    if not recording.measurements:
        raise ValueError("fit_springs needs a recording with measurements: tracks, clouds or images.")
    horizon = recording.actions.shape[1]
    split = horizon - round(held_back * horizon)
    if not 0 <= held_back < 1 or split < 1:
        raise ValueError(f"fit_springs needs held_back from 0 to below 1 of at least one instant, got {held_back} of {horizon}.")
    begin = time.perf_counter()
    space = twin.space(also) if also else None
    logs = torch.zeros(len(twin.body.springs), dtype=recording.actions.dtype) if twin.factors is None else twin.factors.detach().log().to(recording.actions)
    variables = [logs.clone().requires_grad_()]
    if space is not None:
        from .posterior import Prior

        variables.append(Prior.of(space).mean.clone())
        variables[1] = torch.stack([twin.physical[name].unconstrained(twin.values[name]) for name in space.names]).requires_grad_()
    around = _Around(twin)
    optimiser = torch.optim.Adam(variables, lr=rate)
    losses: list[float] = []
    checks: list[float] = []
    kept, best, nonfinite = 0, math.inf, 0
    result = twin

    def made() -> SpringTwin:
        given = {} if space is None else {p.name: p.constrained(z).to(logs) for p, z in zip(space.parameters, variables[1], strict=True)}
        return twin.with_parameters(given).with_factors(variables[0].exp())

    with calibration_progress(progress) as bar:
        task = bar.add_task("fitting springs", total=steps, loss=math.nan)
        for step in range(steps + 1):
            present = made()
            errors = _errors(present, recording)
            data = _loss(errors, slice(0, split))
            check = float(_loss(errors, slice(split, horizon))) if split < horizon else float(data)
            if check < best:
                best, kept = check, step
                result = twin if step == 0 else _detached(present)
            losses.append(float(data))
            checks.append(check if split < horizon else math.nan)
            bar.update(task, advance=1, loss=float(data))
            if step == steps or step - kept >= patience or time.perf_counter() - begin > seconds or not math.isfinite(float(data)):
                break
            prior = 0.5 * (variables[0] / spread).square().sum() + 0.5 * ((variables[0] - around(variables[0])) / smooth).square().sum()
            optimiser.zero_grad()
            (data + prior / around.count).backward()  # type: ignore[no-untyped-call]
            for variable in variables:
                assert variable.grad is not None
                bad = ~variable.grad.isfinite()
                nonfinite += int(bad.sum())
                variable.grad[bad] = 0.0
            optimiser.step()
    return SpringFit(result, tuple(losses), tuple(checks), time.perf_counter() - begin, nonfinite, kept)


class _Around:
    """The mean over the springs at both ends of each spring."""

    def __init__(self, twin: SpringTwin) -> None:
        self.ends = twin.body.springs
        self.particles = twin.body.particles
        self.count = len(self.ends)
        ones = torch.ones(self.count, dtype=torch.float64)
        self.degree = sum(ones.new_zeros(self.particles).index_add(0, end, ones) for end in self.ends.unbind(-1))

    def __call__(self, values: Tensor) -> Tensor:
        sums: Any = sum(values.new_zeros(self.particles).index_add(0, end, values) for end in self.ends.unbind(-1))
        means = sums / torch.as_tensor(self.degree).to(values).clamp_min(1.0)
        return (means[self.ends[:, 0]] + means[self.ends[:, 1]]) / 2


def _errors(twin: SpringTwin, recording: Recording[SpringState]) -> list[Tensor]:
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
            parts.append((DOF + 1) / 2 * torch.where(known, (part.nan_to_num(0.0) ** 2 / DOF).log1p(), 0.0).sum() / known.sum())
    return torch.stack(parts).mean()


def _detached(twin: SpringTwin) -> SpringTwin:
    kept = twin.with_parameters({name: value.detach().clone() for name, value in twin.values.items()})
    return kept.with_factors(None if twin.factors is None else twin.factors.detach().clone())
