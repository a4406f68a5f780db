"""`NewtonSoftTwin`: cloths and soft solids in the engine Newton."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from structwm.noise import Noise
from structwm.spec import Action, ActionSpec, ModelSpec, Traits
from structwm.transition import Trajectory, regular_times

from .newton_soft_engine import NewtonSoftEngine
from .newton_twin import NewtonTwin
from .parameters import Parameter
from .particle_scene import ParticleState, particle_state
from .soft_world import SoftScene, SoftWorld
from .twin import FusedTwin

SPEED = 10.0  # greatest command [m/s]
KEPT = 4  # models, each of another number of worlds


def soft_parameters(world: SoftWorld) -> Iterator[Parameter]:
    """Every parameter of a soft world. Defaults are those of foam and of a T-shirt."""
    for body in world.bodies:
        name, mesh = body.name, body.mesh
        if body.solid:
            yield Parameter(f"{name}.density", "kg/m^3", 200.0, 1.0, 2e4, "log", 1.0)
            yield Parameter(f"{name}.shear_modulus", "Pa", 1e4, 1.0, 1e9, "log", 2.0, help="Lame's mu: shear stress over shear")
            yield Parameter(f"{name}.lame_lambda", "Pa", 2e4, 1.0, 1e9, "log", 2.0, help="Lame's lambda: pressure over loss of volume, less 2/3 of mu")
            yield Parameter(f"{name}.viscosity", "Pa s", 20.0, 1e-4, 1e6, "log", 1.5, help="stress over rate of Green's strain, doubled")
        else:
            yield Parameter(f"{name}.density", "kg/m^2", 0.2, 1e-3, 1e2, "log", 1.0)
            yield Parameter(
                f"{name}.stretch_stiffness", "N/m", 500.0, 1e-1, 1e7, "log", 2.0, help="Lame's mu of the sheet: tension by width over strain, halved"
            )
            yield Parameter(
                f"{name}.area_stiffness", "N/m", 500.0, 1e-1, 1e7, "log", 2.0, help="Lame's lambda of the sheet: tension by width over growth of area"
            )
            yield Parameter(f"{name}.membrane_damping", "N s/m", 0.01, 1e-6, 1e3, "log", 1.5, help="of stretch and shear")
            yield Parameter(f"{name}.bend_stiffness", "N", 1e-3, 1e-8, 1e3, "log", 2.0, help="moment by length of an edge over the angle between its faces")
            yield Parameter(f"{name}.bend_damping", "N s", 1e-6, 1e-10, 1e2, "log", 1.5, help="moment by length of an edge over the rate of that angle")
    yield Parameter("gravity", "m/s^2", 9.81, 0.0, 30.0, "linear", 0.1, help="downward")
    if world.obstacles:
        size = float((mesh.nodes[mesh.triangles[:, 0]] - mesh.nodes[mesh.triangles[:, 1]]).norm(dim=-1).median())
        yield Parameter("radius", "m", 0.2 * size, 1e-5, 10 * size, "log", 0.5, help="of a particle, for contact")
        yield Parameter("friction", "-", 0.5, 1e-3, 3.0, "log", 0.5, help="Coulomb coefficient on obstacles")
        yield Parameter("contact_stiffness", "N/m", 200.0, 1e-2, 1e7, "log", 1.0, help="of a particle on an obstacle")
        yield Parameter("contact_damping", "N s/m", 0.05, 1e-6, 1e4, "log", 1.5, help="of a particle that comes nearer to an obstacle")


class NewtonSoftTwin(FusedTwin[ParticleState]):
    """Cloths and soft solids stepped by Newton (newton-physics), all worlds of a batch together in one model on the CPU. No gradients; float32 inside.

    Solids are of stable Neo-Hookean tetrahedra (Smith et al., 2018), cloths of its membrane and of hinges that bend; a substep is implicit Euler, solved by
    sweeps of vertex block descent (Chen et al., SIGGRAPH 2024), so that large substeps lose energy and few sweeps leave stiff or damped bodies and contacts
    softer than they are: a hanging cloth may stretch half as much again, and a block slide 20 % farther. Forty sweeps, or more substeps, come within 2 %.
    Particles touch obstacles by springs, dampers and Coulomb friction; bodies do not touch each other or themselves. Actions are the velocities of the driven
    groups [m/s], held over a step.

    Args:
        world: bodies, what holds them, what stands still.
        dt: duration of a step [s].
        substeps: in a step.
        iterations: sweeps over all particles in a substep.
        values: parameters that differ from the defaults, by name.

    Raises:
        ImportError: without newton.
        ValueError: on a step that is not above zero, or parameters as `Twin` says.
    """

    scene: SoftScene

    def __init__(self, world: SoftWorld, *, dt: float, substeps: int = 10, iterations: int = 10, values: Mapping[str, Tensor | float] | None = None) -> None:
        if not (dt > 0 and math.isfinite(dt)) or substeps < 1 or iterations < 1:
            raise ValueError(f"NewtonSoftTwin needs dt above zero, one substep and one iteration at least, got {dt}, {substeps} and {iterations}.")
        NewtonTwin.require()
        self.physical = {parameter.name: parameter for parameter in soft_parameters(world)}
        super().__init__(values)
        self.world, self.substeps, self.iterations = world, substeps, iterations
        names = world.action_names
        action = ActionSpec.box([-SPEED] * len(names), [SPEED] * len(names), len(names), names=names, units=("m/s",) * len(names), convention="velocity")
        shape = self.batch_shape
        self.spec = ModelSpec(ParticleState, action, dt, members=shape[-1] if shape else 1, traits=Traits(differentiable=False))
        self.scene = SoftScene(world)
        self.engines: OrderedDict[int, NewtonSoftEngine] = OrderedDict()  # by number of worlds; shared by twins that differ in parameters only

    def config(self) -> dict[str, Any]:
        return {"world": self.world, "dt": self.spec.dt, "substeps": self.substeps, "iterations": self.iterations, "values": dict(self.values)}

    def with_timing(self, *, dt: float, substeps: int) -> Self:
        """The same twin with another step."""
        return type(self)(self.world, dt=dt, substeps=substeps, iterations=self.iterations, values=self.values)

    def state(self, positions: Tensor | None = None, velocities: Tensor | None = None) -> ParticleState:
        """A state of all particles.

        Args:
            positions: (*B, P, 3) [m]; at rest if not given.
            velocities: of the same [m/s]; none if not given.

        Raises:
            ValueError: on shapes that do not fit, or numbers that are not finite.
        """
        positions = self.world.positions.float() if positions is None else positions
        return particle_state("NewtonSoftTwin.state", self.world.particles, positions, velocities)

    def roll(self, state: ParticleState, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        assert isinstance(actions, Tensor)
        actions = self.broadcast_members(actions).to(state.positions)
        batch, horizon = state.batch_size, actions.shape[-2]
        count, particles = batch.numel(), self.world.particles
        x, v = (part.detach().reshape(count, 1, particles, 3) for part in (state.positions, state.velocities))
        found = [np.empty((count, horizon, particles, 3), np.float32) for _ in range(2)]
        if count and horizon:
            engine = self._engine(self.rows(batch).numpy())
            commands = actions.detach().cpu().reshape(count, horizon, actions.shape[-1]).numpy()
            engine.start(*(part[:, 0].cpu().numpy() for part in (x, v)))
            for h in range(horizon):
                found[0][:, h], found[1][:, h] = engine.step(commands[:, h])
        after = (torch.cat((start, torch.from_numpy(part).to(start)), 1) for start, part in zip((x, v), found, strict=True))
        positions, velocities = (part.reshape(*batch, horizon + 1, particles, 3) for part in after)
        states = ParticleState(positions=positions, velocities=velocities, batch_size=(*batch, horizon + 1))
        valid = positions.isfinite().flatten(-2).all(-1).cumprod(-1).bool()
        return Trajectory(self.scene, states, actions, regular_times(batch, horizon, self.spec.dt or 0.0, actions.device), valid)

    def _engine(self, row: np.ndarray) -> NewtonSoftEngine:
        """The engine for as many worlds as rows, with their parameters."""
        assert self.spec.dt is not None
        worlds = len(row)
        engine = self.engines.pop(worlds, None)
        if engine is None:
            engine = NewtonSoftEngine(self.world, worlds, self.spec.dt / self.substeps, self.substeps, self.iterations)
        self.engines[worlds] = engine
        while len(self.engines) > KEPT:
            self.engines.popitem(last=False)
        stamp = tuple((name, id(value), value._version) for name, value in self.values.items())
        key = (stamp, row.tobytes(), dict(self.values))  # holds the values, so that none of them gives its identity to another
        if engine.key is None or engine.key[:2] != key[:2]:
            shape = self.batch_shape
            engine.load({name: value.detach().cpu().double().expand(shape).reshape(-1).numpy()[row] for name, value in self.values.items()})
            engine.key = key
        return engine
