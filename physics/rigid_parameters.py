"""The physical parameters of a rigid world, by name, and the table of numbers that the kernels read.

Names are `thing.parameter`, for example `cube.friction`, `ground.offset`, `link2.joint_damping`; those of the whole world stand alone (`gravity`). The twins
that other engines make of a world have the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structwm.kernels import rigid_layout as layout
from structwm.kernels.rigid_layout import ActuatorKind, Columns, JointKind

from .parameters import Parameter
from .rigid_program import core_of, owners, touching
from .rigid_world import Body, Fixture, RigidWorld

RESOLVED = 0.4  # a contact's default frequency times the substep: fifteen substeps a period
STABLE = 1.2  # the most that a stiffness may ask for; from 2 on a contact gains energy
DEFAULTS = {"friction": 0.5, "restitution": 0.3, "torsional_friction": 0.0, "rolling_friction": 0.0}
LIMIT_DAMPING_RATIO = 0.7


def physical_parameters(world: RigidWorld, substep: float) -> dict[str, tuple[Parameter, float]]:
    """Every parameter with its value in this world; `substep` [s] sets how stiff contacts may be."""
    found: dict[str, tuple[Parameter, float]] = {}
    for parameter, value in _all(world, substep):
        found[parameter.name] = (parameter, value)
    return found


def extent(thing: Body | Fixture) -> float:
    """Distance of the farthest point of its geometries from a body's centre of mass, or from a fixture's frame [m]."""
    center = np.asarray(thing.com if isinstance(thing, Body) else (0.0, 0.0, 0.0))
    reach = [0.0]
    for geometry in thing.geometries:
        core, _, _ = core_of(geometry)
        reach.append(float(np.linalg.norm(core + np.asarray(geometry.position) - center, axis=1).max()) + geometry.radius)
    return max(reach)


def lightness(body: Body) -> tuple[float, float]:
    """Inverse mass [1/kg] that a body offers at its surface: usual, and the most."""
    moments = np.linalg.eigvalsh(body.inertia)
    reach = extent(body) ** 2
    return 1 / body.mass + reach * 2 / 3 / float(moments.mean()), 1 / body.mass + reach / float(moments[0])


def yields(body: Body) -> bool:
    """Whether forces move a body, so that its material has defaults."""
    return body.joint.kind is not JointKind.DRIVEN


def _all(world: RigidWorld, substep: float) -> Iterator[tuple[Parameter, float]]:
    yield Parameter("gravity", "m/s^2", 9.81, 0.0, 30.0, "linear", 0.3, help="downward"), world.gravity
    for axis in "xy":
        yield Parameter(f"tilt_{axis}", "rad", 0.0, -0.3, 0.3, "linear", 0.01, help=f"of gravity about the world's {axis} axis"), 0.0
    yield Parameter("slip_speed", "m/s", 5e-3, 1e-5, 1.0, "log", 1.0, help="below which friction fades; larger is smoother"), 5e-3
    smooth = min(0.05 * substep, 2e-3 * max([extent(body) for body in world.bodies if body.geometries] or [0.05]))  # a twentieth of a substep at 1 m/s
    yield Parameter("smoothing", "m", smooth, 1e-3 * smooth, 100 * smooth, "log", 1.0, help="depth over which a contact sets in; larger is smoother"), smooth
    for body in world.bodies:
        yield from _body(body)
        yield from _joint(body)
        if body.geometries:
            yield from _material(body, substep)
    for fixture in world.fixtures:
        yield Parameter(f"{fixture.name}.offset", "m", 0.0, -0.1, 0.1, "linear", 0.003, help="how much higher it stands"), 0.0
        yield from _material(fixture, substep)
    for actuator in world.actuators:
        name = actuator.name
        if actuator.kind is ActuatorKind.VELOCITY:
            continue
        yield _around(f"{name}.gain", "-", actuator.gain, 0.3, 10.0, help="what a unit of the action is worth"), actuator.gain
        if actuator.kind is ActuatorKind.POSITION:
            yield _around(f"{name}.stiffness", "", actuator.stiffness or 1.0, 1.0, 100.0, help="of its spring"), actuator.stiffness
            yield _around(f"{name}.damping", "", actuator.damping or 0.1, 1.0, 100.0, help="of its damper"), actuator.damping


def _around(name: str, unit: str, value: float, spread: float, factor: float, help: str) -> Parameter:
    """A positive parameter of which a value is the best guess."""
    return Parameter(name, unit, value, value / factor, value * factor, "log", spread, help)


def _body(body: Body) -> Iterator[tuple[Parameter, float]]:
    name, size = body.name, extent(body) or 0.1
    yield _around(f"{name}.mass", "kg", body.mass, 0.5, 10.0, help="of the body"), body.mass
    moment = float(np.trace(body.inertia)) / 3
    yield _around(f"{name}.inertia", "kg m^2", moment, 0.4, 10.0, help="mean of its principal moments about the centre of mass"), moment
    for axis in "yz":
        yield _around(f"{name}.inertia_ratio_{axis}", "-", 1.0, 0.2, 5.0, help=f"moments with {axis} in them, more than the shape says"), 1.0
    for axis, value in zip("xyz", body.com, strict=True):
        yield Parameter(f"{name}.com_{axis}", "m", value, value - size, value + size, "linear", 0.05 * size, help="centre of mass, body frame"), value
    if body.geometries:
        yield _around(f"{name}.size", "-", 1.0, 0.05, 3.0, help="factor of its geometries"), 1.0
    for label, value in (("damping", body.damping), ("angular_damping", body.angular_damping)):
        yield Parameter(f"{name}.{label}", "1/s", max(value, 0.05), 0.0, 20.0 + 2 * value, "linear", 0.2, help="drag"), value


def _joint(body: Body) -> Iterator[tuple[Parameter, float]]:
    joint, name = body.joint, body.name
    if joint.kind in (JointKind.FREE, JointKind.DRIVEN):
        return
    size = max(float(np.linalg.norm(joint.position)), float(np.linalg.norm(body.com)), 0.01)
    for axis, value in zip("xyz", joint.position, strict=True):
        yield Parameter(f"{name}.anchor_{axis}", "m", value, value - size, value + size, "linear", 0.05 * size, help="of its joint, parent's frame"), value
    if joint.kind is JointKind.FIXED:
        return
    turns = joint.kind is JointKind.HINGE
    inertia = _carried(body)
    weight = body.mass * 9.81 * (size if turns else 1.0)
    effort, rate = ("Nm", "Nm s/rad") if turns else ("N", "N s/m")
    scales = {
        "joint_damping": (rate, joint.damping, 0.05 * math.sqrt(weight * inertia) + joint.damping),
        "joint_friction": (effort, joint.friction, 0.05 * weight + joint.friction),
        "armature": ("kg m^2" if turns else "kg", joint.armature, 0.1 * inertia + joint.armature),
        "joint_stiffness": (effort + ("/rad" if turns else "/m"), joint.stiffness, 0.1 * weight + joint.stiffness),
    }
    for label, (unit, value, scale) in scales.items():
        yield Parameter(f"{name}.{label}", unit, scale, 0.0, 40 * scale, "linear", scale, help="at its joint"), value
    yield (
        Parameter(f"{name}.joint_rest", "rad" if turns else "m", joint.rest, joint.rest - 3.2, joint.rest + 3.2, "linear", 0.1, help="of its spring"),
        joint.rest,
    )


def _carried(body: Body) -> float:
    """Inertia about a body's joint [kg m^2], or mass [kg], of the body alone."""
    if body.joint.kind is JointKind.SLIDE:
        return body.mass
    axis, com = np.asarray(body.joint.axis), np.asarray(body.com)
    return float(axis @ body.inertia @ axis + body.mass * (com @ com - (axis @ com) ** 2))


