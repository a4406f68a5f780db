"""The recorder: what it keeps of an environment's episodes, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from structwm.data import EpisodeMetadata, EpisodeRecorder, EpisodeSet


class Counter(gymnasium.Env[Any, Any]):
    """Counts steps in a buffer that it reuses; ends after `end` steps, by termination or truncation."""

    def __init__(self, *, nested: bool = True, action: gymnasium.Space[Any] | None = None, end: int = 4, truncates: bool = False) -> None:
        box = spaces.Box(-100, 100, (2,), np.float32)
        self.observation_space = spaces.Dict({"robot": spaces.Dict({"pose": box}), "count": spaces.Discrete(100)}) if nested else box
        self.action_space = action or spaces.Box(-1, 1, (1,), np.float32)
        self.nested, self.end, self.truncates = nested, end, truncates
        self.buffer = np.zeros(2, np.float32)

    def observe(self) -> Any:
        return {"robot": {"pose": self.buffer}, "count": self.count} if self.nested else self.buffer

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        self.buffer[:] = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.buffer += 1
        over = self.count >= self.end
        return self.observe(), float(self.count), over and not self.truncates, over and self.truncates, {}


def run(env: gymnasium.Env[Any, Any], steps: int) -> None:
    env.reset(seed=0)
    for number in range(steps):
        env.step(np.array([number / 10], np.float32))


def test_an_episode_is_what_happened() -> None:
    env = EpisodeRecorder(Counter(), dt=0.05, language="count", metadata=EpisodeMetadata(units={"observation/robot/pose": "m"}))
    run(env, 4)
    (episode,) = env.episodes
    np.testing.assert_array_equal(episode.observation["robot/pose"], np.arange(5)[:, None] * np.ones(2, np.float32))
    np.testing.assert_array_equal(episode.observation["count"], np.arange(5))
    np.testing.assert_allclose(episode.action[:-1, 0], [0, 0.1, 0.2, 0.3], atol=1e-7)
    np.testing.assert_array_equal(episode.reward[:-1], [1, 2, 3, 4])
    np.testing.assert_allclose(episode.time, np.arange(5) * 0.05)
    assert not episode.truncated and episode.discount[3] == 0 and episode.action.dtype == np.float32
    assert episode.language == "count" and episode.metadata.source == "Counter"
    assert episode.metadata.units == {"time": "s", "observation/robot/pose": "m"}
    assert episode.metadata.timing is not None and episode.metadata.timing.period == 0.05


def test_truncation_is_not_termination() -> None:
    env = EpisodeRecorder(Counter(truncates=True))
    run(env, 4)
    assert env.episodes[0].truncated and env.episodes[0].discount[3] == 1
    assert env.episodes[0].metadata.units == {"time": "step"}


def test_the_end_by_reset_or_close_is_truncation() -> None:
    env = EpisodeRecorder(Counter())
    run(env, 2)
    run(env, 3)
    assert [len(episode) for episode in env.episodes] == [3]
    env.reset()
    env.reset()
    assert [len(episode) for episode in env.episodes] == [3, 4]
    run(env, 1)
    env.close()
    assert [len(episode) for episode in env.episodes] == [3, 4, 2]
    assert all(episode.truncated for episode in env.episodes)


def test_plain_observations_and_discrete_actions() -> None:
    env = EpisodeRecorder(Counter(nested=False, action=spaces.Discrete(3, start=5)))
    env.reset()
    for action in (5, 7, 6):
        env.step(action)
    env.close()
    assert env.episodes[0].discrete and env.episodes[0].action.tolist() == [0, 2, 1, -1]
    assert env.episodes[0].observation["state"].shape == (4, 2)


def test_recording_into_a_folder_appends(tmp_path: Path) -> None:
    for _ in range(2):
        with EpisodeRecorder(Counter(), tmp_path, dt=0.1) as env:
            run(env, 4)
            run(env, 2)
    held = EpisodeSet(tmp_path)
    held.verify()
    assert [episode.name for episode in held] == [f"episode_{number}" for number in range(4)]
    assert [episode.truncated for episode in held] == [False, True, False, True]
    assert isinstance(env.episodes, EpisodeSet) and len(env.episodes) == 4


def test_a_failing_step_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), EpisodeRecorder(Counter(), tmp_path, dt=0.1) as env:
        run(env, 3)
        raise ZeroDivisionError
    assert len(EpisodeSet(tmp_path)[0]) == 4


def test_wrong_use_is_refused() -> None:
    env = EpisodeRecorder(Counter())
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(np.zeros(1))
    run(env, 4)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
    with pytest.raises(TypeError, match="expected actions in Box, Discrete"):
        EpisodeRecorder(Counter(action=spaces.Text(3)))


def test_a_known_environment() -> None:
    env = EpisodeRecorder(gymnasium.make("CartPole-v1"), dt=0.02)
    env.reset(seed=1)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(1)
        over = terminated or truncated
    assert env.episodes[0].metadata.source == "CartPole-v1" and not env.episodes[0].truncated
