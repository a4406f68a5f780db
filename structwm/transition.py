"""The contract: `state, action -> next state`, and trajectories of it."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from .noise import Noise
from .scene import Scene
from .spec import Action, HybridAction, ModelSpec
from .state import Points, Splats, State, Tracks, fields_of, state_of

S = TypeVar("S", bound=State)

LARGE = 512  # numbers in a field, or in actions, from which on it matters how they lie in memory


@dataclass(frozen=True)
class Outcome:
    """What a step brings beside the next state, each (*B); None where the model does not predict it."""

    reward: Tensor | None = None
    continue_probability: Tensor | None = None  # probability in [0, 1] that the episode goes on
    value: Tensor | None = None  # expected return from `next_state` on


@dataclass(frozen=True)
class Trajectory:
    """States and actions over a horizon H; its batch axes `*B` are those of the rollout (problems, candidates, members, in this order)."""

    scene: Scene
    states: Any  # State, batch_size (*B, H+1)
    actions: Action  # (*B, H, A), int64 (*B, H), or HybridAction of batch_size (*B, H); broadcast over members
    times: Tensor  # (*B, H+1) [s], from 0
    valid: Tensor  # (*B, H+1) bool, cumulative: False from the first inapplicable action on
    reward: Tensor | None = None  # (*B, H)
    continue_probability: Tensor | None = None  # (*B, H)
    value: Tensor | None = None  # (*B, H+1)

    @property
    def batch_shape(self) -> torch.Size:
        """`*B`, without the time axis."""
        return self.states.batch_size[:-1]

    @property
    def horizon(self) -> int:
        """H, the number of steps."""
        return self.states.batch_size[-1] - 1

    def __getitem__(self, index: Any) -> Trajectory:
        """Index the batch axes `*B`; the time axis stays whole."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        depth = len(self.batch_shape)
        flat = _BatchIndex(index, depth)
        return self._map(flat)

    def reshape(self, *batch: int) -> Trajectory:
        """The same trajectories with other batch axes of the same total size."""
        depth = len(self.batch_shape)

        def fold(value: Any, _: str = "") -> Any:
            shape = value.batch_size if isinstance(value, State | HybridAction) else value.shape
            return value.reshape(*batch, *shape[depth:])

        return self._map(fold)

    def unsqueeze(self, axis: int) -> Trajectory:
        """The same trajectories with a batch axis of size one inserted before batch axis `axis` (counted from the left)."""
        shape = self.batch_shape
        return self.reshape(*shape[:axis], 1, *shape[axis:])

    def final(self) -> Trajectory:
        """The last instant alone, a trajectory of horizon 0."""
        axis, horizon = len(self.batch_shape), self.horizon
        last = (slice(None),) * axis

        def steps(value: Any) -> Any:
            return None if value is None else value[(*last, slice(horizon, None))]

        rest = {name: steps(getattr(self, name)) for name in ("times", "valid", "value")}
        none = {name: steps(getattr(self, name)) for name in ("actions", "reward", "continue_probability")}
        return replace(self, states=self.states[..., -1:], **rest, **none)

    def _map(self, fn: Any) -> Trajectory:
        optional: dict[str, Any] = {
            name: None if getattr(self, name) is None else fn(getattr(self, name)) for name in ("reward", "continue_probability", "value")
        }
        return replace(self, states=fn(self.states), actions=fn(self.actions), times=fn(self.times), valid=fn(self.valid), **optional)

    def coordinates(self) -> Tensor:
        """(*B, H+1, D)."""
        return self.scene.coordinates(self.states)

    def points(self) -> Points:
        """Positions (*B, H+1, N, 3) [m]."""
        return self.scene.points(self.states)

    def poses(self) -> Tensor:
        """(*B, H+1, K, 7) [m, wxyz]."""
        return self.scene.poses(self.states)

    def twists(self) -> Tensor:
        """(*B, H+1, K, 6) [m/s, rad/s]."""
        return self.scene.twists(self.states)

    def tracks(self) -> Tracks:
        """Keypoints (*B, H+1, N, 2 or 3)."""
        return self.scene.tracks(self.states)

    def splats(self) -> Splats:
        """Means (*B, H+1, N, 3) [m]."""
        return self.scene.splats(self.states)

    def atoms(self) -> Tensor:
        """(*B, H+1, M) in [0, 1]."""
        return self.scene.atoms(self.states)

    def embedding(self) -> Tensor:
        """(*B, H+1, D)."""
        return self.scene.embedding(self.states)

    def signed_distance(self, points: Tensor) -> Tensor:
        """(*B, H+1, Q) [m] for points (*B, H+1, Q, 3) [m]."""
        return self.scene.signed_distance(self.states, points)