def _material(thing: Body | Fixture, substep: float) -> Iterator[tuple[Parameter, float]]:
    material, name = thing.material, thing.name
    own = isinstance(thing, Body) and yields(thing)
    values = {label: getattr(material, label) for label in DEFAULTS}
    if own:
        values = {label: DEFAULTS[label] if value is None else value for label, value in values.items()}
    size = extent(thing) or 0.1
    if values["friction"] is not None:
        yield (
            Parameter(f"{name}.friction", "-", min(max(values["friction"], 0.01), 2.0), 0.0, 3.0, "linear", 0.3, help="Coulomb coefficient"),
            values["friction"],
        )
    if values["restitution"] is not None:
        yield (
            Parameter(f"{name}.restitution", "-", min(max(values["restitution"], 0.03), 0.95), 0.02, 0.99, "linear", 0.2, help="normal"),
            values["restitution"],
        )
    for label, scale in (("torsional_friction", 0.05 * size), ("rolling_friction", 0.02 * size)):
        if values[label] is not None:
            yield Parameter(f"{name}.{label}", "m", scale, 0.0, 40 * scale, "linear", scale, help="torque over normal force"), values[label]
    if own:
        assert isinstance(thing, Body)
        usual, most = lightness(thing)
        default, high = (RESOLVED / substep) ** 2 / usual, (STABLE / substep) ** 2 / most
        value = min(default, high / 2) if material.stiffness is None else material.stiffness
        if not value < high:
            raise ValueError(
                f"A substep of {substep:g} s is unstable for {name!r}: its contacts of {value:g} N/m need one of "
                f"{STABLE / math.sqrt(value * most):.2g} s at most; take more substeps or a softer material."
            )
        yield Parameter(f"{name}.stiffness", "N/m", value, high / 1e4, high, "log", 1.0, help="of a contact"), value
    elif material.stiffness is not None:
        yield _around(f"{name}.stiffness", "N/m", material.stiffness, 1.0, 1e3, help="of a contact"), material.stiffness


