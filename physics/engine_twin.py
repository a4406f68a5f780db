"""What the twins in other engines have in common: which parameters they know, the numbers of each draw, and arrays in and out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structwm.kernels import rigid_layout as layout
from structwm.kernels.rigid_layout import JointKind
from structwm.state import Splats

from .rigid_parameters import ParameterTable, extent
from .rigid_program import core_of, owners, touching
from .rigid_scene import RigidScene
from .rigid_world import Body, Geometry, RigidWorld
from .world_twin import WorldTwin

Array = NDArray[Any]

SMOOTHERS = ("slip_speed", "smoothing")  # laws of `RigidTwin` alone
DRAGS = ("damping", "angular_damping")
SYMMETRIC = [[0, 3, 4], [3, 1, 5], [4, 5, 2]]  # where xx yy zz xy xz yz stand in a matrix


class EngineTwin(WorldTwin):
    """A twin of a `RigidWorld` in an engine that is a black box: no gradients, float64 inside.

    It has the parameters of `RigidTwin` but those that the engine cannot express: they are no parameters of the twin, and a world in which one is not zero is
    refused. `slip_speed` and `smoothing` belong to laws of `RigidTwin` alone.

    Raises:
        ImportError: if the engine is not installed.
        ValueError: as `WorldTwin`; or on a world that asks for what the engine cannot express.
    """

    def __init__(
        self,
        world: RigidWorld,
        *,
        dt: float,
        substeps: int = 4,
        values: Mapping[str, Tensor | float] | None = None,
        appearance: Mapping[str, Splats] | None = None,
    ) -> None:
        self.require()
        super().__init__(world, dt=dt, substeps=substeps, appearance=appearance)
        unknown = self.inexpressible(world)
        for name in {*SMOOTHERS, *unknown} & set(self.values):
            value = float(self.values.pop(name))
            if name in unknown and value != 0:
                raise ValueError(f"{type(self).__name__} cannot express {name!r}, which is {value:g} in this world; set it to 0 there or use RigidTwin.")
        self.physical = {name: parameter for name, parameter in self.physical.items() if name in self.values}
        self._set(values or {})
        shape = self.batch_shape
        self.spec = replace(self.spec, members=shape[-1] if shape else 1)
        self.scene = RigidScene(world, appearance=self.appearance, anchors=self._anchors())
        self.layout = Layout.of(world)

    @staticmethod
    @abstractmethod
    def require() -> None:
        """Raise ImportError in one sentence where the engine is missing."""

    @staticmethod
    @abstractmethod
    def inexpressible(world: RigidWorld) -> frozenset[str]:
        """Names of the parameters of this world that the engine has no counterpart of."""

    @abstractmethod
    def simulate(self, q: Array, v: Array, actions: Array, row: Array) -> tuple[Array, Array]:
        """What follows the start: configurations (N, H, Q) and velocities (N, H, V), float64.

        Args:
            q: configurations (N, Q), quaternions of length one.
            v: velocities (N, V), those of driven bodies as the first action commands.
            actions: (N, H, A).
            row: (N,) which of the parameters' draws each world has.
        """

    def advance(self, configuration: Tensor, velocity: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        batch, horizon = configuration.shape[:-1], actions.shape[-2]
        row = self.rows(batch).numpy()
        q, v = (part.detach().to("cpu", torch.float64).reshape(batch.numel(), part.shape[-1]).numpy().copy() for part in (configuration, velocity))
        u = actions.detach().to("cpu", torch.float64).reshape(batch.numel(), horizon, actions.shape[-1]).numpy()
        for at in self.layout.quaternions:
            q[:, at : at + 4] /= np.linalg.norm(q[:, at : at + 4], axis=1, keepdims=True)
        if horizon and len(q):
            after = self.simulate(q, v, u, row)
        else:
            after = np.zeros((len(q), horizon, q.shape[1])), np.zeros((len(q), horizon, v.shape[1]))
        starts = (configuration, velocity)
        grown = (torch.from_numpy(part).to(start).reshape(*batch, *part.shape[1:]) for part, start in zip(after, starts, strict=True))
        q_all, v_all = (torch.cat((start.detach().unsqueeze(-2), part), -2) for start, part in zip(starts, grown, strict=True))
        return q_all, v_all

    def table(self) -> Array:
        """The numbers of all draws, float64 (P, C) by `Layout.columns`."""
        assert self.spec.dt is not None
        filled = {name: torch.tensor(1.0) for name in SMOOTHERS} | {name: torch.tensor(0.0) for name in self.inexpressible(self.world)}
        values = {name: value.detach().cpu() for name, value in self.values.items()}
        table = ParameterTable(self.world, self.layout.columns, self.spec.dt / self.substeps)(filled | values, torch.zeros((), dtype=torch.float64))
        return table.reshape(-1, table.shape[-1]).numpy()

    def stamp(self) -> tuple[Any, ...]:
        """Changes whenever a value does."""
        return tuple((name, id(value), value._version) for name, value in self.values.items())


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the numbers of a world stand."""

    world: RigidWorld
    columns: layout.Columns
    q_at: tuple[int, ...]  # first number in the configuration, by body
    v_at: tuple[int, ...]  # and in the velocity
    quaternions: tuple[int, ...]  # where they start in the configuration
    geometries: tuple[tuple[int, Geometry], ...]  # owner and geometry, in the order of the table
    pairs: tuple[tuple[int, int], ...]  # of owners that may touch, likewise
    commands: tuple[tuple[int, int], ...]  # action and place in the velocity that it commands
    reach: tuple[float, ...]  # distance of each body's farthest point from its centre of mass [m]

    @classmethod
    def of(cls, world: RigidWorld) -> Layout:
        """The layout of a world."""
        sizes = [body.joint.kind.sizes for body in world.bodies]  # type: ignore[union-attr]
        q_at, v_at = (tuple(int(n) for n in np.cumsum([0, *(size[k] for size in sizes)])[:-1]) for k in (0, 1))
        geometries = tuple((owner, geometry) for owner, (_, owned) in enumerate(owners(world)) for geometry in owned)
        pairs = tuple(touching(world))
        order = {body.name: k for k, body in enumerate(world.bodies)}
        commands = tuple((k, v_at[order[a.body]] + a.axis) for k, a in enumerate(world.actuators) if a.kind is layout.ActuatorKind.VELOCITY)
        columns = layout.Columns(len(world.bodies), len(geometries), len(pairs), len(world.actuators))
        quaternions = tuple(at + 3 for at, size in zip(q_at, sizes, strict=True) if size[0] == 7)
        return cls(world, columns, q_at, v_at, quaternions, geometries, pairs, commands, tuple(extent(body) for body in world.bodies))

    def body(self, table: Array, k: int) -> Array:
        """A body's block of the table, (P, 18)."""
        return _block(table, self.columns.body, layout.BODY, k)

    def joint(self, table: Array, k: int) -> Array:
        """A joint's block, (P, 12)."""
        return _block(table, self.columns.joint, layout.JOINT, k)

    def geometry(self, table: Array, k: int) -> Array:
        """A geometry's block, (P, 5)."""
        return _block(table, self.columns.geometry, layout.GEOMETRY, k)

    def pair(self, table: Array, k: int) -> Array:
        """A pair's block, (P, 8)."""
        return _block(table, self.columns.pair, layout.PAIR, k)

    def actuator(self, table: Array, k: int) -> Array:
        """An actuator's block, (P, 3)."""
        return _block(table, self.columns.actuator, layout.ACTUATOR, k)

    def inertia(self, table: Array, k: int) -> Array:
        """Inertia of a body about its centre of mass, body frame, (P, 3, 3) [kg m^2]."""
        return self.body(table, k)[:, layout.INERTIA : layout.INERTIA + 6][:, SYMMETRIC]

    def lightness(self, table: Array, owner: int) -> Array:
        """Inverse mass [1/kg] that an owner usually offers at its surface, (P,); 0 for what no force moves."""
        if owner >= len(self.world.bodies) or not moved(self.world, self.world.bodies[owner]):
            return np.zeros(len(table))
        moment = np.trace(self.inertia(table, owner), axis1=1, axis2=2) / 3
        scales = [self.geometry(table, k)[:, layout.SCALE] for k, (whose, _) in enumerate(self.geometries) if whose == owner]
        reach = self.reach[owner] * (scales[0] if scales else 1.0)
        light: Array = 1 / self.body(table, owner)[:, layout.MASS] + reach**2 * 2 / 3 / moment
        return light

    def damper(self, table: Array, k: int) -> Array:
        """Damping of a pair's contacts [N s/m], (P,): 2 zeta sqrt(stiffness m), m the mass usually felt at the surfaces."""
        pair = self.pair(table, k)
        felt = sum(self.lightness(table, owner) for owner in self.pairs[k])
        damping: Array = 2 * pair[:, layout.DAMPING_RATIO] * np.sqrt(pair[:, layout.STIFFNESS] / felt)
        return damping


