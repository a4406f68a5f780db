"""What a model is trained and judged on: windows of episodes as batches of states and actions, with a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.data.episode import Episode, Window
from structwm.spec import Action, HybridAction
from structwm.state import State, fields_of, state_of

Reader = Callable[[dict[str, Tensor]], State]


@dataclass(frozen=True)
class Batch:
    """N windows of H steps. It is a data set by itself: indexed by rows, it gives fewer windows.

    A window that is shorter than H is padded behind its end: its states there repeat the last one and its actions the last one that was taken, and both are
    masked. What was not observed of a real step is NaN.

    Raises:
        ValueError: if shapes do not fit.
    """

    states: Any  # State, batch_size (N, H+1); NaN where not observed
    actions: Action  # (N, H, A), int64 (N, H), or HybridAction of batch_size (N, H)
    valid: Tensor  # bool (N, H+1), the step is in the episode and every action before it was taken

    def __post_init__(self) -> None:
        rows, steps = self.valid.shape
        taken = self.actions.shape[:2]
        if tuple(self.states.batch_size) != (rows, steps) or tuple(taken) != (rows, steps - 1):
            raise ValueError(
                f"Batch needs states (N, H+1), actions (N, H, ...) and valid (N, H+1), got {tuple(self.states.batch_size)}, {tuple(taken)} and {(rows, steps)}."
            )

    @property
    def horizon(self) -> int:
        """H."""
        return self.valid.shape[1] - 1

    @property
    def start(self) -> Any:
        """The first state of each window, batch_size (N,)."""
        return self.states[:, 0]

    def __len__(self) -> int:
        return self.valid.shape[0]

    def __getitem__(self, rows: Any) -> Batch:
        """Some of the windows, by an index, a slice, a mask or indices."""
        if isinstance(rows, int | np.integer):
            rows = [int(rows)]
        if isinstance(rows, list):
            rows = torch.tensor(rows, device=self.valid.device, dtype=torch.int64 if not rows else None)
        return Batch(self.states[rows], self.actions[rows], self.valid[rows])

    __getitems__ = __getitem__  # how a torch DataLoader asks for a batch

    def to(self, target: torch.device | torch.dtype | str) -> Batch:
        """The same windows on another device, or with floating-point fields and actions of another type."""
        if isinstance(target, torch.dtype):
            fields = {name: value.to(target) if value.is_floating_point() else value for name, value in fields_of(self.states).items()}
            return Batch(state_of(type(self.states), fields, self.states.batch_size), _of_type(self.actions, target), self.valid)
        return Batch(self.states.to(target), self.actions.to(target), self.valid.to(target))

    def observed(self) -> Tensor:
        """Which states are valid and fully observed, bool (N, H+1)."""
        known = self.valid
        for value in fields_of(self.states).values():
            if value.is_floating_point():
                known = known & _numbers(value).isfinite().all(-1)
        return known

    def segments(self, length: int) -> Batch:
        """Each window cut one after another into windows of `length` steps: one step is teacher forcing, H steps is free running.

        Left out are those whose first state was not fully observed, and those that show nothing later; there may be none left.
        """
        length = min(length, self.horizon)
        known, parts = self.observed(), []
        for first in range(0, self.horizon, length):
            stop = min(first + length, self.horizon)
            window = Batch(self.states[:, first : stop + 1], self.actions[:, first:stop], self.valid[:, first : stop + 1])
            useful = known[:, first] & window.seen()[:, 1:].any(1)
            if length == self.horizon and bool(useful.all()):
                return self
            part = window[useful]
            parts.append(part if stop - first == length else pad(part, length))
        return concatenate([part for part in parts if len(part)] or parts[:1])

    def seen(self) -> Tensor:
        """Which states are valid and observed in part at least, bool (N, H+1)."""
        floating = [_numbers(value).isfinite().any(-1) for value in fields_of(self.states).values() if value.is_floating_point()]
        return self.valid & torch.stack(floating).any(0) if floating else self.valid


def concatenate(parts: Sequence[Batch]) -> Batch:
    """Several batches of one horizon as one."""
    if len(parts) == 1:
        return parts[0]
    return Batch(torch.cat([p.states for p in parts]), torch.cat([p.actions for p in parts]), torch.cat([p.valid for p in parts]))


def _numbers(value: Tensor) -> Tensor:
    """A field (N, H+1, ...) as (N, H+1, D)."""
    return value.reshape(*value.shape[:2], value.shape[2:].numel())


def _of_type(actions: Action, target: torch.dtype) -> Action:
    """Actions whose continuous numbers are of another type."""
    if isinstance(actions, Tensor):
        return actions.to(target) if actions.is_floating_point() else actions
    return HybridAction(actions.index, actions.parameters.to(target), actions.mask, batch_size=actions.batch_size)


def episodes_of(windows: Any) -> np.ndarray:
    """Which episode each window is from, int (N,); the windows of a `Batch` are taken to be from one each."""
    if isinstance(windows, _Selection):
        return episodes_of(windows.windows)[windows.rows]
    places = getattr(windows, "places", None)
    return np.arange(len(windows)) if places is None else np.array([number for number, _ in places])


def select(windows: Any, rows: Sequence[int]) -> Any:
    """Some windows, in any order and repeated as often as named: what a bootstrap trains on."""
    return windows[torch.as_tensor(rows)] if isinstance(windows, Batch) else _Selection(windows, rows)


class _Selection(Sequence[Batch]):
    """Rows of windows that are read when they are asked for."""

    def __init__(self, windows: Any, rows: Sequence[int]) -> None:
        self.windows, self.rows, self.horizon = windows, [int(row) for row in rows], windows.horizon

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.windows.__getitems__(self.rows[index] if isinstance(index, slice) else [self.rows[index]])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        batch: Batch = self.windows.__getitems__([self.rows[i] for i in indices])
        return batch


def pad(batch: Batch, horizon: int) -> Batch:
    """The same windows with masked steps behind their ends, up to a horizon."""
    more = horizon - batch.horizon
    states = torch.cat([batch.states, *([batch.states[:, -1:]] * more)], 1)
    actions = torch.cat([batch.actions, *([batch.actions[:, -1:]] * more)], 1)
    return Batch(states, actions, torch.nn.functional.pad(batch.valid, (0, more), value=False))


class EpisodeWindows(Sequence[Batch]):
    """Windows of episodes, read when they are asked for, so that a set on disk is trained on without loading it.

    Args:
        episodes: for example an `EpisodeSet`.
        state: the State class whose fields are observations; or a function from observations by name, each (N, H+1, ...), to states of batch_size (N, H+1).
        horizon: H, steps per window.
        stride: steps between the starts of two windows.
        fields: by field of the State class, the observation it is, where the names differ.
        action: a function from recorded actions (N, H, ...) and the durations of the steps (N, H) [s] to the model's actions; by default as recorded.
        short: whether windows shorter than `horizon` are kept, padded and masked.
        dtype: of floating-point fields and actions.

    Raises:
        ValueError: if an observation is missing, `fields` names something else, or no episode is long enough for a window; the sentence names what there is.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        state: type[State] | Reader,
        *,
        horizon: int,
        stride: int = 1,
        fields: Mapping[str, str] | None = None,
        action: Callable[[Tensor, Tensor], Tensor] | None = None,
        short: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if horizon < 1 or stride < 1:
            raise ValueError(f"EpisodeWindows needs horizon >= 1 and stride >= 1, got {horizon} and {stride}.")
        self.episodes, self.horizon, self.dtype, self._action = episodes, horizon, dtype, action
        if isinstance(state, type):
            _check_fields(state, fields or {}, episodes)
        self._read = _field_reader(state, fields or {}) if isinstance(state, type) else state
        self.places = [  # of each window: the number of its episode and the step it starts at
            (number, start)
            for number, episode in enumerate(episodes)
            for start in range(0, len(episode) - (1 if short else horizon), stride)
            if episode.action_valid[start]
        ]
        if not self.places:
            longest = max((len(episode) - 1 for episode in episodes), default=0)
            raise ValueError(f"No episode holds a window of {horizon} steps; the longest of {len(episodes)} has {longest}. Ask for a shorter horizon.")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """The windows at some indices, or in a slice, as one batch."""
        if isinstance(index, int | np.integer):
            return self.__getitems__([int(index)])
        rows = range(len(self))[index] if isinstance(index, slice) else np.arange(len(self))[np.asarray(index)].tolist()
        return self.__getitems__(list(rows))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """One batch of the windows at some indices."""
        windows = [self.episodes[number].window(start, self.horizon + 1) for number, start in (self.places[int(i)] for i in indices)]
        observation = {name: self._tensor(np.stack([window.observation[name] for window in windows])) for name in windows[0].observation}
        masks = [_reached(window) for window in windows]
        valid = torch.from_numpy(np.stack(masks))
        actions = self._tensor(np.stack([_held(window) for window in windows]))
        if self._action is not None:
            actions = self._action(actions, self._tensor(np.stack([np.diff(window.time) for window in windows])))
        return Batch(self._read(observation), actions, valid)

    def all(self) -> Batch:
        """Every window in one batch."""
        return self.__getitems__(range(len(self)))

    def _tensor(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def field_names(kind: type[State]) -> tuple[str, ...]:
    """The fields of a State class, inherited ones first."""
    owners = [owner for owner in reversed(kind.__mro__) if issubclass(owner, State) and owner is not State]
    return tuple(dict.fromkeys(name for owner in owners for name in get_annotations(owner) if not name.startswith("_")))


def _check_fields(kind: type[State], fields: Mapping[str, str], episodes: Sequence[Episode]) -> None:
    names = field_names(kind)
    others = sorted(set(fields) - set(names))
    if others:
        raise ValueError(f"{kind.__name__} has no field {others[0]!r} that fields= could name an observation for; it has {', '.join(names)}.")
    for number, episode in enumerate(episodes):
        missing = sorted({fields.get(name, name) for name in names} - set(episode.observation))
        if missing:
            have = ", ".join(episode.observation)
            raise ValueError(f"{kind.__name__} needs the observation {missing[0]!r}, episode {number} has {have}; say with fields= which is which.")


def _field_reader(kind: type[State], fields: Mapping[str, str]) -> Reader:
    def read(observation: dict[str, Tensor]) -> State:
        values = {name: observation[fields.get(name, name)] for name in field_names(kind)}
        first = next(iter(values.values()))
        return state_of(kind, values, first.shape[:2])

    return read


def _reached(window: Window) -> np.ndarray:
    """Which steps are in the episode with every action before them taken, bool (H+1,)."""
    taken = np.concatenate([[True], np.logical_and.accumulate(window.action_valid[:-1])])
    reached: np.ndarray = window.step_valid & taken
    return reached


def _held(window: Window) -> np.ndarray:
    """Actions (H, ...) with the last valid one held where none was taken."""
    valid = window.action_valid[:-1]
    last = np.maximum.accumulate(np.where(valid, np.arange(len(valid)), 0))
    return window.action[last]
