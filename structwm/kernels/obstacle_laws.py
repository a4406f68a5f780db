"""How far a point is from what stands still, and friction on it: functions without loops, so that `wp.grad` gives their derivatives."""

from functools import cache
from typing import Any

import warp as wp

from .obstacle_layout import ObstacleKind
from .rigid_structs import with_adjoints

PLANE, SPHERE, CAPSULE = int(ObstacleKind.PLANE), int(ObstacleKind.SPHERE), int(ObstacleKind.CAPSULE)


@cache
def obstacle_laws(scalar: type, *, whole: bool | None = None) -> Any:
    """The functions for one type of number; `whole`: whether those whose gradients are long are inlined, as `wp.func` takes it."""
    S = scalar
    vec3, mat33 = wp.types.vector(3, S), wp.types.matrix((3, 3), S)

    @wp.func
    def nearest(kind: int, size: vec3, turn: mat33, place: vec3, x: vec3):
        """Distance of a point from an obstacle's surface, less than 0 inside, and the direction away from it."""
        local = wp.transpose(turn) @ (x - place)
        gap = local[2]
        away = vec3(S(0.0), S(0.0), S(1.0))
        if kind == SPHERE:
            n = wp.max(wp.length(local), S(1.0e-9))
            gap = n - size[0]
            away = local / n
        elif kind == CAPSULE:
            side = local - vec3(S(0.0), S(0.0), wp.clamp(local[2], -size[1], size[1]))
            n = wp.max(wp.length(side), S(1.0e-9))
            gap = n - size[0]
            away = side / n
        elif kind > CAPSULE:
            near = vec3(wp.clamp(local[0], -size[0], size[0]), wp.clamp(local[1], -size[1], size[1]), wp.clamp(local[2], -size[2], size[2]))
            off = local - near
            n = wp.length(off)
            if n > S(1.0e-9):
                gap = n
                away = off / n
            else:
                depth = vec3(size[0] - wp.abs(local[0]), size[1] - wp.abs(local[1]), size[2] - wp.abs(local[2]))
                axis = wp.int32(0)
                if depth[1] < depth[0]:
                    axis = wp.int32(1)
                if depth[2] < depth[axis]:
                    axis = wp.int32(2)
                gap = -depth[axis]
                away = vec3(S(0.0), S(0.0), S(0.0))
                away[axis] = wp.sign(local[axis])
        return gap, turn @ away

    @wp.func(inline=whole)
    def nearest_test(kind: int, size: vec3, turn: mat33, place: vec3, x: vec3, seed_gap: S, seed_away: vec3):
        gap, away = nearest(kind, size, turn, place, x)
        return gap * seed_gap + wp.dot(away, seed_away)

    @wp.func
    def grip(along: vec3, reach: S):
        """What Coulomb friction takes of a sliding velocity, where it can take as much as `reach`: what it can stop, it stops. The two regimes are joined
        smoothly."""
        speed = wp.length(along)
        if reach <= S(0.0) or speed <= S(1.0e-12):
            return vec3()
        ratio = speed / reach
        if ratio > S(8.0):
            return along / ratio
        square = ratio * ratio
        fourth = square * square
        return along / wp.pow(S(1.0) + fourth * fourth, S(0.125))

    return with_adjoints({name: value for name, value in locals().items() if isinstance(value, wp.Function)})
