"""The check that asks whether states and actions are like those that a model knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from structwm.planning.risk import Risk
from structwm.scene import Scene
from structwm.spec import HybridAction
from structwm.training.novelty import Mahalanobis, NearestNeighbours
from structwm.training.windows import Batch
from structwm.transition import Trajectory, TransitionModel

from .checks import Check, Measured, Reason

Features = Callable[[Trajectory], Tensor]
"""From a trajectory of batch *B to features (*B, H, F) of the state and action of each step."""
BANK = 4096  # transitions that the nearest are looked up among


@dataclass(frozen=True)
class StateAction:
    """The default features: coordinates, angles as sine and cosine, and the action, choices one-hot and unused parameters 0.

    Leave out coordinates on which nothing depends, such as where on a table things happen: they make everything look new.
    """

    scene: Scene
    choices: int  # of discrete actions
    coordinates: tuple[str, ...] = ()  # all where empty

    def __call__(self, trajectory: Trajectory) -> Tensor:
        states = trajectory.states[(slice(None),) * len(trajectory.batch_shape) + (slice(None, -1),)]
        values, parts = self.scene.coordinates(states), []
        for name, column in zip(self.scene.coordinate_names(states), values.unbind(-1), strict=True):
            if not self.coordinates or name in self.coordinates:
                parts += [column.sin(), column.cos()] if name in self.scene.periodic else [column]
        return torch.cat((torch.stack(parts, -1), self._action(trajectory.actions).to(values)), -1)

    def _action(self, actions: Any) -> Tensor:
        if isinstance(actions, HybridAction):
            used = actions.parameters if actions.mask is None else actions.parameters * actions.mask
            return torch.cat((torch.nn.functional.one_hot(actions.index, self.choices).to(used), used), -1)
        assert isinstance(actions, Tensor)
        return actions if actions.is_floating_point() else torch.nn.functional.one_hot(actions, self.choices)


class Novelty(Check):
    """A step's state and action are far from those that the model was fitted to, in whitened features; of members, in the mean of their features.

    Args:
        scorer: scores features (N, F), higher the less they resemble what it knows: `NearestNeighbours` or `Mahalanobis` of `structwm.training`.
        features: of each step.
        limit: learnt by `ActionFilter.calibrated` where None.
    """

    reason, learnt = Reason.OUT_OF_DISTRIBUTION, True

    def __init__(self, scorer: NearestNeighbours | Mahalanobis, features: Features, *, limit: float | None = None, name: str = "novelty") -> None:
        self.scorer, self.features, self.limit, self.name = scorer, features, limit, name

    @classmethod
    def fit(
        cls,
        model: TransitionModel[Any],
        windows: Any,
        *,
        coordinates: Sequence[str] = (),
        features: Features | None = None,
        method: Literal["nearest", "mahalanobis"] = "nearest",
        neighbours: int = 5,
        seed: int = 0,
    ) -> Self:
        """From what the model was fitted to, or more like it; not from what the filter is calibrated on, where it would find everything familiar.

        Args:
            model: gives the scene and the action space.
            windows: a `Batch`, `EpisodeWindows`, or anything sliced alike.
            coordinates: names of those that count; all by default.
            features: in place of coordinates and action, for example what is the same wherever things happen.
            method: distance to the nearest known steps (Sun et al., ICML 2022), or to their mean in units of their covariance.
            neighbours: k, the distance to the k-th nearest is the score.
            seed: of the choice of `BANK` steps where there are more.

        Raises:
            ValueError: on unknown names, or too few steps that were observed.
        """
        if method not in ("nearest", "mahalanobis"):
            raise ValueError(f"Novelty knows the methods nearest and mahalanobis, got {method!r}.")
        batch: Batch = windows[: len(windows)]
        names = model.scene.coordinate_names(batch.states)
        unknown = [name for name in coordinates if name not in names]
        if unknown:
            raise ValueError(f"There is no coordinate {unknown[0]!r}; this scene has {', '.join(names)}.")
        reader = features or StateAction(model.scene, model.spec.action.choices, tuple(coordinates))
        rows = reader(recorded(model, batch))[batch.valid[:, 1:]]
        rows = rows[rows.isfinite().all(-1)]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:BANK].to(rows.device)]
        return cls(NearestNeighbours.fit(rows, k=neighbours) if method == "nearest" else Mahalanobis.fit(rows), reader)

    def measure(self, trajectory: Trajectory, risk: Risk) -> Measured:
        features = self.features(trajectory).mean(2)
        finite = features.isfinite().all(-1)
        scores = self.scorer.score(torch.where(finite.unsqueeze(-1), features, 0.0).flatten(0, -2)).reshape(features.shape[:-1])
        steps = scores.masked_fill(~finite, torch.inf).to(torch.float32)
        return Measured(steps.amax(-1), steps)

    def words(self, value: float, limit: float) -> str:
        return f"state and action are {value:.3g} deviations from what the model knows, {limit:.3g} is usual"


def recorded(model: TransitionModel[Any], batch: Batch) -> Trajectory:
    """What was observed, as a trajectory of batch axes (N,)."""
    times = torch.arange(batch.horizon + 1, device=batch.valid.device) * (model.spec.dt or 0.0)
    return Trajectory(model.scene, batch.states, batch.actions, times.expand(len(batch), -1), batch.valid)
