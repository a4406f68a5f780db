"""A substep of a rigid world: where bodies are, what touches, what follows. One thread a world; loops over bodies, contact tests and degrees of freedom.

Accelerations of what hangs on joints solve M a = rhs, with the mass matrix from composite bodies in the world frame (Featherstone, Rigid Body Dynamics
Algorithms, 2008, section 6.2) and a Cholesky factor a tree. Joint friction and the dampers of position actuators act at the end of the substep (linearly
implicit), so that they never make a step unstable. Forces are those half a substep ahead: positions drift by half a substep before the first, by whole ones
between, and back by half after the last (leapfrog), so that free flight is exact and energy does not drift.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from . import rigid_layout as layout
from .rigid_geometry import geometry
from .rigid_laws import laws
from .rigid_structs import types

FREE, HINGE, SLIDE, DRIVEN = (int(getattr(layout.JointKind, name)) for name in ("FREE", "HINGE", "SLIDE", "DRIVEN"))
EFFORT, POSITION, WRENCH = (int(getattr(layout.ActuatorKind, name)) for name in ("EFFORT", "POSITION", "WRENCH"))
POINTS_PLANE, POINTS_PLANES, POINTS_FACES = (int(getattr(layout.TestKind, name)) for name in ("POINTS_PLANE", "POINTS_PLANES", "POINTS_FACES"))


@cache
def dynamics(scalar: type, *, whole: bool | None) -> Any:
    """The functions for one type of number; `whole`: whether `accelerate` is inlined, as `wp.func` takes it. All others are."""
    S = scalar
    T = types(S)
    vec3, quat, mat33, Model, Scratch, Side, Law, Link = T.vec3, T.quat, T.mat33, T.Model, T.Scratch, T.Side, T.Law, T.Link
    L, G = laws(S, inline=True), geometry(S, inline=True)
    rotation, turned, contact, carry, flight, inertial = L.rotation, L.turned, L.contact, L.carry, L.flight, L.inertial
    joint_drag, joint_effort, inertia_times = L.joint_drag, L.joint_effort, L.inertia_times
    point_plane, seen, landed, from_triangle, segments = G.point_plane, G.seen, G.landed, G.from_triangle, G.segments
    row_type = wp.array(dtype=S)

    @wp.func(inline=True)
    def three(p: row_type, at: int):
        return vec3(p[at], p[at + 1], p[at + 2])

    @wp.func(inline=True)
    def skew(a: vec3):
        return mat33(S(0.0), -a[2], a[1], a[2], S(0.0), -a[0], -a[1], a[0], S(0.0))

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
    def place(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, i: int, accelerate: int):
        """Poses and twists of all bodies, and the accelerations that go with those of the joints: with `scratch.rate`, or with none."""
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                scratch.turn[i, b] = rotation(quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6]))
                scratch.place[i, b] = three(q, at)
                scratch.linear[i, b] = three(v, to)
                scratch.angular[i, b] = three(v, to + 3)
                if accelerate == 1 and kind == FREE and model.ints[model.solo + b] == 0:
                    scratch.linear_rate[i, b] = vec3(scratch.rate[i, to], scratch.rate[i, to + 1], scratch.rate[i, to + 2])
                    scratch.angular_rate[i, b] = vec3(scratch.rate[i, to + 3], scratch.rate[i, to + 4], scratch.rate[i, to + 5])
                else:
                    scratch.linear_rate[i, b] = vec3(S(0.0), S(0.0), S(0.0))
                    scratch.angular_rate[i, b] = vec3(S(0.0), S(0.0), S(0.0))
            else:
                hinge = S(0.0)
                slide = S(0.0)
                angle = S(0.0)
                speed = S(0.0)
                rate = S(0.0)
                if kind == HINGE:
                    hinge = S(1.0)
                if kind == SLIDE:
                    slide = S(1.0)
                if kind == HINGE or kind == SLIDE:
                    angle = q[at]
                    speed = v[to]
                    if accelerate == 1:
                        rate = scratch.rate[i, to]
                up = model.ints[model.parent + b]
                anchor = three(p, model.joint_column + wp.static(layout.JOINT) * b)
                child, d = carry(link_of(scratch, i, up), anchor, model.turn[b], model.axis[b], hinge, slide, angle, speed, rate, S(0.0))
                scratch.turn[i, b] = child.turn
                scratch.place[i, b] = origin(scratch, i, up) + d
                scratch.linear[i, b] = child.linear
                scratch.angular[i, b] = child.angular
                scratch.linear_rate[i, b] = child.linear_rate
                scratch.angular_rate[i, b] = child.angular_rate
            scratch.force[i, b] = vec3(S(0.0), S(0.0), S(0.0))
            scratch.torque[i, b] = vec3(S(0.0), S(0.0), S(0.0))

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
    def nearness(model: Model, p: row_type, scratch: Scratch, i: int, test: int):
        """Gap [m] from which two geometries are out of each other's reach: by smoothing, and by what their surfaces may travel in half a substep."""
        g = model.ints[model.test_a + test]
        a = model.ints[model.geometry_body + g]
        b = model.ints[model.geometry_body + model.ints[model.test_b + test]]
        at = model.geometry_column + wp.static(layout.GEOMETRY) * g
        arm = wp.length(three(p, at)) + p[at + wp.static(layout.SCALE)] * (wp.length(model.middle[g]) + model.bound[g]) + p[at + wp.static(layout.RADIUS)]
        one = link_of(scratch, i, a)
        other = link_of(scratch, i, b)
        far = wp.length(origin(scratch, i, a) - origin(scratch, i, b)) + arm
        speed = wp.length(one.linear - other.linear) + wp.length(one.angular) * arm + wp.length(other.angular) * far
        smoothing = p[model.pair_column + wp.static(layout.PAIR) * model.ints[model.test_pair + test] + wp.static(layout.SMOOTHING)]
        return smoothing + S(0.5) * model.seconds * speed

    @wp.func(inline=True)
    def apart(model: Model, p: row_type, scratch: Scratch, i: int, test: int, near: S):
        """Whether bounding spheres (or the half-space) show that the gap of two geometries is more than `near`."""
        g = model.ints[model.test_a + test]
        h = model.ints[model.test_b + test]
        a = model.ints[model.geometry_body + g]
        b = model.ints[model.geometry_body + h]
        at_g = model.geometry_column + wp.static(layout.GEOMETRY) * g
        at_h = model.geometry_column + wp.static(layout.GEOMETRY) * h
        size = p[at_g + wp.static(layout.SCALE)]
        reach = near + size * model.bound[g] + p[at_g + wp.static(layout.RADIUS)]
        x = origin(scratch, i, a) + frame(scratch, i, a) @ (three(p, at_g) + size * (model.geometry_turn[g] @ model.middle[g]))
        if model.ints[model.test_kind + test] == POINTS_PLANE:
            y = origin(scratch, i, b) + frame(scratch, i, b) @ three(p, at_h)
            n = frame(scratch, i, b) @ (model.geometry_turn[h] @ vec3(S(0.0), S(0.0), S(1.0)))
            return wp.dot(n, x - y) > reach
        size = p[at_h + wp.static(layout.SCALE)]
        reach += size * model.bound[h] + p[at_h + wp.static(layout.RADIUS)]
        y = origin(scratch, i, b) + frame(scratch, i, b) @ (three(p, at_h) + size * (model.geometry_turn[h] @ model.middle[h]))
        return wp.dot(x - y, x - y) > reach * reach

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
    def nearest_face(model: Model, h: int, y: vec3, scale: S):
        """The triangle of polytope h nearest to y."""
        best = model.ints[model.face_first + h]
        least = S(1.0e30)
        for k in range(model.ints[model.face_first + h], model.ints[model.face_end + h]):
            away = from_triangle(
                y,
                model.points[model.ints[model.faces + 3 * k]],
                model.points[model.ints[model.faces + 3 * k + 1]],
                model.points[model.ints[model.faces + 3 * k + 2]],
                scale,
            )
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
            near = nearness(model, p, scratch, i, test)
            if not apart(model, p, scratch, i, test, near):
                kind = model.ints[model.test_kind + test]
                g = model.ints[model.test_a + test]
                h = model.ints[model.test_b + test]
                a = model.ints[model.geometry_body + g]
                b = model.ints[model.geometry_body + h]
                at_g = model.geometry_column + wp.static(layout.GEOMETRY) * g
                at_h = model.geometry_column + wp.static(layout.GEOMETRY) * h
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
                width = p[model.pair_column + wp.static(layout.PAIR) * model.ints[model.test_pair + test] + wp.static(layout.SMOOTHING)]
                if kind == POINTS_PLANE:
                    normal = core_b @ vec3(S(0.0), S(0.0), S(1.0))
                    for k in range(model.ints[model.point_first + g], model.ints[model.point_end + g]):
                        gap, n, arm_a, arm_b = point_plane(
                            turn_a, place_a, turn_b, place_b, core_a, model.points[k], offset_a, scale_a, radius_a, normal, offset_b
                        )
                        if gap < near:
                            touch(model, p, scratch, i, test, model.crowds[k], gap, n, arm_a, arm_b)
                elif kind == POINTS_PLANES or kind == POINTS_FACES:
                    for k in range(model.ints[model.point_first + g], model.ints[model.sample_end + g]):
                        y, w = seen(turn_a, place_a, turn_b, place_b, core_a, model.points[k], offset_a, scale_a, core_b, offset_b)
                        plane, distance = outermost(model, h, y, scale_b)
                        if distance - radius_a - radius_b < near:
                            direction = model.normals[plane]
                            if kind == POINTS_PLANES:
                                distance, direction = smooth_planes(model, h, y, scale_b, distance, width)
                            elif distance > S(0.0):
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
                                touch(model, p, scratch, i, test, model.shares[k], gap, n, arm_a, arm_b)
                else:
                    ka = model.ints[model.point_first + g]
                    kb = model.ints[model.point_first + h]
                    gap, n, arm_a, arm_b = segments(
                        turn_a,
                        place_a,
                        turn_b,
                        place_b,
                        core_a,
                        model.points[ka],
                        model.points[model.ints[model.point_end + g] - 1],
                        offset_a,
                        scale_a,
                        radius_a,
                        core_b,
                        model.points[kb],
                        model.points[model.ints[model.point_end + h] - 1],
                        offset_b,
                        scale_b,
                        radius_b,
                    )
                    if gap < near:
                        touch(model, p, scratch, i, test, S(1.0), gap, n, arm_a, arm_b)

    @wp.func(inline=True)
    def pull(model: Model, p: row_type, u: row_type, scratch: Scratch, i: int):
        """The wrenches of actuators at bodies."""
        for k in range(model.actuators):
            if model.ints[model.actuator_kind + k] == WRENCH:
                b = model.ints[model.actuator_body + k]
                axis = model.ints[model.actuator_axis + k]
                size = u[k] * p[model.actuator_column + wp.static(layout.ACTUATOR) * k]
                along = vec3(S(0.0), S(0.0), S(0.0))
                along[axis % 3] = size
                if axis < 3:
                    scratch.force[i, b] = scratch.force[i, b] + along
                else:
                    scratch.torque[i, b] = scratch.torque[i, b] + along

    @wp.func(inline=True)
    def dof_axis(model: Model, scratch: Scratch, i: int, dof: int):
        """Unit axis of a degree of freedom in the world frame, and whether it turns about it."""
        kind = model.ints[model.dof_kind + dof]
        b = model.ints[model.dof_body + dof]
        if kind >= 6:
            return scratch.turn[i, b] @ model.axis[b], kind == 6
        axis = vec3(S(0.0), S(0.0), S(0.0))
        axis[kind % 3] = S(1.0)
        return axis, kind >= 3

    @wp.func(inline=True)
    def composite(model: Model, p: row_type, scratch: Scratch, i: int):
        """Mass, first moment and inertia about its origin of each body with all it carries, and the wrench its motion leaves over for its joint."""
        gravity = three(p, wp.static(layout.GRAVITY))
        for b in range(model.bodies):
            if model.ints[model.solo + b] == 0 and model.ints[model.joint + b] != DRIVEN:
                at = model.body_column + wp.static(layout.BODY) * b
                mass = p[at]
                com = three(p, at + wp.static(layout.COM))
                diagonal = three(p, at + wp.static(layout.INERTIA))
                mixed = three(p, at + wp.static(layout.INERTIA + 3))
                asked, asked_torque = inertial(
                    link_of(scratch, i, b),
                    mass,
                    com,
                    diagonal,
                    mixed,
                    p[at + wp.static(layout.LINEAR_DRAG)],
                    p[at + wp.static(layout.ANGULAR_DRAG)],
                    gravity,
                )
                scratch.force[i, b] = scratch.force[i, b] - asked
                scratch.torque[i, b] = scratch.torque[i, b] - asked_torque
                turn = scratch.turn[i, b]
                arm = turn @ com
                scratch.mass[i, b] = mass
                scratch.moment[i, b] = mass * arm
                body = mat33(diagonal[0], mixed[0], mixed[1], mixed[0], diagonal[1], mixed[2], mixed[1], mixed[2], diagonal[2])
                scratch.inertia[i, b] = turn @ body @ wp.transpose(turn) - mass * skew(arm) @ skew(arm)
        for r in range(model.bodies):
            b = model.bodies - 1 - r
            up = model.ints[model.parent + b]
            if model.ints[model.solo + b] == 0 and up >= 0:
                if model.ints[model.joint + up] != DRIVEN:
                    d = scratch.place[i, b] - scratch.place[i, up]
                    scratch.force[i, up] = scratch.force[i, up] + scratch.force[i, b]
                    scratch.torque[i, up] = scratch.torque[i, up] + scratch.torque[i, b] + wp.cross(d, scratch.force[i, b])
                    mass = scratch.mass[i, b]
                    moment = scratch.moment[i, b]
                    scratch.mass[i, up] = scratch.mass[i, up] + mass
                    scratch.moment[i, up] = scratch.moment[i, up] + moment + mass * d
                    cross = skew(d) @ skew(moment)
                    scratch.inertia[i, up] = scratch.inertia[i, up] + scratch.inertia[i, b] - cross - wp.transpose(cross) - mass * skew(d) @ skew(d)

    @wp.func(inline=True)
    def joint_terms(model: Model, p: row_type, q: row_type, v: row_type, u: row_type, dof: int):
        """Effort at a hinge's or slide's joint, and what its own terms add to the mass matrix."""
        b = model.ints[model.dof_body + dof]
        at = model.joint_column + wp.static(layout.JOINT) * b
        position = q[model.ints[model.q_at + b]]
        rate = v[dof]
        drag = joint_drag(rate, p[at + wp.static(layout.DAMPING)], p[at + wp.static(layout.DRY)], model.fade)
        effort = joint_effort(
            position,
            rate,
            p[at + wp.static(layout.SPRING)],
            p[at + wp.static(layout.REST)],
            p[at + wp.static(layout.LOW)],
            p[at + wp.static(layout.HIGH)],
            p[at + wp.static(layout.LIMIT_SPRING)],
            p[at + wp.static(layout.LIMIT_DAMPING)],
            model.limit_width,
        )
        for k in range(model.actuators):
            if model.ints[model.actuator_body + k] == b:
                base = model.actuator_column + wp.static(layout.ACTUATOR) * k
                if model.ints[model.actuator_kind + k] == EFFORT:
                    effort += p[base + wp.static(layout.GAIN)] * u[k]
                elif model.ints[model.actuator_kind + k] == POSITION:
                    effort += p[base + wp.static(layout.STIFF)] * (p[base + wp.static(layout.GAIN)] * u[k] - position)
                    drag += p[base + wp.static(layout.DAMP)]
        return effort - drag * rate, p[at + wp.static(layout.ARMATURE)] + model.seconds * drag

    @wp.func(inline=True)
    def factorise(model: Model, p: row_type, q: row_type, v: row_type, u: row_type, scratch: Scratch, i: int):
        """The Cholesky factor of each tree's mass matrix, and the right-hand side in `scratch.rate`."""
        n = model.velocity
        for tree in range(model.trees):
            first = model.ints[model.tree_first + tree]
            end = model.ints[model.tree_end + tree]
            for c in range(first, end):
                b = model.ints[model.dof_body + c]
                axis, turns = dof_axis(model, scratch, i, c)
                force = scratch.mass[i, b] * axis
                torque = wp.cross(scratch.moment[i, b], axis)
                left = wp.dot(axis, scratch.force[i, b])
                if turns:
                    force = wp.cross(axis, scratch.moment[i, b])
                    torque = scratch.inertia[i, b] @ axis
                    left = wp.dot(axis, scratch.torque[i, b])
                for r in range(first, c + 1):
                    scratch.matrix[i, c * n + r] = S(0.0)  # and stays so where neither body carries the other
                here = b
                stop = wp.int32(0)
                while stop == 0:
                    for r in range(first, c + 1):
                        if model.ints[model.dof_body + r] == here:
                            other, about = dof_axis(model, scratch, i, r)
                            entry = wp.dot(other, force)
                            if about:
                                entry = wp.dot(other, torque)
                            scratch.matrix[i, c * n + r] = entry
                    up = model.ints[model.parent + here]
                    if up < 0 or model.ints[model.joint + up] == DRIVEN:
                        stop = 1
                    else:
                        torque = torque + wp.cross(scratch.place[i, here] - scratch.place[i, up], force)
                        here = up
                if model.ints[model.dof_kind + c] >= 6:
                    effort, added = joint_terms(model, p, q, v, u, c)
                    left += effort
                    scratch.matrix[i, c * n + c] = scratch.matrix[i, c * n + c] + added
                scratch.rate[i, c] = left
            for c in range(first, end):
                for r in range(first, c):
                    total = scratch.matrix[i, c * n + r]
                    for k in range(first, r):
                        total -= scratch.matrix[i, c * n + k] * scratch.matrix[i, r * n + k]
                    scratch.matrix[i, c * n + r] = total / scratch.matrix[i, r * n + r]
                total = scratch.matrix[i, c * n + c]
                for k in range(first, c):
                    total -= scratch.matrix[i, c * n + k] * scratch.matrix[i, c * n + k]
                scratch.matrix[i, c * n + c] = wp.sqrt(total)

    @wp.func(inline=True)
    def solve(model: Model, scratch: Scratch, i: int):
        """Replace `scratch.rate` by the solution of M x = rate."""
        n = model.velocity
        for tree in range(model.trees):
            first = model.ints[model.tree_first + tree]
            end = model.ints[model.tree_end + tree]
            for c in range(first, end):
                total = scratch.rate[i, c]
                for k in range(first, c):
                    total -= scratch.matrix[i, c * n + k] * scratch.rate[i, k]
                scratch.rate[i, c] = total / scratch.matrix[i, c * n + c]
            for back in range(first, end):
                c = first + end - 1 - back
                total = scratch.rate[i, c]
                for k in range(c + 1, end):
                    total -= scratch.matrix[i, k * n + c] * scratch.rate[i, k]
                scratch.rate[i, c] = total / scratch.matrix[i, c * n + c]

    @wp.func(inline=whole)
    def accelerate(model: Model, p: row_type, q: row_type, v: row_type, u: row_type, scratch: Scratch, i: int):
        """All that precedes motion: poses, wrenches, and the joints' accelerations in `scratch.rate`."""
        place(model, p, q, v, scratch, i, 0)
        touches(model, p, scratch, i)
        pull(model, p, u, scratch, i)
        if model.trees > 0:
            composite(model, p, scratch, i)
            factorise(model, p, q, v, u, scratch, i)
            solve(model, scratch, i)

    @wp.func(inline=True)
    def drift(model: Model, p: row_type, q: row_type, v: row_type, seconds: S):
        """Configurations moved on (or back) at the present velocities, in place; free bodies keep their momenta, and so may change their velocities."""
        zero = vec3(S(0.0), S(0.0), S(0.0))
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                x = three(q, at)
                turn = quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6])
                linear = three(v, to)
                angular = three(v, to + 3)
                moved = seconds * linear
                after = turn
                if kind == FREE and model.ints[model.solo + b] == 1:
                    c = model.body_column + wp.static(layout.BODY) * b
                    moved, after, linear, angular = flight(
                        turn,
                        linear,
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
                    )
                else:
                    after = turned(turn, seconds * angular)
                for k in range(3):
                    q[at + k] = x[k] + moved[k]
                    v[to + k] = linear[k]
                    v[to + 3 + k] = angular[k]
                for k in range(4):
                    q[at + 3 + k] = after[k]
            elif kind == HINGE or kind == SLIDE:
                q[at] = q[at] + seconds * v[to]

    @wp.func(inline=True)
    def move(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, i: int, q_after: row_type, v_after: row_type):
        """Velocities and configurations after the substep; `q_after` and `v_after` may be `q` and `v`."""
        h = model.seconds
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                x = three(q, at)
                turn = quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6])
                linear = three(v, to)
                angular = three(v, to + 3)
                moved = h * linear
                after = turn
                if kind == FREE and model.ints[model.solo + b] == 1:
                    c = model.body_column + wp.static(layout.BODY) * b
                    moved, after, linear, angular = flight(
                        turn,
                        linear,
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
                    )
                else:
                    if kind == FREE:
                        linear = linear + h * vec3(scratch.rate[i, to], scratch.rate[i, to + 1], scratch.rate[i, to + 2])
                        angular = angular + h * vec3(scratch.rate[i, to + 3], scratch.rate[i, to + 4], scratch.rate[i, to + 5])
                        moved = h * linear
                    after = turned(turn, h * angular)
                for k in range(3):
                    q_after[at + k] = x[k] + moved[k]
                    v_after[to + k] = linear[k]
                    v_after[to + 3 + k] = angular[k]
                for k in range(4):
                    q_after[at + 3 + k] = after[k]
            elif kind == HINGE or kind == SLIDE:
                speed = v[to] + h * scratch.rate[i, to]
                v_after[to] = speed
                q_after[at] = q[at] + h * speed

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
