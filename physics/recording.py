"""Recorded trajectories that a twin is calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from structwm.geometry.planar import wrap_angle
from structwm.state import State
from structwm.transition import Trajectory, TransitionModel

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Recording(Generic[S]):
    """N trajectories: where each started, what was done, and what was observed of some coordinates.

    Raises:
        ValueError: if shapes do not fit, nothing was observed, or an action or start state is not finite.
    """

    state: S  # start states, batch_size (N,)
    actions: Tensor  # (N, H, A); anything finite behind the end of a shorter trajectory
    observed: Mapping[str, Tensor]  # by coordinate name, (N, H+1) in the coordinate's unit, NaN where nothing was observed
    scale: Mapping[str, float]  # by coordinate name, the size of an error that matters, in the unit; a start value of the noise estimate
    periodic: frozenset[str] = frozenset()  # angles [rad], compared modulo 2 pi

    def __post_init__(self) -> None:
        if len(self.state.batch_size) != 1 or self.actions.ndim != 3 or self.actions.shape[0] != self.state.batch_size[0]:
            raise ValueError(
                f"Recording needs states of batch_size (N,) and actions (N, H, A), got {tuple(self.state.batch_size)} and {tuple(self.actions.shape)}."
            )
        if self.actions.shape[0] == 0 or not self.observed:
            raise ValueError("Recording is empty: it needs at least one trajectory and one observed coordinate.")
        for name, values in self.observed.items():
            expected = (self.actions.shape[0], self.actions.shape[1] + 1)
            if tuple(values.shape) != expected:
                raise ValueError(f"Recording.observed[{name!r}] must be (N, H+1) = {expected}, got {tuple(values.shape)}.")
            if not bool(values[:, 1:].isfinite().any()):
                raise ValueError(f"Recording.observed[{name!r}] holds no finite value after the start.")
            if not self.scale.get(name, 0.0) > 0:
                raise ValueError(f"Recording.scale needs a positive entry for {name!r}, got {self.scale.get(name)}.")
        if not bool(self.actions.isfinite().all()) or not all(bool(v.isfinite().all()) for v in self.state.values() if v is not None and v.is_floating_point()):
            raise ValueError("Recording has a start state or an action that is not finite.")

    def __len__(self) -> int:
        return self.actions.shape[0]

    def __getitem__(self, index: Any) -> Recording[S]:
        """Some of the trajectories, by a slice, a mask or an index tensor."""
        return Recording(self.state[index], self.actions[index], {name: values[index] for name, values in self.observed.items()}, self.scale, self.periodic)

    def split(self, fraction: float, *, seed: int = 0) -> tuple[Recording[S], Recording[S]]:
        """Two parts, the second with the given fraction of the trajectories, chosen at random (at least one in each part)."""
        held = min(max(round(fraction * len(self)), 1), len(self) - 1)
        if len(self) < 2:
            raise ValueError("A Recording of one trajectory cannot be split; pass held_out=None.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[held:].sort().values], self[order[:held].sort().values]

    def difference(self, name: str, predicted: Tensor, *, members: bool = False) -> Tensor:
        """`predicted - observed` of a coordinate after the start, (N, H) or (N, E, H); NaN where nothing was observed; angles wrapped."""
        observed = self.observed[name][:, 1:].to(predicted)
        delta = predicted[..., 1:] - (observed.unsqueeze(1) if members else observed)
        return wrap_angle(delta) if name in self.periodic else delta


def predict(model: TransitionModel[Any], recording: Recording[Any]) -> Trajectory:
    """The model's rollouts from a recording's starts, under its actions: batch axes (N,) or (N, E)."""
    members = model.spec.members
    state = recording.state if members == 1 else recording.state.unsqueeze(1).expand(len(recording), members)
    return model.rollout(state, recording.actions.clamp(model.spec.action.low.to(recording.actions), model.spec.action.high.to(recording.actions)))


def residuals(model: TransitionModel[Any], recording: Recording[Any]) -> dict[str, Tensor]:
    """Prediction errors by coordinate name, (N, H) or (N, E, H), in the coordinate's unit, NaN where nothing was observed.

    Raises:
        ValueError: if the recording observed a coordinate that the model's scene does not name.
    """
    trajectory = predict(model, recording)
    names, coordinates = trajectory.scene.coordinate_names(trajectory.states), trajectory.coordinates()
    unknown = [name for name in recording.observed if name not in names]
    if unknown:
        raise ValueError(f"The recording observed {unknown[0]!r}, which is no coordinate of this model; it has {', '.join(names)}.")
    members = model.spec.members > 1
    return {name: recording.difference(name, coordinates[..., names.index(name)], members=members) for name in recording.observed}