def restitution_of(damping_ratio: Tensor) -> Tensor:
    """Coefficient of restitution of a spring and damper that never pulls (Schwager and Poeschel, Granular Matter 2007, eq. 21)."""
    z = damping_ratio.double()
    under = (1 - z * z).clamp_min(1e-12).sqrt()
    over = (z * z - 1).clamp_min(1e-12).sqrt()
    soft = torch.exp(-z / under * (math.pi - torch.atan2(2 * z * under, 1 - 2 * z * z)))
    hard = torch.exp(-z / over * torch.log((z + over) / (z - over)))
    return torch.where(z < 1 - 1e-6, soft, torch.where(z > 1 + 1e-6, hard, math.exp(-2.0)))


@cache
def _restitutions() -> tuple[Tensor, Tensor]:
    """A grid of damping ratios and their restitution, falling."""
    ratios = torch.cat([torch.linspace(0, 2, 4001, dtype=torch.float64), torch.logspace(math.log10(2.0), 2, 2001, dtype=torch.float64)[1:]])
    return ratios, restitution_of(ratios)


def damping_ratio(restitution: Tensor) -> Tensor:
    """The damping ratio of a coefficient of restitution; gradients flow."""
    ratios, values = (part.to(restitution.device) for part in _restitutions())
    wanted = restitution.to(torch.float64)
    upper = torch.searchsorted(-values, -wanted.detach().contiguous()).clamp(1, len(values) - 1)
    share = (wanted - values[upper - 1]) / (values[upper] - values[upper - 1])
    return (ratios[upper - 1] + share * (ratios[upper] - ratios[upper - 1])).to(restitution)


