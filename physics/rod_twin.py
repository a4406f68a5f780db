"""`RodTwin`: ropes, cables and rods as discrete elastic rods, differentiable, in own kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from structwm.kernels.rod_layout import COLUMNS
from structwm.noise import Noise
from structwm.spec import Action, ActionSpec, ModelSpec, Traits
from structwm.transition import Trajectory, regular_times

from .obstacles import obstacle_arrays
from .parameters import Parameter
from .rod_scene import MOST_BENT, Rod, RodScene, RodState, across, clamped, untwisted
from .twin import FusedTwin

if TYPE_CHECKING:
    from structwm.kernels.rod import RodProgram

SPEED = 50.0  # greatest command [m/s]
SPIN = 100.0  # [rad/s]
EXPLODED = 10.0  # strain that nothing but a step that has exploded gives an edge [-]


def rod_parameters(rod: Rod) -> Iterator[Parameter]:
    """Every parameter of a rod, in the order of the kernels' table. Defaults are those of a soft rope of 50 g/m."""
    mean = rod.length / rod.edges
    yield Parameter("line_density", "kg/m", 0.05, 1e-4, 50.0, "log", 1.0, help="mass by length")
    yield Parameter("vertex_mass", "kg", 0.005 * mean, 1e-6 * mean, 50.0 * mean, "log", 1.5, help="at each vertex beside that, as of markers")
    yield Parameter("bend_stiffness", "N m^2", 1e-3, 1e-8, 1e3, "log", 1.5, help="bending moment over curvature")
    yield Parameter("bend_damping", "N m^2 s", 1e-4, 1e-9, 1e2, "log", 1.5, help="bending moment over rate of curvature")
    yield Parameter("twist_stiffness", "N m^2", 1e-3, 1e-8, 1e3, "log", 1.5, help="torque over twist by length")
    yield Parameter("twist_damping", "s", 0.01, 1e-5, 10.0, "log", 1.0, help="of twisting, over its stiffness")
    yield Parameter("stretch_stiffness", "N", 1e3, 1.0, 1e8, "log", 1.5, help="tension over strain")
    yield Parameter("stretch_damping", "s", 5e-4, 1e-6, 1.0, "log", 1.0, help="of stretching, over its stiffness")
    yield Parameter("drag", "1/s", 0.2, 1e-4, 100.0, "log", 1.0, help="of the air at low speed, over mass")
    yield Parameter("quadratic_drag", "1/m", 0.01, 1e-5, 100.0, "log", 1.5, help="of the air at high speed, over mass")
    yield Parameter("gravity", "m/s^2", 9.81, 0.0, 30.0, "linear", 0.1, help="downward")
    yield Parameter("length", "-", 1.0, 0.5, 2.0, "log", 0.02, help="factor of the rest lengths")
    yield Parameter("radius", "m", rod.radius, rod.radius / 10, rod.radius * 10, "log", 0.3, help="of the surface, for contact and for turning about itself")
    yield Parameter("friction", "-", 0.5, 1e-3, 3.0, "log", 0.5, help="Coulomb coefficient on obstacles")
    yield Parameter("contact_stiffness", "N/m", 200.0, 1.0, 1e6, "log", 1.0, help="of a vertex on an obstacle")
    yield Parameter("contact_damping", "s", 0.01, 1e-5, 1.0, "log", 1.0, help="of a contact, over its stiffness")
    if rod.natural_curvature:
        yield Parameter("curvature_scale", "-", 1.0, 0.0, 10.0, "linear", 0.3, help="factor of the natural curvature")
    for k, natural in enumerate(rod.natural_curvature or ((0.0, 0.0),) * (rod.vertices - 2) if rod.twists else (), 1):
        for name, value, how in zip(_curvature_names(k), natural, ("along the director", "across it"), strict=True):
            yield Parameter(name, "-", value, -MOST_BENT, MOST_BENT, "linear", 0.3, detail=True, help=f"natural curvature of vertex {k} {how}")


def _curvature_names(vertex: int) -> tuple[str, str]:
    return f"v{vertex}.curvature_along", f"v{vertex}.curvature_across"


