"""Recorded trajectories that a twin is calibrated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from structwm.geometry.planar import wrap_angle
from structwm.state import State
from structwm.transition import Trajectory, TransitionModel

from .measurements import Measurement, check_measurements

if TYPE_CHECKING:
    from .twin import Twin

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Recording(Generic[S]):
    """N trajectories: where each started, what was done, and what was observed.

    Raises:
        ValueError: if shapes do not fit, nothing was observed, or an action or start state is not finite.
    """

    state: S  # start states, batch_size (N,)
    actions: Tensor  # (N, H, A); anything finite behind the end of a shorter trajectory
    observed: Mapping[str, Tensor] = field(default_factory=dict)  # by coordinate name, (N, H+1) in the coordinate's unit, NaN where nothing was observed
    scale: Mapping[str, float] = field(default_factory=dict)  # by coordinate name, the size of an error that matters, in the unit; starts the noise estimate
    periodic: frozenset[str] = frozenset()  # angles [rad], compared modulo 2 pi
    measurements: tuple[Measurement, ...] = ()  # of poses, points, images
    start_spread: Mapping[str, float] = field(default_factory=dict)  # by name of the twin's displacements: how far off start states may be (1 std), in the unit
    origin: Tensor | None = None  # int64 (N,), which run a trajectory was cut from: trajectories of one run err together

    def __post_init__(self) -> None:
        if len(self.state.batch_size) != 1 or self.actions.ndim != 3 or self.actions.shape[0] != self.state.batch_size[0]:
            raise ValueError(
                f"Recording needs states of batch_size (N,) and actions (N, H, A), got {tuple(self.state.batch_size)} and {tuple(self.actions.shape)}."
            )
        if self.actions.shape[0] == 0 or self.actions.shape[1] == 0 or not (self.observed or self.measurements):
            raise ValueError("Recording is empty: it needs at least one trajectory of one step, and one observed coordinate or measurement.")
        for name, values in self.observed.items():
            expected = (self.actions.shape[0], self.actions.shape[1] + 1)
            if tuple(values.shape) != expected:
                raise ValueError(f"Recording.observed[{name!r}] must be (N, H+1) = {expected}, got {tuple(values.shape)}.")
            if not bool(values[:, 1:].isfinite().any()):
                raise ValueError(f"Recording.observed[{name!r}] holds no finite value after the start.")
            if not self.scale.get(name, 0.0) > 0:
                raise ValueError(f"Recording.scale needs a positive entry for {name!r}, got {self.scale.get(name)}.")
        check_measurements(self.measurements, *self.actions.shape[:2], taken=frozenset(self.observed))
        if not bool(self.actions.isfinite().all()) or not all(bool(v.isfinite().all()) for v in self.state.values() if v is not None and v.is_floating_point()):
            raise ValueError("Recording has a start state or an action that is not finite.")
        if self.origin is not None and tuple(self.origin.shape) != (len(self),):
            raise ValueError(f"Recording.origin must be (N,) = {(len(self),)}, got {tuple(self.origin.shape)}.")
        for name, spread in self.start_spread.items():
            if not spread > 0:
                raise ValueError(f"Recording.start_spread needs a positive entry for {name!r}, got {spread}.")

    def __len__(self) -> int:
        return self.actions.shape[0]

    def __getitem__(self, index: Any) -> Recording[S]:
        """Some of the trajectories, by a slice, a mask or an index tensor."""
        return replace(
            self,
            state=self.state[index],
            actions=self.actions[index],
            observed={name: values[index] for name, values in self.observed.items()},
            measurements=tuple(measurement[index] for measurement in self.measurements),
            origin=None if self.origin is None else self.origin[index],
        )

    def until(self, steps: int) -> Recording[S]:
        """The first steps of all trajectories.

        Raises:
            ValueError: if there are not as many, or nothing was observed in them.
        """
        if not 0 < steps <= self.actions.shape[1]:
            raise ValueError(f"Recording.until needs from 1 to {self.actions.shape[1]} steps, got {steps}.")
        return self._pieces(self.state, (0,), steps)

    def windows(self, states: S, length: int, stride: int) -> Recording[S]:
        """Pieces of all trajectories, each started anew from what is known of the state then: short ones do not swing out of step.

        Args:
            states: at all instants (N, H+1).
            length: steps of a piece.
            stride: steps from the start of a piece to that of the next.

        Raises:
            ValueError: if no piece of that length fits in, the states are others, or nothing was observed in the pieces.
        """
        count, horizon = self.actions.shape[:2]
        if tuple(states.batch_size) != (count, horizon + 1) or not 0 < length <= horizon or stride < 1:
            raise ValueError(
                f"Recording.windows needs states (N, H+1) = {(count, horizon + 1)}, a length from 1 to {horizon} and a stride of 1 or more, "
                f"got {tuple(states.batch_size)}, {length} and {stride}."
            )
        starts = range(0, horizon - length + 1, stride)
        return self._pieces(cast(S, torch.cat(cast(Any, [states[:, start] for start in starts]), 0)), starts, length)

    def _pieces(self, state: S, starts: Sequence[int], length: int) -> Recording[S]:
        """Pieces from states (S N,), those from the first start before those from the second."""
        return replace(
            self,
            state=state,
            actions=torch.cat([self.actions[:, start : start + length] for start in starts]),
            observed={name: torch.cat([values[:, start : start + length + 1] for start in starts]) for name, values in self.observed.items()},
            measurements=tuple(measurement.windows(starts, length) for measurement in self.measurements),
            origin=self.origin if len(starts) == 1 else self.runs.repeat(len(starts)),
        )

    @property
    def scales(self) -> dict[str, float]:
        """By the name of what was observed, coordinates and measurements, the size of an error that matters."""
        return {name: self.scale[name] for name in self.observed} | {n: s for measurement in self.measurements for n, s in measurement.scales.items()}

    @property
    def runs(self) -> Tensor:
        """Which run each trajectory belongs to, int64 (N,)."""
        return torch.arange(len(self)) if self.origin is None else self.origin

    def split(self, fraction: float, *, seed: int = 0) -> tuple[Recording[S], Recording[S]]:
        """Two parts, the second with the given fraction of the runs, chosen at random (at least one in each part)."""
        runs = self.runs.unique()
        if len(runs) < 2:
            raise ValueError("A Recording of one trajectory cannot be split; pass held_out=None.")
        held = min(max(round(fraction * len(runs)), 1), len(runs) - 1)
        order = runs[torch.randperm(len(runs), generator=torch.Generator().manual_seed(seed))]
        aside = torch.isin(self.runs, order[:held])
        return self[~aside], self[aside]

    def difference(self, name: str, predicted: Tensor, *, members: bool = False) -> Tensor:
        """`predicted - observed` of a coordinate after the start, (N, H) or (N, E, H); NaN where nothing was observed; angles wrapped."""
        observed = self.observed[name][:, 1:].to(predicted)
        delta = predicted[..., 1:] - (observed.unsqueeze(1) if members else observed)
        return wrap_angle(delta) if name in self.periodic else delta

    def compare(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """Predicted minus observed by name, (N, H, C) or (N, E, H, C); a coordinate has C = 1.

        Raises:
            ValueError: if the recording observed a coordinate that the scene does not name.
        """
        members, found = len(trajectory.batch_shape) > 1, {}
        if self.observed:
            names, coordinates = trajectory.scene.coordinate_names(trajectory.states), trajectory.coordinates()
            self.check_names(names)
            for name in self.observed:
                found[name] = self.difference(name, coordinates[..., names.index(name)], members=members).unsqueeze(-1)
        for measurement in self.measurements:
            found |= measurement.residual(trajectory)
        return found

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse to compare with coordinates of other names."""
        unknown = [name for name in self.observed if name not in names]
        if unknown:
            raise ValueError(f"The recording observed {unknown[0]!r}, which is no coordinate of this model; it has {', '.join(names)}.")

    def magnitudes(self, differences: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One error an instant by name, (..., H), of what `compare` gives."""
        of = {name: measurement for measurement in self.measurements for name in measurement.scales}
        return {name: of[name].magnitude(value) if name in of else value.squeeze(-1).abs() for name, value in differences.items()}


def join(recordings: Sequence[Recording[S]]) -> Recording[S]:
    """Trajectories of several recordings of coordinates as one, padded to the longest.

    Raises:
        ValueError: if there are none, or they observed different coordinates, or hold measurements of other kinds.
    """
    if not recordings:
        raise ValueError("join needs at least one recording, got none.")
    first = recordings[0]
    if any(set(r.observed) != set(first.observed) or r.measurements for r in recordings):
        raise ValueError("join needs recordings of the same coordinates, and no other measurements.")
    horizon = max(r.actions.shape[1] for r in recordings)

    def padded(values: Tensor, length: int, fill: float) -> Tensor:
        return torch.cat([values, values.new_full((values.shape[0], length - values.shape[1], *values.shape[2:]), fill)], 1)

    runs, start = [], 0
    for recording in recordings:
        runs.append(recording.runs + start)
        start = int(runs[-1].max()) + 1
    return replace(
        first,
        state=cast(Any, torch.cat(cast(Any, [r.state for r in recordings]), 0)),
        actions=torch.cat([padded(r.actions, horizon, 0.0) for r in recordings]),
        observed={name: torch.cat([padded(r.observed[name], horizon + 1, float("nan")) for r in recordings]) for name in first.observed},
        origin=torch.cat(runs),
    )


def check_recording(twin: Twin[Any], recording: Recording[Any]) -> None:
    """Refuse a recording of something else than a twin.

    Raises:
        TypeError: if it is no recording.
        ValueError: if its states, actions, coordinates or bodies are not the twin's.
    """
    name = type(twin).__name__
    if not isinstance(recording, Recording):
        raise TypeError(f"{name} is compared with a Recording, got {type(recording).__name__}.")
    if not isinstance(recording.state, twin.spec.state_type):
        raise ValueError(f"{name} starts from {twin.spec.state_type.__name__}, and the recording from {type(recording.state).__name__}; it is of another twin.")
    has, needs = twin.scene.coordinates(recording.state[:1]).shape[-1], len(twin.scene.coordinate_names(recording.state))
    if has != needs:
        raise ValueError(f"{name} has states of {needs} numbers, and the recording's have {has}; it is of another world.")
    if recording.actions.shape[-1] != twin.spec.action.size:
        raise ValueError(f"{name} takes {twin.spec.action.size} actions, and the recording has {recording.actions.shape[-1]}; it is of another world.")
    recording.check_names(twin.scene.coordinate_names(recording.state))
    for measurement in recording.measurements:
        measurement.check(twin.scene)


def predict(model: TransitionModel[Any], recording: Recording[Any]) -> Trajectory:
    """The model's rollouts from a recording's starts, under its actions: batch axes (N,) or (N, E)."""
    members = model.spec.members
    state = recording.state if members == 1 else recording.state.unsqueeze(1).expand(len(recording), members)
    return model.rollout(state, recording.actions.clamp(model.spec.action.low.to(recording.actions), model.spec.action.high.to(recording.actions)))


def persistence(model: TransitionModel[Any], recording: Recording[Any]) -> Trajectory:
    """The start states held still, batch axes (N,)."""
    horizon = recording.actions.shape[1]
    states = recording.state.unsqueeze(-1).expand(len(recording), horizon + 1)
    times = torch.zeros(len(recording), horizon + 1)
    return Trajectory(model.scene, states, recording.actions, times, torch.ones_like(times, dtype=torch.bool))


def residuals(model: TransitionModel[Any], recording: Recording[Any]) -> dict[str, Tensor]:
    """Prediction errors by name, in the unit, NaN where nothing was observed: of coordinates (N, H) or (N, E, H), of measurements (N, H, C) or (N, E, H, C)."""
    found = recording.compare(predict(model, recording))
    return {name: value.squeeze(-1) if name in recording.observed else value for name, value in found.items()}
