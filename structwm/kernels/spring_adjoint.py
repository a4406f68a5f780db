"""The backward pass of a substep of springs: vector-Jacobian products of `spring_kernels`, one thread a particle of a world.

`seed` takes in the gradients by the state at the end of a step. `unkick` goes back through contact, weight and drag to the forces, `unspring` gathers what the
forces of a particle's springs ask of its place and velocity, and goes back through the moving on before. `unbegin` ends a step. A spring's own gradients are
added up by the end with the lower number.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from .obstacle_laws import obstacle_laws
from .spring_kernels import AT, dynamics
from .spring_laws import laws
from .spring_structs import types


@cache
def backward_kernels(scalar: type) -> Any:
    """`seed`, `unkick`, `unspring`, `unbegin` for one type of number."""
    S = scalar
    T = types(S)
    vec3, Model, Table, Path, Adjoint = T.vec3, T.Model, T.Table, T.Path, T.Adjoint
    D, L = dynamics(S), laws(S)
    width_of, reduced_mass, contact, met_all = D.width_of, D.reduced_mass, D.contact, D.met_all
    met_test, touching_power, nearest_test = L.met_test, L.touching_power, obstacle_laws(S).nearest_test
    row_type = wp.array(dtype=S)

    @wp.func
    def uncontact(model: Model, p: row_type, path: Path, adj: Adjoint, slot: int, n: int, i: int, c: int, d_gap: S, d_away: vec3, d_carrier: vec3):
        """From gradients by what `contact` gives to those by places and velocities."""
        x = path.middle[slot, n, i]
        wp.atomic_add(adj.common, n, wp.static(AT["radius"]), -d_gap)
        if c < model.pushers:
            k = model.pusher[c]
            e = x - path.middle[slot, n, k]
            length = wp.max(wp.length(e), S(1.0e-9))
            u = e / length
            d_e = d_gap * u + (d_away - wp.dot(u, d_away) * u) / length
            adj.x[n, i] = adj.x[n, i] + d_e
            wp.atomic_add(adj.x, n, k, -d_e)
            wp.atomic_add(adj.v, n, k, d_carrier)
        else:
            o = c - model.pushers
            _k, _z, _t, _o, d_x, _g, _n = wp.grad(nearest_test)(model.kind[o], model.size[o], model.turn[o], model.place[o], x, d_gap, d_away)
            adj.x[n, i] = adj.x[n, i] + d_x

    @wp.kernel(enable_backward=False, module="unique")
    def spring_seed(first: int, model: Model, path: Path, adj: Adjoint):
        """Gradients by the state at the end of a step join; then back through the last moving on of the places."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        step = path.step[0]
        d_x = adj.x[n, i] + adj.by_x[n, step + 1, i]
        adj.x[n, i] = d_x
        adj.v[n, i] = adj.v[n, i] + adj.by_v[n, step + 1, i] + S(0.5) * model.seconds * d_x

    @wp.kernel(enable_backward=False, module="unique")
    def spring_unkick(first: int, model: Model, table: Table, path: Path, adj: Adjoint, slot: int):
        """From the gradient by a particle's velocity after a substep to that by the force on it and by its velocity before."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        adj.pull[n, i] = vec3()
        if model.drive[i] < 0:
            p = table.common[table.row[n]]
            h = model.seconds
            d_v = adj.v[n, i]
            free = path.free[slot, n, i]
            count = model.pushers + model.obstacles
            for back in range(count):
                c = count - 1 - back
                gap, away, carrier = contact(model, p, path, slot, n, i, c)
                if gap < S(0.0):
                    before = met_all(model, p, path, slot, n, i, free, c)
                    d_gap, d_away, d_before, d_carrier, d_friction, d_stiffness, d_damping, _h, _s = wp.grad(met_test)(
                        gap,
                        away,
                        before,
                        carrier,
                        p[wp.static(AT["friction"])],
                        p[wp.static(AT["contact_stiffness"])],
                        p[wp.static(AT["contact_damping"])],
                        h,
                        d_v,
                    )
                    d_v = d_before
                    uncontact(model, p, path, adj, slot, n, i, c, d_gap, d_away, d_carrier)
                    wp.atomic_add(adj.common, n, wp.static(AT["friction"]), d_friction)
                    wp.atomic_add(adj.common, n, wp.static(AT["contact_stiffness"]), d_stiffness)
                    wp.atomic_add(adj.common, n, wp.static(AT["contact_damping"]), d_damping)
            slowed = S(1.0) + h * p[wp.static(AT["drag"])]
            d_v = d_v / slowed
            wp.atomic_add(adj.common, n, wp.static(AT["drag"]), -h * wp.dot(d_v, free))
            wp.atomic_add(adj.common, n, wp.static(AT["gravity"]), -h * d_v[2])
            mass = p[wp.static(AT["mass"])] * model.share[i]
            pushed = slowed * free - path.speed[slot, n, i]
            pushed[2] = pushed[2] + h * p[wp.static(AT["gravity"])]
            wp.atomic_add(adj.common, n, wp.static(AT["mass"]), -wp.dot(d_v, pushed) / p[wp.static(AT["mass"])])
            adj.v[n, i] = d_v
            adj.pull[n, i] = h / mass * d_v

    @wp.kernel(enable_backward=False, module="unique")
    def spring_unspring(first: int, model: Model, table: Table, path: Path, adj: Adjoint, slot: int):
        """From gradients by forces to those by places, velocities, stiffness and damping."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        r = table.row[n]
        p = table.common[r]
        x = path.middle[slot, n, i]
        v = path.speed[slot, n, i]
        pull = adj.pull[n, i]
        d_x = vec3()
        d_v = vec3()
        for half in range(model.first[i], model.first[i + 1]):
            s = model.spring[half]
            k = table.stiffness[r, s]
            j = model.other[half]
            if k > S(0.0):
                e = path.middle[slot, n, j] - x
                w = path.speed[slot, n, j] - v
                q = pull - adj.pull[n, j]
                length = wp.length(e)
                u = e / length
                along = wp.dot(u, q)
                speed = wp.dot(u, w)
                c = table.damping[r, s]
                longer = length - model.rest[s]
                tension = k * longer + c * speed
                d_x = d_x - (along * (k - (tension + c * speed) / length)) * u - (along * c / length) * w - (tension / length) * q
                d_v = d_v - (along * c) * u
                if i < j:
                    adj.stiffness[n, s] = adj.stiffness[n, s] + along * longer
                    adj.damping[n, s] = adj.damping[n, s] + along * speed
        for turn in range(model.partners):
            j = path.partner[n, i, turn]
            if j >= 0:
                d_e, d_w, _width, d_mass, d_friction, d_stiffness, d_damping, _h, _q = wp.grad(touching_power)(
                    path.middle[slot, n, j] - x,
                    path.speed[slot, n, j] - v,
                    width_of(model, p, i, j),
                    reduced_mass(model, p, i, j),
                    p[wp.static(AT["friction"])],
                    p[wp.static(AT["contact_stiffness"])],
                    p[wp.static(AT["contact_damping"])],
                    model.seconds,
                    pull - adj.pull[n, j],
                )
                d_x = d_x - d_e
                d_v = d_v - d_w
                if i < j:
                    if S(2.0) * p[wp.static(AT["radius"])] < S(0.9) * wp.length(model.home[i] - model.home[j]):
                        wp.atomic_add(adj.common, n, wp.static(AT["radius"]), S(2.0) * _width)
                    wp.atomic_add(adj.common, n, wp.static(AT["mass"]), d_mass * reduced_mass(model, p, i, j) / p[wp.static(AT["mass"])])
                    wp.atomic_add(adj.common, n, wp.static(AT["friction"]), d_friction)
                    wp.atomic_add(adj.common, n, wp.static(AT["contact_stiffness"]), d_stiffness)
                    wp.atomic_add(adj.common, n, wp.static(AT["contact_damping"]), d_damping)
        d_x = adj.x[n, i] + d_x
        adj.x[n, i] = d_x
        d_v = adj.v[n, i] + d_v
        if slot > 0:
            d_v = d_v + model.seconds * d_x
        adj.v[n, i] = d_v

    @wp.kernel(enable_backward=False, module="unique")
    def spring_unbegin(first: int, model: Model, path: Path, adj: Adjoint):
        """Back to the state at the start of a step; what is commanded does not depend on it."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        d_v = adj.v[n, i] + S(0.5) * model.seconds * adj.x[n, i]
        u = model.drive[i]
        if u >= 0:
            step = path.step[0]
            wp.atomic_add(adj.actions, n, step, u, d_v[0])
            wp.atomic_add(adj.actions, n, step, u + 1, d_v[1])
            wp.atomic_add(adj.actions, n, step, u + 2, d_v[2])
            d_v = vec3()
        adj.v[n, i] = d_v

    return SimpleNamespace(seed=spring_seed, unkick=spring_unkick, unspring=spring_unspring, unbegin=spring_unbegin)


def made_kernels() -> list[wp.Kernel]:
    """What `structwm.kernels.build` compiles."""
    return [kernel for scalar in (wp.float32, wp.float64) for kernel in vars(backward_kernels(scalar)).values()]