def recorded_trajectory(scene: Scene, states: State, dt: float | Tensor, actions: Action | None = None) -> Trajectory:
    """Recorded states as a trajectory, so that whatever reads predictions scores recordings in the same way.

    Args:
        scene: reads the states.
        states: batch_size (*B, H+1).
        dt: time between states [s], or their times (H+1,) or (*B, H+1) [s].
        actions: as of a trajectory; of no numbers, (*B, H, 0), if not given.

    Raises:
        ValueError: if there is no state, dt is not above 0, or times or actions do not fit the states.
    """
    shape = tuple(states.batch_size)
    if not shape or shape[-1] < 1:
        raise ValueError(f"recorded_trajectory needs states of batch_size (*B, H+1), got {shape}.")
    device = _device_of(fields_of(states))
    if isinstance(dt, Tensor) and dt.ndim:
        if tuple(dt.shape) not in (shape, shape[-1:]) or bool((dt.diff(dim=-1) <= 0).any()):
            raise ValueError(f"recorded_trajectory needs times that rise, of shape {shape[-1:]} or {shape}, got {tuple(dt.shape)}.")
        times = (dt - dt[..., :1]).to(device).expand(shape)
    else:
        if not float(dt) > 0:
            raise ValueError(f"recorded_trajectory needs dt above 0 [s], got {float(dt)}.")
        times = (torch.arange(shape[-1], device=device) * float(dt)).expand(shape)
    steps = (*shape[:-1], shape[-1] - 1)
    if actions is None:
        actions = torch.zeros(*steps, 0, device=device)
    have = tuple(actions.batch_size if isinstance(actions, HybridAction) else actions.shape[: len(steps)])
    if have != steps:
        raise ValueError(f"recorded_trajectory needs actions of leading axes {steps}, one between each two states, got {have}.")
    return Trajectory(scene, states, actions, times, torch.ones(shape, dtype=torch.bool, device=device))


class _BatchIndex:
    """Applies an index over batch axes to tensors that have more axes behind them."""

    def __init__(self, index: tuple[Any, ...], depth: int) -> None:
        used = sum(1 for item in index if item is not None and item is not Ellipsis)
        position = index.index(Ellipsis)
        self.index = (*index[:position], *(slice(None),) * (depth - used), *index[position + 1 :])

    def __call__(self, value: Any) -> Any:
        return value[self.index]


