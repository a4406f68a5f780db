"""`ParticleResidual`: a twin of particles (ropes, springs) and what was learned of its errors, as one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.scene import Scene
from structwm.spec import Action
from structwm.state import State, fields_of, state_of
from structwm.transition import Trajectory
from structwm.wrappers import ModelWrapper

from .particle_correction import ParticleCorrection
from .rod_scene import RodState, across
from .twin import Twin

Layout = tuple[tuple[str, tuple[int, ...]], ...]  # names of a state's fields, and their shapes behind the batch axes


class ParticleResidualState(State):
    """Corrected particles, and beside them what the prediction goes on from: the twin's own state and what the correction remembers."""

    positions: Tensor  # (*B, V, 3) [m], corrected
    velocities: Tensor  # (*B, V, 3) [m/s], of the corrected positions
    base: Tensor  # (*B, D) the fields of the twin's state, one behind the other
    memory: Tensor  # (*B, M) of the correction
    trust: Tensor  # (*B, 1) in [0, 1], by how much the correction counts


class ParticleResidualScene(Scene):
    """The views of a twin's scene, read from corrected positions and velocities."""

    def __init__(self, base: Scene, state_type: type[State], layout: Layout) -> None:
        super().__init__(point_names=base.point_names, body_names=base.body_names, periodic=tuple(base.periodic))
        self.base, self.state_type, self.layout = base, state_type, layout

    def config(self) -> dict[str, Any]:
        return {"base": self.base, "state_type": self.state_type, "layout": self.layout}

    @property
    def views(self) -> frozenset[str]:
        return self.base.views

    def _decode(self, view: str, *arguments: Any) -> Any:
        state, *others = arguments
        return getattr(self.base, view)(self.corrected(state), *others)

    def coordinates(self, state: ParticleResidualState) -> Tensor:
        return self.base.coordinates(self.corrected(state))

    def coordinate_names(self, state: ParticleResidualState) -> tuple[str, ...]:
        return self.base.coordinate_names(self.unpacked(state))

    def coordinate_units(self, state: ParticleResidualState) -> tuple[str, ...]:
        return self.base.coordinate_units(self.unpacked(state))

    def unpacked(self, state: ParticleResidualState) -> Any:
        """The twin's own state."""
        parts = state.base.split([prod(shape) for _, shape in self.layout], -1)
        fields = {name: part.unflatten(-1, shape) if shape else part.squeeze(-1) for (name, shape), part in zip(self.layout, parts, strict=True)}
        return state_of(self.state_type, fields, state.batch_size)

    def packed(self, base: State) -> Tensor:
        """(*B, D) of the twin's own state."""
        fields, depth = fields_of(base), len(base.batch_size)
        return torch.cat([fields[name].flatten(depth) if shape else fields[name].unsqueeze(-1) for name, shape in self.layout], -1)

    def corrected(self, state: ParticleResidualState) -> Any:
        """The twin's state with corrected positions and velocities, and directors across the corrected edges."""
        changed = {"positions": state.positions, "velocities": state.velocities}
        own = self.unpacked(state)
        if isinstance(own, RodState) and own.directors.shape[-2]:
            changed["directors"] = across(state.positions, own.directors)
        return own.replace(**changed)

    def average(self, states: ParticleResidualState, dim: int) -> ParticleResidualState:
        axis = dim % states.batch_dims
        base = self.packed(self.base.average(self.unpacked(states), axis))
        mean = {name: value.mean(axis) for name, value in fields_of(states).items()}
        return state_of(ParticleResidualState, mean | {"base": base}, base.shape[:-1])