class RodTwin(FusedTwin[RodState]):
    """A discrete elastic rod (Bergou et al., SIGGRAPH 2008): stretch, bend, twist, weight, drag, contact with what stands still, driven vertices.

    Substeps are implicit and of second order: rods stiff in stretch, bend or twist are stable, and a rod that whirls loses no energy to the integration. With
    much natural curvature stiff rods are not stable at any substep: of 0.05 N m^2, vertices 5 cm apart and substeps of 5 ms, up to 0.2 at a vertex. Edges
    that are pulled far beyond their length at once swing too fast across for long substeps and may explode, which `Trajectory.valid` says. Damping of bending
    acts on the angle between edges alone, so that a rod that turns as a whole is not slowed. One launch rolls all ropes out, each under its own parameters;
    gradients flow to start states, actions and parameters, and their memory is that of the states at the steps.

    Forces are only known up to a factor from motion alone: hold `line_density` where no force was measured. Actions are the velocities of the driven vertices
    [m/s], and spins of the rolled edges [rad/s], held over a step (`Rod.action_names`).

    Args:
        rod: what it is.
        dt: duration of a step [s].
        substeps: in a step.
        values: parameters that differ from the defaults, by name.

    Raises:
        ValueError: on a step that is not above zero, or parameters as `Twin` says.
    """

    scene: RodScene

    def __init__(self, rod: Rod, *, dt: float, substeps: int = 4, values: Mapping[str, Tensor | float] | None = None) -> None:
        if not (dt > 0 and math.isfinite(dt)) or substeps < 1:
            raise ValueError(f"RodTwin needs dt above zero and one substep at least, got {dt} and {substeps}.")
        self.physical = {parameter.name: parameter for parameter in rod_parameters(rod)}
        super().__init__(values)
        self.rod, self.substeps = rod, substeps
        names = rod.action_names
        size = len(names)
        bound = [SPIN if name.endswith("spin") else SPEED for name in names]
        action = ActionSpec.box(
            [-b for b in bound], bound, size, names=names, units=tuple("rad/s" if b == SPIN else "m/s" for b in bound), convention="velocity"
        )
        shape = self.batch_shape
        self.spec = ModelSpec(RodState, action, dt, members=shape[-1] if shape else 1, traits=Traits(differentiable=True))
        self.scene = RodScene(rod)
        self._program: RodProgram | None = None

    def config(self) -> dict[str, Any]:
        return {"rod": self.rod, "dt": self.spec.dt, "substeps": self.substeps, "values": dict(self.values)}

    @property
    def program(self) -> RodProgram:
        """The rod as the kernels take it."""
        if self._program is None:
            from structwm.kernels.rod import RodProgram

            assert self.spec.dt is not None
            rod = self.rod
            drive, roll = np.full(rod.vertices, -1, np.int32), np.full(rod.edges, -1, np.int32)
            for column, k in enumerate(rod.driven):
                drive[k] = 3 * column
            roll[list(clamped(rod))] = -2
            for column, k in enumerate(rod.rolled):
                roll[k] = 3 * len(rod.driven) + column
            obstacles = obstacle_arrays(rod.obstacles)
            self._program = RodProgram(np.array(rod.rest_lengths), drive, roll, rod.twists, *obstacles, self.spec.dt / self.substeps, self.substeps)
        return self._program

    def state(self, positions: Tensor, velocities: Tensor | None = None, directors: Tensor | None = None, spins: Tensor | None = None) -> RodState:
        """A state from what is known of it.

        Args:
            positions: (*B, V, 3) [m].
            velocities: (*B, V, 3) [m/s]; at rest if not given.
            directors: (*B, E, 3), of rods that twist; without twist if not given.
            spins: (*B, E) [rad/s]; none if not given.

        Raises:
            ValueError: on shapes that do not fit, numbers that are not finite, or two neighbours in one place.
        """
        rod = self.rod
        if positions.shape[-2:] != (rod.vertices, 3):
            raise ValueError(f"RodTwin.state needs positions (*B, {rod.vertices}, 3), got {tuple(positions.shape)}.")
        if not bool(positions.isfinite().all()):
            raise ValueError("RodTwin.state needs finite positions.")
        lengths = (positions[..., 1:, :] - positions[..., :-1, :]).norm(dim=-1)
        short = lengths <= 1e-6 * torch.tensor(rod.rest_lengths).to(lengths)
        if bool(short.any()):
            edge = int(short.reshape(-1, rod.edges).any(0).nonzero()[0])
            raise ValueError(f"RodTwin.state got vertices {edge} and {edge + 1} in one place.")
        batch, edges = positions.shape[:-2], rod.edges if rod.twists else 0
        velocities = torch.zeros_like(positions) if velocities is None else velocities.to(positions)
        if directors is None:
            directors = untwisted(positions, rod.director) if rod.twists else positions.new_zeros(*batch, 0, 3)
        elif not rod.twists:
            raise ValueError("RodTwin.state got directors of a rod that does not twist; make it with Rod(twists=True).")
        else:
            directors = across(positions, directors.to(positions))
        spins = positions.new_zeros(*batch, edges) if spins is None else spins.to(positions)
        for label, value, shape in (("velocities", velocities, (rod.vertices, 3)), ("directors", directors, (edges, 3)), ("spins", spins, (edges,))):
            if value.shape != (*batch, *shape):
                raise ValueError(f"RodTwin.state needs {label} of shape {(*batch, *shape)}, got {tuple(value.shape)}.")
            if not bool(value.isfinite().all()):
                raise ValueError(f"RodTwin.state needs finite {label}.")
        return RodState(positions=positions, velocities=velocities, directors=directors, spins=spins, batch_size=batch)

    def roll(self, state: RodState, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        from structwm.kernels.rod import RodNumbers, rollout

        assert isinstance(actions, Tensor)
        actions = self.broadcast_members(actions).to(state.positions)
        batch, horizon = state.batch_size, actions.shape[-2]
        row = self.rows(batch).to(actions.device)
        start = RodNumbers(*(part.reshape(batch.numel(), *part.shape[len(batch) :]) for part in _parts(state)))
        found = rollout(self.program, start, actions.reshape(batch.numel(), horizon, actions.shape[-1]), self.table(actions), row)
        parts = [part.reshape(*batch, horizon + 1, *part.shape[2:]) for part in found]
        names = ("positions", "velocities", "directors", "spins")
        states = RodState(**dict(zip(names, parts, strict=True)), batch_size=(*batch, horizon + 1))  # type: ignore[arg-type]
        return Trajectory(self.scene, states, actions, regular_times(batch, horizon, self.spec.dt or 0.0, actions.device), self._valid(states))

    def _valid(self, states: RodState) -> Tensor:
        """(*B, H+1) False from the first instant on at which an edge is stretched beyond the limit, as it is where a step explodes, or is not a number."""
        with torch.no_grad():
            length = self.values["length"]
            strain = self.scene.strain(states, length.unsqueeze(-1) if length.ndim else length)
            fine = (strain <= min(self.rod.stretch_limit, EXPLODED)).all(-1)
            return fine.cumprod(-1).bool()

    @property
    def curvatures(self) -> tuple[str, ...]:
        """Names of the parameters that are the natural curvature of a rod that twists, vertex by vertex; none of others."""
        return tuple(name for k in range(1, self.rod.vertices - 1) for name in _curvature_names(k)) if self.rod.twists else ()

    @property
    def natural_curvature(self) -> Tensor:
        """(*P, V - 2, 2) of each inner vertex along the director and across it [-], as `calibrate` has left it."""
        if not self.curvatures:
            return torch.zeros(self.rod.vertices - 2, 2, dtype=torch.float64)
        values = torch.stack(torch.broadcast_tensors(*(self.values[name] for name in self.curvatures)), -1)
        return self._scale[..., None, None] * values.unflatten(-1, (-1, 2))

    @property
    def _scale(self) -> Tensor:
        """Factor of the natural curvature; 1 of rods that are straight but for what is calibrated of each vertex."""
        return self.values.get("curvature_scale", torch.ones(()))

    def table(self, like: Tensor) -> Tensor:
        """The parameters as rows (P, C) of the kernels' table."""
        values = {"curvature_scale": self._scale} | dict(self.values)
        columns = torch.broadcast_tensors(*(values[name].to(like) for name in (*COLUMNS, *self.curvatures)))
        return torch.stack(columns, -1).reshape(-1, len(columns))

    def with_timing(self, *, dt: float, substeps: int) -> Self:
        """The same twin with another step."""
        return type(self)(self.rod, dt=dt, substeps=substeps, values=self.values)


def _parts(state: RodState) -> tuple[Tensor, ...]:
    return state.positions, state.velocities, state.directors, state.spins
