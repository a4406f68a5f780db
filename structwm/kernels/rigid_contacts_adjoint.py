"""The backward pass of contacts: vector-Jacobian products of `rigid_contacts`, in the sense of `rigid_adjoint`."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from . import rigid_layout as layout
from .rigid_contacts import DRIVEN, POINTS_FACES, POINTS_PLANE, POINTS_PLANES, contacts
from .rigid_geometry import geometry
from .rigid_laws import laws
from .rigid_structs import types


@cache
def contacts_adjoint(scalar: type, *, whole: bool | None) -> Any:
    """The functions for one type of number; `whole`: whether the largest are inlined, as `wp.func` takes it."""
    S = scalar
    T = types(S)
    vec3, Model, Scratch, Adjoint, Shape, Side = T.vec3, T.Model, T.Scratch, T.Adjoint, T.Shape, T.Side
    contact_test, G, C = laws(S, whole=whole).contact_test, geometry(S), contacts(S)
    point_plane, point_plane_test, seen, seen_test, landed, landed_test = G.point_plane, G.point_plane_test, G.seen, G.seen_test, G.landed, G.landed_test
    from_triangle_test, segments, segments_test = G.from_triangle_test, G.segments, G.segments_test
    law_of, side_of, shape_of, nearness, apart = C.law_of, C.side_of, C.shape_of, C.nearness, C.apart
    outermost, from_face, nearest_face, smooth_planes = C.outermost, C.from_face, C.nearest_face, C.smooth_planes
    row_type = wp.array(dtype=S)

    @wp.func
    def add(p: row_type, at: int, value: vec3):
        for k in range(3):
            p[at + k] = p[at + k] + value[k]

    @wp.func
    def more(p: row_type, at: int, value: S):
        p[at] = p[at] + value

    @wp.func
    def virtual_linear(adj: Adjoint, i: int, b: int):
        if b < 0:
            return vec3(S(0.0), S(0.0), S(0.0))
        return adj.linear_virtual[i, b]

    @wp.func
    def virtual_angular(adj: Adjoint, i: int, b: int):
        if b < 0:
            return vec3(S(0.0), S(0.0), S(0.0))
        return adj.angular_virtual[i, b]

    @wp.func
    def add_side(model: Model, p: row_type, adj: Adjoint, dp: row_type, i: int, b: int, d: Side, sign: S, arm: vec3, force: vec3, torque: vec3):
        """The gradient of a contact's power by what it says of one body, whose contact feels sign * (force, torque)."""
        if b >= 0:
            adj.turn[i, b] = adj.turn[i, b] + d.turn
            adj.linear[i, b] = adj.linear[i, b] + d.linear
            adj.angular[i, b] = adj.angular[i, b] + d.angular
            adj.linear_test[i, b] = adj.linear_test[i, b] + sign * force
            adj.angular_test[i, b] = adj.angular_test[i, b] + sign * (wp.cross(arm, force) + torque)
            if model.ints[model.joint + b] != DRIVEN:
                at = model.body_column + wp.static(layout.BODY) * b
                mass = p[at]
                more(dp, at, -d.inverse_mass / (mass * mass))
                add(dp, at + wp.static(layout.COM), d.com)
                add(dp, at + wp.static(layout.INVERSE_INERTIA), d.inverse_diagonal)
                add(dp, at + wp.static(layout.INVERSE_INERTIA + 3), d.inverse_mixed)

    @wp.func
    def untouch(
        model: Model,
        p: row_type,
        scratch: Scratch,
        adj: Adjoint,
        dp: row_type,
        i: int,
        test: int,
        share: S,
        gap: S,
        n: vec3,
        arm_a: vec3,
        arm_b: vec3,
    ):
        """The gradient of one contact's virtual power; what is left is that by gap, normal and arms, which it returns."""
        a = model.ints[model.geometry_body + model.ints[model.test_a + test]]
        b = model.ints[model.geometry_body + model.ints[model.test_b + test]]
        turning_a = virtual_angular(adj, i, a)
        turning_b = virtual_angular(adj, i, b)
        along = virtual_linear(adj, i, a) + wp.cross(turning_a, arm_a) - virtual_linear(adj, i, b) - wp.cross(turning_b, arm_b)
        pair = model.ints[model.test_pair + test]
        d_gap, d_n, d_a, d_b, d_law, _h, force, torque = wp.grad(contact_test)(
            gap,
            n,
            side_of(model, p, scratch, i, a, arm_a),
            side_of(model, p, scratch, i, b, arm_b),
            law_of(model, p, pair, share),
            model.seconds,
            along,
            turning_a - turning_b,
        )
        add_side(model, p, adj, dp, i, a, d_a, S(1.0), arm_a, force, torque)
        add_side(model, p, adj, dp, i, b, d_b, S(-1.0), arm_b, force, torque)
        at = model.pair_column + wp.static(layout.PAIR) * pair
        more(dp, at + wp.static(layout.STIFFNESS), d_law.stiffness)
        more(dp, at + wp.static(layout.DAMPING_RATIO), d_law.damping_ratio)
        more(dp, at + wp.static(layout.FRICTION), d_law.friction)
        more(dp, at + wp.static(layout.TORSION), d_law.torsion)
        more(dp, at + wp.static(layout.ROLLING), d_law.rolling)
        more(dp, at + wp.static(layout.SMOOTHING), d_law.smoothing)
        more(dp, at + wp.static(layout.SLIP), d_law.slip)
        more(dp, at + wp.static(layout.SPIN), d_law.spin)
        d_arm_a = d_a.arm + wp.cross(force, turning_a)
        d_arm_b = d_b.arm - wp.cross(force, turning_b)
        return d_gap, d_n, d_arm_a, d_arm_b

    @wp.func
    def add_shape(model: Model, adj: Adjoint, dp: row_type, i: int, g: int, d: Shape):
        """The gradient by geometry g."""
        b = model.ints[model.geometry_body + g]
        at = model.geometry_column + wp.static(layout.GEOMETRY) * g
        if b >= 0:
            adj.turn[i, b] = adj.turn[i, b] + d.turn
            adj.place[i, b] = adj.place[i, b] + d.place
        add(dp, at, d.offset)
        more(dp, at + wp.static(layout.SCALE), d.scale)
        more(dp, at + wp.static(layout.RADIUS), d.radius)

    @wp.func
    def unsmooth(model: Model, h: int, y: vec3, scale: S, farthest: S, width: S, direction: vec3, d_distance: S, d_direction: vec3):
        """Back through `smooth_planes` to y, scale and width."""
        total = S(0.0)
        mean = S(0.0)
        for k in range(model.ints[model.plane_first + h], model.ints[model.plane_end + h]):
            level = (wp.dot(model.normals[k], y) - scale * model.offsets[k] - farthest) / width
            total += wp.exp(level)
            mean += wp.exp(level) * level
        mean = mean / total
        d_y = vec3(S(0.0), S(0.0), S(0.0))
        d_scale = S(0.0)
        d_width = d_distance * (wp.log(total) - mean)
        for k in range(model.ints[model.plane_first + h], model.ints[model.plane_end + h]):
            level = (wp.dot(model.normals[k], y) - scale * model.offsets[k] - farthest) / width
            weight = wp.exp(level) / total
            slope = weight * (d_distance + wp.dot(d_direction, model.normals[k] - direction) / width)
            d_y += slope * model.normals[k]
            d_scale -= slope * model.offsets[k]
            d_width += weight * (mean - level) / width * wp.dot(d_direction, model.normals[k])
        return d_y, d_scale, d_width

    @wp.func(inline=whole)
    def untouches(model: Model, p: row_type, scratch: Scratch, adj: Adjoint, dp: row_type, i: int):
        """The gradient of all contacts' virtual power."""
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
                        point = model.points[k]
                        gap, n, arm_a, arm_b = point_plane(a, point, b)
                        if gap < near:
                            d_gap, d_n, d_arm_a, d_arm_b = untouch(model, p, scratch, adj, dp, i, test, model.crowds[k], gap, n, arm_a, arm_b)
                            d_a, _point, d_b, _1, _2, _3, _4 = wp.grad(point_plane_test)(a, point, b, d_gap, d_n, d_arm_a, d_arm_b)
                            add_shape(model, adj, dp, i, g, d_a)
                            add_shape(model, adj, dp, i, h, d_b)
                elif kind == POINTS_PLANES or kind == POINTS_FACES:
                    at_width = model.pair_column + wp.static(layout.PAIR) * model.ints[model.test_pair + test] + wp.static(layout.SMOOTHING)
                    width = p[at_width]
                    for k in range(first, model.ints[model.sample_end + g]):
                        point = model.points[k]
                        y, w = seen(a, point, b)
                        plane, farthest = outermost(model, h, y, b.scale)
                        if farthest - a.radius - b.radius < near:
                            distance = farthest
                            direction = model.normals[plane]
                            face = wp.int32(-1)
                            if kind == POINTS_PLANES:
                                distance, direction = smooth_planes(model, h, y, b.scale, farthest, width)
                            elif farthest > S(0.0):
                                face = nearest_face(model, h, y, b.scale)
                                away = from_face(model, face, y, b.scale)
                                distance = wp.length(away)
                                direction = away / distance
                            gap, n, arm_a, arm_b = landed(a, b, distance, direction, w)
                            if gap < near:
                                d_gap, d_n, d_arm_a, d_arm_b = untouch(model, p, scratch, adj, dp, i, test, model.shares[k], gap, n, arm_a, arm_b)
                                d_a, d_b, d_distance, d_direction, d_w, _1, _2, _3, _4 = wp.grad(landed_test)(
                                    a, b, distance, direction, w, d_gap, d_n, d_arm_a, d_arm_b
                                )
                                add_shape(model, adj, dp, i, g, d_a)
                                add_shape(model, adj, dp, i, h, d_b)
                                d_y = d_distance * direction
                                d_scale = -d_distance * model.offsets[plane]
                                if kind == POINTS_PLANES:
                                    d_y, d_scale, d_width = unsmooth(model, h, y, b.scale, farthest, width, direction, d_distance, d_direction)
                                    more(dp, at_width, d_width)
                                elif face >= 0:
                                    at = model.faces + 3 * face
                                    d_y, _5, _6, _7, d_scale, _8, _9 = wp.grad(from_triangle_test)(
                                        y,
                                        model.points[model.ints[at]],
                                        model.points[model.ints[at + 1]],
                                        model.points[model.ints[at + 2]],
                                        b.scale,
                                        d_distance,
                                        d_direction,
                                    )
                                d_a, _point, d_b, _y, _w = wp.grad(seen_test)(a, point, b, d_y, d_w)
                                d_b.scale = d_scale
                                add_shape(model, adj, dp, i, g, d_a)
                                add_shape(model, adj, dp, i, h, d_b)
                else:
                    start_a = model.points[first]
                    end_a = model.points[model.ints[model.point_end + g] - 1]
                    start_b = model.points[model.ints[model.point_first + h]]
                    end_b = model.points[model.ints[model.point_end + h] - 1]
                    gap, n, arm_a, arm_b = segments(a, start_a, end_a, b, start_b, end_b)
                    if gap < near:
                        d_gap, d_n, d_arm_a, d_arm_b = untouch(model, p, scratch, adj, dp, i, test, S(1.0), gap, n, arm_a, arm_b)
                        d_a, _a1, _a2, d_b, _b1, _b2, _1, _2, _3, _4 = wp.grad(segments_test)(
                            a, start_a, end_a, b, start_b, end_b, d_gap, d_n, d_arm_a, d_arm_b
                        )
                        add_shape(model, adj, dp, i, g, d_a)
                        add_shape(model, adj, dp, i, h, d_b)

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
