"""What a scene of deformable bodies is made of: solids and cloths, what holds some of their particles, what stands still; and the views of its state."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structwm.geometry.mesh import Mesh
from structwm.geometry.soft_mesh import SoftMesh
from structwm.scene import Scene
from structwm.state import Points, Tracks

from .obstacles import check_obstacles
from .rigid_world import Fixture
from .spring_body import SpringState


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


class SoftScene(Scene):
    """Reads the state of a soft world: particles are points and tracks; coordinates are `p3.x` [m] and `p3.vx` [m/s]."""

    def __init__(self, world: SoftWorld) -> None:
        points = [f"p{k}" for k in range(world.particles)]
        names = [f"{point}.{kind}{axis}" for kind in ("", "v") for point in points for axis in "xyz"]
        super().__init__(coordinate_names=names, coordinate_units=["m"] * (len(names) // 2) + ["m/s"] * (len(names) // 2), point_names=points)
        self.world = world

    def config(self) -> dict[str, Any]:
        return {"world": self.world}

    def points(self, state: SpringState) -> Points:
        """All particles."""
        return Points(positions=state.positions, batch_size=state.batch_size)

    def tracks(self, state: SpringState) -> Tracks:
        """All particles in the world frame, all visible."""
        return Tracks(keypoints=state.positions, visibility=torch.ones_like(state.positions[..., 0]), batch_size=state.batch_size)
