"""Toy models: the contract in about fifteen lines each, for tests, benchmarks and first experiments."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.scene import Scene
from structwm.spec import Action, ActionSpec, ModelSpec, Traits
from structwm.state import Points, State
from structwm.transition import Outcome, TransitionModel


class PlanarState(State):
    """A point mass in the plane."""

    position: Tensor  # (*B, 2) [m]
    velocity: Tensor  # (*B, 2) [m/s]


class PlanarScene(Scene):
    """Shows a point mass as one point at height zero."""

    def points(self, state: PlanarState) -> Points:
        flat = torch.nn.functional.pad(state.position, (0, 1)).unsqueeze(-2)
        return Points(positions=flat, batch_size=state.batch_size)


class DoubleIntegrator(TransitionModel[PlanarState]):
    """A point mass driven by an acceleration, integrated exactly over a step."""

    def __init__(self, dt: float = 0.1) -> None:
        super().__init__()
        action = ActionSpec.box(-1.0, 1.0, 2, names=("x", "y"), units=("m/s^2", "m/s^2"), convention="force")
        self.spec = ModelSpec(PlanarState, action, dt)
        self.scene = PlanarScene(coordinate_names=("x", "y", "vx", "vy"), coordinate_units=("m", "m", "m/s", "m/s"))
        self.dt = dt

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        position, velocity = fields["position"], fields["velocity"]
        following = velocity + self.dt * action
        return {"position": position + self.dt * 0.5 * (velocity + following), "velocity": following}


class NoisyIntegrator(DoubleIntegrator):
    """A double integrator whose velocity is kicked at every step."""

    def __init__(self, dt: float = 0.1, std: float = 0.05) -> None:
        super().__init__(dt)
        self.spec = ModelSpec(PlanarState, self.spec.action, dt, traits=Traits(stochastic=True))
        self.std = std  # of the kick [m/s]

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        following = super().step_fields(fields, action)
        if noise is not None:
            velocity = following["velocity"]
            following["velocity"] = velocity + self.std * noise.normal(velocity.shape, like=velocity)
        return following


class PendulumState(State):
    """A pendulum; angle 0 hangs down."""

    angle: Tensor  # (*B, 1) [rad]
    rate: Tensor  # (*B, 1) [rad/s]


class Pendulum(TransitionModel[PendulumState]):
    """A damped pendulum driven by a torque, semi-implicit Euler."""

    def __init__(self, dt: float = 0.05, *, mass: float = 1.0, length: float = 1.0, damping: float = 0.05, torque: float = 5.0) -> None:
        super().__init__()
        self.spec = ModelSpec(PendulumState, ActionSpec.box(-torque, torque, 1, names=("torque",), units=("N m",), convention="torque"), dt)
        self.scene = Scene(coordinate_names=("angle", "rate"), coordinate_units=("rad", "rad/s"), periodic=("angle",))
        self.dt, self.mass, self.length, self.damping, self.torque = dt, mass, length, damping, torque
        self.gravity, self.inertia = 9.81 / length, mass * length**2

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        angle, rate = fields["angle"], fields["rate"]
        rate = rate + self.dt * ((action - self.damping * rate) / self.inertia - self.gravity * torch.sin(angle))  # type: ignore[operator]
        return {"angle": angle + self.dt * rate, "rate": rate}


class CartPoleState(State):
    """A pole on a cart; angle 0 stands up."""

    cart: Tensor  # (*B, 2) position [m], velocity [m/s]
    pole: Tensor  # (*B, 2) angle [rad], rate [rad/s]


class CartPole(TransitionModel[CartPoleState]):
    """A pole hinged to a cart that a horizontal force drives (Barto, Sutton and Anderson, 1983), semi-implicit Euler. Predicts a reward."""

    def __init__(self, dt: float = 0.02, *, cart: float = 1.0, pole: float = 0.1, length: float = 0.5, force: float = 10.0) -> None:
        super().__init__()
        traits = Traits(predicts=frozenset({"reward", "continue_probability"}))
        self.spec = ModelSpec(CartPoleState, ActionSpec.box(-force, force, 1, names=("force",), units=("N",), convention="force"), dt, traits=traits)
        self.scene = Scene(coordinate_names=("x", "v", "angle", "rate"), coordinate_units=("m", "m/s", "rad", "rad/s"), periodic=("angle",))
        self.dt, self.cart, self.pole, self.length, self.force = dt, cart, pole, length, force
        self.total = cart + pole

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        (x, v), (angle, rate) = fields["cart"].unbind(-1), fields["pole"].unbind(-1)
        sin, cos = angle.sin(), angle.cos()
        push = (action[..., 0] + self.pole * self.length * rate.square() * sin) / self.total
        swing = (9.81 * sin - cos * push) / (self.length * (4.0 / 3.0 - self.pole * cos.square() / self.total))
        v, rate = v + self.dt * (push - self.pole * self.length * swing * cos / self.total), rate + self.dt * swing
        return {"cart": torch.stack((x + self.dt * v, v), -1), "pole": torch.stack((angle + self.dt * rate, rate), -1)}

    def outcome(self, state: CartPoleState, action: Action, next_state: CartPoleState) -> Outcome:
        angle = next_state.pole[..., 0]
        return Outcome(reward=angle.cos(), continue_probability=(angle.abs() < math.pi / 2).to(angle))


class HistoryState(State):
    """The last C positions, oldest first; at a cold start the missing ones are masked."""

    history: Tensor  # (*B, C, 2) [m]
    known: Tensor  # (*B, C) bool


class HistoryIntegrator(TransitionModel[HistoryState]):
    """A point mass whose velocity is read from its past positions: a model with history carries it in the state."""

    def __init__(self, dt: float = 0.1, context: int = 3) -> None:
        super().__init__()
        self.spec = ModelSpec(HistoryState, ActionSpec.box(-1.0, 1.0, 2, units=("m/s^2", "m/s^2"), convention="force"), dt, context=context)
        self.scene = Scene(decoders={"coordinates": lambda state: state.history[..., -1, :]}, coordinate_names=("x", "y"), coordinate_units=("m", "m"))
        self.dt, self.context = dt, context

    def from_history(self, positions: Tensor) -> HistoryState:
        """The state after positions (*B, T, 2) [m] with 1 <= T; fewer than `spec.context` are padded in front and masked."""
        recent = positions[..., -self.spec.context :, :]
        missing = self.spec.context - recent.shape[-2]
        known = torch.arange(self.spec.context).ge(missing).expand(*recent.shape[:-2], -1)
        return HistoryState(history=torch.nn.functional.pad(recent, (0, 0, missing, 0)), known=known.clone(), batch_size=recent.shape[:-2])

    def step(self, state: HistoryState, action: Action, *, noise: Noise | None = None) -> HistoryState:
        last, steps = state.history[..., -1, :], state.history.diff(dim=-2)
        weight = (state.known[..., 1:] & state.known[..., :-1]).to(steps).unsqueeze(-1)
        velocity = (steps * weight).sum(-2) / weight.sum(-2).clamp_min(1.0)  # mean of the known steps; at rest when none is known
        following = last + velocity + self.dt**2 * action
        known = torch.cat((state.known[..., 1:], torch.ones_like(state.known[..., :1])), -1)
        return HistoryState(history=torch.cat((state.history[..., 1:, :], following.unsqueeze(-2)), -2), known=known, batch_size=state.batch_size)


class RoomState(State):
    """Which of the rooms along a corridor one is in."""

    room: Tensor  # (*B) int64


class Corridor(TransitionModel[RoomState]):
    """Rooms in a row: walk one to the left or right, or ride a lift from the first to the last, which is slow."""

    seconds = (4.0, 4.0, 30.0)

    def __init__(self, rooms: int = 6) -> None:
        super().__init__()
        self.spec = ModelSpec(RoomState, ActionSpec.discrete(("left", "right", "lift")), dt=None, traits=Traits(differentiable=False))
        self.scene = Scene(decoders={"coordinates": lambda state: state.room.float().unsqueeze(-1)}, coordinate_names=("room",), coordinate_units=("",))
        self.rooms = rooms

    def step(self, state: RoomState, action: Action, *, noise: Noise | None = None) -> RoomState:
        moved = torch.where(action == 2, self.rooms - 1, state.room + 2 * action - 1)  # type: ignore[operator, arg-type]
        return RoomState(room=moved, batch_size=state.batch_size)

    def duration(self, state: RoomState, action: Action, next_state: RoomState) -> Tensor:
        return torch.tensor(self.seconds)[action]  # type: ignore[index]

    def applicable(self, state: RoomState) -> Tensor:
        return torch.stack((state.room > 0, state.room < self.rooms - 1, state.room == 0), -1)


Wall = tuple[float, float, float, float]
U_WALL: tuple[Wall, ...] = ((1.0, -1.0, 1.1, 1.0), (-0.5, 0.9, 1.1, 1.0), (-0.5, -1.0, 1.1, -0.9))
"""Three walls, each x and y of two corners [m]: a U that opens to the left, around the origin."""


class MazeState(State):
    """A point in a maze."""

    position: Tensor  # (*B, 2) [m]


class MazeScene(Scene):
    """Shows the point at height zero, and how far points are from the walls.

    Args:
        walls: each x and y of its lower left corner, then of its upper right one [m].
    """

    def __init__(self, walls: tuple[Wall, ...]) -> None:
        super().__init__(coordinate_names=("x", "y"), coordinate_units=("m", "m"))
        self.walls = walls

    def config(self) -> dict[str, Any]:
        return {"walls": self.walls}

    def points(self, state: MazeState) -> Points:
        flat = torch.nn.functional.pad(state.position, (0, 1)).unsqueeze(-2)
        return Points(positions=flat, batch_size=state.batch_size)

    def signed_distance(self, state: MazeState, points: Tensor) -> Tensor:
        """To the nearest wall in the plane, (*B, Q) [m] for points (*B, Q, 3); exact outside."""
        walls = torch.tensor(self.walls).to(points)
        over = (points[..., None, :2] - (walls[:, :2] + walls[:, 2:]) / 2).abs() - (walls[:, 2:] - walls[:, :2]) / 2
        return (over.clamp_min(0).norm(dim=-1) + over.amax(-1).clamp_max(0)).amin(-1)


class Maze(TransitionModel[MazeState]):
    """A point that moves at the commanded velocity where walls let it, and slides along them where not."""

    def __init__(self, walls: tuple[Wall, ...] = U_WALL, *, dt: float = 0.1, speed: float = 1.0, substeps: int = 4) -> None:
        super().__init__()
        action = ActionSpec.box(-speed, speed, 2, names=("vx", "vy"), units=("m/s", "m/s"), convention="velocity")
        self.spec = ModelSpec(MazeState, action, dt, traits=Traits(differentiable=False))
        self.scene = MazeScene(walls)
        self.walls, self.dt, self.speed, self.substeps = tuple(walls), dt, speed, substeps

    def step_fields(self, fields: dict[str, Tensor], action: Action, *, noise: Noise | None = None) -> dict[str, Tensor]:
        position, move = fields["position"], action * (self.dt / self.substeps)
        low, high = torch.tensor(self.walls).to(position).view(-1, 2, 2).unbind(1)  # (W, 2) each
        for _ in range(self.substeps):
            for axis in range(2):
                tried = position + move * (torch.arange(2, device=position.device) == axis)
                blocked = ((tried.unsqueeze(-2) > low) & (tried.unsqueeze(-2) < high)).all(-1).any(-1, keepdim=True)
                position = torch.where(blocked, position, tried)
        return {"position": position}