def moved(world: RigidWorld, body: Body) -> bool:
    """Whether forces move a body: not if it is driven, or fixed to what is or to what stands still."""
    while body.joint.kind is JointKind.FIXED:
        if body.parent is None:
            return False
        body = world.body(body.parent)
    return body.joint.kind is not JointKind.DRIVEN


def grounded(world: RigidWorld, body: Body) -> bool:
    """Whether a body's joint is fixed to what stands still."""
    while body.parent is not None:
        body = world.body(body.parent)
        if body.joint.kind is not JointKind.FIXED:
            return False
    return True


def drag_at_joint(block: Array, inertia: Array, body: Body) -> Array:
    """What drag on a body amounts to at its hinge [Nm s/rad] or slide [N s/m] if that is grounded, (P,).

    Args:
        block: of the body in the table (P, 18).
        inertia: (P, 3, 3).
        body: it.
    """
    mass, com, axis = block[:, layout.MASS], block[:, layout.COM : layout.COM + 3], np.asarray(body.joint.axis)
    linear, angular = block[:, layout.LINEAR_DRAG], block[:, layout.ANGULAR_DRAG]
    if body.joint.kind is JointKind.SLIDE:
        return np.asarray(linear * mass)
    arm2 = (com * com).sum(1) - (com @ axis) ** 2
    return np.asarray(linear * mass * arm2 + angular * (inertia @ axis @ axis))


