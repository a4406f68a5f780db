"""The backward pass of a substep: vector-Jacobian products of `rigid_dynamics`, one thread a world.

What hangs on joints solves M a = rhs. With the gradient abar of a, w = M^-1 abar and the residual R(q, v, a) = M a - rhs, the gradient by anything else is that
of -w . R with w and a held fixed (the adjoint method), and w . R is the power of all forces in the virtual motion w: a sum over bodies, joints and contacts in
which each term is known without loops. A free body's momenta have their derivative directly; its virtual motion is the gradient of its wrench.

The order of the calls for a substep is in `rigid_rollout`: Warp writes functions that call others with `wp.grad` in them before these, so that only a kernel
can.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from . import rigid_layout as layout
from .rigid_dynamics import DRIVEN, EFFORT, FREE, HINGE, POINTS_FACES, POINTS_PLANE, POINTS_PLANES, POSITION, SLIDE, WRENCH, dynamics
from .rigid_geometry import geometry
from .rigid_laws import laws
from .rigid_structs import types


@cache
def adjoint(scalar: type, *, whole: bool | None) -> Any:
    """The functions for one type of number; `whole`: whether the largest are inlined, as `wp.func` takes it."""
    S = scalar
    T = types(S)
    vec3, quat, mat33, Model, Scratch, Adjoint, Side, Link = T.vec3, T.quat, T.mat33, T.Model, T.Scratch, T.Adjoint, T.Side, T.Link
    L, G, D = laws(S, whole=whole), geometry(S), dynamics(S, whole=whole)
    carry, contact_test, flight_test, turned_test, rotation_test = L.carry, L.contact_test, L.flight_test, L.turned_test, L.rotation_test
    carry_test, inertial_test, joint_test = L.carry_test, L.inertial_test, L.joint_test
    point_plane, point_plane_test, seen, seen_test, landed, landed_test = G.point_plane, G.point_plane_test, G.seen, G.seen_test, G.landed, G.landed_test
    from_triangle, from_triangle_test, segments, segments_test = G.from_triangle, G.from_triangle_test, G.segments, G.segments_test
    three, frame, origin, link_of, law_of, side_of = D.three, D.frame, D.origin, D.link_of, D.law_of, D.side_of
    nearness, apart, outermost, nearest_face, smooth_planes = D.nearness, D.apart, D.outermost, D.nearest_face, D.smooth_planes
    row_type = wp.array(dtype=S)

    @wp.func
    def add(p: row_type, at: int, value: vec3):
        for k in range(3):
            p[at + k] = p[at + k] + value[k]

    @wp.func
    def clear(model: Model, adj: Adjoint, i: int):
        zero = vec3(S(0.0), S(0.0), S(0.0))
        for b in range(model.bodies):
            adj.turn[i, b] = mat33(S(0.0), S(0.0), S(0.0), S(0.0), S(0.0), S(0.0), S(0.0), S(0.0), S(0.0))
            adj.place[i, b] = zero
            adj.linear[i, b] = zero
            adj.angular[i, b] = zero
            adj.linear_rate[i, b] = zero
            adj.angular_rate[i, b] = zero
            adj.linear_test[i, b] = zero
            adj.angular_test[i, b] = zero
            adj.linear_virtual[i, b] = zero
            adj.angular_virtual[i, b] = zero

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
    def virtual_link(scratch: Scratch, adj: Adjoint, i: int, b: int):
        """How body b moves, with its virtual motion."""
        link = link_of(scratch, i, b)
        if b >= 0:
            link.linear_test = adj.linear_virtual[i, b]
            link.angular_test = adj.angular_virtual[i, b]
        return link

    @wp.func(inline=whole)
    def unmove(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, adj: Adjoint, dq: row_type, dv: row_type, dp: row_type, i: int):
        """Back through `move`: of free bodies wholly, of joints to their accelerations, whose gradient is left in `scratch.rate`."""
        h = model.seconds
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                turn = quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6])
                angular = three(v, to + 3)
                seed_place = three(dq, at)
                seed_turn = quat(dq[at + 3], dq[at + 4], dq[at + 5], dq[at + 6])
                d_turn = seed_turn
                d_linear = three(dv, to) + h * seed_place
                d_angular = three(dv, to + 3)
                if kind == FREE and model.ints[model.solo + b] == 1:
                    c = model.body_column + wp.static(layout.BODY) * b
                    (
                        d_turn,
                        d_linear,
                        d_angular,
                        d_force,
                        d_torque,
                        d_mass,
                        d_com,
                        d_diagonal,
                        d_mixed,
                        d_inverse_diagonal,
                        d_inverse_mixed,
                        d_drag,
                        d_angular_drag,
                        d_gravity,
                        _h,
                        _s1,
                        _s2,
                        _s3,
                        _s4,
                    ) = wp.grad(flight_test)(
                        turn,
                        three(v, to),
                        angular,
                        scratch.force[i, b],
                        scratch.torque[i, b],
                        p[c],
                        three(p, c + wp.static(layout.COM)),
                        three(p, c + wp.static(layout.INERTIA)),
                        three(p, c + wp.static(layout.INERTIA + 3)),
                        three(p, c + wp.static(layout.INVERSE_INERTIA)),
                        three(p, c + wp.static(layout.INVERSE_INERTIA + 3)),
                        p[c + wp.static(layout.LINEAR_DRAG)],
                        p[c + wp.static(layout.ANGULAR_DRAG)],
                        three(p, wp.static(layout.GRAVITY)),
                        h,
                        seed_place,
                        seed_turn,
                        three(dv, to),
                        three(dv, to + 3),
                    )
                    adj.linear_virtual[i, b] = d_force
                    adj.angular_virtual[i, b] = d_torque
                    dp[c] = dp[c] + d_mass
                    add(dp, c + wp.static(layout.COM), d_com)
                    add(dp, c + wp.static(layout.INERTIA), d_diagonal)
                    add(dp, c + wp.static(layout.INERTIA + 3), d_mixed)
                    add(dp, c + wp.static(layout.INVERSE_INERTIA), d_inverse_diagonal)
                    add(dp, c + wp.static(layout.INVERSE_INERTIA + 3), d_inverse_mixed)
                    dp[c + wp.static(layout.LINEAR_DRAG)] = dp[c + wp.static(layout.LINEAR_DRAG)] + d_drag
                    dp[c + wp.static(layout.ANGULAR_DRAG)] = dp[c + wp.static(layout.ANGULAR_DRAG)] + d_angular_drag
                    add(dp, wp.static(layout.GRAVITY), d_gravity)
                else:
                    if kind == FREE:
                        for k in range(3):
                            angular[k] = angular[k] + h * adj.rate[i, to + 3 + k]
                    d_turn, d_by, _s = wp.grad(turned_test)(turn, h * angular, seed_turn)
                    d_angular = d_angular + h * d_by
                    if kind == FREE:
                        for k in range(3):
                            scratch.rate[i, to + k] = h * d_linear[k]
                            scratch.rate[i, to + 3 + k] = h * d_angular[k]
                for k in range(3):
                    dv[to + k] = d_linear[k]
                    dv[to + 3 + k] = d_angular[k]
                for k in range(4):
                    dq[at + 3 + k] = d_turn[k]
            elif kind == HINGE or kind == SLIDE:
                dv[to] = dv[to] + h * dq[at]
                scratch.rate[i, to] = h * dv[to]

    @wp.func(inline=whole)
    def undrift(model: Model, p: row_type, q: row_type, v: row_type, seconds: S, dq: row_type, dv: row_type, dp: row_type):
        """Back through `drift` from (q, v)."""
        zero = vec3(S(0.0), S(0.0), S(0.0))
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                turn = quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6])
                angular = three(v, to + 3)
                seed_place = three(dq, at)
                seed_turn = quat(dq[at + 3], dq[at + 4], dq[at + 5], dq[at + 6])
                d_turn = seed_turn
                d_linear = three(dv, to) + seconds * seed_place
                d_angular = three(dv, to + 3)
                if kind == FREE and model.ints[model.solo + b] == 1:
                    c = model.body_column + wp.static(layout.BODY) * b
                    (
                        d_turn,
                        d_linear,
                        d_angular,
                        _f,
                        _t,
                        d_mass,
                        d_com,
                        d_diagonal,
                        d_mixed,
                        d_inverse_diagonal,
                        d_inverse_mixed,
                        _d,
                        _a,
                        _g,
                        _h,
                        _s1,
                        _s2,
                        _s3,
                        _s4,
                    ) = wp.grad(flight_test)(
                        turn,
                        three(v, to),
                        angular,
                        zero,
                        zero,
                        p[c],
                        three(p, c + wp.static(layout.COM)),
                        three(p, c + wp.static(layout.INERTIA)),
                        three(p, c + wp.static(layout.INERTIA + 3)),
                        three(p, c + wp.static(layout.INVERSE_INERTIA)),
                        three(p, c + wp.static(layout.INVERSE_INERTIA + 3)),
                        S(0.0),
                        S(0.0),
                        zero,
                        seconds,
                        seed_place,
                        seed_turn,
                        three(dv, to),
                        three(dv, to + 3),
                    )
                    dp[c] = dp[c] + d_mass
                    add(dp, c + wp.static(layout.COM), d_com)
                    add(dp, c + wp.static(layout.INERTIA), d_diagonal)
                    add(dp, c + wp.static(layout.INERTIA + 3), d_mixed)
                    add(dp, c + wp.static(layout.INVERSE_INERTIA), d_inverse_diagonal)
                    add(dp, c + wp.static(layout.INVERSE_INERTIA + 3), d_inverse_mixed)
                else:
                    d_turn, d_by, _s = wp.grad(turned_test)(turn, seconds * angular, seed_turn)
                    d_angular = d_angular + seconds * d_by
                for k in range(3):
                    dv[to + k] = d_linear[k]
                    dv[to + 3 + k] = d_angular[k]
                for k in range(4):
                    dq[at + 3 + k] = d_turn[k]
            elif kind == HINGE or kind == SLIDE:
                dv[to] = dv[to] + seconds * dq[at]

    @wp.func
    def swing(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, adj: Adjoint, i: int):
        """Accelerations and virtual motions of what hangs on joints, from those of the joints in `adj.rate` and `scratch.rate`."""
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            to = model.ints[model.v_at + b]
            if kind == FREE and model.ints[model.solo + b] == 0:
                scratch.linear_rate[i, b] = vec3(adj.rate[i, to], adj.rate[i, to + 1], adj.rate[i, to + 2])
                scratch.angular_rate[i, b] = vec3(adj.rate[i, to + 3], adj.rate[i, to + 4], adj.rate[i, to + 5])
                adj.linear_virtual[i, b] = vec3(scratch.rate[i, to], scratch.rate[i, to + 1], scratch.rate[i, to + 2])
                adj.angular_virtual[i, b] = vec3(scratch.rate[i, to + 3], scratch.rate[i, to + 4], scratch.rate[i, to + 5])
            elif kind != FREE and kind != DRIVEN:
                hinge = S(0.0)
                slide = S(0.0)
                angle = S(0.0)
                speed = S(0.0)
                rate = S(0.0)
                virtual = S(0.0)
                if kind == HINGE:
                    hinge = S(1.0)
                if kind == SLIDE:
                    slide = S(1.0)
                if kind == HINGE or kind == SLIDE:
                    angle = q[model.ints[model.q_at + b]]
                    speed = v[to]
                    rate = adj.rate[i, to]
                    virtual = scratch.rate[i, to]
                parent = virtual_link(scratch, adj, i, model.ints[model.parent + b])
                anchor = three(p, model.joint_column + wp.static(layout.JOINT) * b)
                child, _d = carry(parent, anchor, model.turn[b], model.axis[b], hinge, slide, angle, speed, rate, virtual)
                scratch.linear_rate[i, b] = child.linear_rate
                scratch.angular_rate[i, b] = child.angular_rate
                adj.linear_virtual[i, b] = child.linear_test
                adj.angular_virtual[i, b] = child.angular_test

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
                dp[at] = dp[at] - d.inverse_mass / (mass * mass)
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
        dp[at + wp.static(layout.STIFFNESS)] = dp[at + wp.static(layout.STIFFNESS)] + d_law.stiffness
        dp[at + wp.static(layout.DAMPING_RATIO)] = dp[at + wp.static(layout.DAMPING_RATIO)] + d_law.damping_ratio
        dp[at + wp.static(layout.FRICTION)] = dp[at + wp.static(layout.FRICTION)] + d_law.friction
        dp[at + wp.static(layout.TORSION)] = dp[at + wp.static(layout.TORSION)] + d_law.torsion
        dp[at + wp.static(layout.ROLLING)] = dp[at + wp.static(layout.ROLLING)] + d_law.rolling
        dp[at + wp.static(layout.SMOOTHING)] = dp[at + wp.static(layout.SMOOTHING)] + d_law.smoothing
        dp[at + wp.static(layout.SLIP)] = dp[at + wp.static(layout.SLIP)] + d_law.slip
        dp[at + wp.static(layout.SPIN)] = dp[at + wp.static(layout.SPIN)] + d_law.spin
        d_arm_a = d_a.arm + wp.cross(force, turning_a)
        d_arm_b = d_b.arm - wp.cross(force, turning_b)
        return d_gap, d_n, d_arm_a, d_arm_b

    @wp.func
    def add_frames(adj: Adjoint, i: int, a: int, b: int, turn_a: mat33, place_a: vec3, turn_b: mat33, place_b: vec3):
        if a >= 0:
            adj.turn[i, a] = adj.turn[i, a] + turn_a
            adj.place[i, a] = adj.place[i, a] + place_a
        if b >= 0:
            adj.turn[i, b] = adj.turn[i, b] + turn_b
            adj.place[i, b] = adj.place[i, b] + place_b

    @wp.func
    def add_geometry(dp: row_type, at: int, offset: vec3, scale: S, radius: S):
        add(dp, at, offset)
        dp[at + wp.static(layout.SCALE)] = dp[at + wp.static(layout.SCALE)] + scale
        dp[at + wp.static(layout.RADIUS)] = dp[at + wp.static(layout.RADIUS)] + radius

    @wp.func(inline=whole)
    def untouches(model: Model, p: row_type, scratch: Scratch, adj: Adjoint, dp: row_type, i: int):
        """The gradient of all contacts' virtual power."""
        zero = vec3(S(0.0), S(0.0), S(0.0))
        for test in range(model.tests):
            near = nearness(model, p, scratch, i, test)
            if not apart(model, p, scratch, i, test, near):
                kind = model.ints[model.test_kind + test]
                g = model.ints[model.test_a + test]
                h = model.ints[model.test_b + test]
                a = model.ints[model.geometry_body + g]
                b = model.ints[model.geometry_body + h]
                at_g = model.geometry_column + wp.static(layout.GEOMETRY) * g
                at_h = model.geometry_column + wp.static(layout.GEOMETRY) * h
                at_width = model.pair_column + wp.static(layout.PAIR) * model.ints[model.test_pair + test] + wp.static(layout.SMOOTHING)
                offset_a = three(p, at_g)
                offset_b = three(p, at_h)
                scale_a = p[at_g + wp.static(layout.SCALE)]
                scale_b = p[at_h + wp.static(layout.SCALE)]
                radius_a = p[at_g + wp.static(layout.RADIUS)]
                radius_b = p[at_h + wp.static(layout.RADIUS)]
                core_a = model.geometry_turn[g]
                core_b = model.geometry_turn[h]
                turn_a = frame(scratch, i, a)
                turn_b = frame(scratch, i, b)
                place_a = origin(scratch, i, a)
                place_b = origin(scratch, i, b)
                width = p[at_width]
                if kind == POINTS_PLANE:
                    normal = core_b @ vec3(S(0.0), S(0.0), S(1.0))
                    for k in range(model.ints[model.point_first + g], model.ints[model.point_end + g]):
                        point = model.points[k]
                        gap, n, arm_a, arm_b = point_plane(turn_a, place_a, turn_b, place_b, core_a, point, offset_a, scale_a, radius_a, normal, offset_b)
                        if gap < near:
                            d_gap, d_n, d_arm_a, d_arm_b = untouch(model, p, scratch, adj, dp, i, test, model.crowds[k], gap, n, arm_a, arm_b)
                            dta, dpa, dtb, dpb, _c, _p, doa, dsa, dra, _n, dob, _1, _2, _3, _4 = wp.grad(point_plane_test)(
                                turn_a,
                                place_a,
                                turn_b,
                                place_b,
                                core_a,
                                point,
                                offset_a,
                                scale_a,
                                radius_a,
                                normal,
                                offset_b,
                                d_gap,
                                d_n,
                                d_arm_a,
                                d_arm_b,
                            )
                            add_frames(adj, i, a, b, dta, dpa, dtb, dpb)
                            add_geometry(dp, at_g, doa, dsa, dra)
                            add(dp, at_h, dob)
                elif kind == POINTS_PLANES or kind == POINTS_FACES:
                    for k in range(model.ints[model.point_first + g], model.ints[model.sample_end + g]):
                        point = model.points[k]
                        y, w = seen(turn_a, place_a, turn_b, place_b, core_a, point, offset_a, scale_a, core_b, offset_b)
                        plane, farthest = outermost(model, h, y, scale_b)
                        if farthest - radius_a - radius_b < near:
                            distance = farthest
                            direction = model.normals[plane]
                            face = wp.int32(-1)
                            if kind == POINTS_PLANES:
                                distance, direction = smooth_planes(model, h, y, scale_b, farthest, width)
                            elif farthest > S(0.0):
                                face = nearest_face(model, h, y, scale_b)
                                away = from_triangle(
                                    y,
                                    model.points[model.ints[model.faces + 3 * face]],
                                    model.points[model.ints[model.faces + 3 * face + 1]],
                                    model.points[model.ints[model.faces + 3 * face + 2]],
                                    scale_b,
                                )
                                distance = wp.length(away)
                                direction = away / distance
                            gap, n, arm_a, arm_b = landed(distance, direction, w, radius_a, radius_b, turn_b, core_b, place_a - place_b)
                            if gap < near:
                                d_gap, d_n, d_arm_a, d_arm_b = untouch(model, p, scratch, adj, dp, i, test, model.shares[k], gap, n, arm_a, arm_b)
                                d_distance, d_direction, d_w, dra, drb, dtb, _c, d_between, _1, _2, _3, _4 = wp.grad(landed_test)(
                                    distance, direction, w, radius_a, radius_b, turn_b, core_b, place_a - place_b, d_gap, d_n, d_arm_a, d_arm_b
                                )
                                add_frames(adj, i, a, b, mat33(), d_between, dtb, -d_between)
                                d_y = d_distance * direction
                                d_scale = S(0.0)
                                if kind == POINTS_PLANES:
                                    d_y = zero
                                    total = S(0.0)
                                    mean = S(0.0)
                                    for m in range(model.ints[model.plane_first + h], model.ints[model.plane_end + h]):
                                        level = (wp.dot(model.normals[m], y) - scale_b * model.offsets[m] - farthest) / width
                                        total += wp.exp(level)
                                        mean += wp.exp(level) * level
                                    mean = mean / total
                                    d_width = d_distance * (wp.log(total) - mean)
                                    for m in range(model.ints[model.plane_first + h], model.ints[model.plane_end + h]):
                                        level = (wp.dot(model.normals[m], y) - scale_b * model.offsets[m] - farthest) / width
                                        weight = wp.exp(level) / total
                                        slope = weight * (d_distance + wp.dot(d_direction, model.normals[m] - direction) / width)
                                        d_y += slope * model.normals[m]
                                        d_scale -= slope * model.offsets[m]
                                        d_width += weight * (mean - level) / width * wp.dot(d_direction, model.normals[m])
                                    dp[at_width] = dp[at_width] + d_width
                                elif face >= 0:
                                    d_y, _p0, _p1, _p2, d_scale, _5, _6 = wp.grad(from_triangle_test)(
                                        y,
                                        model.points[model.ints[model.faces + 3 * face]],
                                        model.points[model.ints[model.faces + 3 * face + 1]],
                                        model.points[model.ints[model.faces + 3 * face + 2]],
                                        scale_b,
                                        d_distance,
                                        d_direction,
                                    )
                                else:
                                    d_scale = -d_distance * model.offsets[plane]
                                dta, dpa, dtb, dpb, _ca, _pt, doa, dsa, _cb, dob, _7, _8 = wp.grad(seen_test)(
                                    turn_a, place_a, turn_b, place_b, core_a, point, offset_a, scale_a, core_b, offset_b, d_y, d_w
                                )
                                add_frames(adj, i, a, b, dta, dpa, dtb, dpb)
                                add_geometry(dp, at_g, doa, dsa, dra)
                                add_geometry(dp, at_h, dob, d_scale, drb)
                else:
                    start_a = model.points[model.ints[model.point_first + g]]
                    end_a = model.points[model.ints[model.point_end + g] - 1]
                    start_b = model.points[model.ints[model.point_first + h]]
                    end_b = model.points[model.ints[model.point_end + h] - 1]
                    gap, n, arm_a, arm_b = segments(
                        turn_a,
                        place_a,
                        turn_b,
                        place_b,
                        core_a,
                        start_a,
                        end_a,
                        offset_a,
                        scale_a,
                        radius_a,
                        core_b,
                        start_b,
                        end_b,
                        offset_b,
                        scale_b,
                        radius_b,
                    )
                    if gap < near:
                        d_gap, d_n, d_arm_a, d_arm_b = untouch(model, p, scratch, adj, dp, i, test, S(1.0), gap, n, arm_a, arm_b)
                        dta, dpa, dtb, dpb, _c1, _q1, _q2, doa, dsa, dra, _c2, _q3, _q4, dob, dsb, drb, _1, _2, _3, _4 = wp.grad(segments_test)(
                            turn_a,
                            place_a,
                            turn_b,
                            place_b,
                            core_a,
                            start_a,
                            end_a,
                            offset_a,
                            scale_a,
                            radius_a,
                            core_b,
                            start_b,
                            end_b,
                            offset_b,
                            scale_b,
                            radius_b,
                            d_gap,
                            d_n,
                            d_arm_a,
                            d_arm_b,
                        )
                        add_frames(adj, i, a, b, dta, dpa, dtb, dpb)
                        add_geometry(dp, at_g, doa, dsa, dra)
                        add_geometry(dp, at_h, dob, dsb, drb)

    @wp.func
    def unpull(model: Model, p: row_type, u: row_type, adj: Adjoint, dp: row_type, du: row_type, i: int):
        """Back through the actuators at bodies."""
        for k in range(model.actuators):
            if model.ints[model.actuator_kind + k] == WRENCH:
                b = model.ints[model.actuator_body + k]
                axis = model.ints[model.actuator_axis + k]
                at = model.actuator_column + wp.static(layout.ACTUATOR) * k
                along = vec3(S(0.0), S(0.0), S(0.0))
                along[axis % 3] = S(1.0)
                power = wp.dot(along, adj.linear_virtual[i, b])
                if axis < 3:
                    adj.linear_test[i, b] = adj.linear_test[i, b] + (u[k] * p[at]) * along
                else:
                    power = wp.dot(along, adj.angular_virtual[i, b])
                    adj.angular_test[i, b] = adj.angular_test[i, b] + (u[k] * p[at]) * along
                du[k] = du[k] + p[at] * power
                dp[at] = dp[at] + u[k] * power

    @wp.func
    def weigh(model: Model, p: row_type, scratch: Scratch, adj: Adjoint, dp: row_type, i: int):
        """The gradient of the virtual power of inertia, weight and drag of what hangs on joints."""
        for b in range(model.bodies):
            if model.ints[model.solo + b] == 0 and model.ints[model.joint + b] != DRIVEN:
                at = model.body_column + wp.static(layout.BODY) * b
                d_link, d_mass, d_com, d_diagonal, d_mixed, d_drag, d_angular_drag, d_gravity = wp.grad(inertial_test)(
                    virtual_link(scratch, adj, i, b),
                    p[at],
                    three(p, at + wp.static(layout.COM)),
                    three(p, at + wp.static(layout.INERTIA)),
                    three(p, at + wp.static(layout.INERTIA + 3)),
                    p[at + wp.static(layout.LINEAR_DRAG)],
                    p[at + wp.static(layout.ANGULAR_DRAG)],
                    three(p, wp.static(layout.GRAVITY)),
                )
                adj.turn[i, b] = adj.turn[i, b] - d_link.turn
                adj.linear[i, b] = adj.linear[i, b] - d_link.linear
                adj.angular[i, b] = adj.angular[i, b] - d_link.angular
                adj.linear_rate[i, b] = adj.linear_rate[i, b] - d_link.linear_rate
                adj.angular_rate[i, b] = adj.angular_rate[i, b] - d_link.angular_rate
                adj.linear_test[i, b] = adj.linear_test[i, b] - d_link.linear_test
                adj.angular_test[i, b] = adj.angular_test[i, b] - d_link.angular_test
                dp[at] = dp[at] - d_mass
                add(dp, at + wp.static(layout.COM), -d_com)
                add(dp, at + wp.static(layout.INERTIA), -d_diagonal)
                add(dp, at + wp.static(layout.INERTIA + 3), -d_mixed)
                dp[at + wp.static(layout.LINEAR_DRAG)] = dp[at + wp.static(layout.LINEAR_DRAG)] - d_drag
                dp[at + wp.static(layout.ANGULAR_DRAG)] = dp[at + wp.static(layout.ANGULAR_DRAG)] - d_angular_drag
                add(dp, wp.static(layout.GRAVITY), -d_gravity)

    @wp.func(inline=whole)
    def unplace(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, adj: Adjoint, dq: row_type, dv: row_type, dp: row_type, i: int):
        """Back through `place` and `swing`: from the gradients by bodies' poses and motions to those by configuration and velocity."""
        for r in range(model.bodies):
            b = model.bodies - 1 - r
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                d_turn, _s = wp.grad(rotation_test)(quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6]), adj.turn[i, b])
                add(dq, at, adj.place[i, b])
                for k in range(4):
                    dq[at + 3 + k] = dq[at + 3 + k] + d_turn[k]
                add(dv, to, adj.linear[i, b])
                add(dv, to + 3, adj.angular[i, b])
            else:
                hinge = S(0.0)
                slide = S(0.0)
                angle = S(0.0)
                speed = S(0.0)
                rate = S(0.0)
                virtual = S(0.0)
                if kind == HINGE:
                    hinge = S(1.0)
                if kind == SLIDE:
                    slide = S(1.0)
                if kind == HINGE or kind == SLIDE:
                    angle = q[at]
                    speed = v[to]
                    rate = adj.rate[i, to]
                    virtual = scratch.rate[i, to]
                up = model.ints[model.parent + b]
                column = model.joint_column + wp.static(layout.JOINT) * b
                seed = Link()
                seed.turn = adj.turn[i, b]
                seed.linear = adj.linear[i, b]
                seed.angular = adj.angular[i, b]
                seed.linear_rate = adj.linear_rate[i, b]
                seed.angular_rate = adj.angular_rate[i, b]
                seed.linear_test = adj.linear_test[i, b]
                seed.angular_test = adj.angular_test[i, b]
                d_parent, d_anchor, _f, _x, _g, _l, d_angle, d_speed, _r, _t, _s1, _s2 = wp.grad(carry_test)(
                    virtual_link(scratch, adj, i, up),
                    three(p, column),
                    model.turn[b],
                    model.axis[b],
                    hinge,
                    slide,
                    angle,
                    speed,
                    rate,
                    virtual,
                    seed,
                    adj.place[i, b],
                )
                if kind == HINGE or kind == SLIDE:
                    dq[at] = dq[at] + d_angle
                    dv[to] = dv[to] + d_speed
                add(dp, column, d_anchor)
                if up >= 0:
                    adj.turn[i, up] = adj.turn[i, up] + d_parent.turn
                    adj.place[i, up] = adj.place[i, up] + adj.place[i, b]
                    adj.linear[i, up] = adj.linear[i, up] + d_parent.linear
                    adj.angular[i, up] = adj.angular[i, up] + d_parent.angular
                    adj.linear_rate[i, up] = adj.linear_rate[i, up] + d_parent.linear_rate
                    adj.angular_rate[i, up] = adj.angular_rate[i, up] + d_parent.angular_rate
                    adj.linear_test[i, up] = adj.linear_test[i, up] + d_parent.linear_test
                    adj.angular_test[i, up] = adj.angular_test[i, up] + d_parent.angular_test

    @wp.func
    def unjoint(
        model: Model,
        p: row_type,
        q: row_type,
        v: row_type,
        u: row_type,
        scratch: Scratch,
        adj: Adjoint,
        dq: row_type,
        dv: row_type,
        dp: row_type,
        du: row_type,
        i: int,
    ):
        """The gradient of the virtual power of joints and their actuators."""
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            if kind == HINGE or kind == SLIDE:
                at = model.ints[model.q_at + b]
                to = model.ints[model.v_at + b]
                c = model.joint_column + wp.static(layout.JOINT) * b
                virtual = scratch.rate[i, to]
                d_q, d_rate, _a, _t, d_damping, d_dry, d_armature, d_spring, d_rest, d_low, d_high, d_limit, d_limit_damping, _w, _f, _h = wp.grad(joint_test)(
                    q[at],
                    v[to],
                    adj.rate[i, to],
                    virtual,
                    p[c + wp.static(layout.DAMPING)],
                    p[c + wp.static(layout.DRY)],
                    p[c + wp.static(layout.ARMATURE)],
                    p[c + wp.static(layout.SPRING)],
                    p[c + wp.static(layout.REST)],
                    p[c + wp.static(layout.LOW)],
                    p[c + wp.static(layout.HIGH)],
                    p[c + wp.static(layout.LIMIT_SPRING)],
                    p[c + wp.static(layout.LIMIT_DAMPING)],
                    model.limit_width,
                    model.fade,
                    model.seconds,
                )
                dq[at] = dq[at] - d_q
                dv[to] = dv[to] - d_rate
                dp[c + wp.static(layout.DAMPING)] = dp[c + wp.static(layout.DAMPING)] - d_damping
                dp[c + wp.static(layout.DRY)] = dp[c + wp.static(layout.DRY)] - d_dry
                dp[c + wp.static(layout.ARMATURE)] = dp[c + wp.static(layout.ARMATURE)] - d_armature
                dp[c + wp.static(layout.SPRING)] = dp[c + wp.static(layout.SPRING)] - d_spring
                dp[c + wp.static(layout.REST)] = dp[c + wp.static(layout.REST)] - d_rest
                dp[c + wp.static(layout.LOW)] = dp[c + wp.static(layout.LOW)] - d_low
                dp[c + wp.static(layout.HIGH)] = dp[c + wp.static(layout.HIGH)] - d_high
                dp[c + wp.static(layout.LIMIT_SPRING)] = dp[c + wp.static(layout.LIMIT_SPRING)] - d_limit
                dp[c + wp.static(layout.LIMIT_DAMPING)] = dp[c + wp.static(layout.LIMIT_DAMPING)] - d_limit_damping
                for k in range(model.actuators):
                    if model.ints[model.actuator_body + k] == b:
                        base = model.actuator_column + wp.static(layout.ACTUATOR) * k
                        gain = p[base + wp.static(layout.GAIN)]
                        if model.ints[model.actuator_kind + k] == EFFORT:
                            du[k] = du[k] + virtual * gain
                            dp[base + wp.static(layout.GAIN)] = dp[base + wp.static(layout.GAIN)] + virtual * u[k]
                        elif model.ints[model.actuator_kind + k] == POSITION:
                            stiff = p[base + wp.static(layout.STIFF)]
                            damp = p[base + wp.static(layout.DAMP)]
                            du[k] = du[k] + virtual * stiff * gain
                            dp[base + wp.static(layout.GAIN)] = dp[base + wp.static(layout.GAIN)] + virtual * stiff * u[k]
                            dp[base + wp.static(layout.STIFF)] = dp[base + wp.static(layout.STIFF)] + virtual * (gain * u[k] - q[at])
                            speed = v[to] + model.seconds * adj.rate[i, to]
                            dp[base + wp.static(layout.DAMP)] = dp[base + wp.static(layout.DAMP)] - virtual * speed
                            dq[at] = dq[at] - virtual * stiff
                            dv[to] = dv[to] - virtual * damp

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
