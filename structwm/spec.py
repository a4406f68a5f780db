"""What a model takes and gives: action spaces, time step, context, members and traits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorClass
from torch import Tensor

from .state import State

Convention = Literal["absolute", "delta", "velocity", "force", "torque", "index", "unitless"]
Prediction = Literal["reward", "continue_probability", "value"]


class HybridAction(TensorClass):
    """A discrete choice with continuous parameters; parameters that the choice does not use are masked."""

    index: Tensor  # (*B) int64
    parameters: Tensor  # (*B, A)
    mask: Tensor | None = None  # (*B, A) bool, False where the choice does not use a parameter


Action: TypeAlias = Any
"""(*B, A) for `Box`, int64 (*B) for `Discrete`, `HybridAction` of batch_size *B for `Tuple(Discrete, Box)`."""


@dataclass(frozen=True)
class ActionSpec:
    """The action space with what a number in it means.

    Raises:
        ValueError: if the space is none of `Box` of one axis, `Discrete`, `Tuple(Discrete, Box)`, or names and units do not fit its size.
    """

    space: spaces.Box | spaces.Discrete | spaces.Tuple
    names: tuple[str, ...] = ()  # one per continuous axis, or one per discrete choice
    units: tuple[str, ...] = ()  # one per continuous axis, for example "m/s"
    frame: str = "world"  # the frame in which vectors are given
    convention: Convention = "unitless"  # what the numbers mean
    low: Tensor = field(init=False, repr=False, compare=False)  # (A,) lower bounds, empty for Discrete
    high: Tensor = field(init=False, repr=False, compare=False)  # (A,) upper bounds, empty for Discrete
    centre: Tensor = field(init=False, repr=False, compare=False)  # (A,) middle of the bounds; where one of them is infinite, what lies inside nearest to 0
    half: Tensor = field(init=False, repr=False, compare=False)  # (A,) half the range; 1 where a bound is infinite
    shared: tuple[float, float] | None = field(init=False, repr=False, compare=False)  # the bounds where they are the same on all axes

    def __post_init__(self) -> None:
        box = self._box()
        if box is not None and len(box.shape) != 1:
            raise ValueError(f"ActionSpec needs a Box of one axis (A,), got shape {box.shape}; flatten the action.")
        low, high = (np.zeros(0), np.zeros(0)) if box is None else (box.low, box.high)
        object.__setattr__(self, "low", torch.as_tensor(low, dtype=torch.float32))
        object.__setattr__(self, "high", torch.as_tensor(high, dtype=torch.float32))
        alike = self.size and bool((self.low == self.low[0]).all() and (self.high == self.high[0]).all())
        object.__setattr__(self, "shared", (float(self.low[0]), float(self.high[0])) if alike else None)
        bounded = self.low.isfinite() & self.high.isfinite()
        object.__setattr__(self, "centre", torch.where(bounded, (self.low + self.high) / 2, torch.zeros_like(self.low).clamp(self.low, self.high)))
        object.__setattr__(self, "half", torch.where(bounded, (self.high - self.low) / 2, 1.0).nan_to_num(posinf=1.0))
        for label, given, expected in (("names", self.names, self.size or self.choices), ("units", self.units, self.size)):
            if given and len(given) != expected:
                raise ValueError(f"ActionSpec got {len(given)} {label} for {expected} entries; give one each or none.")

    @classmethod
    def box(cls, low: Sequence[float] | float, high: Sequence[float] | float, size: int | None = None, **meaning: Any) -> ActionSpec:
        """A continuous spec from bounds: `ActionSpec.box(-1.0, 1.0, 2, names=("x", "y"), units=("N", "N"))`."""
        shape = (size,) if size is not None else np.broadcast_shapes(np.shape(low), np.shape(high)) or (1,)
        bounds = [np.broadcast_to(np.asarray(b, dtype=np.float32), shape).copy() for b in (low, high)]
        return cls(spaces.Box(bounds[0], bounds[1], dtype=np.float32), **meaning)

    @classmethod
    def discrete(cls, choices: int | Sequence[str]) -> ActionSpec:
        """A discrete spec from the number of choices or from their names."""
        names = () if isinstance(choices, int) else tuple(choices)
        return cls(spaces.Discrete(choices if isinstance(choices, int) else len(names)), names=names, convention="index")

    def _box(self) -> spaces.Box | None:
        match self.space:
            case spaces.Box():
                return self.space
            case spaces.Discrete(start=0):
                return None
            case spaces.Tuple(spaces=(spaces.Discrete(start=0), spaces.Box() as box)):
                return box
        raise ValueError(f"ActionSpec takes Box, Discrete or Tuple(Discrete, Box), choices counted from 0, got {self.space}.")

    @property
    def kind(self) -> Literal["continuous", "discrete", "hybrid"]:
        """Which of the three forms the action takes."""
        if isinstance(self.space, spaces.Box):
            return "continuous"
        return "discrete" if isinstance(self.space, spaces.Discrete) else "hybrid"

    @property
    def size(self) -> int:
        """A, the number of continuous numbers in an action; 0 for Discrete."""
        return self.low.shape[0]

    @property
    def choices(self) -> int:
        """n, the number of discrete choices; 0 for Box."""
        discrete = self.space if isinstance(self.space, spaces.Discrete) else self.space[0] if isinstance(self.space, spaces.Tuple) else None
        return int(discrete.n) if isinstance(discrete, spaces.Discrete) else 0

    def project(self, actions: Tensor) -> Tensor:
        """Continuous actions (*B, A) clamped into the bounds."""
        return actions.clamp(self.low.to(actions), self.high.to(actions))

    def inside(self, actions: Tensor) -> Tensor:
        """Which numbers of continuous actions (*B, A) lie within the bounds, bool (*B, A); NaN does not.

        The bounds are of single precision: 0.7 lies within a bound of 0.7 also where the action is of double precision.
        """
        given = actions.float() if actions.dtype == torch.float64 else actions
        return (given >= self.low.to(given)) & (given <= self.high.to(given))

    def check(self, actions: Action) -> None:
        """Refuse actions of any leading shape that do not belong to the space.

        Raises:
            ValueError: on a wrong size, a wrong type, a value that is not finite or one outside the bounds; the message names the entry.
        """
        index = actions.index if isinstance(actions, HybridAction) else actions
        values = actions.parameters if isinstance(actions, HybridAction) else actions
        if isinstance(actions, HybridAction) != (self.kind == "hybrid"):
            raise ValueError(f"Expected a {self.kind} action, got {type(actions).__name__}.")
        if self.kind != "continuous":
            if index.is_floating_point() or index.dtype == torch.bool:
                raise ValueError(f"A discrete action is int64, got {index.dtype}.")
            if index.numel() and (int(index.min()) < 0 or int(index.max()) >= self.choices):
                raise ValueError(f"A discrete action lies in 0..{self.choices - 1}, got values from {int(index.min())} to {int(index.max())}.")
        if self.kind != "discrete":
            self._check_box(values)

    def _check_box(self, values: Tensor) -> None:
        if values.ndim < 1 or values.shape[-1] != self.size:
            raise ValueError(f"An action has {self.size} numbers on its last axis, got shape {tuple(values.shape)}.")
        inside = self.inside(values)
        if not bool(inside.all()):
            where = (~inside).nonzero()[0].tolist()
            axis = where[-1]
            name = self.names[axis] if self.names else f"action[{axis}]"
            raise ValueError(
                f"{name} must lie in [{float(self.low[axis]):g}, {float(self.high[axis]):g}], got {float(values[tuple(where)]):g} at {where[:-1]}; "
                "clamp it with ActionSpec.project."
            )


@dataclass(frozen=True)
class Traits:
    """What a model can do beyond predicting the mean next state."""

    differentiable: bool = True  # gradients flow from the next state to state and action
    stochastic: bool = False  # `noise` changes the prediction
    predicts: frozenset[Prediction] = frozenset()  # what `outcome` returns


@dataclass(frozen=True)
class ModelSpec:
    """What a transition model takes and gives."""

    state_type: type[State]  # the class of its states
    action: ActionSpec  # the actions it takes
    dt: float | None = None  # duration of a step [s]; None where `duration` says it
    context: int = 1  # past instants that the state carries
    members: int = 1  # E > 1: states carry E members on their last leading axis
    traits: Traits = Traits()

    def __post_init__(self) -> None:
        if self.dt is not None and not self.dt > 0:
            raise ValueError(f"ModelSpec.dt must be positive seconds or None, got {self.dt}.")
        if self.context < 1 or self.members < 1:
            raise ValueError(f"ModelSpec needs context >= 1 and members >= 1, got {self.context} and {self.members}.")
