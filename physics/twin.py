"""Twins: transition models of classical mechanics with named parameters."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.spec import Action
from structwm.state import State
from structwm.transition import Trajectory, TransitionModel

from .parameters import Parameter, ParameterSpace

S = TypeVar("S", bound=State)


class Twin(TransitionModel[S]):
    """A transition model whose physical parameters have names, bounds and units, and can be replaced.

    `values[name]` holds a parameter's value, shape () or with batch axes that broadcast against the state's from the right: values of shape (E,) make a model
    with `spec.members = E`, one member per draw, rolled out in one launch.

    A subclass sets `physical` and calls `Twin.__init__` with any values that differ from the defaults.
    """

    physical: Mapping[str, Parameter]  # by name; `parameters()` is what torch.nn.Module means by it
    displacements: tuple[str, ...] = ()  # names of the ways in which `displaced` moves a state

    def __init__(self, values: Mapping[str, Tensor | float] | None = None) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}
        self._set({name: parameter.default for name, parameter in self.physical.items()} | dict(values or {}))

    def _set(self, values: Mapping[str, Tensor | float]) -> None:
        for given, value in values.items():
            name = self.full_name(given)
            tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
            if not tensor.is_floating_point() or (tensor.ndim and not isinstance(value, Tensor)):  # a single float64 leaves float32 states as they are
                tensor = tensor.to(torch.float32)
            self.physical[name].check(tensor.detach())
            self.values[name] = tensor

    def full_name(self, name: str) -> str:
        """The name of a parameter, of which what stands before the last dot may be left out where one parameter alone ends so.

        Raises:
            ValueError: on an unknown name, or one that fits several.
        """
        if name in self.physical:
            return name
        fits = [full for full in self.physical if full.rpartition(".")[2] == name]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise ValueError(f"{type(self).__name__} has several parameters {name!r}: {', '.join(fits)}; say which.")
        raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(self.physical)}.")

    def with_parameters(self, values: Mapping[str, Tensor | float]) -> Self:
        """The same twin with some parameters replaced.

        Args:
            values: by name, numbers or tensors of shape (), (E,), or any axes that broadcast against the state's batch axes from the right.

        Raises:
            ValueError: on an unknown name, a value outside its bounds, or shapes that do not broadcast.
        """
        twin = copy.copy(self)
        twin._modules, twin._parameters, twin._buffers = self._modules.copy(), self._parameters.copy(), self._buffers.copy()
        twin.values = dict(self.values)
        twin._set(values)
        shape = twin.batch_shape
        twin.spec = replace(self.spec, members=shape[-1] if shape else 1)
        return twin

    @property
    def batch_shape(self) -> torch.Size:
        """The batch axes of the parameters, () when all are single numbers."""
        if all(value.ndim == 0 for value in self.values.values()):
            return torch.Size()
        try:
            return torch.broadcast_shapes(*(value.shape for value in self.values.values()))
        except RuntimeError:
            shapes = {name: tuple(value.shape) for name, value in self.values.items() if value.ndim}
            raise ValueError(f"The parameters' batch axes do not broadcast: {shapes}.") from None

    def rows(self, batch: torch.Size) -> Tensor:
        """Which of the parameters' draws, flattened, each of a batch of states has: int32, flattened too."""
        shape = self.batch_shape
        return torch.arange(shape.numel(), dtype=torch.int32).reshape(shape).expand(batch).reshape(-1)

    def displaced(self, state: S, by: Mapping[str, Tensor]) -> S:
        """A state moved by small displacements (*B), by their names in `displacements`: how a recorded start may be off.

        Raises:
            NotImplementedError: where a twin has no such names.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how its states are displaced; leave Recording.start_spread empty.")

    def space(self, names: Sequence[str]) -> ParameterSpace:
        """The space of some parameters, in the order given.

        Raises:
            ValueError: on an unknown name; the sentence lists those there are. Or on a name that comes twice.
        """
        if not names:
            raise ValueError(f"{type(self).__name__} needs the names of parameters, got none; it has {', '.join(self.physical)}.")
        full = [self.full_name(name) for name in names]
        twice = sorted({name for name in full if full.count(name) > 1})
        if twice:
            raise ValueError(f"{type(self).__name__} needs each parameter once, got {twice[0]!r} twice.")
        return ParameterSpace([self.physical[name] for name in full])

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.values = {name: fn(value) for name, value in self.values.items()}
        return super()._apply(fn, recurse)


class FusedTwin(Twin[S]):
    """A twin whose `roll` takes all steps in one go: a step is a rollout of one."""

    def step(self, state: S, action: Action, *, noise: Noise | None = None) -> S:
        assert isinstance(action, Tensor)
        states: S = self.roll(state, action.unsqueeze(-2), noise=noise).states[..., -1]
        return states

    @abstractmethod
    def roll(self, state: S, actions: Action, *, noise: Noise | None = None) -> Trajectory: ...
