"""Control problems for comparing planners: dynamics and costs on plain tensors, which every library can take, and the same as a model and an objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.planar import Polygon, wrap_angle
from structwm.interfaces import Objective
from structwm.noise import Noise
from structwm.physics import PushState, PushTwin
from structwm.scene import Scene
from structwm.spec import ActionSpec, ModelSpec
from structwm.state import State
from structwm.transition import Trajectory, TransitionModel

Dynamics = Callable[[Tensor, Tensor], Tensor]


class VectorState(State):
    """A state that is one vector."""

    vector: Tensor  # (*B, D)


class VectorScene(Scene):
    """Shows the vector as its coordinates."""

    def coordinates(self, state: Any) -> Tensor:
        vector: Tensor = state.vector
        return vector


class VectorModel(TransitionModel[VectorState]):
    """Plain dynamics behind the contract."""

    def __init__(self, dynamics: Dynamics, names: tuple[str, ...], low: list[float], high: list[float], dt: float) -> None:
        super().__init__()
        self.spec = ModelSpec(VectorState, ActionSpec.box(low, high), dt)
        self.scene = VectorScene(coordinate_names=names)
        self.dynamics = dynamics

    def step_fields(self, fields: dict[str, Tensor], action: Any, *, noise: Noise | None = None) -> dict[str, Tensor]:
        return {"vector": self.dynamics(fields["vector"], action)}


class StageCost(Objective):
    """The sum over steps of a cost of what each step leads to and of its action."""

    needs = frozenset({"coordinates"})

    def __init__(self, cost: Dynamics) -> None:
        self.cost = cost

    def __call__(self, trajectory: Trajectory) -> Tensor:
        x, u = trajectory.coordinates()[..., 1:, :], trajectory.actions
        if x.stride(-2) < x.stride(1):
            return self.cost(x.contiguous(), u).sum(-1)
        return self.cost(x.movedim(-2, 0), u.movedim(-2, 0)).sum(0)  # as it lies in memory


@dataclass(frozen=True)
class Task:
    """A control problem; states (*B, D), actions (*B, A)."""

    name: str
    model: TransitionModel[Any]
    dynamics: Dynamics  # one step on plain tensors
    cost: Dynamics  # of the state that a step leads to and of its action, (*B)
    start: Callable[[int, torch.Generator], Tensor]  # N start states (N, D)
    horizon: int
    steps: int  # of an episode
    objective: Objective = field(init=False)
    state: Callable[[Tensor], Any] = lambda vector: VectorState(vector=vector, batch_size=vector.shape[:-1])

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", StageCost(self.cost))

    @property
    def low(self) -> Tensor:
        """(A,)"""
        return self.model.spec.action.low

    @property
    def high(self) -> Tensor:
        """(A,)"""
        return self.model.spec.action.high


def _uniform(low: list[float], high: list[float]) -> Callable[[int, torch.Generator], Tensor]:
    def draw(count: int, generator: torch.Generator) -> Tensor:
        lower, upper = torch.tensor(low), torch.tensor(high)
        return lower + (upper - lower) * torch.rand(count, len(low), generator=generator)

    return draw


def double_integrator(dt: float = 0.1) -> Task:
    """A point mass comes to rest at the origin."""

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        v = x[..., 2:] + dt * u
        return torch.cat((x[..., :2] + 0.5 * dt * (x[..., 2:] + v), v), -1)

    def cost(x: Tensor, u: Tensor) -> Tensor:
        return x[..., :2].square().sum(-1) + 0.1 * x[..., 2:].square().sum(-1) + 0.01 * u.square().sum(-1)

    model = VectorModel(dynamics, ("x", "y", "vx", "vy"), [-1.0] * 2, [1.0] * 2, dt)
    return Task("double integrator", model, dynamics, cost, _uniform([-2, -2, -0.5, -0.5], [2, 2, 0.5, 0.5]), 20, 60)


def pendulum(dt: float = 0.05) -> Task:
    """A pendulum swings up with a torque that is half of what would lift it; angle 0 stands up."""

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        rate = x[..., 1] + dt * (u[..., 0] - 0.05 * x[..., 1] + 9.81 * x[..., 0].sin())
        return torch.stack((x[..., 0] + dt * rate, rate), -1)

    def cost(x: Tensor, u: Tensor) -> Tensor:
        return wrap_angle(x[..., 0]).square() + 0.1 * x[..., 1].square() + 0.001 * u[..., 0].square()

    model = VectorModel(dynamics, ("angle", "rate"), [-5.0], [5.0], dt)
    return Task("pendulum swing-up", model, dynamics, cost, _uniform([math.pi - 0.5, -0.5], [math.pi + 0.5, 0.5]), 30, 100)


def cart_pole(dt: float = 0.04) -> Task:
    """A pole swings up on a cart that is to stay in the middle (equations of Barto, Sutton and Anderson, 1983); angle 0 stands up."""
    pole, length, total = 0.1, 0.5, 1.1

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        p, v, angle, rate = x.unbind(-1)
        sin, cos = angle.sin(), angle.cos()
        push = (u[..., 0] + pole * length * rate.square() * sin) / total
        swing = (9.81 * sin - cos * push) / (length * (4.0 / 3.0 - pole * cos.square() / total))
        v, rate = v + dt * (push - pole * length * swing * cos / total), rate + dt * swing
        return torch.stack((p + dt * v, v, angle + dt * rate, rate), -1)

    def cost(x: Tensor, u: Tensor) -> Tensor:
        p, v, angle, rate = x.unbind(-1)
        return 2.0 * (1 - angle.cos()) + 0.2 * p.square() + 0.02 * v.square() + 0.02 * rate.square() + 0.0005 * u[..., 0].square()

    model = VectorModel(dynamics, ("x", "v", "angle", "rate"), [-10.0], [10.0], dt)
    return Task("cart-pole swing-up", model, dynamics, cost, _uniform([-0.5, 0, math.pi - 0.3, -0.3], [0.5, 0, math.pi + 0.3, 0.3]), 40, 120)


OBSTACLES = ((1.0, 1.2, 0.45), (2.1, 0.6, 0.45), (2.2, 1.9, 0.45), (3.2, 1.3, 0.4))  # x, y, radius [m]


def quadrotor(dt: float = 0.05) -> Task:
    """A planar quadrotor (two rotors, 0.5 kg, arms of 0.15 m) flies 4 m between discs; being within them is dear."""
    mass, arm, inertia = 0.5, 0.15, 0.005
    centres, radii = torch.tensor([disc[:2] for disc in OBSTACLES]), torch.tensor([disc[2] + 0.15 for disc in OBSTACLES])
    goal = torch.tensor([4.0, 1.2])

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        px, py, angle, vx, vy, rate = x.unbind(-1)
        thrust = u.sum(-1)
        vx = vx - dt * thrust * angle.sin() / mass
        vy = vy + dt * (thrust * angle.cos() / mass - 9.81)
        rate = rate + dt * arm * (u[..., 1] - u[..., 0]) / inertia
        return torch.stack((px + dt * vx, py + dt * vy, angle + dt * rate, vx, vy, rate), -1)

    def cost(x: Tensor, u: Tensor) -> Tensor:
        away = (x[..., :2] - goal).square().sum(-1)
        gaps = (radii - (x[..., None, :2] - centres).norm(dim=-1)).clamp_min(0)
        calm = 0.05 * x[..., 3:5].square().sum(-1) + 0.1 * x[..., 2].square() + 0.01 * x[..., 5].square()
        return away + calm + 200.0 * gaps.sum(-1) + 0.002 * (u - mass * 9.81 / 2).square().sum(-1)

    names, hover = ("x", "y", "angle", "vx", "vy", "rate"), mass * 9.81 / 2
    model = VectorModel(dynamics, names, [0.0] * 2, [2 * hover] * 2, dt)
    return Task("quadrotor among obstacles", model, dynamics, cost, _uniform([-0.2, 0.8, -0.1, 0, 0, 0], [0.2, 1.6, 0.1, 0, 0, 0]), 30, 100)


def narrow_passage(dt: float = 0.1) -> Task:
    """A point mass goes through a gap of 0.3 m in a wall to a place straight behind the wall: the way there begins aside."""
    goal = torch.tensor([1.5, 0.0])

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        v = x[..., 2:] + dt * 2.0 * u
        return torch.cat((x[..., :2] + 0.5 * dt * (x[..., 2:] + v), v), -1)

    def cost(x: Tensor, u: Tensor) -> Tensor:
        inside = ((x[..., 0] - 0.75).abs() < 0.15) & ((x[..., 1] - 0.6).abs() > 0.15)
        away = (x[..., :2] - goal).square().sum(-1).add(1e-6).sqrt()
        return away + 0.05 * x[..., 2:].square().sum(-1) + 100.0 * inside + 0.005 * u.square().sum(-1)

    model = VectorModel(dynamics, ("x", "y", "vx", "vy"), [-1.0] * 2, [1.0] * 2, dt)
    return Task("narrow passage", model, dynamics, cost, _uniform([-0.2, -0.3, 0, 0], [0.2, 0.3, 0, 0]), 30, 60)


def pushing() -> Task:
    """A box of 10 cm is pushed 8 cm on and turned, by a round finger that begins beside it; physics by `PushTwin`."""
    twin = PushTwin(Polygon(((-0.05, -0.05), (0.05, -0.05), (0.05, 0.05), (-0.05, 0.05))), dt=0.1, max_speed=0.1)
    goal = torch.tensor([0.08, 0.0, 0.4])
    scale = torch.tensor([20.0, 20.0, 2.0])

    def state(vector: Tensor) -> PushState:
        return PushState(pose=vector[..., :3], pusher=vector[..., 3:5], batch_size=vector.shape[:-1])

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        following = twin.step(state(x), u)
        return torch.cat((following.pose, following.pusher), -1)

    def cost(x: Tensor, u: Tensor) -> Tensor:
        off = torch.cat((x[..., :2] - goal[:2], wrap_angle(x[..., 2:3] - goal[2])), -1) * scale
        return off.square().sum(-1) + 20.0 * ((x[..., 3:5] - x[..., :2]).norm(dim=-1) - 0.08).clamp_min(0) + 0.5 * u.square().sum(-1)

    def start(count: int, generator: torch.Generator) -> Tensor:
        aside = 0.06 * torch.rand(count, 1, generator=generator) - 0.03
        turn = 0.4 * torch.rand(count, 1, generator=generator) - 0.2
        return torch.cat((torch.zeros(count, 2), turn, torch.full((count, 1), -0.075), aside), -1)

    return Task("pushing", twin, dynamics, cost, start, 15, 40, state)


def all_tasks() -> list[Task]:
    """Every problem."""
    return [double_integrator(), pendulum(), cart_pole(), pushing(), quadrotor(), narrow_passage()]
