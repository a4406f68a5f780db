"""What is planned from: B states or beliefs, with members or particles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structwm.interfaces import Belief, Constraint, Objective
from structwm.noise import Noise
from structwm.plan import Plan
from structwm.state import State, fields_of
from structwm.transition import TransitionModel


def count_problems(state: State | Belief[Any]) -> int:
    """B.

    Raises:
        TypeError: if it is neither a state nor a belief.
        ValueError: if a state has no batch axis, or no problem on it.
    """
    if not isinstance(state, (State, Belief)):
        raise TypeError(f"A planner needs a State of batch_size (B,) or a Belief, got {type(state).__name__}.")
    batch = state.states.batch_size if isinstance(state, Belief) else state.batch_size
    if len(batch) < 1:
        raise ValueError("A planner needs states of batch_size (B,), got one without batch axes; use state.unsqueeze(0).")
    if not batch[0]:
        raise ValueError(f"A planner needs at least one problem, got states of batch_size {tuple(batch)}.")
    return int(batch[0])


def check_wanted(objective: Objective, constraints: Sequence[Constraint]) -> None:
    """Refuse what is no objective or no sequence of constraints.

    Raises:
        TypeError: says what was given.
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"The objective needs to be an Objective, a class whose __call__ gives costs (*B) of a trajectory, got {type(objective).__name__}.")
    if isinstance(constraints, Constraint):
        raise TypeError(f"Constraints are given as a sequence, got {type(constraints).__name__} alone; put it into a list.")
    for constraint in constraints:
        if not isinstance(constraint, Constraint):
            raise TypeError(f"Constraints need to be of the class Constraint, got {type(constraint).__name__}; for a limit on a goal's error see ErrorLimit.")


def check_again(problems: int, previous: Plan | None, active: Tensor | None, elapsed: int) -> None:
    """Refuse a mask of active problems, or a time since the previous plan, that cannot be.

    Raises:
        ValueError: says which.
    """
    if elapsed < 0:
        raise ValueError(f"elapsed is a number of steps, 0 or more, got {elapsed}.")
    if active is None:
        return
    if not isinstance(active, Tensor):
        raise TypeError(f"active must be a tensor of bool, got {type(active).__name__}.")
    if active.shape != (problems,) or active.dtype != torch.bool:
        raise ValueError(f"active must be bool of shape ({problems},), got {active.dtype} {tuple(active.shape)}.")
    if previous is None and not bool(active.all()):
        raise ValueError("Problems that are not active go on with the previous plan, and there is none; pass previous, or active=None.")


def spread(model: TransitionModel[Any], state: State | Belief[Any], particles: int | None, noise: Noise) -> tuple[type[State], dict[str, Tensor]]:
    """The class of the states, and their fields (B, E, ...): E members, else E particles of a belief, all where `particles` is None, else of a stochastic model
    E times the state, whose futures differ by its noise.

    Raises:
        ValueError: if the states are none of the model's, or have other axes.
    """
    members, name = model.spec.members, type(model).__name__
    given, axes = (state.states, 2) if isinstance(state, Belief) else (state, 1)
    if not isinstance(given, model.spec.state_type):
        raise ValueError(f"{name} takes {model.spec.state_type.__name__}, got {type(given).__name__}.")
    batch = tuple(given.batch_size)
    if len(batch) != axes and not (members > 1 and len(batch) == 2):
        what = "belief" if axes == 2 else "state"
        raise ValueError(f"Plans start from states (B,) or a belief over (B, E), got a {what} of batch_size {batch}.")
    if axes == 1 and len(batch) == 2 and batch[1] != members:
        raise ValueError(f"{name} has {members} members, got states of batch_size {batch}.")
    if isinstance(state, Belief):
        states = state.resample(members if members > 1 else particles or batch[1], noise.child(1))
        return type(states), fields_of(states)
    fields = fields_of(state)
    if members > 1 and len(batch) == 2:
        return type(state), fields
    fields = {name: value.unsqueeze(1) for name, value in fields.items()}
    count = members if members > 1 else particles if particles and model.spec.traits.stochastic else 1
    if count > 1:
        fields = {name: value.expand(value.shape[0], count, *value.shape[2:]) for name, value in fields.items()}
    return type(state), fields
