"""The numbers of a rigid world's parameter draws in Bullet's terms: principal axes, and materials that its combination rules turn into those of the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from structwm.kernels import rigid_layout as layout

from .engine_twin import Array, Layout, quaternion_of
from .rigid_world import UPRIGHT

RIGID = 1e18  # stiffness of what leaves it to the other surface [N/m]


@dataclass(frozen=True)
class Surface:
    """A material in Bullet's terms."""

    friction: float
    torsion: float  # [m]
    rolling: float  # [m]
    stiffness: float  # [N/m]
    damping: float  # [N s/m]


class Draws:
    """The numbers of all draws of a twin's parameters, in Bullet's terms."""

    def __init__(self, where: Layout, table: Array, values: dict[str, Array]) -> None:
        self.where, self.table, self.values = where, table, values
        bodies = where.world.bodies
        self.total = float(sum(body.mass for body in bodies))
        self.inertias = [where.inertia(table, k) for k in range(len(bodies))]
        self.tilted = [bool((np.abs(inertia - inertia * np.eye(3)) > 1e-12 * np.abs(inertia).max()).any()) for inertia in self.inertias]
        self.spectra = [np.linalg.eigh(inertia) if tilted else None for inertia, tilted in zip(self.inertias, self.tilted, strict=True)]
        self.light = [where.lightness(table, k) for k in range(len(bodies))]
        self.dampers = [where.damper(table, k) for k in range(len(where.pairs))]

    def moments(self, k: int) -> Array:
        """Principal moments (P, 3) [kg m^2], in the frame that `frame` says."""
        spectrum = self.spectra[k]
        return np.diagonal(self.inertias[k], axis1=1, axis2=2) if spectrum is None else np.asarray(spectrum[0])

    def drag(self, k: int) -> Array:
        """Drag on a body's translation and rotation (P, 2) [1/s]."""
        return self.where.body(self.table, k)[:, [layout.LINEAR_DRAG, layout.ANGULAR_DRAG]]

    def frame(self, k: int, row: int) -> tuple[Array, Array]:
        """Centre of mass [m] and principal axes (quaternion wxyz) in the body's frame."""
        spectrum = self.spectra[k]
        com = self.where.body(self.table, k)[row, layout.COM : layout.COM + 3]
        return com, np.array(UPRIGHT) if spectrum is None else quaternion_of(spectrum[1][row])

    def structure(self, row: int) -> tuple[Any, ...]:
        """What Bullet cannot change in place."""
        where, table = self.where, self.table
        numbers = [where.geometry(table, k)[row] for k in range(len(where.geometries))]
        for k in range(len(where.world.bodies)):
            numbers += [where.joint(table, k)[row, layout.ANCHOR : layout.ANCHOR + 3], *self.frame(k, row)]
        return tuple(np.concatenate(numbers).tolist())

    def surface(self, k: int, row: int) -> Surface:
        """A body's own: two alike give the pair what it should have."""
        name = self.where.world.bodies[k].name
        value = {label: float(self.values[f"{name}.{label}"][row]) for label in ("friction", "stiffness", "torsional_friction", "rolling_friction")}
        root = float(np.sqrt(value["friction"]))
        shares = [value[label] / (2 * root) if root else 0.0 for label in ("torsional_friction", "rolling_friction")]
        light = float(self.light[k][row])
        damping = 0.5 * float(self.values[f"{name}.damping_ratio"][row]) * np.sqrt(value["stiffness"] / light) if light else 0.0
        return Surface(root, shares[0], shares[1], value["stiffness"], float(damping))

    def opposite(self, own: Surface, pair: int, row: int) -> Surface:
        """What a surface must have for contacts with `own` to be what the pair's row says."""
        wanted = self.where.pair(self.table, pair)[row]
        friction = float(wanted[layout.FRICTION]) / own.friction if own.friction else 0.0
        torsion, rolling = (
            max(float(wanted[column]) - mine * friction, 0.0) / own.friction if own.friction else 0.0
            for column, mine in ((layout.TORSION, own.torsion), (layout.ROLLING, own.rolling))
        )
        softness = 1 / float(wanted[layout.STIFFNESS]) - 1 / own.stiffness
        stiffness = 1 / softness if softness > 1 / RIGID else RIGID
        return Surface(friction, torsion, rolling, stiffness, max(float(self.dampers[pair][row]) - own.damping, 0.0))
