"""Regions around a calibrated twin's predictions that hold a stated share of what is observed: narrow where draws from the posterior agree."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.planar import wrap_angle
from structwm.training.conformal import ConformalRegions
from structwm.training.spread_scale import SpreadScale

from .calibration import Calibration
from .recording import Recording, residuals

Fit = Callable[[list[Recording[Any]]], Sequence[Calibration[Any]]]
DRAWS = 32


@dataclass(frozen=True)
class TwinRegions:
    """Conformal regions of several calibrated twins together, scaled by what draws of their parameters say.

    The variance over draws of a twin's posterior tells which pushes are hard to predict: contacts about to stick or slip, edges. It is far too small as a
    variance of the error, whose size `scale` learns from errors out of fold. Twins whose errors are larger than others' have larger regions (`groups`).
    """

    regions: ConformalRegions
    scale: SpreadScale
    names: tuple[str, ...]  # of the D coordinates
    draws: int = DRAWS

    @classmethod
    def fit(
        cls,
        calibrations: Sequence[Calibration[Any]],
        recordings: Sequence[Recording[Any]],
        errors: Sequence[Tensor],
        labels: Sequence[Hashable],
        *,
        level: float = 0.9,
        kind: Any = "box",
        draws: int = DRAWS,
    ) -> TwinRegions:
        """From K twins, the recordings they were calibrated on, and the errors (N, H, D) of each recording out of fold (`out_of_fold_errors`).

        The errors may be another model's that the twins only lend their spread, such as corrections of them: the regions are then around its predictions.

        Raises:
            ValueError: if there is not one recording, one tensor of errors and one label per twin, or too few errors for the level.
        """
        if not len(calibrations) == len(recordings) == len(errors) == len(labels) > 0:
            raise ValueError(
                f"TwinRegions needs one recording, errors and label per twin, got {len(calibrations)}, {len(recordings)}, {len(errors)} and {len(labels)}."
            )
        names = tuple(recordings[0].observed)
        variance = torch.cat([posterior_variance(c, r, draws=draws) for c, r in zip(calibrations, recordings, strict=True)])
        groups = [label for label, recording in zip(labels, recordings, strict=True) for _ in range(len(recording))]
        together = torch.cat(list(errors))
        scale = SpreadScale.fit(together, variance)
        periodic = [i for i, name in enumerate(names) if name in recordings[0].periodic]
        return cls(ConformalRegions.fit(together, scale(variance), level=level, kind=kind, periodic=periodic, groups=groups), scale, names, draws)

    def spread(self, calibration: Calibration[Any], recording: Recording[Any]) -> Tensor:
        """Scale of each error (N, H, D)."""
        return self.scale(posterior_variance(calibration, recording, draws=self.draws))

    def half_widths(self, calibration: Calibration[Any], recording: Recording[Any], label: Hashable) -> Tensor:
        """(N, H, D) around the twin's predictions, in the coordinates' units."""
        return self.regions.half_widths(self.spread(calibration, recording), [label] * len(recording))

    def contains(self, calibration: Calibration[Any], recording: Recording[Any], label: Hashable, errors: Tensor | None = None) -> Tensor:
        """Whether what was observed lies inside, bool (N, H), or (N, H, D) for the kind `each`.

        Args:
            calibration: gives the spread, and the predictions.
            recording: what was observed.
            label: of the twin.
            errors: (N, H, D) of predictions by another model whose errors the regions were fitted to, such as a correction of the twin.
        """
        errors = errors_of(calibration, recording) if errors is None else errors
        return self.regions.contains(errors, self.spread(calibration, recording), [label] * len(recording))


def errors_of(calibration: Calibration[Any], recording: Recording[Any]) -> Tensor:
    """Predicted minus observed, (N, H, D) in the order of `recording.observed`, NaN where nothing was observed."""
    return torch.stack(list(residuals(calibration.twin, recording).values()), -1).double()


def posterior_variance(calibration: Calibration[Any], recording: Recording[Any], *, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Variance of the predicted coordinates over twins drawn from the posterior, (N, H, D) in squared units. Drawn, as stick and slip are far from linear."""
    members = residuals(calibration.sample(draws, seed=seed).joint, recording)  # type: ignore[arg-type]
    centre = residuals(calibration.twin, recording)
    known = {name: torch.where(value.isfinite(), value, 0.0) for name, value in members.items()}
    moved = {name: _wrap(known[name] - torch.where(centre[name].isfinite(), centre[name], 0.0)[:, None], name, recording) for name in known}
    return torch.stack([value.double().var(1) for value in moved.values()], -1)


def _wrap(value: Tensor, name: str, recording: Recording[Any]) -> Tensor:
    """Differences of a coordinate, modulo 2 pi where it is an angle."""
    return wrap_angle(value) if name in recording.periodic else value


def out_of_fold_errors(fit: Fit, recordings: Sequence[Recording[Any]], *, folds: int = 5, seed: int = 0) -> list[Tensor]:
    """Errors (N, H, D) of each recording, each trajectory predicted by a twin that was calibrated without its fold.

    Args:
        fit: calibrates all twins on parts of their recordings.
        recordings: one for each twin.
        folds: how many parts each is cut into.
        seed: of the cut.

    Raises:
        ValueError: if a recording has fewer trajectories than folds.
    """
    short = [len(recording) for recording in recordings if len(recording) < folds]
    if short or folds < 2:
        raise ValueError(f"Errors out of fold need at least 2 folds and as many trajectories, got {folds} folds and a recording of {(short or [0])[0]}.")
    fold = [torch.randperm(len(r), generator=torch.Generator().manual_seed(seed + k)) % folds for k, r in enumerate(recordings)]
    errors = [torch.full((*r.actions.shape[:2], len(r.observed)), torch.nan, dtype=torch.float64) for r in recordings]
    for f in range(folds):
        calibrations = fit([r[(part != f).nonzero()[:, 0]] for r, part in zip(recordings, fold, strict=True)])
        for calibration, recording, part, found in zip(calibrations, recordings, fold, errors, strict=True):
            at = (part == f).nonzero()[:, 0]
            found[at] = errors_of(calibration, recording[at])
    return errors
