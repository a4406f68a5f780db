"""Adapters of imagined environments to RL libraries with interfaces of their own; a library loads when its adapter is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .imagined_env import ImaginedEnv

if TYPE_CHECKING:
    from .imagined_sb3 import ImaginedVecEnv


def as_sb3(env: ImaginedEnv) -> ImaginedVecEnv:
    """A `VecEnv` of stable-baselines3 that steps all episodes of an imagined environment in one rollout step.

    Raises:
        ImportError: if stable-baselines3 is not installed.
        ValueError: unless the environment resets within the step (`autoreset_mode="SameStep"`).
    """
    try:
        from .imagined_sb3 import vec_env
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "stable_baselines3":
            raise
        raise ImportError("as_sb3 needs stable-baselines3, which is not installed; run `pip install structwm[rl]`.", name=error.name) from error
    return vec_env(env)