class TransitionModel(nn.Module, ABC, Generic[S]):
    """Maps a state and an action to the next state.

    A subclass sets `spec` and `scene` and implements **one** of two forms of the same step:

    - `step(state, action)`: on states; what a user writes.
    - `step_fields(fields, action)`: on raw tensors by field name; free of the cost of building a state (about 15 microseconds), for models that are rolled
      out step by step in tight loops.

    Either way both can be called. Steps are pure: no hidden state, inputs untouched, outputs fresh. `step` trusts its action; `rollout` checks actions once.
    With `spec.members = E` a state carries E members on its last leading axis, (*B, E), while its action is (*B, A) and serves all of them.
    """

    spec: ModelSpec
    scene: Scene

    def __init__(self) -> None:
        super().__init__()
        cls = type(self)
        if cls.step is TransitionModel.step and cls.step_fields is TransitionModel.step_fields:
            raise TypeError(f"{cls.__name__} implements neither step(state, action) nor step_fields(fields, action); a transition model needs one of them.")

    def step(self, state: S, action: Action, *, noise: Noise | None = None) -> S:
        """The next state.

        Args:
            state: batch_size (*B), or (*B, E) for a model with members.
            action: (*B, A), int64 (*B), or HybridAction of batch_size (*B).
            noise: randomness of this step (`noise.step` is its index); None gives the mean prediction.
        """
        fields = self.step_fields(fields_of(state), action, noise=noise)
        return state_of(type(state), fields, state.batch_size)

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        """`step` on the tensors of a state by field name."""
        batch = _batch_of(action, self.spec)
        if self.spec.members > 1:
            batch = torch.Size((*batch, self.spec.members))
        state = state_of(self.spec.state_type, fields, batch)
        return fields_of(self.step(cast(S, state), action, noise=noise))

    def duration(self, state: S, action: Action, next_state: S) -> Tensor:
        """How long the step takes, (*B) [s]; the default is `spec.dt`. Skills override it."""
        if self.spec.dt is None:
            raise NotImplementedError(f"{type(self).__name__} has spec.dt = None; implement duration(state, action, next_state) [s].")
        reference = next(iter(fields_of(state).values()))
        return torch.full(tuple(state.batch_size), self.spec.dt, device=reference.device)

    def applicable(self, state: S) -> Tensor | None:
        """Which discrete actions can be taken, bool (*B, n); None means all. An inapplicable action leaves the state and makes the trajectory invalid."""
        return None

    def outcome(self, state: S, action: Action, next_state: S) -> Outcome | None:
        """Reward, continuation and value, as far as `spec.traits.predicts` names them."""
        return None

    def value(self, state: S) -> Tensor | None:
        """Expected return from a state, (*B); for models whose `spec.traits.predicts` names `value`."""
        return None

    def overrides(self, method: str) -> bool:
        """Whether this model has its own `duration`, `applicable`, `outcome` or `value`; rollouts skip what it leaves at the default."""
        return getattr(type(self), method) is not getattr(TransitionModel, method)

    def forward(self, state: S, actions: Action) -> Trajectory:
        """`rollout`: training calls the module."""
        return self.rollout(state, actions)

    def rollout(self, state: S, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        """Roll H actions out from a state.

        Args:
            state: batch_size (*B), or (*B, E) for a model with members.
            actions: (*B, H, A), int64 (*B, H), or HybridAction of batch_size (*B, H), with H >= 1; *B broadcasts against the state's. Checked once against
                the action space.
            noise: randomness keyed by step; None gives mean predictions.

        Returns:
            A trajectory with batch axes *B, or (*B, E).

        Raises:
            ValueError: on actions outside the space or shapes that do not fit; the sentence names both sides.
        """
        state, actions = self.prepare(state, actions)
        return self.roll(state, actions, noise=noise)

    def prepare(self, state: S, actions: Action) -> tuple[S, Action]:
        """Check what `rollout` takes and broadcast state and actions to common batch axes *B."""
        self.spec.action.check(actions)
        if not isinstance(state, self.spec.state_type):
            raise ValueError(f"{type(self).__name__} takes {self.spec.state_type.__name__}, got {type(state).__name__}.")
        sequence = _batch_of(actions, self.spec)
        members = (self.spec.members,) if self.spec.members > 1 else ()
        batch = state.batch_size[: len(state.batch_size) - len(members)]
        if len(sequence) < 1 or sequence[-1] < 1:
            raise ValueError(f"rollout needs actions (*B, H, A) with H >= 1, got batch and time axes {tuple(sequence)}.")
        if tuple(state.batch_size[len(batch) :]) != members:
            raise ValueError(f"{type(self).__name__} has {self.spec.members} members, so its states end with that axis; got {tuple(state.batch_size)}.")
        try:
            common = torch.broadcast_shapes(batch, sequence[:-1])
        except RuntimeError:
            raise ValueError(f"The state's batch axes {tuple(batch)} and the actions' {tuple(sequence[:-1])} do not broadcast.") from None
        if batch != common:
            state = state.expand(*common, *members)
        if sequence[:-1] != common:
            tail = actions.shape[len(sequence) :] if isinstance(actions, Tensor) else ()
            actions = actions.expand(*common, sequence[-1], *tail)
        return state, actions

    def roll(self, state: S, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        """What is behind `rollout`, on inputs that were checked and broadcast; override it, or `roll_fields`, for fused kernels."""
        return self.roll_fields(type(state), fields_of(state), state.batch_size, actions, noise=noise)

    def roll_fields(self, kind: type[S], fields: dict[str, Tensor], batch: torch.Size, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        """`roll` on the tensors of a state of class `kind` by field name, of batch axes `batch`; wraps all states at once."""
        sequence = _batch_of(actions, self.spec)
        time_axis, horizon = len(sequence) - 1, sequence[-1]
        plain = not (self.overrides("duration") or self.overrides("applicable") or self.overrides("outcome"))
        start, device, valid = fields, _device_of(fields), None
        history = _History(fields, horizon)
        durations: list[Tensor] = []
        validity: list[Tensor] = []
        outcomes: list[Outcome | None] = []
        actions = _time_outermost(actions, time_axis)
        for t, action in enumerate(_each_time(actions, time_axis)):
            at = None if noise is None else noise.at(noise.step + t)
            following = self.step_fields(fields, action, noise=at)
            if not plain:
                before = state_of(kind, fields, batch)
                allowed = self.applicable(before)
                if allowed is not None:
                    index = action.index if isinstance(action, HybridAction) else action
                    valid = allowed.gather(-1, _member_view(index, allowed).unsqueeze(-1)).squeeze(-1)
                    following = {name: torch.where(_align_left(valid, value), value, fields[name]) for name, value in following.items()}
                    validity.append(validity[-1] & valid if validity else valid)
                after = state_of(kind, following, batch)
                seconds = self.duration(before, action, after)
                durations.append(seconds if valid is None else seconds * valid)
                outcomes.append(self.outcome(before, action, after))
            history.append(following)
            fields = following
        moments = (*batch, horizon + 1)
        states = state_of(kind, history.stacked(len(batch)), moments)
        times = _elapsed(durations, batch) if durations else regular_times(batch, horizon, self.spec.dt or 0.0, device)
        reach = torch.stack([all_valid(batch, device), *validity], -1) if validity else all_valid(moments, device)
        predicted = self._stack_outcomes(state_of(kind, start, batch), outcomes) if self.spec.traits.predicts else {}
        return Trajectory(self.scene, states, self.broadcast_members(actions), times, reach, **predicted)

    def broadcast_members(self, actions: Action) -> Action:
        """Actions (*B, H, ...) as a trajectory holds them: expanded to (*B, E, H, ...) where the model has members."""
        if self.spec.members == 1:
            return actions
        axis = len(_batch_of(actions, self.spec)) - 1
        expanded = actions.unsqueeze(axis)
        shape = list(expanded.shape)
        shape[axis] = self.spec.members
        return expanded.expand(*shape)

    def _stack_outcomes(self, state: S, outcomes: list[Outcome | None]) -> dict[str, Tensor]:
        """The predicted reward (*B, H), continuation (*B, H) and value (*B, H+1)."""
        stacked: dict[str, Tensor] = {}
        for name in self.spec.traits.predicts:
            each = [getattr(outcome, name) if outcome is not None else None for outcome in outcomes]
            if name == "value":
                each = [self.value(state), *each]
            if not each or any(entry is None for entry in each):
                raise NotImplementedError(f"{type(self).__name__} says it predicts {name}, but gives none; return it from outcome (and value).")
            stacked[name] = torch.stack(cast(list[Tensor], each), dim=-1)
        return stacked


def _elapsed(durations: Sequence[Tensor], batch: Sequence[int]) -> Tensor:
    """(*batch, H+1) [s] from zero, by the durations of H steps."""
    steps = torch.stack([seconds.expand(batch) for seconds in durations], dim=-1)
    return torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)], dim=-1)


