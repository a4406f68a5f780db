"""Reinforcement learning of pushing inside a model, by PPO of stable-baselines3 (`pip install structwm[rl]`)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from structwm.roles import ImaginedEnv, as_sb3

from .push_policy import FEATURES, Learning, PushActor, features, world_velocity

Array = NDArray[Any]


class SliderFrame(VecEnvWrapper):  # type: ignore[misc]
    """Pushing as seen from the slider: observations are `features`, actions commands in its frame within -1 and 1."""

    def __init__(self, venv: VecEnv, speed: float) -> None:
        box = spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
        super().__init__(venv, box, spaces.Box(-1.0, 1.0, (2,), np.float32))
        self.speed = speed
        self._pose = torch.zeros(venv.num_envs, 3)

    def reset(self) -> Array:
        return self._seen(self.venv.reset())

    def step_async(self, actions: Array) -> None:
        self.venv.step_async(world_velocity(self._pose, torch.as_tensor(actions), self.speed).numpy())

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        observation, reward, done, infos = self.venv.step_wait()
        ended = np.flatnonzero(done)
        if len(ended):
            last = _features(np.stack([infos[i]["terminal_observation"] for i in ended]))
            for i, value in zip(ended, last, strict=True):
                infos[i]["terminal_observation"] = value
        return self._seen(observation), reward, done, infos

    def _seen(self, observation: Array) -> Array:
        self._pose = torch.from_numpy(observation[:, :3])
        return _features(observation)


def _features(observation: Array) -> Array:
    seen = torch.from_numpy(observation)
    found: Array = features(seen[:, :3], seen[:, 3:5], seen[:, 5:8]).numpy()
    return found


class _Progress(BaseCallback):  # type: ignore[misc]
    """Tells after every rollout how many steps are done and what share of the last episodes, as many as environments, reached their goals.

    NaN before so many ended: those that end first are those that reach it.
    """

    def __init__(self, tell: Callable[[int, float], None], episodes: int) -> None:
        super().__init__()
        self.tell, self.last = tell, deque[bool](maxlen=episodes)

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self.last.extend(bool(infos[i]["is_success"]) for i in np.flatnonzero(self.locals["dones"]))
        return True

    def _on_rollout_end(self) -> None:
        full = len(self.last) == self.last.maxlen
        self.tell(self.num_timesteps, sum(self.last) / len(self.last) if full else math.nan)


def learn_to_push(env: ImaginedEnv, learning: Learning = Learning(), *, tell: Callable[[int, float], None] = lambda steps, reached: None) -> PushActor:
    """A policy from episodes of `imagined_pushing`.

    Args:
        env: where it learns.
        learning: how.
        tell: called with the steps done and the share of goals reached by the last N episodes, NaN before N have ended.
    """
    speed = float(env.model.spec.action.high.min())
    venv = SliderFrame(as_sb3(env), speed)
    network = {"net_arch": list(learning.widths), "log_std_init": learning.spread, "activation_fn": torch.nn.ReLU}
    agent = PPO(
        "MlpPolicy",
        venv,
        learning_rate=lambda left: learning.rate * left,
        n_steps=learning.rollout,
        batch_size=learning.minibatch,
        n_epochs=learning.epochs,
        gamma=learning.discount,
        clip_range=learning.clip,
        ent_coef=learning.entropy,
        policy_kwargs=network,
        seed=learning.seed,
        device="cpu",
    )
    agent.learn(learning.steps, callback=_Progress(tell, env.num_envs))
    actor = PushActor(learning.widths)
    layers = [*agent.policy.mlp_extractor.policy_net, agent.policy.action_net]
    actor.network.load_state_dict(torch.nn.Sequential(*layers).state_dict())
    return actor
