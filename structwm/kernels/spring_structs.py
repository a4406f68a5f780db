"""The structs that the spring kernels pass around, for one type of number."""

from functools import cache
from typing import NamedTuple

import warp as wp


class Types(NamedTuple):
    """Warp's types for one type of number."""

    vec3: type
    mat33: type
    Model: type
    Table: type
    Path: type
    Adjoint: type


@cache
def types(scalar: type) -> Types:
    """Types for `wp.float32` or `wp.float64`."""
    vec3, mat33 = wp.types.vector(3, scalar), wp.types.matrix((3, 3), scalar)

    @wp.struct
    class Model:
        """What no world of a batch changes: P particles, M springs, C pushers, O obstacles."""

        particles: wp.int32
        pushers: wp.int32
        obstacles: wp.int32
        partners: wp.int32  # how many a particle may touch at most, 0 where particles do not touch each other
        stages: wp.int32  # in which dashpots act within a substep
        seconds: scalar  # of a substep
        carry: wp.array(dtype=scalar)  # (stages,) of the velocity after the stage before, in a stage
        carry_second: wp.array(dtype=scalar)  # of that after the stage before it
        share: wp.array(dtype=scalar)  # of the substep, in a stage
        first: wp.array(dtype=wp.int32)  # (P + 1,) where a particle's springs begin in the lists below
        other: wp.array(dtype=wp.int32)  # (2M,) the particle at the other end
        spring: wp.array(dtype=wp.int32)  # (2M,) which spring it is
        rest: wp.array(dtype=scalar)  # (M,) [m]
        weight: wp.array(dtype=scalar)  # (P,) share of the mass
        drive: wp.array(dtype=wp.int32)  # (P,) column of the action at which a driven particle's velocity begins, -1: free
        pusher: wp.array(dtype=wp.int32)  # (C,) driven particles that push others
        reach: wp.array(dtype=scalar)  # (C,) their radius [m]
        kind: wp.array(dtype=wp.int32)  # of obstacles, ObstacleKind
        size: wp.array(dtype=vec3)
        turn: wp.array(dtype=mat33)  # world_from_obstacle
        place: wp.array(dtype=vec3)
        home: wp.array(dtype=vec3)  # (P,) places at rest: neighbours there do not push each other apart [m]

    @wp.struct
    class Table:
        """Parameters: R rows, and which of them each of N worlds has."""

        row: wp.array(dtype=wp.int32)  # (N,)
        common: wp.array2d(dtype=scalar)  # (R, C), columns of `spring_layout`
        stiffness: wp.array2d(dtype=scalar)  # (R, M) [N/m]
        damping: wp.array2d(dtype=scalar)  # (R, M) [N s/m]

    @wp.struct
    class Path:
        """States at the steps, and those within a step: D of them, used round robin."""

        step: wp.array(dtype=wp.int32)  # (1,) which step is being taken, so that a recorded graph can be launched for each
        actions: wp.array3d(dtype=scalar)  # (N, H, A)
        x: wp.array3d(dtype=vec3)  # (N, H+1, P)
        v: wp.array3d(dtype=vec3)
        middle: wp.array3d(dtype=vec3)  # (D, N, P) places, half a substep ahead
        speed: wp.array3d(dtype=vec3)  # (D, N, P) velocities
        push: wp.array3d(dtype=vec3)  # (D, N, P) acceleration but for dashpots
        stage: wp.array3d(dtype=vec3)  # (D * stages, N, P) velocities after each stage
        partner: wp.array3d(dtype=wp.int32)  # (N, P, K) particles that may be touched, -1: no more

    @wp.struct
    class Adjoint:
        """Gradients: what comes in by the states at the steps, and by where the pass has come to."""

        by_x: wp.array3d(dtype=vec3)  # (N, H+1, P)
        by_v: wp.array3d(dtype=vec3)
        x: wp.array2d(dtype=vec3)  # (N, P)
        v: wp.array2d(dtype=vec3)
        stage: wp.array3d(dtype=vec3)  # (3, N, P) by velocities after stages, used round robin
        push: wp.array2d(dtype=vec3)  # (N, P) by accelerations
        common: wp.array2d(dtype=scalar)  # (N, C)
        stiffness: wp.array2d(dtype=scalar)  # (N, M)
        damping: wp.array2d(dtype=scalar)  # (N, M)
        actions: wp.array3d(dtype=scalar)  # (N, H, A)

    return Types(vec3, mat33, Model, Table, Path, Adjoint)