class ParticleResidual(ModelWrapper[Any]):
    """A twin of particles whose predicted positions are corrected: `positions = twin's + correction(what the twin has predicted so far)`.

    The twin goes on from its own state, not from the corrected one, so that a rollout is one launch of its kernel and one pass of the correction over all
    frames. Rollouts take the twin's own states too.

    Args:
        twin: whose states have `positions` and `velocities` (*B, V, 3).
        correction: of the positions.
        layout: of the twin's states; `layout_of` tells it.

    Raises:
        ValueError: if its states lack positions or velocities, or hold other than floating-point numbers.
    """

    def __init__(self, twin: Twin[Any], correction: ParticleCorrection, layout: Sequence[tuple[str, Sequence[int]]]) -> None:
        super().__init__(twin)
        self.correction = correction
        self.layout: Layout = tuple((name, tuple(shape)) for name, shape in layout)
        self.spec = replace(twin.spec, state_type=ParticleResidualState)
        self.scene: ParticleResidualScene = ParticleResidualScene(twin.scene, twin.spec.state_type, self.layout)

    def config(self) -> dict[str, Any]:
        return {"twin": self.model, "correction": self.correction, "layout": self.layout}

    def inner(self, state: Any, action: Action) -> tuple[Any, Action]:
        return self.scene.unpacked(state), action

    def state(self, base: State) -> ParticleResidualState:
        """The start from a state of the twin: nothing corrected yet, nothing remembered."""
        positions: Tensor = base.positions  # type: ignore[attr-defined]
        batch = base.batch_size
        return ParticleResidualState(
            positions=positions.clone(),
            velocities=base.velocities.clone(),  # type: ignore[attr-defined]
            base=self.scene.packed(base),
            memory=positions.new_zeros(*batch, self.correction.memory),
            trust=positions.new_ones(*batch, 1),
            batch_size=batch,
        )

    def prepare(self, state: Any, actions: Action) -> tuple[Any, Action]:
        return super().prepare(self.state(state) if isinstance(state, self.model.spec.state_type) else state, actions)

    def step(self, state: Any, action: Action, *, noise: Noise | None = None) -> Any:
        assert isinstance(action, Tensor)
        return self.roll(state, action.unsqueeze(-2), noise=noise).states[..., -1]

    def roll(self, state: Any, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        found = self.model.roll(self.scene.unpacked(state), actions, noise=noise)
        batch = state.batch_size
        predicted, speeds = found.states.positions[..., 1:, :, :], found.states.velocities
        flat = (part.reshape(batch.numel(), *part.shape[len(batch) :]) for part in (predicted, speeds, state.memory, state.trust))
        change, memory, trust = (part.unflatten(0, batch) if batch else part.squeeze(0) for part in self.correction(*flat))
        at_start = state.positions - found.states.positions[..., 0, :, :]
        assert self.spec.dt is not None
        pace = torch.cat((at_start.unsqueeze(-3), change), -3).diff(dim=-3) / self.spec.dt

        def behind(first: Tensor, rest: Tensor) -> Tensor:
            return torch.cat((first.unsqueeze(len(batch)), rest), len(batch))

        states = ParticleResidualState(
            positions=behind(state.positions, predicted + change),
            velocities=behind(state.velocities, speeds[..., 1:, :, :] + pace),
            base=self.scene.packed(found.states),
            memory=behind(state.memory, memory),
            trust=behind(state.trust, trust),
            batch_size=found.states.batch_size,
        )
        return replace(found, scene=self.scene, states=states)


def layout_of(state: State) -> Layout:
    """Names and shapes of the fields of a twin's state.

    Raises:
        ValueError: if it lacks positions or velocities of particles, or holds other than floating-point numbers.
    """
    fields, depth = fields_of(state), len(state.batch_size)
    for name in ("positions", "velocities"):
        if name not in fields or fields[name].ndim != depth + 2 or fields[name].shape[-1] != 3:
            raise ValueError(f"A residual of particles needs states with {name} (*B, V, 3); {type(state).__name__} has {', '.join(fields)}.")
    for name, value in fields.items():
        if not value.is_floating_point():
            raise ValueError(f"A residual of particles needs states of floating-point numbers; {name} of {type(state).__name__} is {value.dtype}.")
    return tuple((name, tuple(value.shape[depth:])) for name, value in fields.items())
