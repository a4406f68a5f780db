"""`SpringTwin`: soft bodies, cloths and ropes as particles joined by springs, differentiable, in own kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from structwm.kernels.spring_layout import COLUMNS
from structwm.noise import Noise
from structwm.spec import Action, ActionSpec, ModelSpec, Traits
from structwm.transition import Trajectory, regular_times

from .obstacles import obstacle_arrays
from .parameters import Parameter
from .particle_scene import ParticleState, particle_state
from .spring_body import SpringBody, SpringScene
from .twin import FusedTwin

if TYPE_CHECKING:
    from structwm.kernels.spring import SpringProgram, SpringTable

SPEED = 50.0  # greatest command [m/s]
RAMP = 0.05  # of the longest spring: over which range of rest lengths the parameter `reach` cuts springs off
ELASTIC, VISCOUS = 0.25, 0.3  # shares of what is stable that stiffness and damping may take up in a substep; the rest is for what turns and touches
STAGES = 12  # of the dashpots at most, where they are chosen
TOUCH = 1.5  # how far particles are looked for that may be touched within a step, over the distance at which they touch


def spring_parameters(body: SpringBody) -> Iterator[Parameter]:
    """Every parameter of a network. Defaults are those of a soft toy of 0.2 kg."""
    own = body.lengths[~body.attached]
    middle = float(own.median()) if len(own) else 0.01
    yield Parameter("mass", "kg", 0.2, 1e-4, 1e3, "log", 1.0, help="of all particles that are not controllers")
    yield Parameter("stiffness", "N", 30.0, 1e-3, 1e6, "log", 2.0, help="tension over strain of a spring of middle length")
    yield Parameter("damping", "s", 2e-3, 1e-9, 1.0, "log", 1.5, help="of a spring, over its stiffness")
    if bool(body.attached.any()):
        yield Parameter("attachment_stiffness", "N", 100.0, 1e-3, 1e6, "log", 2.0, help="tension over strain of a spring by which a controller holds")
    if len(own) and float(own.max()) > 1.001 * float(own.min()):
        yield Parameter("falloff", "-", 0.0, -8.0, 8.0, "linear", 2.0, help="power of a spring's length by which longer ones are softer: less stiff to bend")
        longest = float(own.max())
        yield Parameter("reach", "m", (1 + RAMP) * longest, 0.9 * float(own.min()), (1 + 2 * RAMP) * longest, help="rest length above which springs are cut")
    if body.ranks is not None and len(body.ranks) and float(body.ranks.max()) >= 1:
        most = float(body.ranks.max()) + 1
        yield Parameter("neighbours", "-", most, 1.0, most + 1, help="how many of a particle's nearest are joined with it")
    yield Parameter("drag", "1/s", 0.2, 1e-4, 100.0, "log", 1.0, help="of the air, over mass")
    yield Parameter("gravity", "m/s^2", 9.81, 0.0, 30.0, "linear", 0.1, help="downward")
    yield Parameter("radius", "m", 0.25 * middle, 1e-5, 10 * middle, "log", 0.5, help="of a particle, for contact")
    yield Parameter("friction", "-", 0.5, 1e-3, 3.0, "log", 0.5, help="Coulomb coefficient")
    yield Parameter("contact_stiffness", "1/s^2", 3e4, 10.0, 1e8, "log", 1.0, help="of a particle on what it touches, over its mass")
    yield Parameter("contact_damping", "s", 5e-3, 1e-6, 1.0, "log", 1.0, help="of a contact, over its stiffness")


class SpringTwin(FusedTwin[ParticleState]):
    """Particles joined by springs and dashpots, as in PhysTwin (Jiang et al., 2025), with weight, drag, contact and friction, held or pushed by controllers.

    Substeps are those of a leapfrog scheme, of second order. Springs that are too stiff, or too damped, for the substep are weakened just so far that it stays
    stable (`softened` says how far), each equally at both ends, so that momentum is kept; contacts are implicit. So no parameter makes a step explode. What is
    joined may be searched for like any parameter: make the body with many springs, of which `reach` and `neighbours` cut off the longest and farthest. Each
    spring may have a stiffness of its own (`with_factors`).

    Forces are only known up to a factor from motion alone: hold `mass` where no force was measured. Actions are the velocities of the driven groups [m/s], held
    over a step (`SpringBody.action_names`). Gradients flow to start states, actions, parameters and factors; their memory is that of the states at the steps
    and of the substeps of one step.

    Args:
        body: what it is.
        dt: duration of a step [s].
        substeps: in a step.
        stages: of the dashpots in a substep: s of them allow s^2 times the damping, at about s times the cost of a substep.
        values: parameters that differ from the defaults, by name.
        factors: (M,) by which the springs' stiffness differs from the parameters', above zero; axes before it as those of the parameters.

    Raises:
        ValueError: on a step that is not above zero, factors that do not fit, or parameters as `Twin` says.
    """

    scene: SpringScene

    def __init__(
        self,
        body: SpringBody,
        *,
        dt: float,
        substeps: int = 20,
        stages: int = 1,
        values: Mapping[str, Tensor | float] | None = None,
        factors: Tensor | None = None,
    ) -> None:
        if not (dt > 0 and math.isfinite(dt)) or substeps < 1 or stages < 1:
            raise ValueError(f"SpringTwin needs dt above zero, one substep and one stage at least, got {dt}, {substeps} and {stages}.")
        self.physical = {parameter.name: parameter for parameter in spring_parameters(body)}
        self.factors: Tensor | None = None
        super().__init__(values)
        self.body, self.substeps, self.stages = body, substeps, stages
        names = body.action_names
        action = ActionSpec.box([-SPEED] * len(names), [SPEED] * len(names), len(names), names=names, units=("m/s",) * len(names), convention="velocity")
        shape = self.batch_shape
        self.spec = ModelSpec(ParticleState, action, dt, members=shape[-1] if shape else 1, traits=Traits(differentiable=True))
        self.scene = SpringScene(body)
        self._program: SpringProgram | None = None
        self._set_factors(factors)

    def config(self) -> dict[str, Any]:
        return {"body": self.body, "dt": self.spec.dt, "substeps": self.substeps, "stages": self.stages, "values": dict(self.values), "factors": self.factors}

    def _set_factors(self, factors: Tensor | None) -> None:
        if factors is not None:
            if factors.shape[-1:] != (len(self.body.springs),):
                raise ValueError(f"SpringTwin needs factors (..., {len(self.body.springs)}), got {tuple(factors.shape)}.")
            if not bool(((factors > 0) & factors.isfinite()).all()):
                raise ValueError("SpringTwin needs factors above zero.")
        self.factors = factors

    def with_factors(self, factors: Tensor | None) -> Self:
        """The same twin with a stiffness of each spring: (M,) over what the parameters say."""
        twin = self.with_parameters({})
        twin._set_factors(factors)
        return twin

    def with_parameters(self, values: Mapping[str, Tensor | float]) -> Self:
        twin = super().with_parameters(values)
        twin.factors = self.factors
        if self.body.self_contact and "radius" in map(self.full_name, values):
            twin._program = None  # which says how far to look for what may be touched
        return twin

    def with_timing(self, *, dt: float, substeps: int, stages: int | None = None) -> Self:
        """The same twin with another step."""
        return type(self)(self.body, dt=dt, substeps=substeps, stages=self.stages if stages is None else stages, values=self.values, factors=self.factors)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.factors = None if self.factors is None else fn(self.factors)
        return super()._apply(fn, recurse)

    @property
    def program(self) -> SpringProgram:
        """The network as the kernels take it."""
        if self._program is None:
            from structwm.kernels.spring import SpringProgram

            assert self.spec.dt is not None
            body = self.body
            drive = np.full(body.particles, -1, np.int32)
            for group, members in enumerate(body.driven):
                drive[list(members)] = 3 * group
            self._program = SpringProgram(
                body.springs.numpy(),
                body.lengths.numpy(),
                body.positions.numpy(),
                self._shares.numpy(),
                drive,
                np.array([k for k, _ in body.pushers], np.int32),
                np.array([radius for _, radius in body.pushers], float),
                *obstacle_arrays(body.obstacles),
                TOUCH * 2 * float(self.values["radius"].max()) if body.self_contact else 0.0,
                self.spec.dt / self.substeps,
                self.substeps,
                self.stages,
            )
        return self._program

    @property
    def _shares(self) -> Tensor:
        """(P,) of the mass, so that those of the body's particles are one together."""
        shares = torch.ones(self.body.particles, dtype=torch.float64) if self.body.shares is None else self.body.shares
        return shares / shares[: self.body.points].sum()

    def state(self, positions: Tensor, velocities: Tensor | None = None) -> ParticleState:
        """A state from what is known of it.

        Args:
            positions: of all particles (*B, P, 3), or of those of the body (*B, P - C, 3), with the controllers where they are at rest [m].
            velocities: of the same [m/s]; at rest if not given.

        Raises:
            ValueError: on shapes that do not fit, numbers that are not finite, or a spring whose ends are in one place.
        """
        body = self.body
        if positions.shape[-2:] == (body.points, 3) and body.controllers:
            resting = body.positions[body.points :].to(positions).expand(*positions.shape[:-2], -1, -1)
            positions = torch.cat((positions, resting), -2)
            if velocities is not None and velocities.shape[-2] == body.points:
                velocities = torch.cat((velocities, torch.zeros_like(resting)), -2)
        state = particle_state("SpringTwin.state", body.particles, positions, velocities)
        short = self.scene.strain(state) <= 1e-6 - 1
        if bool(short.any()):
            a, b = body.springs[int(short.reshape(-1, short.shape[-1]).any(0).nonzero()[0])].tolist()
            raise ValueError(f"SpringTwin.state got particles {a} and {b}, which a spring joins, in one place.")
        return state

    def roll(self, state: ParticleState, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        from structwm.kernels.spring import rollout

        assert isinstance(actions, Tensor)
        actions = self.broadcast_members(actions).to(state.positions)
        batch, horizon = state.batch_size, actions.shape[-2]
        x, v = (part.reshape(batch.numel(), self.body.particles, 3) for part in (state.positions, state.velocities))
        row = self.rows(batch).to(actions.device)
        found = rollout(self.program, x, v, actions.reshape(batch.numel(), horizon, actions.shape[-1]), self.table(actions), row)
        positions, velocities = (part.reshape(*batch, *part.shape[1:]) for part in found)
        states = ParticleState(positions=positions, velocities=velocities, batch_size=(*batch, horizon + 1))
        return Trajectory(self.scene, states, actions, regular_times(batch, horizon, self.spec.dt or 0.0, actions.device), self._valid(states))

    def _valid(self, states: ParticleState) -> Tensor:
        """(*B, H+1) False from the first instant on at which a spring is stretched beyond the limit or a number is not finite."""
        with torch.no_grad():
            fine = states.positions.isfinite().flatten(-2).all(-1)
            if self.body.stretch_limit < math.inf:
                there = self.gates(states.positions)[..., None, :] > 0
                fine = fine & ((self.scene.strain(states) <= self.body.stretch_limit) | ~there).all(-1)
            return fine.cumprod(-1).bool()

    @property
    def batch_shape(self) -> torch.Size:
        shape = super().batch_shape
        return shape if self.factors is None else torch.broadcast_shapes(shape, self.factors.shape[:-1])

    def gates(self, like: Tensor) -> Tensor:
        """How far each spring is there, (*P, M) in [0, 1], under `reach` and `neighbours`."""
        rest, attached = self.body.lengths.to(like), self.body.attached.to(like.device)
        gate = torch.ones_like(rest)
        if "reach" in self.values:
            ramp = RAMP * float(rest[~attached].max())
            gate = gate * ((self.values["reach"].to(like).unsqueeze(-1) - rest) / ramp + 0.5).clamp(0, 1)
        if "neighbours" in self.values and self.body.ranks is not None:
            gate = gate * (self.values["neighbours"].to(like).unsqueeze(-1) - self.body.ranks.to(like)).clamp(0, 1)
        return torch.where(attached, 1.0, gate)

    def _springs(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Stiffness [N/m] and damping [N s/m] of each spring as the parameters say, (*P, M)."""
        body = self.body
        value = {name: number.to(like).unsqueeze(-1) for name, number in self.values.items()}
        tension = value["stiffness"]
        if "falloff" in value:
            tension = tension * (body.lengths / body.lengths[~body.attached].median()).to(like) ** -value["falloff"]
        if "attachment_stiffness" in value:
            tension = torch.where(body.attached.to(like.device), value["attachment_stiffness"], tension)
        factors = torch.ones((), dtype=like.dtype, device=like.device) if self.factors is None else self.factors.to(like)
        stiffness = (tension * factors * self.gates(like) / body.lengths.to(like)).expand(*self.batch_shape, -1)
        return stiffness, stiffness * value["damping"]

    def _allowed(self, rates: Tensor, most: float) -> Tensor:
        """By which factor springs (*P, M) are weakened, smoothly and alike at both ends, so that their `rates` at a particle add up to `most` at most.

        `rates`: strength over the body's mass, times the substep.
        """
        body = self.body
        ends = body.springs.to(rates.device)
        sums = rates.new_zeros(*rates.shape[:-1], body.particles)
        for end in ends.unbind(-1):
            sums = sums.index_add(-1, end, rates)
        ratio = torch.where(body.free.to(rates.device), sums / self._shares.to(rates), 0.0) / most
        worst = torch.maximum(ratio[..., ends[:, 0]], ratio[..., ends[:, 1]])
        over = worst.clamp_min(1.0)
        return (over**-4 + (worst / over) ** 4) ** -0.25 / over  # 1 where it is small, its inverse where it is large

    def _held(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """By which factors the substep weakens stiffness and damping of each spring, (*P, M)."""
        from structwm.kernels.spring import chebyshev

        assert self.spec.dt is not None
        h = self.spec.dt / self.substeps
        stiffness, damping = self._springs(like)
        mass = self.values["mass"].to(like).unsqueeze(-1)
        return self._allowed(h * h / 2 * stiffness / mass, ELASTIC), self._allowed(h * damping / mass, VISCOUS * chebyshev(self.stages).reach)

    @property
    def softened(self) -> tuple[Tensor, Tensor]:
        """By which share the substep weakens stiffness and damping, at the spring where it is most, each (*P,) [-]; `with_stable_steps` where it matters.

        Stable is a leapfrog step h where h^2 w^2 + 2 h d <= 4 for all rates w of vibration and d of damping; w^2 and d are at most twice the sums of stiffness
        and damping over a particle's springs by its mass (Gershgorin).
        """
        with torch.no_grad():
            stiffness, damping = (
                (1 - part).amax(-1) if part.shape[-1] else part.new_zeros(part.shape[:-1]) for part in self._held(torch.zeros((), dtype=torch.float64))
            )
        return stiffness, damping

    def with_stable_steps(self, share: float = 0.02, *, most: int = 1000) -> Self:
        """The same twin with as many substeps as its stiffness needs and as many stages as its damping needs, so that neither is weakened by more than a share.

        Raises:
            ValueError: if that takes more than `most` substeps.
        """
        assert self.spec.dt is not None
        substeps = stages = 1
        while True:
            twin = self.with_timing(dt=self.spec.dt, substeps=substeps, stages=stages)
            elastic, viscous = (float(part.max()) for part in twin.softened)
            if max(elastic, viscous) <= share:
                return twin
            if elastic > share or stages >= STAGES:
                if substeps >= most:
                    raise ValueError(f"{type(self).__name__} needs more than {most} substeps of {self.spec.dt:g} s: it is too stiff, or too light.")
                substeps = min(most, math.ceil(1.1 * substeps))
            else:
                stages += 1

    def table(self, like: Tensor) -> SpringTable:
        """The parameters as the kernels take them."""
        from structwm.kernels.spring import SpringTable

        rows = self.batch_shape
        common = torch.stack(torch.broadcast_tensors(*(self.values[name].to(like).expand(rows) for name in COLUMNS)), -1)
        springs = (strength * held for strength, held in zip(self._springs(like), self._held(like), strict=True))
        return SpringTable(common.reshape(-1, len(COLUMNS)), *(part.reshape(-1, len(self.body.springs)) for part in springs))
