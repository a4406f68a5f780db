"""The backward pass of a substep of a rod: vector-Jacobian products of `rod_dynamics`, one thread a rod.

With the gradient of the solve's `delta`, `lam = A^-1` of it (A is symmetric, and its factor is at hand); what remains is the gradient of `lam . (r - A delta)`
with both held fixed, element by element (the `..._power` of `rod_laws`). `scratch.delta` holds `lam`, `adj.delta` the change of velocity.

The order of the calls for a substep is in `rod_rollout`.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from .obstacle_laws import obstacle_laws
from .rod_dynamics import AT, dynamics
from .rod_laws import laws
from .rod_layout import COLUMNS
from .rod_structs import types


@cache
def adjoint(scalar: type, *, whole: bool | None = None) -> Any:
    """The functions for one type of number; `whole`: whether the largest are inlined, as `wp.func` takes it."""
    S = scalar
    T = types(S)
    vec2, vec3, Model, Scratch, Adjoint = T.vec2, T.vec3, T.Model, T.Scratch, T.Adjoint
    L, D = laws(S, whole=whole), dynamics(S, whole=whole)
    mass_power, stretch_power, bend_power, contact_power = L.mass_power, L.stretch_power, L.bend_power, L.contact_power
    twist_power, roll_power, rolled_test, rubbed_test = L.twist_power, L.roll_power, L.rolled_test, L.rubbed_test
    natural_test, natural_at_end, natural_torque_power = L.natural_test, L.natural_at_end, L.natural_torque_power
    nearest_test = obstacle_laws(S, whole=whole).nearest_test
    rest_of, share_of, span_of, mass_of, touch, strongest = D.rest_of, D.share_of, D.span_of, D.mass_of, D.touch, D.strongest
    natural_of = D.natural_of
    row_type, points_type = wp.array(dtype=S), wp.array(dtype=vec3)

    @wp.func
    def more(row: row_type, at: int, value: S):
        row[at] = row[at] + value

    @wp.func
    def apart(points: points_type, k: int, value: vec3):
        """Add the gradient by the edge from k - 1 to k to those by its ends."""
        points[k - 1] = points[k - 1] - value
        points[k] = points[k] + value

    @wp.func
    def around(dx: points_type, dm: points_type, k: int, d_e0: vec3, d_e1: vec3, d_m0: vec3, d_m1: vec3):
        """Add the gradients by the edges beside vertex k and by their directors to those by vertices and directors."""
        apart(dx, k, d_e0)
        apart(dx, k + 1, d_e1)
        dm[k - 1] = dm[k - 1] + d_m0
        dm[k] = dm[k] + d_m1

    @wp.func
    def weigh(model: Model, p: row_type, k: int, d_mass: S, dp: row_type):
        """The gradient by a vertex's mass."""
        span = span_of(model, k)
        more(dp, wp.static(AT["vertex_mass"]), d_mass)
        more(dp, wp.static(AT["line_density"]), d_mass * span * p[wp.static(AT["length"])])
        more(dp, wp.static(AT["length"]), d_mass * span * p[wp.static(AT["line_density"])])

    @wp.func
    def more_natural(dp: row_type, k: int, d_natural: vec2):
        """The gradient by a vertex's natural curvature."""
        at = 2 * (k - 1) + wp.static(len(COLUMNS))
        more(dp, at, d_natural[0])
        more(dp, at + 1, d_natural[1])

    @wp.func
    def untouch(model: Model, o: int, x: vec3, d_gap: S, d_n: vec3):
        """The gradient by a vertex's place of its distance from an obstacle and of the direction."""
        _k, _z, _t, _o, d_x, _g, _n = wp.grad(nearest_test)(model.kind[o], model.size[o], model.turn[o], model.place[o], x, d_gap, d_n)
        return d_x

    @wp.func(inline=whole)
    def undrift(
        model: Model,
        x: points_type,
        v: points_type,
        m: points_type,
        s: row_type,
        seconds: S,
        adj: Adjoint,
        dx: points_type,
        dv: points_type,
        dm: points_type,
        ds: row_type,
        i: int,
    ):
        """Back through `drift` from (x, m) at velocities v and spins s."""
        for k in range(model.directors):
            e = x[k + 1] - x[k]
            d_e, d_after, d_m, d_angle, _s = wp.grad(rolled_test)(e, e + seconds * (v[k + 1] - v[k]), m[k], seconds * s[k], dm[k])
            dm[k] = d_m
            ds[k] = ds[k] + seconds * d_angle
            adj.edge[i, k] = d_e
            apart(dx, k + 1, d_after)
        for k in range(model.vertices):
            dv[k] = dv[k] + seconds * dx[k]
        for k in range(model.directors):
            apart(dx, k + 1, adj.edge[i, k])

    @wp.func(inline=whole)
    def unvertex(
        model: Model,
        p: row_type,
        x: points_type,
        v: points_type,
        scratch: Scratch,
        adj: Adjoint,
        dx: points_type,
        dv: points_type,
        dp: row_type,
        i: int,
    ):
        """Inertia, weight, drag and contact."""
        h = model.seconds
        for k in range(model.vertices):
            if model.drive[k] < 0:
                lam = scratch.delta[i, k]
                delta = adj.delta[i, k]
                d_v, _d, _l, d_mass, d_drag, d_quadratic, d_gravity, _h = wp.grad(mass_power)(
                    v[k],
                    delta,
                    lam,
                    mass_of(model, p, k),
                    p[wp.static(AT["drag"])],
                    p[wp.static(AT["quadratic_drag"])],
                    p[wp.static(AT["gravity"])],
                    h,
                )
                dv[k] = dv[k] + d_v
                weigh(model, p, k, d_mass, dp)
                more(dp, wp.static(AT["drag"]), d_drag)
                more(dp, wp.static(AT["quadratic_drag"]), d_quadratic)
                more(dp, wp.static(AT["gravity"]), d_gravity)
                for o in range(model.obstacles):
                    gap, n = touch(model, p, o, x[k])
                    if gap < S(0.0):
                        d_gap, d_n, d_speed, _d2, _l2, d_stiffness, d_damping, _h2 = wp.grad(contact_power)(
                            gap, n, v[k], delta, lam, p[wp.static(AT["contact_stiffness"])], p[wp.static(AT["contact_damping"])], h
                        )
                        dx[k] = dx[k] + untouch(model, o, x[k], d_gap, d_n)
                        dv[k] = dv[k] + d_speed
                        more(dp, wp.static(AT["radius"]), -d_gap)
                        more(dp, wp.static(AT["contact_stiffness"]), d_stiffness)
                        more(dp, wp.static(AT["contact_damping"]), d_damping)

    @wp.func(inline=whole)
    def unrub(model: Model, p: row_type, x: points_type, v: points_type, adj: Adjoint, dx: points_type, dv: points_type, dp: row_type, i: int):
        """Back through the friction in `change`."""
        for k in range(model.vertices):
            after = v[k] + adj.delta[i, k]
            o = wp.int32(-1)
            if model.drive[k] < 0:
                o = strongest(model, p, x[k], after)
            if o >= 0:
                gap, n = touch(model, p, o, x[k])
                d_gap, d_n, d_v, d_mass, d_friction, d_stiffness, d_damping, _h, _s = wp.grad(rubbed_test)(
                    gap,
                    n,
                    after,
                    mass_of(model, p, k),
                    p[wp.static(AT["friction"])],
                    p[wp.static(AT["contact_stiffness"])],
                    p[wp.static(AT["contact_damping"])],
                    model.seconds,
                    dv[k],
                )
                dv[k] = d_v
                dx[k] = dx[k] + untouch(model, o, x[k], d_gap, d_n)
                weigh(model, p, k, d_mass, dp)
                more(dp, wp.static(AT["radius"]), -d_gap)
                more(dp, wp.static(AT["friction"]), d_friction)
                more(dp, wp.static(AT["contact_stiffness"]), d_stiffness)
                more(dp, wp.static(AT["contact_damping"]), d_damping)

    @wp.func(inline=whole)
    def unstretch(
        model: Model,
        p: row_type,
        x: points_type,
        v: points_type,
        scratch: Scratch,
        adj: Adjoint,
        dx: points_type,
        dv: points_type,
        dp: row_type,
        i: int,
    ):
        for k in range(1, model.vertices):
            d_e, d_w, _d, _l, d_rest, d_stiffness, d_damping, _h = wp.grad(stretch_power)(
                x[k] - x[k - 1],
                v[k] - v[k - 1],
                adj.delta[i, k] - adj.delta[i, k - 1],
                scratch.delta[i, k] - scratch.delta[i, k - 1],
                rest_of(model, p, k - 1),
                p[wp.static(AT["stretch_stiffness"])],
                p[wp.static(AT["stretch_damping"])],
                model.seconds,
            )
            apart(dx, k, d_e)
            apart(dv, k, d_w)
            more(dp, wp.static(AT["length"]), d_rest * model.rest[k - 1])
            more(dp, wp.static(AT["stretch_stiffness"]), d_stiffness)
            more(dp, wp.static(AT["stretch_damping"]), d_damping)

    @wp.func(inline=whole)
    def unjoint(
        model: Model,
        p: row_type,
        x: points_type,
        v: points_type,
        m: points_type,
        s: row_type,
        scratch: Scratch,
        adj: Adjoint,
        dx: points_type,
        dv: points_type,
        dm: points_type,
        ds: row_type,
        dp: row_type,
        i: int,
    ):
        """Bending and twisting, which adds to the gradient by the changes of spin in `scratch.roll_delta`."""
        h = model.seconds
        for k in range(1, model.vertices - 1):
            share = share_of(model, p, k)
            unit = share / p[wp.static(AT["length"])]
            e0 = x[k] - x[k - 1]
            e1 = x[k + 1] - x[k]
            d0 = adj.delta[i, k] - adj.delta[i, k - 1]
            d1 = adj.delta[i, k + 1] - adj.delta[i, k]
            l0 = scratch.delta[i, k] - scratch.delta[i, k - 1]
            l1 = scratch.delta[i, k + 1] - scratch.delta[i, k]
            stiffness = p[wp.static(AT["bend_stiffness"])] / share
            damping = p[wp.static(AT["bend_damping"])] / share
            k0 = vec3()
            k1 = vec3()
            angle0 = S(0.0)
            angle1 = S(0.0)
            if model.directors > 0:
                scale = p[wp.static(AT["curvature_scale"])]
                angle0 = h * (s[k - 1] + adj.roll_delta[i, k - 1])
                angle1 = h * (s[k] + adj.roll_delta[i, k])
                k0 = natural_at_end(e0, m[k - 1], angle0, natural_of(p, k), scale)
                k1 = natural_at_end(e1, m[k], angle1, natural_of(p, k), scale)
            d_e0, d_e1, d_w0, d_w1, _d0, _d1, _l0, _l1, d_k0, d_k1, d_stiffness, d_damping, _h = wp.grad(bend_power)(
                e0, e1, v[k] - v[k - 1], v[k + 1] - v[k], d0, d1, l0, l1, k0, k1, stiffness, damping, h
            )
            apart(dx, k, d_e0)
            apart(dx, k + 1, d_e1)
            apart(dv, k, d_w0)
            apart(dv, k + 1, d_w1)
            more(dp, wp.static(AT["bend_stiffness"]), d_stiffness / share)
            more(dp, wp.static(AT["bend_damping"]), d_damping / share)
            more(dp, wp.static(AT["length"]), -(d_stiffness * stiffness + d_damping * damping) * unit / share)
            if model.directors > 0:
                stiffness = p[wp.static(AT["twist_stiffness"])] / share
                spin = s[k] + adj.roll_delta[i, k] - s[k - 1] - adj.roll_delta[i, k - 1]
                t_e0, t_e1, t_m0, t_m1, _d2, _d3, _l2, _l3, d_spin, t_stiffness, t_damping, _h2 = wp.grad(twist_power)(
                    e0, e1, m[k - 1], m[k], d0, d1, l0, l1, spin, stiffness, p[wp.static(AT["twist_damping"])], h
                )
                around(dx, dm, k, t_e0, t_e1, t_m0, t_m1)
                ds[k - 1] = ds[k - 1] - d_spin
                ds[k] = ds[k] + d_spin
                scratch.roll_delta[i, k - 1] = scratch.roll_delta[i, k - 1] - d_spin
                scratch.roll_delta[i, k] = scratch.roll_delta[i, k] + d_spin
                more(dp, wp.static(AT["twist_stiffness"]), t_stiffness / share)
                more(dp, wp.static(AT["twist_damping"]), t_damping)
                more(dp, wp.static(AT["length"]), -t_stiffness * stiffness * unit / share)
                natural = natural_of(p, k)
                scale = p[wp.static(AT["curvature_scale"])]
                c_e0, c_m0, d_angle0, d_natural0, d_scale0, _seed0 = wp.grad(natural_test)(e0, m[k - 1], angle0, natural, scale, d_k0)
                c_e1, c_m1, d_angle1, d_natural1, d_scale1, _seed1 = wp.grad(natural_test)(e1, m[k], angle1, natural, scale, d_k1)
                around(dx, dm, k, c_e0, c_e1, c_m0, c_m1)
                ds[k - 1] = ds[k - 1] + h * d_angle0
                ds[k] = ds[k] + h * d_angle1
                scratch.roll_delta[i, k - 1] = scratch.roll_delta[i, k - 1] + h * d_angle0
                scratch.roll_delta[i, k] = scratch.roll_delta[i, k] + h * d_angle1
                more_natural(dp, k, d_natural0 + d_natural1)
                more(dp, wp.static(AT["curvature_scale"]), d_scale0 + d_scale1)

    @wp.func(inline=whole)
    def unroll(
        model: Model,
        p: row_type,
        x: points_type,
        m: points_type,
        s: row_type,
        scratch: Scratch,
        adj: Adjoint,
        dx: points_type,
        dm: points_type,
        ds: row_type,
        dp: row_type,
        i: int,
    ):
        """Back through `roll`, with the adjoint of the changes of spin in `scratch.roll_delta`."""
        radius = p[wp.static(AT["radius"])]
        density = p[wp.static(AT["line_density"])]
        length = p[wp.static(AT["length"])]
        for k in range(model.directors):
            power = -adj.roll_delta[i, k] * scratch.roll_delta[i, k] * S(0.5) * model.rest[k]
            if model.roll[k] == -1:
                more(dp, wp.static(AT["line_density"]), power * length * radius * radius)
                more(dp, wp.static(AT["length"]), power * density * radius * radius)
                more(dp, wp.static(AT["radius"]), S(2.0) * power * density * length * radius)
        for k in range(1, model.directors):
            share = share_of(model, p, k)
            stiffness = p[wp.static(AT["twist_stiffness"])] / share
            d_e0, d_e1, d_m0, d_m1, d_s, _d, _l, d_stiffness, d_damping, _h = wp.grad(roll_power)(
                x[k] - x[k - 1],
                x[k + 1] - x[k],
                m[k - 1],
                m[k],
                s[k] - s[k - 1],
                adj.roll_delta[i, k] - adj.roll_delta[i, k - 1],
                scratch.roll_delta[i, k] - scratch.roll_delta[i, k - 1],
                stiffness,
                p[wp.static(AT["twist_damping"])],
                model.seconds,
            )
            around(dx, dm, k, d_e0, d_e1, d_m0, d_m1)
            ds[k - 1] = ds[k - 1] - d_s
            ds[k] = ds[k] + d_s
            more(dp, wp.static(AT["twist_stiffness"]), d_stiffness / share)
            more(dp, wp.static(AT["twist_damping"]), d_damping)
            more(dp, wp.static(AT["length"]), -d_stiffness * stiffness / length)
            stiffness = p[wp.static(AT["bend_stiffness"])] / share
            c_e0, c_e1, c_m0, c_m1, c_s0, c_s1, _l0, _l1, d_natural, c_stiffness, d_scale, _h3 = wp.grad(natural_torque_power)(
                x[k] - x[k - 1],
                x[k + 1] - x[k],
                m[k - 1],
                m[k],
                s[k - 1] + adj.roll_delta[i, k - 1],
                s[k] + adj.roll_delta[i, k],
                scratch.roll_delta[i, k - 1],
                scratch.roll_delta[i, k],
                natural_of(p, k),
                stiffness,
                p[wp.static(AT["curvature_scale"])],
                model.seconds,
            )
            around(dx, dm, k, c_e0, c_e1, c_m0, c_m1)
            ds[k - 1] = ds[k - 1] + c_s0
            ds[k] = ds[k] + c_s1
            more(dp, wp.static(AT["bend_stiffness"]), c_stiffness / share)
            more_natural(dp, k, d_natural)
            more(dp, wp.static(AT["curvature_scale"]), d_scale)
            more(dp, wp.static(AT["length"]), -c_stiffness * stiffness / length)

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
