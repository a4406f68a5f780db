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
from .rigid_contacts import contacts
from .rigid_contacts_adjoint import contacts_adjoint
from .rigid_dynamics import DRIVEN, EFFORT, FREE, HINGE, POSITION, SLIDE, WRENCH, dynamics
from .rigid_laws import laws
from .rigid_structs import types


@cache
def adjoint(scalar: type, *, whole: bool | None) -> Any:
    """The functions for one type of number; `whole`: whether the largest are inlined, as `wp.func` takes it."""
    S = scalar
    T = types(S)
    vec3, quat, mat33, Model, Scratch, Adjoint, Link, Bulk = T.vec3, T.quat, T.mat33, T.Model, T.Scratch, T.Adjoint, T.Link, T.Bulk
    L, D, C = laws(S, whole=whole), dynamics(S, whole=whole), contacts_adjoint(S, whole=whole)
    carry, carry_test, flight_test, turned_test, rotation_test = L.carry, L.carry_test, L.flight_test, L.turned_test, L.rotation_test
    inertial_test, joint_test, add, more = L.inertial_test, L.joint_test, C.add, C.more
    three, link_of, joint_of, rate_of = contacts(S).three, contacts(S).link_of, D.joint_of, D.rate_of
    bulk_of, coasting, hangs = D.bulk_of, D.coasting, D.hangs
    row_type = wp.array(dtype=S)

    @wp.func
    def clear(model: Model, adj: Adjoint, i: int):
        """No gradient by bodies' poses and motions yet."""
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

    @wp.func
    def virtual_link(scratch: Scratch, adj: Adjoint, i: int, b: int):
        """How body b moves, with its virtual motion."""
        link = link_of(scratch, i, b)
        if b >= 0:
            link.linear_test = adj.linear_virtual[i, b]
            link.angular_test = adj.angular_virtual[i, b]
        return link

    @wp.func
    def unbulk(model: Model, dp: row_type, b: int, sign: S, d: Bulk):
        """Add the gradient by what body b is made of, times `sign`."""
        at = model.body_column + wp.static(layout.BODY) * b
        more(dp, at, sign * d.mass)
        add(dp, at + wp.static(layout.COM), sign * d.com)
        add(dp, at + wp.static(layout.INERTIA), sign * d.diagonal)
        add(dp, at + wp.static(layout.INERTIA + 3), sign * d.mixed)
        add(dp, at + wp.static(layout.INVERSE_INERTIA), sign * d.inverse_diagonal)
        add(dp, at + wp.static(layout.INVERSE_INERTIA + 3), sign * d.inverse_mixed)
        more(dp, at + wp.static(layout.LINEAR_DRAG), sign * d.drag)
        more(dp, at + wp.static(layout.ANGULAR_DRAG), sign * d.angular_drag)

    @wp.func
    def unfly(model: Model, q: row_type, v: row_type, b: int, force: vec3, torque: vec3, body: Bulk, gravity: vec3, seconds: S, dq: row_type, dv: row_type):
        """Back through `fly`, to quaternion, velocities, force, torque, body and gravity."""
        at = model.ints[model.q_at + b]
        to = model.ints[model.v_at + b]
        d_turn, d_linear, d_angular, d_force, d_torque, d_body, d_gravity, _h, _s1, _s2, _s3, _s4 = wp.grad(flight_test)(
            quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6]),
            three(v, to),
            three(v, to + 3),
            force,
            torque,
            body,
            gravity,
            seconds,
            three(dq, at),
            quat(dq[at + 3], dq[at + 4], dq[at + 5], dq[at + 6]),
            three(dv, to),
            three(dv, to + 3),
        )
        return d_turn, d_linear, d_angular, d_force, d_torque, d_body, d_gravity

    @wp.func
    def put_back(dq: row_type, dv: row_type, at: int, to: int, turn: quat, linear: vec3, angular: vec3):
        """The gradient by the pose and twist of a body, whose place it leaves."""
        for k in range(3):
            dv[to + k] = linear[k]
            dv[to + 3 + k] = angular[k]
        for k in range(4):
            dq[at + 3 + k] = turn[k]

    @wp.func(inline=whole)
    def unmove(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, adj: Adjoint, dq: row_type, dv: row_type, dp: row_type, i: int):
        """Back through `move`: of free bodies wholly, of joints to their accelerations, whose gradient is left in `scratch.rate`."""
        h = model.seconds
        gravity = three(p, wp.static(layout.GRAVITY))
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            adj.linear_virtual[i, b] = vec3(S(0.0), S(0.0), S(0.0))
            adj.angular_virtual[i, b] = vec3(S(0.0), S(0.0), S(0.0))
            if kind == FREE and model.ints[model.solo + b] == 1:
                d_turn, d_linear, d_angular, d_force, d_torque, d_body, d_gravity = unfly(
                    model, q, v, b, scratch.force[i, b], scratch.torque[i, b], bulk_of(model, p, b), gravity, h, dq, dv
                )
                adj.linear_virtual[i, b] = d_force
                adj.angular_virtual[i, b] = d_torque
                unbulk(model, dp, b, S(1.0), d_body)
                add(dp, wp.static(layout.GRAVITY), d_gravity)
                put_back(dq, dv, at, to, d_turn, d_linear, d_angular)
            elif kind == FREE or kind == DRIVEN:
                angular = three(v, to + 3)
                if kind == FREE:
                    for k in range(3):
                        angular[k] = angular[k] + h * adj.rate[i, to + 3 + k]
                d_linear = three(dv, to) + h * three(dq, at)
                d_turn, d_by, _s = wp.grad(turned_test)(
                    quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6]), h * angular, quat(dq[at + 3], dq[at + 4], dq[at + 5], dq[at + 6])
                )
                d_angular = three(dv, to + 3) + h * d_by
                if kind == FREE:
                    for k in range(3):
                        scratch.rate[i, to + k] = h * d_linear[k]
                        scratch.rate[i, to + 3 + k] = h * d_angular[k]
                put_back(dq, dv, at, to, d_turn, d_linear, d_angular)
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
            if kind == FREE and model.ints[model.solo + b] == 1:
                d_turn, d_linear, d_angular, _f, _t, d_body, _g = unfly(model, q, v, b, zero, zero, coasting(bulk_of(model, p, b)), zero, seconds, dq, dv)
                unbulk(model, dp, b, S(1.0), coasting(d_body))
                put_back(dq, dv, at, to, d_turn, d_linear, d_angular)
            elif kind == FREE or kind == DRIVEN:
                d_turn, d_by, _s = wp.grad(turned_test)(
                    quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6]),
                    seconds * three(v, to + 3),
                    quat(dq[at + 3], dq[at + 4], dq[at + 5], dq[at + 6]),
                )
                put_back(dq, dv, at, to, d_turn, three(dv, to) + seconds * three(dq, at), three(dv, to + 3) + seconds * d_by)
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
                hinge, slide, angle, speed = joint_of(model, q, v, b)
                rate = rate_of(model, adj.rate, i, b)
                virtual = rate_of(model, scratch.rate, i, b)
                parent = virtual_link(scratch, adj, i, model.ints[model.parent + b])
                anchor = three(p, model.joint_column + wp.static(layout.JOINT) * b)
                child, _d = carry(parent, anchor, model.turn[b], model.axis[b], hinge, slide, angle, speed, rate, virtual)
                scratch.linear_rate[i, b] = child.linear_rate
                scratch.angular_rate[i, b] = child.angular_rate
                adj.linear_virtual[i, b] = child.linear_test
                adj.angular_virtual[i, b] = child.angular_test

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
                more(du, k, p[at] * power)
                more(dp, at, u[k] * power)

    @wp.func
    def weigh(model: Model, p: row_type, scratch: Scratch, adj: Adjoint, dp: row_type, i: int):
        """The gradient of the virtual power of inertia, weight and drag of what hangs on joints."""
        gravity = three(p, wp.static(layout.GRAVITY))
        for b in range(model.bodies):
            if hangs(model, b):
                d_link, d_body, d_gravity = wp.grad(inertial_test)(virtual_link(scratch, adj, i, b), bulk_of(model, p, b), gravity)
                adj.turn[i, b] = adj.turn[i, b] - d_link.turn
                adj.linear[i, b] = adj.linear[i, b] - d_link.linear
                adj.angular[i, b] = adj.angular[i, b] - d_link.angular
                adj.linear_rate[i, b] = adj.linear_rate[i, b] - d_link.linear_rate
                adj.angular_rate[i, b] = adj.angular_rate[i, b] - d_link.angular_rate
                adj.linear_test[i, b] = adj.linear_test[i, b] - d_link.linear_test
                adj.angular_test[i, b] = adj.angular_test[i, b] - d_link.angular_test
                unbulk(model, dp, b, S(-1.0), d_body)
                add(dp, wp.static(layout.GRAVITY), -d_gravity)

    @wp.func(inline=True)
    def look(model: Model, v: row_type, scratch: Scratch, adj: Adjoint, stage: int, stages: int, i: int):
        """Which velocities, accelerations and virtual motion of the joints a stage of the way back is about.

        With a1 = M^-1 (rhs - demand at v) and a2 = M^-1 (rhs - demand at v + h a1 / 2), the first stage goes back from a2, whose virtual motion w2 is in
        `scratch.rate`, to the rates in the middle; the second from a1, of which they are made; the third takes the wrenches that both have, and which w1 + w2
        moves.
        """
        if stage == 0:
            for k in range(model.velocity):
                adj.speed[i, k] = v[k]
                adj.kept[i, k] = scratch.rate[i, k]
                if stages > 1:
                    adj.speed[i, k] = scratch.middle[i, k]
        if stage == 1:
            for k in range(model.velocity):
                adj.speed[i, k] = v[k]
                adj.rate[i, k] = scratch.first[i, k]
                scratch.rate[i, k] = S(0.5) * model.seconds * adj.d_speed[i, k]
        if stage == 2:
            for k in range(model.velocity):
                scratch.rate[i, k] = scratch.rate[i, k] + adj.kept[i, k]
        for k in range(model.velocity):
            adj.d_speed[i, k] = S(0.0)

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
                hinge, slide, angle, speed = joint_of(model, q, v, b)
                rate = rate_of(model, adj.rate, i, b)
                virtual = rate_of(model, scratch.rate, i, b)
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
                more(dp, c + wp.static(layout.DAMPING), -d_damping)
                more(dp, c + wp.static(layout.DRY), -d_dry)
                more(dp, c + wp.static(layout.ARMATURE), -d_armature)
                more(dp, c + wp.static(layout.SPRING), -d_spring)
                more(dp, c + wp.static(layout.REST), -d_rest)
                more(dp, c + wp.static(layout.LOW), -d_low)
                more(dp, c + wp.static(layout.HIGH), -d_high)
                more(dp, c + wp.static(layout.LIMIT_SPRING), -d_limit)
                more(dp, c + wp.static(layout.LIMIT_DAMPING), -d_limit_damping)
                for k in range(model.actuators):
                    if model.ints[model.actuator_body + k] == b:
                        base = model.actuator_column + wp.static(layout.ACTUATOR) * k
                        gain = p[base + wp.static(layout.GAIN)]
                        if model.ints[model.actuator_kind + k] == EFFORT:
                            more(du, k, virtual * gain)
                            more(dp, base + wp.static(layout.GAIN), virtual * u[k])
                        elif model.ints[model.actuator_kind + k] == POSITION:
                            stiff = p[base + wp.static(layout.STIFF)]
                            damp = p[base + wp.static(layout.DAMP)]
                            more(du, k, virtual * stiff * gain)
                            more(dp, base + wp.static(layout.GAIN), virtual * stiff * u[k])
                            more(dp, base + wp.static(layout.STIFF), virtual * (gain * u[k] - q[at]))
                            speed = v[to] + model.seconds * adj.rate[i, to]
                            more(dp, base + wp.static(layout.DAMP), -virtual * speed)
                            dq[at] = dq[at] - virtual * stiff
                            dv[to] = dv[to] - virtual * damp

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
