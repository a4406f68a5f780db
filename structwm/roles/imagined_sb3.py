"""Imagined environments for stable-baselines3, which is loaded when this module is: use `structwm.roles.as_sb3`, or install `structwm[rl]`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from .imagined_env import Array, ImaginedEnv


class ImaginedVecEnv(VecEnv):  # type: ignore[misc]
    """An `ImaginedEnv` with the meaning that stable-baselines3 gives to vectorised environments.

    Episodes that ended begin anew within the step; the info of such a step has the last observation as `terminal_observation` and says by
    `TimeLimit.truncated` whether the episode was cut off, so that values are bootstrapped. Attributes and methods are those of the one vector environment.
    """

    def __init__(self, env: ImaginedEnv) -> None:
        self.env = env
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Array:
        """Start all episodes; a seed set by `seed` counts once."""
        observation, infos = self.env.reset(seed=None if self._seeds[0] is None else list(self._seeds))
        self.reset_infos = [_of(infos, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: Array) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, infos = self.env.step(self._actions)
        done = terminated | truncated
        each = []
        for i in range(self.num_envs):
            if not done[i]:
                each.append(_of(infos, i) | {"TimeLimit.truncated": False})
                continue
            self.reset_infos[i] = _of(infos, i)
            each.append(
                _of(infos["final_info"], i) | {"TimeLimit.truncated": bool(truncated[i] and not terminated[i]), "terminal_observation": infos["final_obs"][i]}
            )
        return observation, reward.astype(np.float32), done, each

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name) for _ in self._places(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """The method of the vector environment, once; its result for each place."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._places(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._places(indices)]

    def _places(self, indices: Any) -> Iterable[int]:
        found: Iterable[int] = self._get_indices(indices)
        return found


def _of(infos: dict[str, Any], place: int) -> dict[str, Any]:
    """Infos of one environment, for which their masks hold."""
    return {name: value[place] for name, value in infos.items() if not name.startswith(("_", "final_")) and infos[f"_{name}"][place]}


def vec_env(env: ImaginedEnv) -> ImaginedVecEnv:
    """See `structwm.roles.as_sb3`."""
    if env.autoreset_mode is not AutoresetMode.SAME_STEP:
        raise ValueError(f"as_sb3 needs ImaginedEnv(..., autoreset_mode='SameStep'), as stable-baselines3 resets so; got {env.autoreset_mode.value!r}.")
    return ImaginedVecEnv(env)
