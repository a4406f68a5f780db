"""Open-loop prediction errors: rollouts from where windows start, under the actions that were taken, against what was observed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.ensemble import disagreement
from structwm.state import fields_of, state_of
from structwm.transition import Trajectory, TransitionModel

from .windows import Batch


@dataclass(frozen=True)
class OpenLoop:
    """Prediction errors of N windows over H steps: NaN where nothing was observed, infinite where a prediction is no number. Of members, their mean."""

    names: tuple[str, ...]  # of the D coordinates
    units: tuple[str, ...]
    errors: Tensor  # (N, H, D) predicted minus observed, in the coordinates' units
    changes: Tensor  # (N, H, D) observed minus where the window started: what holding still would miss
    point_errors: Tensor | None = None  # (N, H) mean distance of corresponding points [m], where the scene shows points
    point_changes: Tensor | None = None  # (N, H) [m] of holding still
    spread: Tensor | None = None  # (N, H, D) standard deviation over members
    disagreement: Tensor | None = None  # (N, H) [m] of members on the points view
    by_points: bool = False  # whether `relative` is of points (`Scene.by_points`)

    def curve(self) -> dict[str, Tensor]:
        """Mean absolute error per step of each coordinate, (H,); NaN at steps where nothing was observed."""
        return dict(zip(self.names, self.errors.abs().nanmean(0).unbind(-1), strict=True))

    def still(self) -> dict[str, Tensor]:
        """The same of holding still."""
        return dict(zip(self.names, self.changes.abs().nanmean(0).unbind(-1), strict=True))

    def relative(self) -> Tensor:
        """Error of each window over that of holding still, averaged over coordinates that move and steps that were observed, (N,).

        The error of each coordinate is divided by the mean change of that coordinate over all windows and steps. Where points decide (`by_points`), it is their
        distance over that of holding still: of many objects that go sideways, none should be judged by how little it goes up.
        """
        if self.by_points and self.point_errors is not None and self.point_changes is not None:
            return (self.point_errors / self.point_changes.nanmean().clamp_min(1e-12)).nanmean(1)
        scale = self.changes.abs().nanmean((0, 1))
        moves = scale > 0
        return (self.errors[..., moves].abs() / scale[moves]).nanmean((1, 2))

    def __getitem__(self, rows: Any) -> OpenLoop:
        """Some of the windows."""
        optional = {name: None if value is None else value[rows] for name, value in self._optional().items()}
        return OpenLoop(self.names, self.units, self.errors[rows], self.changes[rows], by_points=self.by_points, **optional)

    def _optional(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in ("point_errors", "point_changes", "spread", "disagreement")}


def open_loop_errors(model: TransitionModel[Any], windows: Any, *, batch: int = 1024) -> OpenLoop:
    """Roll a model out from the start of each window and compare.

    Args:
        model: any model; evaluated as it predicts, not as it trains, and without gradients.
        windows: a `Batch`, `EpisodeWindows`, or anything sliced alike; those whose start was not fully observed have no errors.
        batch: windows rolled out at once.

    Raises:
        ValueError: if there are no windows.
    """
    if len(windows) == 0:
        raise ValueError("open_loop_errors needs at least one window, got none.")
    weight = next(model.parameters(), None)
    with torch.no_grad(), evaluating(model):
        parts = (windows[first : first + batch] for first in range(0, len(windows), batch))
        return joined([_errors(model, part if weight is None else part.to(weight.device)) for part in parts])


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def joined(parts: Sequence[OpenLoop]) -> OpenLoop:
    """The errors of several sets of windows of one horizon as one."""
    first = parts[0]
    optional = {name: None if value is None else torch.cat([getattr(part, name) for part in parts]) for name, value in first._optional().items()}
    errors, changes = (torch.cat([getattr(part, name) for part in parts]) for name in ("errors", "changes"))
    return OpenLoop(first.names, first.units, errors, changes, by_points=first.by_points, **optional)


def predict(model: TransitionModel[Any], batch: Batch) -> Trajectory:
    """The rollout from each window's start under its actions, batch axes (N,) or (N, E). Actions a rounding error beyond the bounds are brought inside."""
    members = model.spec.members
    start = batch.start if members == 1 else batch.start.unsqueeze(1).expand(len(batch), members)
    actions = batch.actions
    if model.spec.action.kind == "continuous":
        inside = model.spec.action.project(actions)
        if bool(((inside - actions).abs() <= 1e-5 * (1 + actions.abs())).all()):
            actions = inside
    return model(start, actions)


def _errors(model: TransitionModel[Any], batch: Batch) -> OpenLoop:
    return errors_of_rollout(predict(model, batch), batch)


def errors_of_rollout(trajectory: Trajectory, batch: Batch) -> OpenLoop:
    """Compare what `predict` gave, batch axes (N,) or (N, E), with the windows it was given."""
    scene, states, spread, apart = trajectory.scene, trajectory.states, None, None
    if len(trajectory.batch_shape) > 1:
        mean = scene.average(states, 1)
        spread = scene.coordinate_difference(states, mean.unsqueeze(1)).square().mean(1).sqrt()[:, 1:]
        apart = disagreement(trajectory)[:, 1:] if "points" in scene.views else None
        states = mean
    unseen = ~(batch.valid[:, 1:] & batch.observed()[:, :1])[..., None]
    errors = scene.coordinate_difference(states, batch.states)[:, 1:]
    begin = state_of(type(batch.states), {name: value[:, :1].expand_as(value) for name, value in fields_of(batch.states).items()}, batch.states.batch_size)
    changes = scene.coordinate_difference(batch.states, begin)[:, 1:].masked_fill(unseen, float("nan"))
    errors = _where_seen(errors, changes)
    points: dict[str, Tensor] = {}
    if "points" in scene.views:
        still = _point_distance(scene, begin, batch.states).masked_fill(unseen[..., 0], float("nan"))
        points = {"point_errors": _where_seen(_point_distance(scene, states, batch.states), still), "point_changes": still}
    names, units = scene.coordinate_names(batch.states), scene.coordinate_units(batch.states)
    return OpenLoop(names, units, errors, changes, spread=spread, disagreement=apart, by_points=scene.by_points, **points)


def _where_seen(errors: Tensor, changes: Tensor) -> Tensor:
    """Errors that are NaN where nothing was observed, and infinite where something was but the prediction is no number: it must not pass for unobserved."""
    return torch.where(changes.isfinite(), torch.where(errors.isfinite(), errors, math.inf), math.nan)


def _point_distance(scene: Any, states: Any, observed: Any) -> Tensor:
    """Mean distance (N, H) [m] of corresponding points after the start; masked points left out."""
    ours, theirs = scene.points(states), scene.points(observed)
    distance = (ours.positions - theirs.positions).norm(dim=-1)[:, 1:]
    if theirs.mask is None:
        return distance.mean(-1)
    seen = theirs.mask[:, 1:]
    return torch.where(seen, distance, 0.0).sum(-1) / seen.sum(-1)


def clustered_standard_error(values: np.ndarray, cluster: np.ndarray) -> float:
    """Of the mean of values (N,), those of one cluster, int (N,), depending on each other (Liang and Zeger, Biometrika 1986); NaN of one cluster."""
    _, place = np.unique(cluster, return_inverse=True)
    count = place.max() + 1
    rest = np.bincount(place, values - values.mean())
    return float(np.linalg.norm(rest) / len(values) * np.sqrt(count / (count - 1))) if count > 1 else math.nan