class ParameterTable:
    """Turns values by name into the table of a world."""

    def __init__(self, world: RigidWorld, columns: Columns, substep: float) -> None:
        self.world, self.columns, self.substep = world, columns, substep
        self.owners = owners(world)
        self.pairs = touching(world)
        self.things: tuple[Body | Fixture, ...] = (*world.bodies, *world.fixtures)
        self.names = [thing.name for thing in self.things]
        self.spin_sizes = [max(min(extent(t) for t in self._things(pair) if t.geometries and not _unbounded(t)), 1e-3) for pair in self.pairs]

    def _things(self, pair: tuple[int, int]) -> list[Body | Fixture]:
        return [self.things[k] for k in pair]

    def __call__(self, values: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """The table (*P, C) in the type and on the device of `like`; *P are the values' batch axes together."""
        shape = torch.broadcast_shapes(*(value.shape for value in values.values()))
        v = {name: value.to(like) for name, value in values.items()}
        blocks: list[Any] = self._head(v)
        for body in self.world.bodies:
            blocks += self._body(body, v)
        for body in self.world.bodies:
            blocks += self._joint(body, v)
        for k, (_, geometries) in enumerate(self.owners):
            for geometry in geometries:
                place: list[Any] = list(geometry.position)
                size: Any = v.get(f"{self.names[k]}.size", 1.0)
                if f"{self.names[k]}.offset" in v:
                    place[2] = place[2] + v[f"{self.names[k]}.offset"]
                blocks += [*(part * size if geometry.position != (0.0, 0.0, 0.0) else part for part in place), size, geometry.radius * size]
        for pair, size in zip(self.pairs, self.spin_sizes, strict=True):
            blocks += self._pair(pair, size, v)
        for actuator in self.world.actuators:
            blocks += [v.get(f"{actuator.name}.gain", 1.0), v.get(f"{actuator.name}.stiffness", 0.0), v.get(f"{actuator.name}.damping", 0.0)]
        assert len(blocks) == self.columns.total
        columns = [block if isinstance(block, Tensor) else torch.tensor(block, dtype=like.dtype, device=like.device) for block in blocks]
        return torch.stack([column.expand(shape) for column in columns], -1)

    @staticmethod
    def _head(v: Mapping[str, Tensor]) -> list[Any]:
        g, x, y = v["gravity"], v["tilt_x"], v["tilt_y"]
        return [-g * y.sin() * x.cos(), g * x.sin(), -g * x.cos() * y.cos()]

    @staticmethod
    def _body(body: Body, v: Mapping[str, Tensor]) -> list[Any]:
        name = body.name
        inertia = body_inertia(body, v)
        inverse = torch.linalg.inv(inertia)
        six = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
        tensors = [matrix[..., i, j] for matrix in (inertia, inverse) for i, j in six]
        return [v[f"{name}.mass"], *(v[f"{name}.com_{a}"] for a in "xyz"), *tensors, v[f"{name}.damping"], v[f"{name}.angular_damping"]]

    def _joint(self, body: Body, v: Mapping[str, Tensor]) -> list[Any]:
        joint, name = body.joint, body.name
        kind = joint.kind
        if kind in (JointKind.FREE, JointKind.DRIVEN):
            return [0.0] * layout.JOINT
        anchor = [v[f"{name}.anchor_{a}"] for a in "xyz"]
        if kind is JointKind.FIXED:
            return [*anchor, *[0.0] * (layout.JOINT - 3)]
        bounded = math.isfinite(joint.low) or math.isfinite(joint.high)
        spring = _carried(body) * (RESOLVED / 2 / self.substep) ** 2 if bounded else 0.0
        damper = 2 * LIMIT_DAMPING_RATIO * math.sqrt(spring * _carried(body))
        names = ("joint_damping", "joint_friction", "armature", "joint_stiffness", "joint_rest")
        return [*anchor, *(v[f"{name}.{label}"] for label in names), max(joint.low, -1e9), min(joint.high, 1e9), spring, damper]

    def _pair(self, pair: tuple[int, int], size: float, v: Mapping[str, Tensor]) -> list[Any]:
        one, other = (self.names[k] for k in pair)
        k = _together(v, one, other, "stiffness", series=True)
        friction, restitution, torsion, rolling = (
            _together(v, one, other, label) for label in ("friction", "restitution", "torsional_friction", "rolling_friction")
        )
        return [k, damping_ratio(restitution), friction, torsion, rolling, v["smoothing"], v["slip_speed"], v["slip_speed"] / size]


def body_inertia(body: Body, v: Mapping[str, Tensor]) -> Tensor:
    """The inertia (*P, 3, 3) [kg m^2] about the centre of mass, body frame: the reference, stretched by the ratios, at the mean moment asked for."""
    mean = v[f"{body.name}.inertia"]
    reference = torch.as_tensor(body.inertia, dtype=mean.dtype, device=mean.device)
    ratios = torch.broadcast_tensors(torch.ones_like(mean), *(v[f"{body.name}.inertia_ratio_{axis}"] for axis in "yz"))
    stretch = torch.stack(ratios, -1).sqrt()
    shape = stretch.unsqueeze(-1) * reference * stretch.unsqueeze(-2)
    trace = shape.diagonal(dim1=-2, dim2=-1).sum(-1)
    return shape * (3 * mean / trace)[..., None, None]


def _together(v: Mapping[str, Tensor], one: str, other: str, label: str, *, series: bool = False) -> Tensor:
    values = [v[f"{name}.{label}"] for name in (one, other) if f"{name}.{label}" in v]
    if len(values) == 1:
        return values[0]
    if series:
        return values[0] * values[1] / (values[0] + values[1])
    product = values[0] * values[1]
    return torch.where(product > 0, product.clamp_min(1e-30).sqrt(), torch.zeros_like(product))


def _unbounded(thing: Body | Fixture) -> bool:
    from .rigid_world import PlaneShape

    return any(isinstance(geometry.shape, PlaneShape) for geometry in thing.geometries)
