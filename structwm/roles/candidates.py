"""Candidate action sequences: which of their actions belong to the space, and what a model predicts of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Belief
from structwm.noise import Noise
from structwm.planning import problems
from structwm.spec import Action, ActionSpec, HybridAction
from structwm.state import State, state_of
from structwm.transition import Trajectory, TransitionModel


def legal(spec: ActionSpec, actions: Action) -> tuple[Tensor, Action]:
    """Which actions (*B, H, ...) belong to the space, bool (*B, H), and the same actions with those that do not replaced by ones that do.

    Raises:
        ValueError: on a wrong type or a wrong number of axes, which no candidate can be blamed for.
    """
    if isinstance(actions, HybridAction) != (spec.kind == "hybrid"):
        raise ValueError(f"Expected {spec.kind} actions, got {type(actions).__name__}.")
    if isinstance(actions, HybridAction):
        inside, index = _choices(spec, actions.index)
        within, parameters = _numbers(spec, actions.parameters)
        return inside & within, HybridAction(index, parameters, actions.mask, batch_size=actions.batch_size)
    return _numbers(spec, actions) if spec.kind == "continuous" else _choices(spec, actions)


def _numbers(spec: ActionSpec, values: Tensor) -> tuple[Tensor, Tensor]:
    if values.shape[-1] != spec.size:
        raise ValueError(f"An action has {spec.size} numbers on its last axis, got shape {tuple(values.shape)}.")
    inside = (spec.inside(values) & values.isfinite()).all(-1)
    return inside, spec.project(values.nan_to_num(0.0))


def _choices(spec: ActionSpec, index: Tensor) -> tuple[Tensor, Tensor]:
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"A discrete action is int64, got {index.dtype}.")
    inside = (index >= 0) & (index < spec.choices)
    return inside, index.clamp(0, spec.choices - 1)


def spread(model: TransitionModel[Any], state: State | Belief[Any], particles: int | None, noise: Noise) -> Any:
    """States (B, E): belief particles and members are paired, by resampling, to one E."""
    kind, fields = problems.spread(model, state, particles, noise)
    return state_of(kind, fields, next(iter(fields.values())).shape[:2])


def roll_candidates(model: TransitionModel[Any], states: Any, actions: Action, *, noise: Noise | None = None) -> Trajectory:
    """Predictions of batch axes (B, S, E) from states (B, E) under actions (B, S, H, ...)."""
    (count, particles), samples = states.batch_size, actions.shape[1]
    states = states.unsqueeze(1).expand(count, samples, particles)
    if model.spec.members > 1:
        return model.rollout(states, actions, noise=noise)
    if particles == 1:
        return model.rollout(states[:, :, 0], actions, noise=noise).unsqueeze(2)
    tail = actions.shape[2:]
    return model.rollout(states, actions.unsqueeze(2).expand(count, samples, particles, *tail), noise=noise)