def regular_times(batch: Sequence[int], horizon: int, dt: float, device: torch.device) -> Tensor:
    """(*batch, H+1) [s] from zero, `dt` apart."""
    kept = _clock((*batch, horizon + 1), dt, device)
    return kept if math.prod(batch) > 1 else kept.clone()  # what has one place in memory for each number could be written to


def all_valid(batch: Sequence[int], device: torch.device) -> Tensor:
    """bool (*batch), all True."""
    kept = _true(tuple(batch), device)
    return kept if math.prod(batch) > 1 else kept.clone()


@lru_cache(maxsize=64)
def _clock(moments: tuple[int, ...], dt: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return (torch.arange(moments[-1], device=device) * dt).expand(moments)


@lru_cache(maxsize=64)
def _true(batch: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones((), dtype=torch.bool, device=device).expand(batch)


class _History:
    """Fields at H + 1 instants; time is the outermost axis in memory, so that each instant is written and read in one piece.

    Without gradients, large instants are copied to their place at once: a step's own tensors are free again while they are still in the cache.
    """

    def __init__(self, start: dict[str, Tensor], horizon: int) -> None:
        self.horizon, self.moments = horizon, [start]
        self.buffers: dict[str, Tensor] | None = None

    def append(self, moment: dict[str, Tensor]) -> None:
        if len(self.moments) == 1 and not torch.is_grad_enabled() and max(value.numel() for value in moment.values()) > LARGE:
            start = self.moments[0]
            self.buffers = {name: value.new_empty(self.horizon + 1, *value.shape) for name, value in moment.items() if _alike(value, start.get(name))}
            self.buffers = self.buffers if len(self.buffers) == len(moment) == len(start) else None
            for name, buffer in (self.buffers or {}).items():
                buffer[0] = start[name]
        if self.buffers is None:
            self.moments.append(moment)
            return
        self.moments.append({})
        for name, buffer in self.buffers.items():
            buffer[len(self.moments) - 1] = moment[name]

    def stacked(self, axis: int) -> dict[str, Tensor]:
        """All instants by field name, time as axis number `axis`."""
        found = self.buffers or {name: torch.stack([moment[name] for moment in self.moments]) for name in self.moments[-1]}
        return {name: value.movedim(0, axis) for name, value in found.items()}


def _alike(value: Tensor, other: Tensor | None) -> bool:
    return other is not None and value.dtype == other.dtype and value.device == other.device and value.shape == other.shape


def _batch_of(action: Action, spec: ModelSpec) -> torch.Size:
    """The leading axes of an action or an action sequence: all but A."""
    if isinstance(action, HybridAction):
        return action.batch_size
    return action.shape[:-1] if spec.action.kind == "continuous" else action.shape


def _time_outermost(actions: Action, axis: int) -> Action:
    """The same with time outermost in memory, as `_History` has it, where that is worth a copy; actions that repeat along an axis are left as they are."""
    if isinstance(actions, HybridAction) or actions.numel() <= LARGE or 0 in actions.stride():
        return actions
    return actions.movedim(axis, 0).contiguous().movedim(0, axis)


def _each_time(actions: Action, axis: int) -> Iterable[Action]:
    if isinstance(actions, HybridAction):
        return (actions[(slice(None),) * axis + (t,)] for t in range(actions.batch_size[axis]))
    return actions.unbind(axis)


def _member_view(index: Tensor, allowed: Tensor) -> Tensor:
    """Discrete actions (*B) as (*B, E) where `allowed` is (*B, E, n)."""
    while index.ndim < allowed.ndim - 1:
        index = index.unsqueeze(-1)
    return index.expand(allowed.shape[:-1])


def _align_left(mask: Tensor, value: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim))


def _device_of(fields: dict[str, Tensor]) -> torch.device:
    return next(iter(fields.values())).device
