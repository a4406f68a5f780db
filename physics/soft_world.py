"""What a scene of deformable bodies is made of: solids and cloths, what holds some of their particles, what stands still; and the views of its state."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.mesh import Mesh
from structwm.geometry.soft_mesh import SoftMesh

from .obstacles import check_obstacles
from .particle_scene import ParticleScene
from .rigid_world import Fixture


@dataclass(frozen=True, eq=False)
class SoftBody:
    """A deformable body where it starts: a solid if its mesh has tetrahedra, else a cloth."""

    name: str
    mesh: SoftMesh

    @property
    def solid(self) -> bool:
        """Whether it has a volume."""
        return self.mesh.tetrahedra is not None


@dataclass(frozen=True, eq=False)
class SoftWorld:
    """Deformable bodies, whose particles are numbered one body after another, among obstacles.

    Raises:
        ValueError: if there is no body, two share a name, a driven group is empty, shares a particle or names one that is not there, or an obstacle has a shape
            that particles do not touch.
    """

    bodies: tuple[SoftBody, ...]
    driven: tuple[tuple[int, ...], ...] = ()  # groups of particles that move together as commanded, as a gripper holds them
    obstacles: tuple[Fixture, ...] = ()  # planes, spheres, capsules and boxes that stand still

    def __post_init__(self) -> None:
        names = [body.name for body in self.bodies]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"SoftWorld needs bodies of different names, got {names}.")
        flat = [k for group in self.driven for k in group]
        if any(not group for group in self.driven) or len(set(flat)) < len(flat):
            raise ValueError(f"SoftWorld.driven needs groups that are not empty and share no particle, got {self.driven}.")
        if flat and not 0 <= min(flat) <= max(flat) < self.particles:
            raise ValueError(f"SoftWorld.driven names particles {min(flat)} to {max(flat)}, but there are {self.particles}.")
        check_obstacles(self.obstacles, "A deformable body")

    @property
    def particles(self) -> int:
        """P."""
        return sum(len(body.mesh.nodes) for body in self.bodies)

    @property
    def first(self) -> tuple[int, ...]:
        """Number of each body's first particle."""
        return tuple(itertools.accumulate((len(body.mesh.nodes) for body in self.bodies[:-1]), initial=0))

    @property
    def positions(self) -> Tensor:
        """(P, 3) of all particles at rest [m]."""
        return torch.cat([body.mesh.nodes for body in self.bodies])

    @property
    def surface(self) -> Mesh:
        """Triangles of all bodies over their particles."""
        return Mesh(self.positions, torch.cat([at + body.mesh.triangles for at, body in zip(self.first, self.bodies, strict=True)]))

    @property
    def action_names(self) -> tuple[str, ...]:
        """Velocities of the driven groups [m/s]."""
        return tuple(f"group{k}.v{axis}" for k in range(len(self.driven)) for axis in "xyz")


class SoftScene(ParticleScene):
    """Reads the state of a soft world: all particles are points and tracks."""

    def __init__(self, world: SoftWorld) -> None:
        super().__init__(world.particles)
        self.world = world

    def config(self) -> dict[str, Any]:
        return {"world": self.world}
