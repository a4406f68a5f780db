"""A substep of particles joined by springs, forward: one thread a particle of a world. Each gathers the forces of its own springs, so nothing is added up by
several threads and the result is the same for any number of them.

Leapfrog: places half a substep ahead of velocities. Dashpots act in stages, of which the velocities are a Chebyshev polynomial of the damping: s of them stay
stable at s^2 times the damping of one (van der Houwen and Sommeijer, On the internal stability of explicit m-stage Runge-Kutta methods, 1980). `begin` starts a
step, `push` and as many `relax` as there are further stages take a substep, `spring_tick` counts the steps.
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
        share = model.weight[i]
        if model.drive[j] >= 0:
            return p[wp.static(AT["mass"])] * share
        if model.drive[i] >= 0:
            return p[wp.static(AT["mass"])] * model.weight[j]
        return p[wp.static(AT["mass"])] * share * model.weight[j] / (share + model.weight[j])

    @wp.func
    def forces(model: Model, table: Table, path: Path, slot: int, n: int, i: int):
        """On a particle by its springs and by particles that it touches, and by its dashpots [N]."""
        r = table.row[n]
        p = table.common[r]
        x = path.middle[slot, n, i]
        v = path.speed[slot, n, i]
        firm = vec3()
        viscous = vec3()
        for at in range(model.first[i], model.first[i + 1]):
            s = model.spring[at]
            k = table.stiffness[r, s]
            if k > S(0.0):
                j = model.other[at]
                e = path.middle[slot, n, j] - x
                length = wp.length(e)
                firm = firm + (k * (length - model.rest[s]) / length) * e
                viscous = viscous + (table.damping[r, s] * wp.dot(e, path.speed[slot, n, j] - v) / (length * length)) * e
        for at in range(model.partners):
            j = path.partner[n, i, at]
            if j >= 0:
                firm = firm + touching(
                    path.middle[slot, n, j] - x,
                    path.speed[slot, n, j] - v,
                    width_of(model, p, i, j),
                    reduced_mass(model, p, i, j),
                    p[wp.static(AT["friction"])],
                    p[wp.static(AT["contact_stiffness"])],
                    p[wp.static(AT["contact_damping"])],
                    model.seconds,
                )
        return firm, viscous

    @wp.func
    def dashpots(model: Model, table: Table, path: Path, slot: int, at_stage: int, n: int, i: int):
        """The force on a particle by its dashpots at the velocities after a stage [N]."""
        r = table.row[n]
        x = path.middle[slot, n, i]
        v = path.stage[at_stage, n, i]
        total = vec3()
        for at in range(model.first[i], model.first[i + 1]):
            c = table.damping[r, model.spring[at]]
            if c > S(0.0):
                j = model.other[at]
                e = path.middle[slot, n, j] - x
                total = total + (c * wp.dot(e, path.stage[at_stage, n, j] - v) / wp.dot(e, e)) * e
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
    def slowed(model: Model, p: row_type):
        """By which factor drag divides velocities in a substep."""
        return S(1.0) + model.seconds * p[wp.static(AT["drag"])]

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})


@cache
def forward_kernels(scalar: type) -> Any:
    """`begin`, `push`, `relax` for one type of number."""
    S = scalar
    T = types(S)
    vec3, Model, Table, Path = T.vec3, T.Model, T.Table, T.Path
    D = dynamics(S)
    forces, dashpots, met_all, slowed = D.forces, D.dashpots, D.met_all, D.slowed
    row_type = wp.array(dtype=S)

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

    @wp.func
    def finish(model: Model, p: row_type, path: Path, slot: int, after: int, n: int, i: int, v: vec3):
        """Drag and contact end a substep; then the places move on, to another slot or, where that is -1, to the state at the next step."""
        x = path.middle[slot, n, i]
        if model.drive[i] < 0:
            v = met_all(model, p, path, slot, n, i, v / slowed(model, p), model.pushers + model.obstacles)
        if after < 0:
            step = path.step[0]
            path.v[n, step + 1, i] = v
            path.x[n, step + 1, i] = x + S(0.5) * model.seconds * v
        else:
            path.speed[after, n, i] = v
            path.middle[after, n, i] = x + model.seconds * v

    @wp.kernel(enable_backward=False, module="unique")
    def spring_push(first: int, model: Model, table: Table, path: Path, slot: int, after: int):
        """The first stage of a substep: all forces."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        p = table.common[table.row[n]]
        v = path.speed[slot, n, i]
        if model.drive[i] < 0:
            firm, viscous = forces(model, table, path, slot, n, i)
            light = S(1.0) / (p[wp.static(AT["mass"])] * model.weight[i])
            push = light * firm - vec3(S(0.0), S(0.0), p[wp.static(AT["gravity"])])
            path.push[slot, n, i] = push
            v = v + model.share[0] * (push + light * viscous)
        path.stage[slot * model.stages, n, i] = v
        if model.stages == 1:
            finish(model, p, path, slot, after, n, i, v)

    @wp.kernel(enable_backward=False, module="unique")
    def spring_relax(first: int, model: Model, table: Table, path: Path, slot: int, after: int, j: int):
        """A further stage: dashpots at the velocities after stage j, which makes those after j + 1 (counted from 0)."""
        at = first + wp.tid()
        n = at // model.particles
        i = at - n * model.particles
        p = table.common[table.row[n]]
        before = slot * model.stages + j
        v = path.stage[before, n, i]
        if model.drive[i] < 0:
            second = path.speed[slot, n, i]
            if j > 0:
                second = path.stage[before - 1, n, i]
            viscous = dashpots(model, table, path, slot, before, n, i) / (p[wp.static(AT["mass"])] * model.weight[i])
            v = model.carry[j + 1] * v + model.carry_second[j + 1] * second + model.share[j + 1] * (path.push[slot, n, i] + viscous)
        path.stage[before + 1, n, i] = v
        if j + 2 == model.stages:
            finish(model, p, path, slot, after, n, i, v)

    return SimpleNamespace(begin=spring_begin, push=spring_push, relax=spring_relax)


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
