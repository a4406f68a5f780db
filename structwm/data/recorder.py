"""Records what happens in a gymnasium environment as episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from structwm.data.episode import Episode
from structwm.data.metadata import ControllerTiming, EpisodeMetadata
from structwm.data.store import EpisodeSet, EpisodeWriter

Array = NDArray[Any]


class EpisodeRecorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that passes everything through and keeps it as episodes, in memory or, given a path, in a folder that `EpisodeSet` reads.

    A Box (or Discrete) observation is recorded as `observation/state`, a Dict by its keys, nested ones as `outer/inner`; discrete actions as indices from 0
    (less the `start` of their space). An episode ends where the environment
    terminates or truncates; one left half-finished by `reset` or `close` is kept and marked as truncated, one without any step is dropped.

    Args:
        env: any environment with Box, Discrete or Dict observations and Box, Discrete, MultiDiscrete or MultiBinary actions.
        path: the folder to write to; episodes already there are kept.
        dt: time between two steps [s]; without it `time` counts steps and its unit says so.
        language: the instruction the episodes follow.
        metadata: units, frames, cameras and so on of the recorded fields.

    Raises:
        TypeError: if an observation or action space is none of these.
        gymnasium.error.ResetNeeded: if a step follows the end of an episode; nothing after the end is recorded.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        path: str | Path | None = None,
        *,
        dt: float | None = None,
        language: str | None = None,
        metadata: EpisodeMetadata | None = None,
    ) -> None:
        super().__init__(env)
        _check_spaces(env)
        self._dt, self._language = dt, language
        self._meaning = _complete(metadata or EpisodeMetadata(), env, dt)
        self._memory: list[Episode] = []
        self._path = None if path is None else Path(path)
        self._writer = None if path is None else EpisodeWriter(path)
        self._count = 0 if self._path is None or not (self._path / "index.json").exists() else len(EpisodeSet(self._path))
        self._observations: list[dict[str, Array]] = []
        self._actions: list[Array] = []
        self._rewards: list[float] = []

    @property
    def episodes(self) -> Sequence[Episode]:
        """The episodes finished so far: with a path all those in the folder."""
        if self._path is None:
            return tuple(self._memory)
        return EpisodeSet(self._path) if (self._path / "index.json").exists() else ()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._finish(terminated=False)
        observation, info = self.env.reset(seed=seed, options=options)
        self._observations = [_flat(observation)]
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if not self._observations:
            raise gymnasium.error.ResetNeeded("expected reset() before step(): no episode is under way; call reset() first.")
        taken = _action(action, self.action_space)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observations.append(_flat(observation))
        self._actions.append(taken)
        self._rewards.append(float(reward))
        if terminated or truncated:
            self._finish(terminated=bool(terminated))
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        try:
            self._finish(terminated=False)
        finally:
            if self._writer is not None:
                self._writer.close()
            super().close()

    def _finish(self, *, terminated: bool) -> None:
        observations, actions, rewards = self._observations, self._actions, self._rewards
        self._observations, self._actions, self._rewards = [], [], []
        if not actions:
            return
        episode = Episode.from_steps(
            {key: np.stack([one[key] for one in observations]) for key in observations[0]},
            np.stack(actions),
            reward=rewards,
            dt=1.0 if self._dt is None else self._dt,
            terminated=terminated,
            language=self._language,
            metadata=self._meaning,
            name=f"episode_{self._count}",
        )
        self._count += 1
        if self._writer is None:
            self._memory.append(episode)
        else:
            self._writer.append(episode)


def _flat(observation: Any, prefix: str = "") -> dict[str, Array]:
    """Copies of the arrays in an observation (environments may reuse theirs), by key."""
    if isinstance(observation, dict):
        return {key: value for name, part in observation.items() for key, value in _flat(part, f"{prefix}{name}/").items()}
    return {prefix.rstrip("/") or "state": np.array(observation)}


def _action(action: Any, space: gymnasium.Space[Any]) -> Array:
    """A copy in the space's type; vectors of indices (MultiDiscrete, MultiBinary) are recorded as numbers."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.array(int(action) - int(space.start), dtype=np.int64)
    dtype = space.dtype if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating) else np.float64
    return np.array(action, dtype=dtype).reshape(space.shape)


def _check_spaces(env: gymnasium.Env[Any, Any]) -> None:
    spaces = gymnasium.spaces
    leaves: list[gymnasium.Space[Any]] = [env.observation_space]
    while any(isinstance(leaf, spaces.Dict) for leaf in leaves):
        leaves = [part for leaf in leaves for part in (leaf.values() if isinstance(leaf, spaces.Dict) else [leaf])]
    plain = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
    for role, space in [("observations", leaf) for leaf in leaves] + [("actions", env.action_space)]:
        if not isinstance(space, plain):
            raise TypeError(f"expected {role} in Box, Discrete, MultiBinary or MultiDiscrete spaces (or a Dict of observations), got {space}; wrap the world.")


def _complete(metadata: EpisodeMetadata, env: gymnasium.Env[Any, Any], dt: float | None) -> EpisodeMetadata:
    """The metadata with what the recorder knows: timing, source, and the unit of time where it counts steps."""
    timing = metadata.timing or (None if dt is None else ControllerTiming(period=dt))
    units = {"time": "s" if dt is not None else "step"} | dict(metadata.units)
    source = metadata.source or (env.spec.id if env.spec is not None else type(env.unwrapped).__name__)
    return replace(metadata, timing=timing, units=units, source=source)
