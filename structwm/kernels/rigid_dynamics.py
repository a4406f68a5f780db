"""A substep of a rigid world: where bodies are, what touches, what follows. One thread a world; loops over bodies, contact tests and degrees of freedom.

Accelerations of what hangs on joints solve M a = rhs, with the mass matrix from composite bodies in the world frame (Featherstone, Rigid Body Dynamics
Algorithms, 2008, section 6.2) and a Cholesky factor a tree. Joint friction and the dampers of position actuators act at the end of the substep (linearly
implicit), so that they never make a step unstable. What joints' rates do to one another (centrifugal, Coriolis and gyroscopic forces) is taken at the rates in
the middle of the substep, by a second solve with the same factor; taken at its start, chains would gain or lose energy to first order in the substep. Forces
are those half a substep ahead: positions drift by half a substep before the first, by whole ones between, and back by half after the last (leapfrog), so that
free flight is exact and energy does not drift.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from . import rigid_layout as layout
from .rigid_contacts import contacts
from .rigid_laws import laws
from .rigid_structs import types

FREE, HINGE, SLIDE, DRIVEN = (int(getattr(layout.JointKind, name)) for name in ("FREE", "HINGE", "SLIDE", "DRIVEN"))
EFFORT, POSITION, WRENCH, VELOCITY = (int(getattr(layout.ActuatorKind, name)) for name in ("EFFORT", "POSITION", "WRENCH", "VELOCITY"))


@cache
def dynamics(scalar: type, *, whole: bool | None) -> Any:
    """The functions for one type of number; `whole`: whether `accelerate` is inlined, as `wp.func` takes it. All others are."""
    S = scalar
    T = types(S)
    vec3, quat, mat33, Model, Scratch, Bulk = T.vec3, T.quat, T.mat33, T.Model, T.Scratch, T.Bulk
    L, C = laws(S, inline=True), contacts(S)
    rotation, turned, carry, led, flight, inertial = L.rotation, L.turned, L.carry, L.led, L.flight, L.inertial
    joint_drag, joint_effort = L.joint_drag, L.joint_effort
    three, origin, link_of, touches = C.three, C.origin, C.link_of, C.touches
    row_type, rates_type = wp.array(dtype=S), wp.array2d(dtype=S)

    @wp.func(inline=True)
    def skew(a: vec3):
        return mat33(S(0.0), -a[2], a[1], a[2], S(0.0), -a[0], -a[1], a[0], S(0.0))

    @wp.func(inline=True)
    def joint_of(model: Model, q: row_type, v: row_type, b: int):
        """Of a body on its parent: 1 or 0 for a hinge and for a slide, and the joint's position and speed."""
        kind = model.ints[model.joint + b]
        hinge = S(0.0)
        slide = S(0.0)
        position = S(0.0)
        speed = S(0.0)
        if kind == HINGE:
            hinge = S(1.0)
        if kind == SLIDE:
            slide = S(1.0)
        if kind == HINGE or kind == SLIDE:
            position = q[model.ints[model.q_at + b]]
            speed = v[model.ints[model.v_at + b]]
        return hinge, slide, position, speed

    @wp.func(inline=True)
    def rate_of(model: Model, rates: rates_type, i: int, b: int):
        """What `rates` says of a hinge or slide."""
        kind = model.ints[model.joint + b]
        if kind == HINGE or kind == SLIDE:
            return rates[i, model.ints[model.v_at + b]]
        return S(0.0)

    @wp.func(inline=True)
    def place(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, i: int):
        """Poses and twists of all bodies, and the accelerations that they have when their joints have none."""
        zero = vec3(S(0.0), S(0.0), S(0.0))
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            if kind == FREE or kind == DRIVEN:
                at = model.ints[model.q_at + b]
                to = model.ints[model.v_at + b]
                scratch.turn[i, b] = rotation(quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6]))
                scratch.place[i, b] = three(q, at)
                scratch.linear[i, b] = three(v, to)
                scratch.angular[i, b] = three(v, to + 3)
                scratch.linear_rate[i, b] = zero
                scratch.angular_rate[i, b] = zero
            else:
                hinge, slide, position, speed = joint_of(model, q, v, b)
                up = model.ints[model.parent + b]
                anchor = three(p, model.joint_column + wp.static(layout.JOINT) * b)
                child, d = carry(link_of(scratch, i, up), anchor, model.turn[b], model.axis[b], hinge, slide, position, speed, S(0.0), S(0.0))
                scratch.turn[i, b] = child.turn
                scratch.place[i, b] = origin(scratch, i, up) + d
                scratch.linear[i, b] = child.linear
                scratch.angular[i, b] = child.angular
                scratch.linear_rate[i, b] = child.linear_rate
                scratch.angular_rate[i, b] = child.angular_rate
            scratch.force[i, b] = zero
            scratch.torque[i, b] = zero

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
    def hangs(model: Model, b: int):
        """Whether a body moves by joints or carries what does."""
        return model.ints[model.solo + b] == 0 and model.ints[model.joint + b] != DRIVEN

    @wp.func(inline=True)
    def bulk_of(model: Model, p: row_type, b: int):
        """What body b is made of."""
        at = model.body_column + wp.static(layout.BODY) * b
        body = Bulk()
        body.mass = p[at]
        body.com = three(p, at + wp.static(layout.COM))
        body.diagonal = three(p, at + wp.static(layout.INERTIA))
        body.mixed = three(p, at + wp.static(layout.INERTIA + 3))
        body.inverse_diagonal = three(p, at + wp.static(layout.INVERSE_INERTIA))
        body.inverse_mixed = three(p, at + wp.static(layout.INVERSE_INERTIA + 3))
        body.drag = p[at + wp.static(layout.LINEAR_DRAG)]
        body.angular_drag = p[at + wp.static(layout.ANGULAR_DRAG)]
        return body

    @wp.func(inline=True)
    def gather(model: Model, scratch: Scratch, i: int, b: int, up: int, d: vec3):
        """Add the wrench at a body to that at its parent, `d` back from it."""
        scratch.force[i, up] = scratch.force[i, up] + scratch.force[i, b]
        scratch.torque[i, up] = scratch.torque[i, up] + scratch.torque[i, b] + wp.cross(d, scratch.force[i, b])

    @wp.func(inline=True)
    def composite(model: Model, p: row_type, scratch: Scratch, i: int):
        """Mass, first moment and inertia about its origin of each body with all it carries, and the wrench its motion leaves over for its joint."""
        gravity = three(p, wp.static(layout.GRAVITY))
        for b in range(model.bodies):
            if hangs(model, b):
                body = bulk_of(model, p, b)
                d = body.diagonal
                o = body.mixed
                force, torque = inertial(link_of(scratch, i, b), body, gravity)
                scratch.asked[i, b] = force
                scratch.asked_torque[i, b] = torque
                scratch.force[i, b] = scratch.force[i, b] - force
                scratch.torque[i, b] = scratch.torque[i, b] - torque
                turn = scratch.turn[i, b]
                arm = turn @ body.com
                scratch.mass[i, b] = body.mass
                scratch.moment[i, b] = body.mass * arm
                inertia = mat33(d[0], o[0], o[1], o[0], d[1], o[2], o[1], o[2], d[2])
                scratch.inertia[i, b] = turn @ inertia @ wp.transpose(turn) - body.mass * skew(arm) @ skew(arm)
        for r in range(model.bodies):
            b = model.bodies - 1 - r
            up = model.ints[model.parent + b]
            if model.ints[model.solo + b] == 0 and up >= 0:
                if model.ints[model.joint + up] != DRIVEN:
                    d = scratch.place[i, b] - scratch.place[i, up]
                    gather(model, scratch, i, b, up, d)
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

    @wp.func(inline=True)
    def lead(model: Model, v: row_type, scratch: Scratch, i: int):
        """The motion of what hangs on joints at other rates, where it stands."""
        for b in range(model.bodies):
            if hangs(model, b):
                kind = model.ints[model.joint + b]
                to = model.ints[model.v_at + b]
                if kind == FREE:
                    scratch.linear[i, b] = three(v, to)
                    scratch.angular[i, b] = three(v, to + 3)
                else:
                    up = model.ints[model.parent + b]
                    axis = scratch.turn[i, b] @ model.axis[b]
                    along = vec3(S(0.0), S(0.0), S(0.0))
                    about = vec3(S(0.0), S(0.0), S(0.0))
                    rate = S(0.0)
                    if kind == HINGE:
                        about = axis
                        rate = v[to]
                    if kind == SLIDE:
                        along = axis
                        rate = v[to]
                    d = scratch.place[i, b] - origin(scratch, i, up)
                    child = led(link_of(scratch, i, up), scratch.turn[i, b], d, along, about, rate, S(0.0), S(0.0))
                    scratch.linear[i, b] = child.linear
                    scratch.angular[i, b] = child.angular
                    scratch.linear_rate[i, b] = child.linear_rate
                    scratch.angular_rate[i, b] = child.angular_rate

    @wp.func(inline=True)
    def amend(model: Model, p: row_type, v: row_type, scratch: Scratch, i: int):
        """Take what rates do to one another at those in the middle of the substep: accelerations in `scratch.rate`, those before in `scratch.first`."""
        for k in range(model.velocity):
            scratch.middle[i, k] = v[k]
        for tree in range(model.trees):
            for c in range(model.ints[model.tree_first + tree], model.ints[model.tree_end + tree]):
                scratch.first[i, c] = scratch.rate[i, c]
                scratch.middle[i, c] = v[c] + S(0.5) * model.seconds * scratch.rate[i, c]
        lead(model, scratch.middle[i], scratch, i)
        gravity = three(p, wp.static(layout.GRAVITY))
        for b in range(model.bodies):
            if hangs(model, b):
                force, torque = inertial(link_of(scratch, i, b), bulk_of(model, p, b), gravity)
                scratch.force[i, b] = scratch.asked[i, b] - force
                scratch.torque[i, b] = scratch.asked_torque[i, b] - torque
        for r in range(model.bodies):
            b = model.bodies - 1 - r
            up = model.ints[model.parent + b]
            if model.ints[model.solo + b] == 0 and up >= 0:
                if model.ints[model.joint + up] != DRIVEN:
                    gather(model, scratch, i, b, up, scratch.place[i, b] - scratch.place[i, up])
        for tree in range(model.trees):
            for c in range(model.ints[model.tree_first + tree], model.ints[model.tree_end + tree]):
                b = model.ints[model.dof_body + c]
                axis, turns = dof_axis(model, scratch, i, c)
                left = wp.dot(axis, scratch.force[i, b])
                if turns:
                    left = wp.dot(axis, scratch.torque[i, b])
                scratch.rate[i, c] = left
        solve(model, scratch, i)
        for tree in range(model.trees):
            for c in range(model.ints[model.tree_first + tree], model.ints[model.tree_end + tree]):
                scratch.rate[i, c] = scratch.rate[i, c] + scratch.first[i, c]

    @wp.func(inline=True)
    def commanded(model: Model, k: int):
        """Which number of the velocity actuator k commands."""
        return model.ints[model.v_at + model.ints[model.actuator_body + k]] + model.ints[model.actuator_axis + k]

    @wp.func(inline=True)
    def begin(model: Model, q: row_type, v: row_type, u: row_type, q_now: row_type, v_now: row_type):
        """Copy a state, with the velocities that are commanded."""
        for k in range(model.configuration):
            q_now[k] = q[k]
        for k in range(model.velocity):
            v_now[k] = v[k]
        for k in range(model.actuators):
            if model.ints[model.actuator_kind + k] == VELOCITY:
                v_now[commanded(model, k)] = u[k]

    @wp.func(inline=whole)
    def accelerate(model: Model, p: row_type, q: row_type, v: row_type, u: row_type, scratch: Scratch, i: int):
        """All that precedes motion: poses, wrenches, and the joints' accelerations in `scratch.rate`."""
        place(model, p, q, v, scratch, i)
        touches(model, p, scratch, i)
        pull(model, p, u, scratch, i)
        if model.trees > 0:
            composite(model, p, scratch, i)
            factorise(model, p, q, v, u, scratch, i)
            solve(model, scratch, i)
            if model.chained == 1:
                amend(model, p, v, scratch, i)

    @wp.func(inline=True)
    def coasting(body: Bulk):
        """A body on which nothing acts."""
        body.drag = S(0.0)
        body.angular_drag = S(0.0)
        return body

    @wp.func(inline=True)
    def fly(model: Model, q: row_type, v: row_type, b: int, force: vec3, torque: vec3, body: Bulk, gravity: vec3, seconds: S):
        """A free body without children after so many seconds, as `flight` has it."""
        at = model.ints[model.q_at + b]
        to = model.ints[model.v_at + b]
        moved, after, linear, angular = flight(
            quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6]), three(v, to), three(v, to + 3), force, torque, body, gravity, seconds
        )
        return moved, after, linear, angular

    @wp.func(inline=True)
    def put(q: row_type, v: row_type, at: int, to: int, x: vec3, turn: quat, linear: vec3, angular: vec3):
        """The pose and twist of a body."""
        for k in range(3):
            q[at + k] = x[k]
            v[to + k] = linear[k]
            v[to + 3 + k] = angular[k]
        for k in range(4):
            q[at + 3 + k] = turn[k]

    @wp.func(inline=True)
    def drift(model: Model, p: row_type, q: row_type, v: row_type, seconds: S):
        """Configurations moved on (or back) at the present velocities, in place; free bodies keep their momenta, and so may change their velocities."""
        zero = vec3(S(0.0), S(0.0), S(0.0))
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                linear = three(v, to)
                angular = three(v, to + 3)
                moved = seconds * linear
                after = quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6])
                if kind == FREE and model.ints[model.solo + b] == 1:
                    moved, after, linear, angular = fly(model, q, v, b, zero, zero, coasting(bulk_of(model, p, b)), zero, seconds)
                else:
                    after = turned(after, seconds * angular)
                put(q, v, at, to, three(q, at) + moved, after, linear, angular)
            elif kind == HINGE or kind == SLIDE:
                q[at] = q[at] + seconds * v[to]

    @wp.func(inline=True)
    def move(model: Model, p: row_type, q: row_type, v: row_type, scratch: Scratch, i: int, q_after: row_type, v_after: row_type):
        """Velocities and configurations after the substep; `q_after` and `v_after` may be `q` and `v`."""
        h = model.seconds
        gravity = three(p, wp.static(layout.GRAVITY))
        for b in range(model.bodies):
            kind = model.ints[model.joint + b]
            at = model.ints[model.q_at + b]
            to = model.ints[model.v_at + b]
            if kind == FREE or kind == DRIVEN:
                linear = three(v, to)
                angular = three(v, to + 3)
                moved = h * linear
                after = quat(q[at + 3], q[at + 4], q[at + 5], q[at + 6])
                if kind == FREE and model.ints[model.solo + b] == 1:
                    moved, after, linear, angular = fly(model, q, v, b, scratch.force[i, b], scratch.torque[i, b], bulk_of(model, p, b), gravity, h)
                else:
                    if kind == FREE:
                        linear = linear + h * vec3(scratch.rate[i, to], scratch.rate[i, to + 1], scratch.rate[i, to + 2])
                        angular = angular + h * vec3(scratch.rate[i, to + 3], scratch.rate[i, to + 4], scratch.rate[i, to + 5])
                        moved = h * linear
                    after = turned(after, h * angular)
                put(q_after, v_after, at, to, three(q, at) + moved, after, linear, angular)
            elif kind == HINGE or kind == SLIDE:
                speed = v[to] + h * scratch.rate[i, to]
                v_after[to] = speed
                q_after[at] = q[at] + h * speed

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
