"""Models around models: each wrapper is itself a transition model, so they compose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .noise import Noise
from .spec import Action, ActionSpec
from .state import State, fields_of
from .transition import Outcome, TransitionModel

S = TypeVar("S", bound=State)
Correction = Callable[[S, Action, S], Mapping[str, Tensor]]


class ModelWrapper(TransitionModel[S]):
    """A model around `model`; keeps its spec and scene unless told otherwise, and passes everything but `step` through."""

    def __init__(self, model: TransitionModel[S], *, action: ActionSpec | None = None, dt: float | None = None) -> None:
        super().__init__()
        self.model = model
        self.spec = replace(model.spec, action=action or model.spec.action, dt=dt or model.spec.dt)
        self.scene = model.scene

    def overrides(self, method: str) -> bool:
        return self.model.overrides(method)

    def inner(self, state: S, action: Action) -> tuple[S, Action]:
        """The wrapped model's state and action for the wrapper's own."""
        return state, action

    def outer(self, state: S) -> S:
        """The wrapper's state for the wrapped model's own."""
        return state

    def step(self, state: S, action: Action, *, noise: Noise | None = None) -> S:
        return self.outer(self.model.step(*self.inner(state, action), noise=noise))

    def duration(self, state: S, action: Action, next_state: S) -> Tensor:
        inner_state, inner_action = self.inner(state, action)
        return self.model.duration(inner_state, inner_action, self.inner(next_state, action)[0])

    def applicable(self, state: S) -> Tensor | None:
        return self.model.applicable(state)

    def outcome(self, state: S, action: Action, next_state: S) -> Outcome | None:
        inner_state, inner_action = self.inner(state, action)
        return self.model.outcome(inner_state, inner_action, self.inner(next_state, action)[0])

    def value(self, state: S) -> Tensor | None:
        return self.model.value(state)


class Residual(ModelWrapper[S]):
    """`model` plus a correction of its prediction: `next[f] + correction(state, action, next)[f]` for each field f that the correction returns.

    Args:
        model: the model that is corrected, for example a physics twin.
        correction: a function or module of (state, action, predicted next state) that returns additive corrections by field name; an empty mapping
            leaves the prediction as it is.
    """

    def __init__(self, model: TransitionModel[S], correction: Correction[S]) -> None:
        super().__init__(model)
        self.correction = correction

    def step(self, state: S, action: Action, *, noise: Noise | None = None) -> S:
        predicted = self.model.step(state, action, noise=noise)
        deltas = self.correction(state, action, predicted)
        unknown = sorted(set(deltas) - set(fields_of(predicted)))
        if unknown:
            raise ValueError(f"The correction returned {', '.join(unknown)}, but {type(predicted).__name__} has the fields {', '.join(fields_of(predicted))}.")
        return predicted.replace(**{name: getattr(predicted, name) + delta for name, delta in deltas.items()}) if deltas else predicted


class Normalised(ModelWrapper[S]):
    """Runs `model` in normalised units behind a contract in physical units: each field f enters as `(f - mean[f]) / std[f]`, actions likewise.

    Args:
        model: a model of normalised states and actions.
        action: the physical action spec.
        mean: by field name, broadcasting against the field; fields left out stay as they are.
        std: as `mean`, positive.
        action_mean: (A,).
        action_std: (A,), positive.
    """

    def __init__(
        self,
        model: TransitionModel[S],
        *,
        action: ActionSpec,
        mean: Mapping[str, Tensor],
        std: Mapping[str, Tensor],
        action_mean: Tensor | float = 0.0,
        action_std: Tensor | float = 1.0,
    ) -> None:
        super().__init__(model, action=action)
        if set(mean) != set(std):
            raise ValueError(f"Normalised needs a mean and a std for the same fields, got {sorted(mean)} and {sorted(std)}.")
        scales = {**std, "action": torch.as_tensor(action_std)}
        for name, scale in scales.items():
            if not bool((torch.as_tensor(scale) > 0).all()):
                raise ValueError(f"Normalised needs a positive std for {name}, got {scale}.")
        self.means = nn.ParameterDict({name: nn.Parameter(torch.as_tensor(value, dtype=torch.float32), False) for name, value in mean.items()})
        self.stds = nn.ParameterDict({name: nn.Parameter(torch.as_tensor(value, dtype=torch.float32), False) for name, value in std.items()})
        self.action_mean = nn.Parameter(torch.as_tensor(action_mean, dtype=torch.float32), False)
        self.action_std = nn.Parameter(torch.as_tensor(action_std, dtype=torch.float32), False)

    def config(self) -> dict[str, Any]:
        scales = {name: {key: value.data for key, value in getattr(self, f"{name}s").items()} for name in ("mean", "std")}
        return {"model": self.model, "action": self.spec.action, **scales, "action_mean": self.action_mean.data, "action_std": self.action_std.data}

    def inner(self, state: S, action: Action) -> tuple[S, Action]:
        normal = {name: (getattr(state, name) - self.means[name]) / self.stds[name] for name in self.means}
        return state.replace(**normal) if normal else state, (action - self.action_mean) / self.action_std  # type: ignore[operator]

    def outer(self, state: S) -> S:
        physical = {name: getattr(state, name) * self.stds[name] + self.means[name] for name in self.means}
        return state.replace(**physical) if physical else state


class ActionTransform(ModelWrapper[S]):
    """Offers another action space: `fn(state, action)` gives the wrapped model's action.

    One model so serves several embodiments, and planners sample low-dimensional commands.

    Args:
        model: the model that is driven.
        fn: maps (state, action of `spec`) to an action of the model.
        spec: the new action space.
    """

    def __init__(self, model: TransitionModel[S], fn: Callable[[S, Any], Action], spec: ActionSpec) -> None:
        super().__init__(model, action=spec)
        self.fn = fn

    def config(self) -> dict[str, Any]:
        return {"model": self.model, "fn": self.fn, "spec": self.spec.action}

    def inner(self, state: S, action: Action) -> tuple[S, Action]:
        return state, self.fn(state, action)


class Chunked(ModelWrapper[S]):
    """One action that holds `length` actions of the wrapped model, (A * length,) in time order; a step takes `length` of its steps."""

    def __init__(self, model: TransitionModel[S], length: int) -> None:
        spec = model.spec.action
        if spec.kind != "continuous" or length < 1:
            raise ValueError(f"Chunked needs a continuous action and length >= 1, got a {spec.kind} one and length {length}.")
        names = tuple(f"{name}[{t}]" for t in range(length) for name in spec.names)
        chunk = ActionSpec.box(
            spec.low.repeat(length).tolist(),
            spec.high.repeat(length).tolist(),
            names=names,
            units=spec.units * length,
            frame=spec.frame,
            convention=spec.convention,
        )
        super().__init__(model, action=chunk, dt=None if model.spec.dt is None else model.spec.dt * length)
        self.length = length

    def step(self, state: S, action: Action, *, noise: Noise | None = None) -> S:
        return self._walk(state, action, noise)[-1]

    def duration(self, state: S, action: Action, next_state: S) -> Tensor:
        if self.spec.dt is not None:
            return TransitionModel.duration(self, state, action, next_state)
        path, parts = self._walk(state, action, None), self._parts(action)
        return torch.stack([self.model.duration(a, u, b) for a, u, b in zip(path[:-1], parts, path[1:], strict=True)]).sum(0)

    def outcome(self, state: S, action: Action, next_state: S) -> Outcome | None:
        """Rewards summed, continuation multiplied, the last value."""
        path, parts = self._walk(state, action, None), self._parts(action)
        each = [self.model.outcome(a, u, b) for a, u, b in zip(path[:-1], parts, path[1:], strict=True)]
        if each[0] is None:
            return None
        rewards, odds = [o.reward for o in each if o is not None], [o.continue_probability for o in each if o is not None]
        return Outcome(
            reward=None if rewards[0] is None else torch.stack(rewards).sum(0),  # type: ignore[arg-type]
            continue_probability=None if odds[0] is None else torch.stack(odds).prod(0),  # type: ignore[arg-type]
            value=each[-1].value if each[-1] is not None else None,
        )

    def _parts(self, action: Action) -> list[Tensor]:
        return list(action.unflatten(-1, (self.length, -1)).unbind(-2))  # type: ignore[union-attr]

    def _walk(self, state: S, action: Action, noise: Noise | None) -> list[S]:
        """The states along the chunk, the start included."""
        states = [state]
        for t, part in enumerate(self._parts(action)):
            at = None if noise is None else noise.at(noise.step * self.length + t)
            states.append(self.model.step(states[-1], part, noise=at))
        return states
