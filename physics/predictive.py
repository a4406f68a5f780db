"""Predictive intervals: where an observation will lie, given a calibrated twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration
from .posterior import Likelihood
from .recording import Recording, residuals


@dataclass(frozen=True)
class Prediction:
    """Predictive intervals of one coordinate, each (N, H)."""

    error: Tensor  # predicted minus observed, in the unit; NaN where nothing was observed
    half_width: Tensor  # of the interval around the prediction, in the unit

    @property
    def covered(self) -> Tensor:
        """Which observations lie inside, bool, of those observed, (M,)."""
        known = self.error.isfinite()
        return (self.error.abs() <= self.half_width)[known]


@dataclass(frozen=True)
class PredictiveIntervals:
    """Intervals `prediction +- factor * s` with `s^2 = posterior variance of the prediction + noise^2`.

    The factor of each coordinate is the quantile of the calibration's own errors over s, each error as it would be had its trajectory been left out of the fit
    (the first-order jackknife, Cook 1977): split-conformal intervals normalised by s (Lei et al., JASA 2018) without a second split.
    """

    factors: Mapping[str, float]  # by coordinate
    level: float

    @classmethod
    def fit(cls, calibrations: Sequence[Calibration[Any]], recordings: Sequence[Recording[Any]], *, level: float = 0.9) -> PredictiveIntervals:
        """From twins and the recordings they were calibrated on, pooled."""
        if not 0.0 < level < 1.0 or len(calibrations) != len(recordings) or not calibrations:
            raise ValueError(f"PredictiveIntervals needs a level in (0, 1) and one recording per calibration, got {level} and {len(recordings)}.")
        ratios: dict[str, list[Tensor]] = {name: [] for name in recordings[0].observed}
        for calibration, recording in zip(calibrations, recordings, strict=True):
            likelihood = _likelihood(calibration, recording)
            errors, spread, weight = _terms(calibration, likelihood)
            left_out = errors / (1.0 - (weight * spread).clamp(0.0, 0.95))
            scaled = (left_out / (1.0 + spread).sqrt()).abs().unflatten(0, likelihood.known.shape)
            for column, name in enumerate(likelihood.names):
                ratios[name].append(scaled[likelihood.known[:, column], column])
        factors = {}
        for name, parts in ratios.items():
            values = torch.cat(parts).sort().values
            rank = min(int(torch.tensor(level * (len(values) + 1)).ceil()), len(values)) - 1
            factors[name] = float(values[rank])
        return cls(factors, level)

    def predict(self, calibration: Calibration[Any], recording: Recording[Any]) -> dict[str, Prediction]:
        """Intervals for the trajectories of a recording, by coordinate."""
        likelihood = _likelihood(calibration, recording)
        _, spread, _ = _terms(calibration, likelihood)
        scale = (1.0 + spread).sqrt().unflatten(0, likelihood.known.shape)
        errors = residuals(calibration.twin, recording)
        shape = recording.actions.shape[:2]
        return {
            name: Prediction(errors[name], (self.factors[name] * likelihood.noise[name] * scale[:, column]).reshape(shape))
            for column, name in enumerate(likelihood.names)
        }


def _likelihood(calibration: Calibration[Any], recording: Recording[Any]) -> Likelihood:
    likelihood = Likelihood(calibration.twin, recording, calibration.space, dof=calibration.dof, step=1e-3)
    likelihood.noise = dict(calibration.noise)
    return likelihood


def _terms(calibration: Calibration[Any], likelihood: Likelihood) -> tuple[Tensor, Tensor, Tensor]:
    """Errors, their posterior variances and their weights, each (M,), in units of the noise."""
    errors, jacobian = likelihood.errors(calibration.z[None])[0], likelihood.jacobian(calibration.z)
    return errors, ((jacobian @ calibration.covariance) * jacobian).sum(-1), likelihood.weights(errors)
