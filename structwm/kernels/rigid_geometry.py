"""Where two geometries touch: gap, normal, and the contact seen from both bodies. Functions without loops, so that `wp.grad` gives their derivatives.

A geometry is a core (points, a segment, a polytope) rounded by a radius. Its frame is turned by a constant and moved by `offset` in its body's frame; its core
is scaled about its origin. A contact is given by the gap [m] (negative in overlap), the unit normal n from B to A, and its place: on A's surface, seen from
the origin of A's body (`arm_a`) and of B's (`arm_b`).
"""

from functools import cache
from typing import Any

import warp as wp

from .rigid_structs import types, with_adjoints


@cache
def geometry(scalar: type, *, inline: bool | None = None) -> Any:
    """The functions for one type of number; `inline` as `wp.func` takes it."""
    S = scalar
    T = types(S)
    vec3, Shape = T.vec3, T.Shape

    @wp.func(inline=inline)
    def reached(a: Shape, point: vec3):
        """A point of a geometry, from the origin of its body, in the world frame."""
        return a.turn @ (a.offset + a.scale * (a.core @ point))

    @wp.func(inline=inline)
    def point_plane(a: Shape, point: vec3, b: Shape):
        """A point of A with its radius against the half-space of B, whose normal is its z-axis. Gap, normal, arm_a, arm_b."""
        w = reached(a, point)
        n = b.turn @ (b.core @ vec3(S(0.0), S(0.0), S(1.0)))
        between = a.place - b.place
        gap = wp.dot(n, w + between - b.turn @ b.offset) - a.radius
        arm = w - a.radius * n
        return gap, n, arm, arm + between

    @wp.func(inline=inline)
    def point_plane_test(a: Shape, point: vec3, b: Shape, seed_gap: S, seed_n: vec3, seed_a: vec3, seed_b: vec3):
        gap, n, arm_a, arm_b = point_plane(a, point, b)
        return seed_gap * gap + wp.dot(seed_n, n) + wp.dot(seed_a, arm_a) + wp.dot(seed_b, arm_b)

    @wp.func(inline=inline)
    def seen(a: Shape, point: vec3, b: Shape):
        """A point of A in the frame of geometry B, and from the origin of A's body in the world frame."""
        w = reached(a, point)
        return wp.transpose(b.core) @ (wp.transpose(b.turn) @ (w + a.place - b.place) - b.offset), w

    @wp.func(inline=inline)
    def seen_test(a: Shape, point: vec3, b: Shape, seed_y: vec3, seed_w: vec3):
        y, w = seen(a, point, b)
        return wp.dot(seed_y, y) + wp.dot(seed_w, w)

    @wp.func(inline=inline)
    def landed(a: Shape, b: Shape, distance: S, direction: vec3, w: vec3):
        """Gap, normal, arm_a, arm_b from the distance of A's point w to B's core, and the direction to it in the frame of geometry B."""
        n = wp.normalize(b.turn @ (b.core @ direction))
        arm = w - a.radius * n
        return distance - a.radius - b.radius, n, arm, arm + (a.place - b.place)

    @wp.func(inline=inline)
    def landed_test(a: Shape, b: Shape, distance: S, direction: vec3, w: vec3, seed_gap: S, seed_n: vec3, seed_a: vec3, seed_b: vec3):
        gap, n, arm_a, arm_b = landed(a, b, distance, direction, w)
        return seed_gap * gap + wp.dot(seed_n, n) + wp.dot(seed_a, arm_a) + wp.dot(seed_b, arm_b)

    @wp.func(inline=inline)
    def from_triangle(y: vec3, a: vec3, b: vec3, c: vec3, scale: S):
        """Vector to y from the nearest point of a scaled triangle (Ericson, Real-Time Collision Detection, 2005, section 5.1.5)."""
        p = scale * a
        ab = scale * (b - a)
        ac = scale * (c - a)
        ap = y - p
        d1 = wp.dot(ab, ap)
        d2 = wp.dot(ac, ap)
        d3 = d1 - wp.dot(ab, ab)
        d4 = d2 - wp.dot(ab, ac)
        d5 = d1 - wp.dot(ab, ac)
        d6 = d2 - wp.dot(ac, ac)
        va = d3 * d6 - d5 * d4
        vb = d5 * d2 - d1 * d6
        vc = d1 * d4 - d3 * d2
        v = S(0.0)
        w = S(0.0)
        if d1 <= S(0.0) and d2 <= S(0.0):
            v = S(0.0)
        elif d3 >= S(0.0) and d4 <= d3:
            v = S(1.0)
        elif vc <= S(0.0) and d1 >= S(0.0) and d3 <= S(0.0):
            v = d1 / (d1 - d3)
        elif d6 >= S(0.0) and d5 <= d6:
            w = S(1.0)
        elif vb <= S(0.0) and d2 >= S(0.0) and d6 <= S(0.0):
            w = d2 / (d2 - d6)
        elif va <= S(0.0) and d4 - d3 >= S(0.0) and d5 - d6 >= S(0.0):
            w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
            v = S(1.0) - w
        else:
            total = va + vb + vc
            v = vb / total
            w = vc / total
        return ap - v * ab - w * ac

    @wp.func(inline=inline)
    def from_triangle_test(y: vec3, a: vec3, b: vec3, c: vec3, scale: S, seed_distance: S, seed_direction: vec3):
        away = from_triangle(y, a, b, c, scale)
        distance = wp.length(away)
        return seed_distance * distance + wp.dot(seed_direction, away) / distance

    @wp.func(inline=inline)
    def segments(a: Shape, start_a: vec3, end_a: vec3, b: Shape, start_b: vec3, end_b: vec3):
        """Two segments with radii; start and end may coincide (Ericson 2005, section 5.1.9). Gap, normal, arm_a, arm_b."""
        first = reached(a, start_a)
        other = reached(b, start_b)
        d1 = a.scale * (a.turn @ (a.core @ (end_a - start_a)))
        d2 = b.scale * (b.turn @ (b.core @ (end_b - start_b)))
        between = a.place - b.place
        r = first + between - other
        e1 = wp.dot(d1, d1)
        e2 = wp.dot(d2, d2)
        f = wp.dot(d2, r)
        c = wp.dot(d1, r)
        g = wp.dot(d1, d2)
        s = S(0.0)
        t = S(0.0)
        tiny = S(1.0e-12)
        if e1 > tiny and e2 > tiny:
            denominator = e1 * e2 - g * g
            if denominator > S(1.0e-6) * e1 * e2:
                s = wp.clamp((g * f - c * e2) / denominator, S(0.0), S(1.0))
            else:
                s = S(0.5)
            t = (g * s + f) / e2
            if t < S(0.0):
                t = S(0.0)
                s = wp.clamp(-c / e1, S(0.0), S(1.0))
            elif t > S(1.0):
                t = S(1.0)
                s = wp.clamp((g - c) / e1, S(0.0), S(1.0))
        elif e1 > tiny:
            s = wp.clamp(-c / e1, S(0.0), S(1.0))
        elif e2 > tiny:
            t = wp.clamp(f / e2, S(0.0), S(1.0))
        w = first + s * d1
        away = w + between - other - t * d2
        distance = wp.length(away)
        n = away / wp.max(distance, S(1.0e-9))
        arm = w - a.radius * n
        return distance - a.radius - b.radius, n, arm, arm + between

    @wp.func(inline=inline)
    def segments_test(a: Shape, start_a: vec3, end_a: vec3, b: Shape, start_b: vec3, end_b: vec3, seed_gap: S, seed_n: vec3, seed_a: vec3, seed_b: vec3):
        gap, n, arm_a, arm_b = segments(a, start_a, end_a, b, start_b, end_b)
        return seed_gap * gap + wp.dot(seed_n, n) + wp.dot(seed_a, arm_a) + wp.dot(seed_b, arm_b)

    return with_adjoints({name: value for name, value in locals().items() if isinstance(value, wp.Function)})