def corners(geometry: Geometry) -> Array:
    """Corners of a polytope, its frame, (n, 3) [m]."""
    core: Array = core_of(geometry)[0]
    return core


def quaternion_of(axes: Array) -> Array:
    """Unit quaternion wxyz of orthogonal columns (3, 3), the last turned round if they are left-handed."""
    from scipy.spatial.transform import Rotation

    right = axes * np.array([1.0, 1.0, np.sign(np.linalg.det(axes))])
    turn: Array = Rotation.from_matrix(right).as_quat()[[3, 0, 1, 2]]
    return turn


def cross(a: Array, b: Array) -> Array:
    """Cross product of vectors (..., 3), without what `numpy.cross` does for other sizes."""
    return np.stack([a[..., i] * b[..., j] - a[..., j] * b[..., i] for i, j in ((1, 2), (2, 0), (0, 1))], -1)


def rotated(quaternions: Array, vectors: Array) -> Array:
    """Vectors (..., 3) turned by unit quaternions wxyz (..., 4)."""
    scalar, axis = quaternions[..., :1], quaternions[..., 1:]
    turn = 2 * cross(axis, vectors)
    out: Array = vectors + scalar * turn + cross(axis, turn)
    return out


def quaternion_product(a: Array, b: Array) -> Array:
    """Product of quaternions wxyz (..., 4): first b turns, then a."""
    scalar = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    return np.concatenate((scalar, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + cross(a[..., 1:], b[..., 1:])), -1)


def _block(table: Array, first: int, width: int, k: int) -> Array:
    return table[:, first + width * k : first + width * (k + 1)]
