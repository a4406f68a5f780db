"""What stands still and is touched by rods and springs, as the kernels take it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .rigid_world import BoxShape, CapsuleShape, Fixture, PlaneShape, SphereShape


def obstacle_arrays(obstacles: Sequence[Fixture]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Kinds (O,), sizes (O, 3), rotations (O, 3, 3) and places (O, 3) of all geometries, for the kernels."""
    from structwm.kernels.obstacle_layout import ObstacleKind

    from .rigid_program import rotation_matrix

    kinds: list[int] = []
    sizes: list[tuple[float, float, float]] = []
    geometries = [geometry for fixture in obstacles for geometry in fixture.geometries]
    for geometry in geometries:
        match geometry.shape:
            case PlaneShape():
                kinds, sizes = [*kinds, ObstacleKind.PLANE], [*sizes, (0.0, 0.0, 0.0)]
            case SphereShape(radius=radius):
                kinds, sizes = [*kinds, ObstacleKind.SPHERE], [*sizes, (radius, 0.0, 0.0)]
            case CapsuleShape(radius=radius, half_length=half):
                kinds, sizes = [*kinds, ObstacleKind.CAPSULE], [*sizes, (radius, half, 0.0)]
            case BoxShape(half_extents=half_extents):
                kinds, sizes = [*kinds, ObstacleKind.BOX], [*sizes, half_extents]
    turns = [rotation_matrix(geometry.rotation) for geometry in geometries]
    return (
        np.array(kinds, np.int32),
        np.array(sizes, float).reshape(-1, 3),
        np.array(turns, float).reshape(-1, 3, 3),
        np.array([geometry.position for geometry in geometries], float).reshape(-1, 3),
    )


def check_obstacles(obstacles: Sequence[Fixture], what: str) -> None:
    """Refuse shapes that `what` does not touch.

    Raises:
        ValueError: names the obstacle.
    """
    for fixture in obstacles:
        for geometry in fixture.geometries:
            if not isinstance(geometry.shape, PlaneShape | SphereShape | CapsuleShape | BoxShape):
                raise ValueError(f"{what} touches planes, spheres, capsules and boxes, not the {type(geometry.shape).__name__} of {fixture.name!r}.")
