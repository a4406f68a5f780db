"""Episodes with the meaning RLDS gives them, cuts and windows of them, and their transitions.

Source: Ramos et al., RLDS: an Ecosystem to Generate, Share and Use Datasets in Reinforcement Learning, 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structwm.data.errors import BadData
from structwm.data.metadata import EpisodeMetadata

Array = NDArray[Any]
FLAGS = ("is_first", "is_last", "is_terminal", "action_valid")
PER_STEP = ("reward", "discount", *FLAGS, "time")


@dataclass(frozen=True, eq=False)
class Transitions:
    """The M valid transitions of an episode: observation, action, what it gave, next observation."""

    observation: dict[str, Array]  # each (M, ...)
    action: Array  # (M, A) or, discrete, integer (M,)
    reward: Array  # (M,)
    discount: Array  # (M,), 0 where the next state is terminal
    next_observation: dict[str, Array]  # each (M, ...)
    next_is_terminal: Array  # bool (M,)
    duration: Array  # (M,) [s]


@dataclass(frozen=True, eq=False)
class Window:
    """L steps around a place in an episode; where they reach beyond its ends they are padding.

    Padded observations repeat the nearest real step, padded actions, rewards and discounts are NaN (-1 for discrete actions): use the masks.
    """

    observation: dict[str, Array]  # each (L, ...)
    action: Array  # (L, ...)
    reward: Array  # (L,)
    discount: Array  # (L,)
    time: Array  # (L,) [s]
    step_valid: Array  # bool (L,), the step is in the episode
    action_valid: Array  # bool (L,), action, reward and discount are defined


@dataclass(frozen=True, eq=False)
class Episode:
    """T ordered steps. Step t holds an observation, the action taken in it, and the reward and discount which that action gave.

    The action, reward and discount of the last step are undefined, as those of any step where `action_valid` is false: they are masked and never read as zeros.
    `is_last` without `is_terminal` means that the episode was cut off (truncated). Arrays are held as read-only views. `from_steps` builds an episode from
    what a robot log has.

    Raises:
        BadData: if shapes disagree, time does not increase, flags contradict each other or a value that must be finite is not; it names episode and field.
    """

    observation: dict[str, Array]  # each (T, ...)
    action: Array  # (T, A) or (T, ...) real numbers, or (T,) integers for discrete actions
    reward: Array  # (T,)
    discount: Array  # (T,)
    is_first: Array  # bool (T,)
    is_last: Array  # bool (T,)
    is_terminal: Array  # bool (T,)
    action_valid: Array  # bool (T,)
    time: Array  # (T,) [s], increasing
    language: str | None = None  # the instruction
    metadata: EpisodeMetadata = field(default_factory=EpisodeMetadata)
    name: str = "episode"

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation", {key: _frozen(value) for key, value in self.observation.items()})
        for key in ("action", *PER_STEP):
            object.__setattr__(self, key, _frozen(getattr(self, key)))
        _check_shapes(self)
        _check_flags(self)
        _check_values(self)

    @classmethod
    def trusted(cls, **values: Any) -> Episode:
        """An episode from arrays that were checked before, as a store's were when they were written: no value is read."""
        episode = object.__new__(cls)
        for item in fields(cls):
            object.__setattr__(episode, item.name, values[item.name])
        return episode

    @classmethod
    def from_steps(
        cls,
        observation: Mapping[str, ArrayLike],
        action: ArrayLike,
        *,
        reward: ArrayLike | None = None,
        time: ArrayLike | None = None,
        dt: float | None = None,
        terminated: bool = False,
        language: str | None = None,
        metadata: EpisodeMetadata | None = None,
        name: str = "episode",
    ) -> Episode:
        """An episode of T observations and the T - 1 actions between them.

        Args:
            observation: each (T, ...).
            action: (T - 1, ...) real numbers, or (T - 1,) integers.
            reward: (T - 1,), 0 if not given.
            time: (T,) [s]; or
            dt: the time between two observations [s].
            terminated: the last observation is a terminal state (otherwise the episode was cut off).
        """
        meta = metadata or EpisodeMetadata()
        actions = np.asarray(action)
        steps = len(actions) + 1
        if (time is None) == (dt is None):
            raise BadData.at(
                file=meta.source or "memory", record=name, field="time", expected="either time (T,) or dt [s]", got="both or none", advice="give one"
            )
        rewards = np.zeros(steps - 1) if reward is None else np.asarray(reward, dtype=np.float64)
        discount = np.ones(steps)
        if terminated and steps > 1:
            discount[-2] = 0.0
        discount[-1] = np.nan
        last = np.arange(steps) == steps - 1
        return cls(
            observation={key: np.asarray(value) for key, value in observation.items()},
            action=_with_undefined_row(actions),
            reward=_with_undefined_row(rewards),
            discount=discount,
            is_first=np.arange(steps) == 0,
            is_last=last,
            is_terminal=last & terminated,
            action_valid=~last,
            time=np.arange(steps) * float(dt) if dt is not None else np.asarray(time, dtype=np.float64),
            language=language,
            metadata=meta,
            name=name,
        )

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, steps: slice) -> Episode:
        """The cut `episode[start:stop]`, itself an episode: its last action is masked, and it is terminal only if it reaches a terminal end."""
        if not isinstance(steps, slice) or steps.step not in (None, 1):
            raise TypeError(f"expected a slice of steps without a stride, as in episode[2:7], got {steps!r}; use window() for single steps.")
        start, stop, _ = steps.indices(len(self))
        if stop <= start:
            raise IndexError(f"expected at least one of the {len(self)} steps of {self.name}, got the empty cut [{start}:{stop}].")
        count = np.arange(stop - start)
        cut = {key: getattr(self, key)[start:stop] for key in ("action", "reward", "discount", "is_terminal", "time")}
        last = count == len(count) - 1
        return Episode.trusted(
            observation={key: value[start:stop] for key, value in self.observation.items()},
            is_first=_frozen(count == 0),
            is_last=_frozen(last),
            action_valid=_frozen(self.action_valid[start:stop] & ~last),
            language=self.language,
            metadata=self.metadata,
            name=f"{self.name}[{start}:{stop}]",
            **cut,
        )

    def arrays(self) -> dict[str, Array]:
        """Every array by its field name; those of the observation are called `observation/KEY`."""
        return {f"observation/{key}": value for key, value in self.observation.items()} | {key: getattr(self, key) for key in ("action", *PER_STEP)}

    @property
    def discrete(self) -> bool:
        """Whether actions are indices."""
        return bool(np.issubdtype(self.action.dtype, np.integer))

    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off before a terminal state."""
        return not bool(self.is_terminal[-1])

    def transitions(self) -> Transitions:
        """The valid transitions, in order."""
        at = np.flatnonzero(self.action_valid)
        return Transitions(
            observation={key: value[at] for key, value in self.observation.items()},
            action=self.action[at],
            reward=self.reward[at],
            discount=self.discount[at],
            next_observation={key: value[at + 1] for key, value in self.observation.items()},
            next_is_terminal=self.is_terminal[at + 1],
            duration=self.time[at + 1] - self.time[at],
        )

    def window(self, start: int, length: int) -> Window:
        """`length` steps from `start`, which may be negative (before the first step); what lies outside the episode is masked padding."""
        wanted = np.arange(start, start + length)
        at = np.clip(wanted, 0, len(self) - 1)
        inside = wanted == at
        valid = inside & self.action_valid[at]
        return Window(
            observation={key: value[at] for key, value in self.observation.items()},
            action=_undefined_where(self.action[at], ~valid),
            reward=_undefined_where(self.reward[at], ~valid),
            discount=_undefined_where(self.discount[at], ~valid),
            time=self.time[at],
            step_valid=inside,
            action_valid=valid,
        )

    def windows(self, length: int, *, stride: int = 1, pad: bool = False) -> Iterator[Window]:
        """Windows of `length` steps, one every `stride` steps: those that lie in the episode, or with `pad` one from every start, padded at the end."""
        stop = len(self) if pad else len(self) - length + 1
        return (self.window(start, length) for start in range(0, stop, stride))


def _frozen(values: ArrayLike) -> Array:
    view = np.asarray(values).view()
    view.setflags(write=False)
    return view


def _undefined_where(values: Array, mask: Array) -> Array:
    """A copy whose masked rows are NaN, or -1 for integers."""
    out = np.array(values)
    out[mask] = -1 if np.issubdtype(out.dtype, np.integer) else np.nan
    return out


def _with_undefined_row(values: Array) -> Array:
    values = values.astype(np.float64) if values.dtype == bool else values
    rows = np.zeros((len(values) + 1, *values.shape[1:]), dtype=values.dtype)
    rows[:-1] = values
    return _undefined_where(rows, np.arange(len(rows)) == len(values))


def _bad(episode: Episode, name: str, expected: str, got: str, advice: str) -> BadData:
    return BadData.at(file=episode.metadata.source or "memory", record=episode.name, field=name, expected=expected, got=got, advice=advice)


def _check_shapes(episode: Episode) -> None:
    steps = episode.time.shape[0] if episode.time.ndim else 0
    if steps == 0:
        raise _bad(episode, "time", "at least one step, shape (T,)", f"shape {episode.time.shape}", "leave empty episodes out")
    for name, values in episode.arrays().items():
        if values.dtype.kind not in "biuf":
            raise _bad(episode, name, "numbers or flags", f"dtype {values.dtype}", "convert it, and put text into language or metadata")
        if name in PER_STEP and values.shape != (steps,):
            raise _bad(episode, name, f"shape ({steps},) as time has", f"shape {values.shape}", "give one value a step")
        if values.ndim == 0 or values.shape[0] != steps:
            raise _bad(
                episode, name, f"{steps} rows as time has", f"shape {values.shape}", "pad the undefined last step and mask it, or use Episode.from_steps"
            )
    if episode.discrete and episode.action.ndim != 1:
        raise _bad(episode, "action", "one index a step, shape (T,)", f"integers of shape {episode.action.shape}", "use floating point for continuous actions")
    named = {*episode.metadata.units, *episode.metadata.frames, *episode.metadata.may_be_nan}
    for name in sorted(named - episode.arrays().keys()):
        raise _bad(episode, name, f"metadata of the fields {', '.join(episode.arrays())}", f"metadata of {name!r}", "name the field as it stands there")


def _check_flags(episode: Episode) -> None:
    steps = np.arange(len(episode))
    last = steps == len(episode) - 1
    for name in FLAGS:
        if getattr(episode, name).dtype != bool:
            raise _bad(episode, name, "booleans", f"dtype {getattr(episode, name).dtype}", "convert it with astype(bool)")
    rules: Sequence[tuple[str, Array, str]] = (
        ("is_first", episode.is_first != (steps == 0), "true at the first step and nowhere else"),
        ("is_last", episode.is_last != last, "true at the last step and nowhere else"),
        ("is_terminal", episode.is_terminal & ~last, "false before the last step"),
        ("action_valid", episode.action_valid & last, "false at the last step, whose action is undefined"),
    )
    for name, wrong, expected in rules:
        if wrong.any():
            step = int(np.argmax(wrong))
            raise _bad(
                episode, name, expected, f"{bool(getattr(episode, name)[step])} at step {step} of {len(steps)}", "cut the recording into episodes at is_first"
            )


def _check_values(episode: Episode) -> None:
    for name, values in episode.arrays().items():
        if values.dtype.kind != "f" or name in episode.metadata.may_be_nan:
            continue
        rows = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        wrong = ~rows & (episode.action_valid if name in ("action", "reward", "discount") else True)
        if wrong.any():
            step = int(np.argmax(wrong))
            advice = "drop the step, or name the field in metadata.may_be_nan if NaN means not measured"
            raise _bad(episode, name, "finite values", f"{int(wrong.sum())} steps that are not, the first is step {step}", advice)
    if episode.discrete and (episode.action < 0)[episode.action_valid].any():
        step = int(np.argmax((episode.action < 0) & episode.action_valid))
        raise _bad(episode, "action", "indices from 0", f"{int(episode.action[step])} at step {step}", "mask steps without an action with action_valid")
    late = np.diff(episode.time) <= 0
    if late.any():
        step = int(np.argmax(late)) + 1
        got = f"{episode.time[step]:g} s after {episode.time[step - 1]:g} s at step {step}"
        raise _bad(episode, "time", "increasing times [s]", got, "sort the steps or remove the doubled one")
