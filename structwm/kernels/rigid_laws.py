"""The physics of one contact, one joint, one body: functions without loops, so that `wp.grad` gives their derivatives.

Contact. A Kelvin-Voigt spring and damper along the normal, never pulling, and Coulomb friction smoothed below a slip speed (Anitescu and Potra 1997 state the
law; the smoothing is that of Marhefka and Orin, 1999). The damper is set by a damping ratio with respect to the mass felt at the contact, so that the
coefficient of restitution does not depend on where a body is hit, and acts in the middle of the substep, which makes it exact to second order and never
unstable. Depth is the mean over the substep along the path of the approach, so that a blow does not depend on when within a substep it begins. Friction is
limited to what would stop the slip within a substep.

Motion. A free body conserves its angular momentum to the last digit (midpoint rule on momentum); what hangs on joints is treated in `rigid_dynamics`.

The `..._test` functions are scalar products of results with given numbers: their gradients are vector-Jacobian products.
"""

from functools import cache
from typing import Any

import warp as wp

from .rigid_structs import types, with_adjoints


@cache
def laws(scalar: type, *, inline: bool | None = None, whole: bool | None = None) -> Any:
    """The functions for one type of number; `inline` as `wp.func` takes it, and `whole` the same of those whose gradients are long."""
    S = scalar
    T = types(S)
    vec3, quat, mat33, Side, Law, Link, Bulk = T.vec3, T.quat, T.mat33, T.Side, T.Law, T.Link, T.Bulk

    @wp.func(inline=inline)
    def rotation(q: quat):
        """world_from_body of a quaternion of any length but zero."""
        s = S(2.0) / wp.dot(q, q)
        w = q[0]
        x = q[1]
        y = q[2]
        z = q[3]
        return mat33(
            S(1.0) - s * (y * y + z * z),
            s * (x * y - w * z),
            s * (x * z + w * y),
            s * (x * y + w * z),
            S(1.0) - s * (x * x + z * z),
            s * (y * z - w * x),
            s * (x * z - w * y),
            s * (y * z + w * x),
            S(1.0) - s * (x * x + y * y),
        )

    @wp.func(inline=inline)
    def rotation_test(q: quat, seed: mat33):
        return wp.ddot(rotation(q), seed)

    @wp.func(inline=inline)
    def turned(q: quat, by: vec3):
        """A quaternion, turned by a rotation vector [rad] in the world frame, of length one."""
        angle2 = wp.dot(by, by)
        c = S(1.0) - angle2 / S(8.0)
        s = S(0.5) - angle2 / S(48.0)
        if angle2 > S(1.0e-4):
            angle = wp.sqrt(angle2)
            c = wp.cos(angle * S(0.5))
            s = wp.sin(angle * S(0.5)) / angle
        v = vec3(q[1], q[2], q[3])
        u = s * by
        w = c * q[0] - wp.dot(u, v)
        t = c * v + q[0] * u + wp.cross(u, v)
        n = S(1.0) / wp.sqrt(w * w + wp.dot(t, t))
        return quat(w * n, t[0] * n, t[1] * n, t[2] * n)

    @wp.func(inline=inline)
    def turned_test(q: quat, by: vec3, seed: quat):
        return wp.dot(turned(q, by), seed)

    @wp.func(inline=inline)
    def symmetric(diagonal: vec3, mixed: vec3, v: vec3):
        """The product of a symmetric matrix (xx yy zz; xy xz yz) with a vector."""
        return vec3(
            diagonal[0] * v[0] + mixed[0] * v[1] + mixed[1] * v[2],
            mixed[0] * v[0] + diagonal[1] * v[1] + mixed[2] * v[2],
            mixed[1] * v[0] + mixed[2] * v[1] + diagonal[2] * v[2],
        )

    @wp.func(inline=inline)
    def ramp(x: S, width: S):
        """max(x, 0), rounded within +-width."""
        if x >= width:
            return x
        if x <= -width:
            return S(0.0)
        return (x + width) * (x + width) / (S(4.0) * width)

    @wp.func(inline=inline)
    def ramp_slope(x: S, width: S):
        if x >= width:
            return S(1.0)
        if x <= -width:
            return S(0.0)
        return (x + width) / (S(2.0) * width)

    @wp.func(inline=inline)
    def lightness(side: Side, n: vec3):
        """Inverse of the mass [1/kg] that a side's body offers along n at the contact."""
        arm = wp.transpose(side.turn) @ side.arm - side.com
        k = wp.cross(arm, wp.transpose(side.turn) @ n)
        return side.inverse_mass + wp.dot(k, symmetric(side.inverse_diagonal, side.inverse_mixed, k))

    @wp.func(inline=inline)
    def sideways(side: Side):
        """The same along any direction, roughly."""
        arm = wp.transpose(side.turn) @ side.arm - side.com
        d = side.inverse_diagonal
        return side.inverse_mass + wp.dot(arm, arm) * (d[0] + d[1] + d[2]) / S(3.0)

    @wp.func(inline=inline)
    def contact(gap: S, n: vec3, a: Side, b: Side, law: Law, seconds: S):
        """Force [N] on A at the contact and torque [Nm] beside it; B feels the opposite. n points from B to A."""
        approach = a.linear + wp.cross(a.angular, a.arm) - b.linear - wp.cross(b.angular, b.arm)
        away = wp.dot(approach, n)
        width = law.smoothing + S(0.5) * seconds * wp.abs(away)
        depth = ramp(-gap, width)
        share = ramp_slope(-gap, width)
        felt = lightness(a, n) + lightness(b, n)
        damper = S(2.0) * share * law.damping_ratio * wp.sqrt(law.stiffness / felt)
        press = law.share * wp.max(law.stiffness * depth - damper * away, S(0.0)) / (S(1.0) + S(0.5) * seconds * damper * felt)
        slip = approach - away * n
        load = press / law.share  # as if few points carried the body
        stop = S(2.0) * law.friction * load * seconds * (sideways(a) + sideways(b))
        drag = law.friction * press / wp.sqrt(wp.dot(slip, slip) + law.slip * law.slip + stop * stop)
        force = press * n - drag * slip

        spin = a.angular - b.angular
        da = a.inverse_diagonal
        db = b.inverse_diagonal
        ease = S(2.0) * load * seconds * (da[0] + da[1] + da[2] + db[0] + db[1] + db[2]) / S(3.0)
        about = wp.dot(spin, n)
        roll = spin - about * n
        floor = law.spin * law.spin
        halt = law.torsion * ease
        bore = law.torsion * press * about / wp.sqrt(about * about + floor + halt * halt)
        halt = law.rolling * ease
        brake = law.rolling * press / wp.sqrt(wp.dot(roll, roll) + floor + halt * halt)
        return force, -bore * n - brake * roll

    @wp.func(inline=whole)
    def contact_test(gap: S, n: vec3, a: Side, b: Side, law: Law, seconds: S, along: vec3, about: vec3):
        force, torque = contact(gap, n, a, b, law, seconds)
        return wp.dot(force, along) + wp.dot(torque, about)

    @wp.func(inline=inline)
    def inertia_times(turn: mat33, diagonal: vec3, mixed: vec3, v: vec3):
        """A symmetric matrix of the body frame times a vector of the world frame."""
        return turn @ symmetric(diagonal, mixed, wp.transpose(turn) @ v)

    @wp.func(inline=inline)
    def flight(q: quat, linear: vec3, angular: vec3, force: vec3, torque: vec3, body: Bulk, gravity: vec3, seconds: S):
        """A free body after a substep: displacement of its origin, quaternion, velocity of its origin, angular velocity."""
        turn = rotation(q)
        arm = turn @ body.com
        v = linear + wp.cross(angular, arm)
        momentum = inertia_times(turn, body.diagonal, body.mixed, angular)
        v = (v + seconds * (force / body.mass + gravity)) / (S(1.0) + seconds * body.drag)
        momentum = (momentum + seconds * (torque - wp.cross(arm, force))) / (S(1.0) + seconds * body.angular_drag)
        early = inertia_times(turn, body.inverse_diagonal, body.inverse_mixed, momentum)
        half = rotation(turned(q, S(0.5) * seconds * early))
        middle = inertia_times(half, body.inverse_diagonal, body.inverse_mixed, momentum)
        after = turned(q, seconds * middle)
        turn_after = rotation(after)
        spin = inertia_times(turn_after, body.inverse_diagonal, body.inverse_mixed, momentum)
        arm_after = turn_after @ body.com
        return seconds * v + arm - arm_after, after, v - wp.cross(spin, arm_after), spin

    @wp.func(inline=whole)
    def flight_test(
        q: quat,
        linear: vec3,
        angular: vec3,
        force: vec3,
        torque: vec3,
        body: Bulk,
        gravity: vec3,
        seconds: S,
        seed_place: vec3,
        seed_q: quat,
        seed_linear: vec3,
        seed_angular: vec3,
    ):
        moved, after, v, spin = flight(q, linear, angular, force, torque, body, gravity, seconds)
        return wp.dot(moved, seed_place) + wp.dot(after, seed_q) + wp.dot(v, seed_linear) + wp.dot(spin, seed_angular)

    @wp.func(inline=inline)
    def hinge_turn(axis: vec3, angle: S):
        """Rotation about a unit axis (Rodrigues)."""
        s = wp.sin(angle)
        c = S(1.0) - wp.cos(angle)
        x = axis[0]
        y = axis[1]
        z = axis[2]
        return mat33(
            S(1.0) - c * (y * y + z * z),
            c * x * y - s * z,
            c * x * z + s * y,
            c * x * y + s * z,
            S(1.0) - c * (x * x + z * z),
            c * y * z - s * x,
            c * x * z - s * y,
            c * y * z + s * x,
            S(1.0) - c * (x * x + y * y),
        )

    @wp.func(inline=inline)
    def led(parent: Link, turn: mat33, d: vec3, along: vec3, about: vec3, rate: S, acceleration: S, test: S):
        """A child's link, with its origin at `d` from the parent's, that slides along and turns about its joint's axis."""
        child = Link()
        child.turn = turn
        child.angular = parent.angular + rate * about
        child.linear = parent.linear + wp.cross(parent.angular, d) + rate * along
        child.angular_rate = parent.angular_rate + acceleration * about + rate * wp.cross(parent.angular, about)
        child.linear_rate = (
            parent.linear_rate
            + wp.cross(parent.angular_rate, d)
            + wp.cross(parent.angular, wp.cross(parent.angular, d))
            + S(2.0) * rate * wp.cross(parent.angular, along)
            + acceleration * along
        )
        child.angular_test = parent.angular_test + test * about
        child.linear_test = parent.linear_test + wp.cross(parent.angular_test, d) + test * along
        return child

    @wp.func(inline=inline)
    def carry(parent: Link, anchor: vec3, fixed: mat33, axis: vec3, hinge: S, slide: S, q: S, rate: S, acceleration: S, test: S):
        """A child's link and its origin seen from the parent's. `hinge` and `slide` are 1 or 0: which of the two the joint is, if any."""
        turn = parent.turn @ (fixed @ hinge_turn(axis, hinge * q))
        u = turn @ axis
        along = slide * u
        d = parent.turn @ anchor + q * along
        return led(parent, turn, d, along, hinge * u, rate, acceleration, test), d

    @wp.func(inline=whole)
    def carry_test(
        parent: Link, anchor: vec3, fixed: mat33, axis: vec3, hinge: S, slide: S, q: S, rate: S, acceleration: S, test: S, seed: Link, seed_place: vec3
    ):
        child, d = carry(parent, anchor, fixed, axis, hinge, slide, q, rate, acceleration, test)
        return (
            wp.ddot(child.turn, seed.turn)
            + wp.dot(child.linear, seed.linear)
            + wp.dot(child.angular, seed.angular)
            + wp.dot(child.linear_rate, seed.linear_rate)
            + wp.dot(child.angular_rate, seed.angular_rate)
            + wp.dot(child.linear_test, seed.linear_test)
            + wp.dot(child.angular_test, seed.angular_test)
            + wp.dot(d, seed_place)
        )

    @wp.func(inline=inline)
    def inertial(link: Link, body: Bulk, gravity: vec3):
        """Force and torque about its origin that a body's motion asks for, less gravity and drag."""
        arm = link.turn @ body.com
        v = link.linear + wp.cross(link.angular, arm)
        a = link.linear_rate + wp.cross(link.angular_rate, arm) + wp.cross(link.angular, wp.cross(link.angular, arm))
        momentum = inertia_times(link.turn, body.diagonal, body.mixed, link.angular)
        force = body.mass * (a - gravity + body.drag * v)
        torque = inertia_times(link.turn, body.diagonal, body.mixed, link.angular_rate) + wp.cross(link.angular, momentum) + body.angular_drag * momentum
        return force, torque + wp.cross(arm, force)

    @wp.func(inline=inline)
    def inertial_test(link: Link, body: Bulk, gravity: vec3):
        force, torque = inertial(link, body, gravity)
        return wp.dot(force, link.linear_test) + wp.dot(torque, link.angular_test)

    @wp.func(inline=inline)
    def joint_effort(q: S, rate: S, spring: S, rest: S, low: S, high: S, limit_spring: S, limit_damping: S, width: S):
        """What spring and limits do at a joint; a limit sets in over `width`."""
        below = low - q
        above = q - high
        effort = -spring * (q - rest)
        effort += limit_spring * (ramp(below, width) - ramp(above, width))
        effort += -limit_damping * rate * (ramp_slope(below, width) + ramp_slope(above, width))
        return effort

    @wp.func(inline=inline)
    def joint_drag(rate: S, damping: S, dry: S, fade: S):
        """Effort over speed of viscous and dry friction, which fades below the speed `fade`."""
        return damping + dry / wp.sqrt(rate * rate + fade * fade)

    @wp.func(inline=inline)
    def joint_test(
        q: S,
        rate: S,
        acceleration: S,
        test: S,
        damping: S,
        dry: S,
        armature: S,
        spring: S,
        rest: S,
        low: S,
        high: S,
        limit_spring: S,
        limit_damping: S,
        width: S,
        fade: S,
        seconds: S,
    ):
        """The residual of a joint's own terms times `test`; friction acts at the end of the substep."""
        asked = armature * acceleration + joint_drag(rate, damping, dry, fade) * (rate + seconds * acceleration)
        return test * (asked - joint_effort(q, rate, spring, rest, low, high, limit_spring, limit_damping, width))

    return with_adjoints({name: value for name, value in locals().items() if isinstance(value, wp.Function)})
