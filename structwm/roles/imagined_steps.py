"""Parts of an imagined step: rewards, states taken from one or the other, the mean of members, seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.interfaces import Objective
from structwm.state import fields_of, state_of
from structwm.transition import Trajectory


def imagined_reward(trajectory: Trajectory, objective: Objective | None, kind: str, discount: float) -> Tensor:
    """The reward (N,) of one-step trajectories (N,): as predicted where there is no objective, else minus its cost or, for `progress`, its discounted fall."""
    if objective is None:
        assert trajectory.reward is not None
        return trajectory.reward[:, 0]
    if kind == "cost":
        return -_cost(objective, trajectory)
    return _cost(objective, still(trajectory, 0)) - discount * _cost(objective, still(trajectory, 1))


def still(trajectory: Trajectory, instant: int) -> Trajectory:
    """One-step trajectories (N,) that stay in the state of an instant, under the same action."""
    return replace(trajectory, states=torch.stack([trajectory.states[:, instant]] * 2, 1))


def _cost(objective: Objective, trajectory: Trajectory) -> Tensor:
    """Cost (N,); an objective that reads members is given one."""
    total = torch.zeros(trajectory.batch_shape, device=trajectory.times.device)
    for weight, term in objective.terms:
        value = term(trajectory.reshape(*trajectory.batch_shape, 1, 1))[:, 0] if term.reads_members else term(trajectory)
        total = total + weight * value
    return total


def finite_states(state: Any) -> Tensor:
    """Which states (N,) are finite in all fields."""
    found = torch.ones(state.batch_size, dtype=torch.bool, device=next(iter(fields_of(state).values())).device)
    for value in fields_of(state).values():
        if value.is_floating_point():
            found = found & value.isfinite().reshape(len(value), -1).all(-1)
    return found


def states_where(mask: Tensor, one: Any, other: Any) -> Any:
    """States (N,): of the first where the mask holds."""
    ours, theirs = fields_of(one), fields_of(other)
    fields = {name: torch.where(mask.reshape(-1, *(1,) * (value.ndim - 1)), value, theirs[name]) for name, value in ours.items()}
    return state_of(type(one), fields, one.batch_size)


def mean_member(trajectory: Trajectory) -> Trajectory:
    """What members (N, E) predict on average, (N,); an action applies where it does for all."""
    first, scene = trajectory[:, 0], trajectory.scene
    optional = {name: getattr(trajectory, name) for name in ("reward", "continue_probability", "value")}
    means: dict[str, Any] = {name: None if value is None else value.mean(1) for name, value in optional.items()}
    return Trajectory(scene, scene.average(trajectory.states, 1), first.actions, first.times, trajectory.valid.all(1), **means)


def keyed_seeds(*words: NDArray[Any]) -> Tensor:
    """Seeds int64 (n,) from several integers each, by rounds of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    key = np.ones(len(words[0]), np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            key = key + np.uint64(0x9E3779B97F4A7C15) * (word.astype(np.uint64) + np.uint64(1))
            key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            key = key ^ (key >> np.uint64(31))
    return torch.from_numpy(key.astype(np.int64))
