"""What all twins of a rigid world have in common, whichever engine steps them: state, views, parameters, actions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from structwm.geometry import quaternion_multiply, rotation_vector_to_quaternion
from structwm.kernels.rigid_layout import JointKind
from structwm.noise import Noise
from structwm.spec import Action, ActionSpec, ModelSpec, Traits
from structwm.state import Splats
from structwm.transition import Trajectory, all_valid, regular_times

from .rigid_parameters import physical_parameters
from .rigid_scene import TWIST_NAMES, RigidScene, RigidState
from .rigid_world import RigidWorld
from .twin import FusedTwin


class WorldTwin(FusedTwin[RigidState]):
    """A twin of a `RigidWorld`. The action is one number an actuator, held over a step.

    Args:
        world: bodies, fixtures, joints, actuators.
        dt: duration of a step [s].
        substeps: of the engine in a step; more are more exact and allow stiffer contacts.
        values: parameters that differ from what the world says, by name.
        appearance: Gaussian splats of bodies, by name, each in its body's frame; "" for what stands still.

    Raises:
        ValueError: on sizes that are not positive, a substep at which contacts are unstable, or parameters outside their bounds.
    """

    differentiable = False
    scene: RigidScene

    def __init__(
        self,
        world: RigidWorld,
        *,
        dt: float,
        substeps: int = 4,
        values: Mapping[str, Tensor | float] | None = None,
        appearance: Mapping[str, Splats] | None = None,
    ) -> None:
        for name, size in (("dt", dt), ("substeps", substeps)):
            if not 0 < size < math.inf or (name == "substeps" and size != int(size)):
                raise ValueError(f"{type(self).__name__} needs {name} above zero, got {size}.")
        self.world, self.substeps = world, int(substeps)
        found = physical_parameters(world, dt / substeps)
        self.physical = {name: parameter for name, (parameter, _) in found.items()}
        self._given = dict(values or {})
        super().__init__({name: value for name, (_, value) in found.items()})
        self._set(self._given)
        actuators = world.actuators
        action = ActionSpec.box(
            [a.low for a in actuators],
            [a.high for a in actuators],
            len(actuators),
            names=tuple(a.name for a in actuators),
            units=tuple(a.unit for a in actuators),
            convention="velocity" if actuators and all(a.kind.name == "VELOCITY" for a in actuators) else "unitless",  # type: ignore[union-attr]
        )
        shape = self.batch_shape
        traits = Traits(differentiable=self.differentiable)
        self.spec = ModelSpec(RigidState, action, dt, members=shape[-1] if shape else 1, traits=traits)
        self.appearance = dict(appearance or {})
        self.scene = RigidScene(world, appearance=self.appearance, anchors=self._anchors())

    def config(self) -> dict[str, Any]:
        return {"world": self.world, "dt": self.spec.dt, "substeps": self.substeps, "values": dict(self.values), "appearance": self.appearance}

    def with_parameters(self, values: Mapping[str, Tensor | float]) -> Self:
        twin = super().with_parameters(values)
        if self.scene.anchors:
            twin.scene = RigidScene(self.world, appearance=self.appearance, anchors=twin._anchors())
        return twin

    def with_timing(self, *, dt: float, substeps: int) -> Self:
        """The same twin with another step. Parameters that another substep does not allow are refused."""
        twin = type(self)(self.world, dt=dt, substeps=substeps, appearance=self.appearance)
        return twin.with_parameters(self.values)

    def _anchors(self) -> dict[str, Tensor]:
        """Where joints are in the parents' frames, (*P, 3) [m]."""
        named = [body.name for body in self.world.bodies if f"{body.name}.anchor_x" in self.values]
        return {name: torch.stack(torch.broadcast_tensors(*(self.values[f"{name}.anchor_{a}"] for a in "xyz")), -1) for name in named}

    def state(
        self,
        poses: Mapping[str, Tensor] | Tensor | None = None,
        twists: Mapping[str, Tensor] | Tensor | None = None,
        *,
        positions: Mapping[str, Tensor | float] | None = None,
        rates: Mapping[str, Tensor | float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RigidState:
        """A state from what is known of it; the rest is at zero and at rest.

        Args:
            poses: of free and driven bodies, by name (*B, 7) [m, wxyz]; a bare tensor where there is one such body.
            twists: of the same, (*B, 6) [m/s, rad/s].
            positions: of hinges [rad] and slides [m], by body.
            rates: of the same, a second.
            dtype: of the numbers, if tensors do not say.

        Raises:
            ValueError: on names that are no such bodies, or shapes that do not fit.
        """
        floating = [body.name for body in self.world.bodies if body.joint.kind.sizes[0] == 7]  # type: ignore[union-attr]
        jointed = [body.name for body in self.world.bodies if body.joint.kind.sizes[0] == 1]  # type: ignore[union-attr]
        parts: dict[str, dict[str, Tensor]] = {}
        for label, given, allowed, width in (
            ("poses", poses, floating, 7),
            ("twists", twists, floating, 6),
            ("positions", positions, jointed, 0),
            ("rates", rates, jointed, 0),
        ):
            if isinstance(given, Tensor):
                if len(allowed) != 1:
                    raise ValueError(f"state needs {label} by name where there are {len(allowed)} such bodies: {', '.join(allowed) or 'none'}.")
                given = {allowed[0]: given}
            parts[label] = {}
            for name, value in (given or {}).items():
                if name not in allowed:
                    raise ValueError(f"state got {label} of {name!r}, which has none; there are {', '.join(allowed) or 'none'}.")
                tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
                if width and tensor.shape[-1:] != (width,):
                    raise ValueError(f"state needs {label} (*B, {width}), got {tuple(tensor.shape)} for {name!r}.")
                parts[label][name] = tensor if width else tensor.unsqueeze(-1)
        tensors = [tensor for part in parts.values() for tensor in part.values()]
        batch = torch.broadcast_shapes(*(tensor.shape[:-1] for tensor in tensors)) if tensors else torch.Size()
        like = tensors[0] if tensors else torch.zeros((), dtype=dtype)
        upright = like.new_tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        q, v = [like.new_zeros(*batch, 0)], [like.new_zeros(*batch, 0)]
        for body in self.world.bodies:
            configured, moving = body.joint.kind.sizes  # type: ignore[union-attr]
            rest = upright if configured == 7 else like.new_zeros(configured)
            q.append(parts["poses"].get(body.name, parts["positions"].get(body.name, rest)).to(like).expand(*batch, configured))
            v.append(parts["twists"].get(body.name, parts["rates"].get(body.name, like.new_zeros(moving))).to(like).expand(*batch, moving))
        return RigidState(configuration=torch.cat(q, -1), velocity=torch.cat(v, -1), batch_size=batch)

    @property
    def displacements(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of free and driven bodies x, y, z [m], rx, ry, rz [rad], vx to wz; of joints angle or position, and rate; all with the body's name before."""
        names = []
        for body in self.world.bodies:
            if body.joint.kind.sizes[0] == 7:  # type: ignore[union-attr]
                names += [f"{body.name}.{label}" for label in ("x", "y", "z", "rx", "ry", "rz", *TWIST_NAMES)]
            elif body.joint.kind is not JointKind.FIXED:
                names += [f"{body.name}.{'angle' if body.joint.kind is JointKind.HINGE else 'position'}", f"{body.name}.rate"]
        return tuple(names)

    def displaced(self, state: RigidState, by: Mapping[str, Tensor]) -> RigidState:
        zero = state.configuration.new_zeros(state.batch_size)
        q, v, at, to = [], [], 0, 0
        for body in self.world.bodies:
            configured, moving = body.joint.kind.sizes  # type: ignore[union-attr]
            part, rate = state.configuration[..., at : at + configured], state.velocity[..., to : to + moving]
            at, to = at + configured, to + moving

            def moves(*labels: str, name: str = body.name) -> Tensor:
                return torch.stack([by.get(f"{name}.{label}", zero).to(zero).expand(zero.shape) for label in labels], -1)

            if configured == 7:
                turn = quaternion_multiply(rotation_vector_to_quaternion(moves("rx", "ry", "rz")), part[..., 3:])
                q.append(torch.cat((part[..., :3] + moves("x", "y", "z"), turn), -1))
                v.append(rate + moves(*TWIST_NAMES))
            else:
                label = "angle" if body.joint.kind is JointKind.HINGE else "position"
                q.append(part + moves(label)[..., :configured])
                v.append(rate + moves("rate")[..., :moving])
        return RigidState(configuration=torch.cat(q, -1), velocity=torch.cat(v, -1), batch_size=state.batch_size)

    def check_start(self, state: RigidState, *, depth: float = 0.25) -> None:
        """Refuse start states that cannot be: numbers that are not finite, quaternions far from length one, bodies that overlap.

        Args:
            state: batch size *B.
            depth: overlap allowed, as a share of the smaller body.

        Raises:
            ValueError: names body and problem.
        """
        from .rigid_checks import check_start

        check_start(self, state, depth=depth)

    def roll(self, state: RigidState, actions: Action, *, noise: Noise | None = None) -> Trajectory:
        assert isinstance(actions, Tensor)
        actions = self.broadcast_members(actions)
        batch, horizon = state.batch_size, actions.shape[-2]
        configuration, velocity = self.advance(state.configuration, state.velocity, actions.to(state.configuration))
        states = RigidState(configuration=configuration, velocity=velocity, batch_size=(*batch, horizon + 1))
        times = regular_times(batch, horizon, self.spec.dt or 0.0, configuration.device)
        return Trajectory(self.scene, states, actions, times, all_valid(times.shape, times.device))

    @abstractmethod
    def advance(self, configuration: Tensor, velocity: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Configurations (*B, H+1, Q) and velocities (*B, H+1, V) from the start (*B, Q), (*B, V) under actions (*B, H, A); the parameters' axes end *B."""

    def driven(self) -> list[str]:
        """Names of the bodies that move as commanded."""
        return [body.name for body in self.world.bodies if body.joint.kind is JointKind.DRIVEN]
