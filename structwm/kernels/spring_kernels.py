"""A substep of particles joined by springs, forward: one thread a particle of a world. Each gathers the forces of its own springs, so nothing is added up by
several threads and the result is the same for any number of them.

Leapfrog: places half a substep ahead of velocities. `begin` starts a step, `advance` takes a substep, `spring_tick` counts the steps.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from . import spring_layout as layout
from .obstacle_laws import obstacle_laws
from .spring_laws import laws
from .spring_structs import types

AT = {name: k for k, name in enumerate(layout.COLUMNS)}


@cache
def dynamics(scalar: type) -> Any:
    """The functions for one type of number."""
    S = scalar
    T = types(S)
    vec3, Model, Table, Path = T.vec3, T.Model, T.Table, T.Path
    L = laws(S)
    met, touching, nearest = L.met, L.touching, obstacle_laws(S).nearest
    row_type = wp.array(dtype=S)

    @wp.func
    def width_of(model: Model, p: row_type, i: int, j: int):
        """Distance below which two particles push each other apart [m]: less than they are apart at rest."""
        return wp.min(S(2.0) * p[wp.static(AT["radius"])], S(0.9) * wp.length(model.home[i] - model.home[j]))

    @wp.func
    def reduced_mass(model: Model, p: row_type, i: int, j: int):
        """Of two particles [kg]; a driven one weighs as much as the world."""
        share = model.share[i]
        if model.drive[j] >= 0:
            return p[wp.static(AT["mass"])] * share
        if model.drive[i] >= 0:
            return p[wp.static(AT["mass"])] * model.share[j]
        return p[wp.static(AT["mass"])] * share * model.share[j] / (share + model.share[j])

    @wp.func
    def force(model: Model, table: Table, path: Path, slot: int, n: int, i: int):
        """On a particle, by its springs and by particles that it touches [N]."""
        r = table.row[n]
        p = table.common[r]
        x = path.middle[slot, n, i]
        v = path.speed[slot, n, i]
        total = vec3()
        for at in range(model.first[i], model.first[i + 1]):
            s = model.spring[at]
            k = table.stiffness[r, s]
            if k > S(0.0):
                j = model.other[at]
                e = path.middle[slot, n, j] - x
                length = wp.length(e)
                u = e / length
                tension = k * (length - model.rest[s]) + table.damping[r, s] * wp.dot(u, path.speed[slot, n, j] - v)
                total = total + tension * u
        for at in range(model.partners):
            j = path.partner[n, i, at]
            if j >= 0:
                total = total + touching(
                    path.middle[slot, n, j] - x,
                    path.speed[slot, n, j] - v,
                    width_of(model, p, i, j),
                    reduced_mass(model, p, i, j),
                    p[wp.static(AT["friction"])],
                    p[wp.static(AT["contact_stiffness"])],
                    p[wp.static(AT["contact_damping"])],
                    model.seconds,
                )
        return total

    @wp.func
    def contact(model: Model, p: row_type, path: Path, slot: int, n: int, i: int, c: int):
        """How far a particle's surface is from a pusher's or an obstacle's [m], the direction away, and the velocity of what it touches."""
        x = path.middle[slot, n, i]
        radius = p[wp.static(AT["radius"])]
        if c < model.pushers:
            k = model.pusher[c]
            e = x - path.middle[slot, n, k]
            length = wp.max(wp.length(e), S(1.0e-9))
            return length - model.reach[c] - radius, e / length, path.speed[slot, n, k]
        o = c - model.pushers
        gap, away = nearest(model.kind[o], model.size[o], model.turn[o], model.place[o], x)
        return gap - radius, away, vec3()

    @wp.func
    def met_all(model: Model, p: row_type, path: Path, slot: int, n: int, i: int, v: vec3, count: int):
        """The velocity of a free particle after contact with the first `count` of pushers and obstacles."""
        after = v
        for c in range(count):
            gap, away, carrier = contact(model, p, path, slot, n, i, c)
            if gap < S(0.0):
                after = met(
                    gap,
                    away,
                    after,
                    carrier,
                    p[wp.static(AT["friction"])],
                    p[wp.static(AT["contact_stiffness"])],
                    p[wp.static(AT["contact_damping"])],
                    model.seconds,
                )
        return after

    @wp.func
    def freed(model: Model, p: row_type, v: vec3, pull: vec3, i: int):
        """The velocity after a substep but for contact, under a force [N], weight and drag."""
        h = model.seconds
        v = v + h / (p[wp.static(AT["mass"])] * model.share[i]) * pull
        v[2] = v[2] - h * p[wp.static(AT["gravity"])]
        return v / (S(1.0) + h * p[wp.static(AT["drag"])])

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})


@cache
def forward_kernels(scalar: type) -> Any:
    """`begin`, `advance`, `tick` for one type of number."""
    S = scalar
    T = types(S)
    vec3, Model, Table, Path = T.vec3, T.Model, T.Table, T.Path
    D = dynamics(S)
    force, met_all, freed = D.force, D.met_all, D.freed

    @wp.kernel(enable_backward=False, module="unique")
    def spring_begin(first: int, model: Model, table: Table, path: Path):
        """From the state at a step to the first places half a substep ahead, with driven particles as commanded."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        step = path.step[0]
        v = path.v[n, step, i]
        u = model.drive[i]
        if u >= 0:
            v = vec3(path.actions[n, step, u], path.actions[n, step, u + 1], path.actions[n, step, u + 2])
        path.speed[0, n, i] = v
        path.middle[0, n, i] = path.x[n, step, i] + S(0.5) * model.seconds * v

    @wp.kernel(enable_backward=False, module="unique")
    def spring_advance(first: int, model: Model, table: Table, path: Path, slot: int, after: int, last: int, keep: int):
        """One substep, from one slot to another, or to the state at the next step if it is the `last`; `keep`: note the velocities before contact."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        v = path.speed[slot, n, i]
        x = path.middle[slot, n, i]
        if model.drive[i] < 0:
            p = table.common[table.row[n]]
            v = freed(model, p, v, force(model, table, path, slot, n, i), i)
            if keep == 1:
                path.free[slot, n, i] = v
            v = met_all(model, p, path, slot, n, i, v, model.pushers + model.obstacles)
        if last == 1:
            step = path.step[0]
            path.v[n, step + 1, i] = v
            path.x[n, step + 1, i] = x + S(0.5) * model.seconds * v
        else:
            path.speed[after, n, i] = v
            path.middle[after, n, i] = x + model.seconds * v

    return SimpleNamespace(begin=spring_begin, advance=spring_advance)


@wp.kernel(enable_backward=False, module="unique")
def spring_tick(step: wp.array(dtype=wp.int32), by: int):
    """Go on to another step."""
    step[0] = step[0] + by


def made_kernels() -> list[wp.Kernel]:
    """What `structwm.kernels.build` compiles."""
    found = [spring_tick]
    for scalar in (wp.float32, wp.float64):
        found += list(vars(forward_kernels(scalar)).values())
    return found
