"""An imagined environment of one episode at a time, for libraries that take a plain `gymnasium.Env`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from .imagined_env import Array, ImaginedEnv


class ImaginedSingle(gymnasium.Env[Array, Any]):
    """The only episode of an `ImaginedEnv`; made by `as_env`."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, as gymnasium declares it

    def __init__(self, env: ImaginedEnv) -> None:
        self.env = env
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        observation, infos = self.env.reset(seed=seed, options=options)
        return observation[0], _first(infos)

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        batch = tuple(np.asarray(part)[None] for part in action) if isinstance(action, tuple) else np.asarray(action)[None]
        observation, reward, terminated, truncated, infos = self.env.step(batch)
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(infos)


def as_env(env: ImaginedEnv) -> ImaginedSingle:
    """A plain `gymnasium.Env` of an imagined environment.

    Raises:
        ValueError: unless it has one environment that does not reset itself.
    """
    if env.num_envs != 1 or env.autoreset_mode is not AutoresetMode.DISABLED:
        got = f"num_envs={env.num_envs} and autoreset_mode={env.autoreset_mode.value!r}"
        raise ValueError(f"as_env needs ImaginedEnv(..., num_envs=1, autoreset_mode='Disabled'), got {got}.")
    return ImaginedSingle(env)


def _first(infos: dict[str, Any]) -> dict[str, Any]:
    """Infos of the first environment, for which their masks hold."""
    return {name: value[0] for name, value in infos.items() if not name.startswith("_") and infos[f"_{name}"][0]}
