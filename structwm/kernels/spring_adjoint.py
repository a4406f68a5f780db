"""The backward pass of a substep of springs: vector-Jacobian products of `spring_kernels`, one thread a particle of a world.

`seed` takes in the gradients by the state at the end of a step. `unfinish` goes back through contact and drag, `unrelax` through a stage of the dashpots,
`unpush` through the first stage, with all forces, and through the moving on before. `unbegin` ends a step. A particle gathers what the forces of its own
springs ask of its place and velocity; a spring's own gradients are added up by the end with the lower number.
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
    """`seed`, `unfinish`, `unrelax`, `unpush`, `unbegin` for one type of number."""
    S = scalar
    T = types(S)
    vec3, Model, Table, Path, Adjoint = T.vec3, T.Model, T.Table, T.Path, T.Adjoint
    D, L = dynamics(S), laws(S)
    width_of, reduced_mass, contact, met_all, slowed = D.width_of, D.reduced_mass, D.contact, D.met_all, D.slowed
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
    def spring_unfinish(first: int, model: Model, table: Table, path: Path, adj: Adjoint, slot: int):
        """Back through contact and drag to the velocity after the last stage."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        d_v = adj.v[n, i]
        if model.drive[i] < 0:
            p = table.common[table.row[n]]
            h = model.seconds
            slow = slowed(model, p)
            free = path.stage[slot * model.stages + model.stages - 1, n, i] / slow
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
            d_v = d_v / slow
            wp.atomic_add(adj.common, n, wp.static(AT["drag"]), -h * wp.dot(d_v, free))
            adj.stage[model.stages % 3, n, i] = d_v
        else:
            adj.stage[model.stages % 3, n, i] = vec3()
        adj.stage[(model.stages + 2) % 3, n, i] = vec3()
        adj.stage[(model.stages + 1) % 3, n, i] = vec3()
        adj.push[n, i] = vec3()

    @wp.func
    def pulled(model: Model, p: row_type, adj: Adjoint, j: int, n: int, i: int):
        """The gradient by the dashpots' force in stage j (counted from 1) [per N]."""
        return model.share[j - 1] / (p[wp.static(AT["mass"])] * model.weight[i]) * adj.stage[j % 3, n, i]

    @wp.func
    def pulled_all(model: Model, p: row_type, adj: Adjoint, n: int, i: int):
        """The gradient by the other forces, which act in all stages [per N]."""
        return pulled(model, p, adj, 1, n, i) + adj.push[n, i] / (p[wp.static(AT["mass"])] * model.weight[i])

    @wp.func
    def undash(e: vec3, w: vec3, q: vec3, c: S):
        """What a dashpot's force c (e . w) e / e^2 adds to the gradients by a particle's place and velocity and by c: `e` to the other end, which moves at `w`
        beside it, `q` the difference of the gradients by the forces on both."""
        square = wp.dot(e, e)
        along = wp.dot(e, q)
        speed = wp.dot(e, w)
        by_x = (c / square) * ((S(2.0) * along * speed / square) * e - along * w - speed * q)
        return by_x, -(c * along / square) * e, along * speed / square

    @wp.func
    def weigh(model: Model, p: row_type, path: Path, adj: Adjoint, slot: int, j: int, n: int, i: int):
        """Gradients by mass and gravity of what stage j (counted from 1) changes."""
        d_v = adj.stage[j % 3, n, i]
        at = slot * model.stages + j - 1
        change = path.stage[at, n, i]
        if j == 1:
            change = change - path.speed[slot, n, i]
        else:
            second = path.speed[slot, n, i]
            if j > 2:
                second = path.stage[at - 2, n, i]
            change = change - model.carry[j - 1] * path.stage[at - 1, n, i] - model.carry_second[j - 1] * second
        share = model.share[j - 1]
        falling = share * d_v[2]
        mass = p[wp.static(AT["mass"])]
        wp.atomic_add(adj.common, n, wp.static(AT["gravity"]), -falling)
        wp.atomic_add(adj.common, n, wp.static(AT["mass"]), -(wp.dot(d_v, change) + falling * p[wp.static(AT["gravity"])]) / mass)

    @wp.kernel(enable_backward=False, module="unique")
    def spring_unrelax(first: int, model: Model, table: Table, path: Path, adj: Adjoint, slot: int, j: int):
        """Back through stage j of two or more (counted from 1)."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        r = table.row[n]
        p = table.common[r]
        x = path.middle[slot, n, i]
        before = slot * model.stages + j - 2
        v = path.stage[before, n, i]
        pull = pulled(model, p, adj, j, n, i)
        d_x = vec3()
        d_v = vec3()
        for half in range(model.first[i], model.first[i + 1]):
            s = model.spring[half]
            c = table.damping[r, s]
            k = model.other[half]
            if c > S(0.0):
                e = path.middle[slot, n, k] - x
                w = path.stage[before, n, k] - v
                q = pull - pulled(model, p, adj, j, n, k)
                by_x, by_v, by_c = undash(e, w, q, c)
                d_x = d_x + by_x
                d_v = d_v + by_v
                if i < k:
                    adj.damping[n, s] = adj.damping[n, s] + by_c
        adj.x[n, i] = adj.x[n, i] + d_x
        if model.drive[i] < 0:
            weigh(model, p, path, adj, slot, j, n, i)
            own = adj.stage[j % 3, n, i]
            adj.push[n, i] = adj.push[n, i] + model.share[j - 1] * own
            adj.stage[(j + 2) % 3, n, i] = adj.stage[(j + 2) % 3, n, i] + model.carry[j - 1] * own + d_v
            adj.stage[(j + 1) % 3, n, i] = model.carry_second[j - 1] * own
        else:
            adj.v[n, i] = adj.v[n, i] + d_v

    @wp.kernel(enable_backward=False, module="unique")
    def spring_unpush(first: int, model: Model, table: Table, path: Path, adj: Adjoint, slot: int):
        """Back through the first stage, and through the moving on of the places before."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        r = table.row[n]
        p = table.common[r]
        x = path.middle[slot, n, i]
        v = path.speed[slot, n, i]
        pull = pulled(model, p, adj, 1, n, i)
        whole = pulled_all(model, p, adj, n, i)
        d_x = vec3()
        d_v = vec3()
        for half in range(model.first[i], model.first[i + 1]):
            s = model.spring[half]
            k = table.stiffness[r, s]
            j = model.other[half]
            if k > S(0.0):
                e = path.middle[slot, n, j] - x
                w = path.speed[slot, n, j] - v
                q = pull - pulled(model, p, adj, 1, n, j)
                q_all = whole - pulled_all(model, p, adj, n, j)
                by_x, by_v, by_c = undash(e, w, q, table.damping[r, s])
                square = wp.dot(e, e)
                length = wp.sqrt(square)
                along = wp.dot(e, q_all)
                longer = length - model.rest[s]
                d_x = d_x + by_x - (k * along * model.rest[s] / (square * length)) * e - (k * longer / length) * q_all
                d_v = d_v + by_v
                if i < j:
                    adj.stiffness[n, s] = adj.stiffness[n, s] + along * longer / length
                    adj.damping[n, s] = adj.damping[n, s] + by_c
        for turn in range(model.partners):
            j = path.partner[n, i, turn]
            if j >= 0:
                d_e, d_w, d_width, d_mass, d_friction, d_stiffness, d_damping, _h, _q = wp.grad(touching_power)(
                    path.middle[slot, n, j] - x,
                    path.speed[slot, n, j] - v,
                    width_of(model, p, i, j),
                    reduced_mass(model, p, i, j),
                    p[wp.static(AT["friction"])],
                    p[wp.static(AT["contact_stiffness"])],
                    p[wp.static(AT["contact_damping"])],
                    model.seconds,
                    whole - pulled_all(model, p, adj, n, j),
                )
                d_x = d_x - d_e
                d_v = d_v - d_w
                if i < j:
                    if S(2.0) * p[wp.static(AT["radius"])] < S(0.9) * wp.length(model.home[i] - model.home[j]):
                        wp.atomic_add(adj.common, n, wp.static(AT["radius"]), S(2.0) * d_width)
                    wp.atomic_add(adj.common, n, wp.static(AT["mass"]), d_mass * reduced_mass(model, p, i, j) / p[wp.static(AT["mass"])])
                    wp.atomic_add(adj.common, n, wp.static(AT["friction"]), d_friction)
                    wp.atomic_add(adj.common, n, wp.static(AT["contact_stiffness"]), d_stiffness)
                    wp.atomic_add(adj.common, n, wp.static(AT["contact_damping"]), d_damping)
        if model.drive[i] < 0:
            weigh(model, p, path, adj, slot, 1, n, i)
            d_v = d_v + adj.stage[1, n, i] + adj.stage[0, n, i]
        else:
            d_v = d_v + adj.v[n, i]
        d_x = adj.x[n, i] + d_x
        adj.x[n, i] = d_x
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

    return SimpleNamespace(seed=spring_seed, unfinish=spring_unfinish, unrelax=spring_unrelax, unpush=spring_unpush, unbegin=spring_unbegin)


def made_kernels() -> list[wp.Kernel]:
    """What `structwm.kernels.build` compiles."""
    return [kernel for scalar in (wp.float32, wp.float64) for kernel in vars(backward_kernels(scalar)).values()]
