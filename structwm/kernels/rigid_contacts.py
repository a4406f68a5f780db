"""What touches in a rigid world, and how hard: loops over contact tests and over the points of geometries."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from . import rigid_layout as layout
from .rigid_geometry import geometry
from .rigid_laws import laws
from .rigid_structs import types

DRIVEN = int(layout.JointKind.DRIVEN)
POINTS_PLANE, POINTS_PLANES, POINTS_FACES = (int(getattr(layout.TestKind, name)) for name in ("POINTS_PLANE", "POINTS_PLANES", "POINTS_FACES"))


@cache
def contacts(scalar: type) -> Any:
    """The functions for one type of number, all inlined: structs are passed by value, and large."""
    S = scalar
    T = types(S)
    vec3, Model, Scratch, Shape, Side, Law, Link = T.vec3, T.Model, T.Scratch, T.Shape, T.Side, T.Law, T.Link
    G = geometry(S, inline=True)
    contact, reached, point_plane, seen = laws(S, inline=True).contact, G.reached, G.point_plane, G.seen
    landed, from_triangle, segments = G.landed, G.from_triangle, G.segments
    row_type = wp.array(dtype=S)

    @wp.func(inline=True)
    def three(p: row_type, at: int):
        return vec3(p[at], p[at + 1], p[at + 2])

    @wp.func(inline=True)
    def frame(scratch: Scratch, i: int, b: int):
        if b < 0:
            return wp.identity(3, S)
        return scratch.turn[i, b]

    @wp.func(inline=True)
    def origin(scratch: Scratch, i: int, b: int):
        if b < 0:
            return vec3(S(0.0), S(0.0), S(0.0))
        return scratch.place[i, b]

    @wp.func(inline=True)
    def link_of(scratch: Scratch, i: int, b: int):
        """How body b moves; the world stands still."""
        link = Link()
        if b < 0:
            link.turn = wp.identity(3, S)
        else:
            link.turn = scratch.turn[i, b]
            link.linear = scratch.linear[i, b]
            link.angular = scratch.angular[i, b]
            link.linear_rate = scratch.linear_rate[i, b]
            link.angular_rate = scratch.angular_rate[i, b]
        return link

    @wp.func(inline=True)
    def law_of(model: Model, p: row_type, pair: int, share: S):
        at = model.pair_column + wp.static(layout.PAIR) * pair
        law = Law()
        law.stiffness = p[at + wp.static(layout.STIFFNESS)]
        law.damping_ratio = p[at + wp.static(layout.DAMPING_RATIO)]
        law.friction = p[at + wp.static(layout.FRICTION)]
        law.torsion = p[at + wp.static(layout.TORSION)]
        law.rolling = p[at + wp.static(layout.ROLLING)]
        law.smoothing = p[at + wp.static(layout.SMOOTHING)]
        law.slip = p[at + wp.static(layout.SLIP)]
        law.spin = p[at + wp.static(layout.SPIN)]
        law.share = share
        return law

    @wp.func(inline=True)
    def side_of(model: Model, p: row_type, scratch: Scratch, i: int, b: int, arm: vec3):
        side = Side()
        side.arm = arm
        if b < 0:
            side.turn = wp.identity(3, S)
        else:
            side.turn = scratch.turn[i, b]
            side.linear = scratch.linear[i, b]
            side.angular = scratch.angular[i, b]
            if model.ints[model.joint + b] != DRIVEN:
                at = model.body_column + wp.static(layout.BODY) * b
                side.com = three(p, at + wp.static(layout.COM))
                side.inverse_mass = S(1.0) / p[at + wp.static(layout.MASS)]
                side.inverse_diagonal = three(p, at + wp.static(layout.INVERSE_INERTIA))
                side.inverse_mixed = three(p, at + wp.static(layout.INVERSE_INERTIA + 3))
        return side

    @wp.func(inline=True)
    def shape_of(model: Model, p: row_type, scratch: Scratch, i: int, g: int):
        """Geometry g where its body is."""
        b = model.ints[model.geometry_body + g]
        at = model.geometry_column + wp.static(layout.GEOMETRY) * g
        shape = Shape()
        shape.turn = frame(scratch, i, b)
        shape.place = origin(scratch, i, b)
        shape.core = model.geometry_turn[g]
        shape.offset = three(p, at)
        shape.scale = p[at + wp.static(layout.SCALE)]
        shape.radius = p[at + wp.static(layout.RADIUS)]
        return shape

    @wp.func(inline=True)
    def touch(model: Model, p: row_type, scratch: Scratch, i: int, test: int, share: S, gap: S, n: vec3, arm_a: vec3, arm_b: vec3):
        """Add the wrench of one contact to both bodies."""
        a = model.ints[model.geometry_body + model.ints[model.test_a + test]]
        b = model.ints[model.geometry_body + model.ints[model.test_b + test]]
        force, torque = contact(
            gap,
            n,
            side_of(model, p, scratch, i, a, arm_a),
            side_of(model, p, scratch, i, b, arm_b),
            law_of(model, p, model.ints[model.test_pair + test], share),
            model.seconds,
        )
        if a >= 0:
            scratch.force[i, a] = scratch.force[i, a] + force
            scratch.torque[i, a] = scratch.torque[i, a] + wp.cross(arm_a, force) + torque
        if b >= 0:
            scratch.force[i, b] = scratch.force[i, b] - force
            scratch.torque[i, b] = scratch.torque[i, b] - wp.cross(arm_b, force) - torque

    @wp.func(inline=True)
    def nearness(model: Model, p: row_type, scratch: Scratch, i: int, test: int, a: Shape, b: Shape):
        """Gap [m] from which two geometries are out of each other's reach: by smoothing, and by what their surfaces may travel in half a substep."""
        g = model.ints[model.test_a + test]
        one = link_of(scratch, i, model.ints[model.geometry_body + g])
        other = link_of(scratch, i, model.ints[model.geometry_body + model.ints[model.test_b + test]])
        arm = wp.length(a.offset) + a.scale * (wp.length(model.middle[g]) + model.bound[g]) + a.radius
        far = wp.length(a.place - b.place) + arm
        speed = wp.length(one.linear - other.linear) + wp.length(one.angular) * arm + wp.length(other.angular) * far
        smoothing = p[model.pair_column + wp.static(layout.PAIR) * model.ints[model.test_pair + test] + wp.static(layout.SMOOTHING)]
        return smoothing + S(0.5) * model.seconds * speed

    @wp.func(inline=True)
    def apart(model: Model, test: int, a: Shape, b: Shape, near: S):
        """Whether bounding spheres (or the half-space) show that the gap of two geometries is more than `near`."""
        g = model.ints[model.test_a + test]
        h = model.ints[model.test_b + test]
        reach = near + a.scale * model.bound[g] + a.radius
        between = a.place + reached(a, model.middle[g]) - b.place
        if model.ints[model.test_kind + test] == POINTS_PLANE:
            n = b.turn @ (b.core @ vec3(S(0.0), S(0.0), S(1.0)))
            return wp.dot(n, between - b.turn @ b.offset) > reach
        reach += b.scale * model.bound[h] + b.radius
        between = between - reached(b, model.middle[h])
        return wp.dot(between, between) > reach * reach

    @wp.func(inline=True)
    def outermost(model: Model, h: int, y: vec3, scale: S):
        """The plane of polytope h that y is farthest outside of, and how far [m]."""
        best = model.ints[model.plane_first + h]
        farthest = S(-1.0e30)
        for k in range(model.ints[model.plane_first + h], model.ints[model.plane_end + h]):
            d = wp.dot(model.normals[k], y) - scale * model.offsets[k]
            if d > farthest:
                farthest = d
                best = k
        return best, farthest

    @wp.func(inline=True)
    def from_face(model: Model, face: int, y: vec3, scale: S):
        """Vector to y from the nearest point of a triangle."""
        at = model.faces + 3 * face
        return from_triangle(y, model.points[model.ints[at]], model.points[model.ints[at + 1]], model.points[model.ints[at + 2]], scale)

    @wp.func(inline=True)
    def nearest_face(model: Model, h: int, y: vec3, scale: S):
        """The triangle of polytope h nearest to y."""
        best = model.ints[model.face_first + h]
        least = S(1.0e30)
        for k in range(model.ints[model.face_first + h], model.ints[model.face_end + h]):
            away = from_face(model, k, y, scale)
            d = wp.dot(away, away)
            if d < least:
                least = d
                best = k
        return best

    @wp.func(inline=True)
    def smooth_planes(model: Model, h: int, y: vec3, scale: S, farthest: S, width: S):
        """Smooth maximum of the distances to planes (log-sum-exp over `width`), and the mean normal it weighs them with."""
        total = S(0.0)
        direction = vec3(S(0.0), S(0.0), S(0.0))
        for k in range(model.ints[model.plane_first + h], model.ints[model.plane_end + h]):
            w = wp.exp((wp.dot(model.normals[k], y) - scale * model.offsets[k] - farthest) / width)
            total += w
            direction += w * model.normals[k]
        return farthest + width * wp.log(total), direction / total

    @wp.func(inline=True)
    def touches(model: Model, p: row_type, scratch: Scratch, i: int):
        """The wrenches of all contacts."""
        for test in range(model.tests):
            g = model.ints[model.test_a + test]
            h = model.ints[model.test_b + test]
            a = shape_of(model, p, scratch, i, g)
            b = shape_of(model, p, scratch, i, h)
            near = nearness(model, p, scratch, i, test, a, b)
            if not apart(model, test, a, b, near):
                kind = model.ints[model.test_kind + test]
                first = model.ints[model.point_first + g]
                if kind == POINTS_PLANE:
                    for k in range(first, model.ints[model.point_end + g]):
                        gap, n, arm_a, arm_b = point_plane(a, model.points[k], b)
                        if gap < near:
                            touch(model, p, scratch, i, test, model.crowds[k], gap, n, arm_a, arm_b)
                elif kind == POINTS_PLANES or kind == POINTS_FACES:
                    width = p[model.pair_column + wp.static(layout.PAIR) * model.ints[model.test_pair + test] + wp.static(layout.SMOOTHING)]
                    for k in range(first, model.ints[model.sample_end + g]):
                        y, w = seen(a, model.points[k], b)
                        plane, distance = outermost(model, h, y, b.scale)
                        if distance - a.radius - b.radius < near:
                            direction = model.normals[plane]
                            if kind == POINTS_PLANES:
                                distance, direction = smooth_planes(model, h, y, b.scale, distance, width)
                            elif distance > S(0.0):
                                away = from_face(model, nearest_face(model, h, y, b.scale), y, b.scale)
                                distance = wp.length(away)
                                direction = away / distance
                            gap, n, arm_a, arm_b = landed(a, b, distance, direction, w)
                            if gap < near:
                                touch(model, p, scratch, i, test, model.shares[k], gap, n, arm_a, arm_b)
                else:
                    end = model.ints[model.point_end + g] - 1
                    start = model.ints[model.point_first + h]
                    gap, n, arm_a, arm_b = segments(
                        a, model.points[first], model.points[end], b, model.points[start], model.points[model.ints[model.point_end + h] - 1]
                    )
                    if gap < near:
                        touch(model, p, scratch, i, test, S(1.0), gap, n, arm_a, arm_b)

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
