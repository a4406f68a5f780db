"""The structs that the rod kernels pass around, for one type of number."""

from functools import cache
from typing import NamedTuple

import warp as wp


class Types(NamedTuple):
    """Warp's types for one type of number."""

    vec2: type
    vec3: type
    mat33: type
    Model: type
    Scratch: type
    Adjoint: type


@cache
def types(scalar: type) -> Types:
    """Types for `wp.float32` or `wp.float64`."""
    vec2, vec3, mat33 = wp.types.vector(2, scalar), wp.types.vector(3, scalar), wp.types.matrix((3, 3), scalar)

    @wp.struct
    class Model:
        """What no rod of a batch changes: V vertices, E = V - 1 edges."""

        vertices: wp.int32
        directors: wp.int32  # E where the rod twists, else 0
        substeps: wp.int32
        obstacles: wp.int32
        seconds: scalar  # of a substep
        rest: wp.array(dtype=scalar)  # (E,) [m]
        drive: wp.array(dtype=wp.int32)  # (V,) column of the action at which a driven vertex's velocity begins, -1: free
        roll: wp.array(dtype=wp.int32)  # (E,) column of the action with an edge's spin, -1: free, -2: held
        kind: wp.array(dtype=wp.int32)  # of obstacles, ObstacleKind
        size: wp.array(dtype=vec3)
        turn: wp.array(dtype=mat33)  # world_from_obstacle
        place: wp.array(dtype=vec3)

    @wp.struct
    class Scratch:
        """What a substep of one rod needs, (N, ...): written and read by its own thread alone."""

        diagonal: wp.array2d(dtype=mat33)  # (N, V) blocks of the matrix, then the inverses of the pivots
        next: wp.array2d(dtype=mat33)  # beside the diagonal, then of the factor
        second: wp.array2d(dtype=mat33)  # two beside it
        delta: wp.array2d(dtype=vec3)  # right-hand side, then the change of velocity
        roll_diagonal: wp.array2d(dtype=scalar)  # (N, E) the same of the spins
        roll_next: wp.array2d(dtype=scalar)
        roll_delta: wp.array2d(dtype=scalar)

    @wp.struct
    class Adjoint:
        """What the backward pass of a substep needs beside, (N, ...)."""

        delta: wp.array2d(dtype=vec3)
        roll_delta: wp.array2d(dtype=scalar)
        edge: wp.array2d(dtype=vec3)  # gradient by edges before they move

    return Types(vec2, vec3, mat33, Model, Scratch, Adjoint)
