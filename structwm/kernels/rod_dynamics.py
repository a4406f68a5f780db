"""A substep of a discrete elastic rod: one thread a rod. `rod_laws` says what the elements do; here they are put into one banded matrix and solved.

Vertices are coupled with their neighbours and the next but one, so the matrix is block pentadiagonal and its factor costs as much as a few passes over the rod.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import warp as wp

from . import rod_layout as layout
from .obstacle_laws import obstacle_laws
from .rod_laws import ALPHA, BENT, STRAIGHT, laws
from .rod_structs import types

AT = {name: k for k, name in enumerate(layout.COLUMNS)}


@cache
def dynamics(scalar: type, *, whole: bool | None = None) -> Any:
    """The functions for one type of number; `whole`: whether the largest are inlined, as `wp.func` takes it."""
    S = scalar
    T = types(S)
    vec2, vec3, mat33, Model, Scratch = T.vec2, T.vec3, T.mat33, T.Model, T.Scratch
    L = laws(S, whole=whole)
    curvature, torque, rolled, pressed, rubbed = L.curvature, L.torque, L.rolled, L.pressed, L.rubbed
    natural_at_end, natural_torque = L.natural_at_end, L.natural_torque
    nearest = obstacle_laws(S, whole=whole).nearest
    row_type, points_type, ends_type = wp.array(dtype=S), wp.array(dtype=vec3), wp.array(dtype=S)

    @wp.func
    def rest_of(model: Model, p: row_type, k: int):
        """Rest length of an edge [m]."""
        return model.rest[k] * p[wp.static(AT["length"])]

    @wp.func
    def share_of(model: Model, p: row_type, k: int):
        """Length that an inner vertex stands for [m]."""
        return S(0.5) * (model.rest[k - 1] + model.rest[k]) * p[wp.static(AT["length"])]

    @wp.func
    def span_of(model: Model, k: int):
        """Length that a vertex carries, at length 1 [m]."""
        span = S(0.0)
        if k > 0:
            span += S(0.5) * model.rest[k - 1]
        if k < model.vertices - 1:
            span += S(0.5) * model.rest[k]
        return span

    @wp.func
    def mass_of(model: Model, p: row_type, k: int):
        return p[wp.static(AT["vertex_mass"])] + p[wp.static(AT["line_density"])] * p[wp.static(AT["length"])] * span_of(model, k)

    @wp.func
    def natural_of(p: row_type, k: int):
        """Natural curvature of an inner vertex of a rod that twists, along the director and across it [-]."""
        at = 2 * (k - 1) + wp.static(len(layout.COLUMNS))
        return vec2(p[at], p[at + 1])

    @wp.func
    def spin_inertia(model: Model, p: row_type, k: int):
        """Of an edge about itself, a solid cylinder's [kg m^2]."""
        radius = p[wp.static(AT["radius"])]
        return S(0.5) * p[wp.static(AT["line_density"])] * rest_of(model, p, k) * radius * radius

    @wp.func
    def skew(a: vec3):
        return mat33(S(0.0), -a[2], a[1], a[2], S(0.0), -a[0], -a[1], a[0], S(0.0))

    @wp.func
    def touch(model: Model, p: row_type, o: int, x: vec3):
        """How far a vertex's surface is from an obstacle's, less than 0 where they overlap, and the direction away from it."""
        gap, n = nearest(model.kind[o], model.size[o], model.turn[o], model.place[o], x)
        return gap - p[wp.static(AT["radius"])], n

    @wp.func
    def strongest(model: Model, p: row_type, x: vec3, v: vec3):
        """The obstacle that presses a vertex most at a velocity; -1: none."""
        found = wp.int32(-1)
        most = S(0.0)
        for o in range(model.obstacles):
            gap, n = touch(model, p, o, x)
            if gap < S(0.0):
                press = pressed(gap, n, v, p[wp.static(AT["contact_stiffness"])], p[wp.static(AT["contact_damping"])], model.seconds)
                if press > most:
                    most = press
                    found = o
        return found

    @wp.func
    def vertex_terms(model: Model, p: row_type, x: points_type, v: points_type, scratch: Scratch, i: int, k: int):
        """Inertia, weight, drag and contact along the normal of a vertex: its first block and right-hand side."""
        h = model.seconds
        mass = mass_of(model, p, k)
        slow = p[wp.static(AT["drag"])] + p[wp.static(AT["quadratic_drag"])] * wp.length(v[k])
        block = mass * (S(1.0) + h * slow) * wp.identity(3, S)
        right = -h * mass * (vec3(S(0.0), S(0.0), p[wp.static(AT["gravity"])]) + slow * v[k])
        for o in range(model.obstacles):
            gap, n = touch(model, p, o, x[k])
            if gap < S(0.0):
                stiffness = p[wp.static(AT["contact_stiffness"])]
                damping = p[wp.static(AT["contact_damping"])]
                press = pressed(gap, n, v[k], stiffness, damping, h)
                if press > S(0.0):
                    block = block + (h * stiffness * (h + damping)) * wp.outer(n, n)
                    right = right + (h * press) * n
        scratch.diagonal[i, k] = block
        scratch.next[i, k] = mat33()
        scratch.second[i, k] = mat33()
        scratch.delta[i, k] = right

    @wp.func
    def stretch_terms(model: Model, p: row_type, x: points_type, v: points_type, scratch: Scratch, i: int, k: int):
        h = model.seconds
        e = x[k + 1] - x[k]
        n = wp.length(e)
        u = e / n
        rest = rest_of(model, p, k)
        stiffness = p[wp.static(AT["stretch_stiffness"])] / rest
        lag = h + p[wp.static(AT["stretch_damping"])]
        pull = h * stiffness * (n - rest + lag * wp.dot(u, v[k + 1] - v[k])) * u
        block = h * stiffness * lag * wp.outer(u, u)
        scratch.delta[i, k] = scratch.delta[i, k] + pull
        scratch.delta[i, k + 1] = scratch.delta[i, k + 1] - pull
        scratch.diagonal[i, k] = scratch.diagonal[i, k] + block
        scratch.diagonal[i, k + 1] = scratch.diagonal[i, k + 1] + block
        scratch.next[i, k] = scratch.next[i, k] - block

    @wp.func
    def joint_terms(model: Model, p: row_type, x: points_type, v: points_type, m: points_type, s: ends_type, scratch: Scratch, i: int, k: int):
        """Bending and twisting of an inner vertex."""
        h = model.seconds
        e0 = x[k] - x[k - 1]
        e1 = x[k + 1] - x[k]
        share = share_of(model, p, k)
        n0 = wp.length(e0)
        n1 = wp.length(e1)
        kappa, chi = curvature(e0, e1)
        j0 = (S(-2.0) * skew(e1) - wp.outer(kappa, e0 * (n1 / n0) + e1)) / chi
        j1 = (S(2.0) * skew(e0) - wp.outer(kappa, e1 * (n0 / n1) + e0)) / chi
        stiffness = p[wp.static(AT["bend_stiffness"])] / share
        damping = p[wp.static(AT["bend_damping"])] / share / (wp.dot(kappa, kappa) + S(STRAIGHT * STRAIGHT))
        rate = wp.dot(kappa, j0 @ (v[k] - v[k - 1]) + j1 @ (v[k + 1] - v[k]))
        loaded = kappa
        own0 = j0
        own1 = j1
        if model.directors > 0:
            scale = p[wp.static(AT["curvature_scale"])]
            natural = natural_of(p, k)
            k0 = natural_at_end(e0, m[k - 1], h * (s[k - 1] + scratch.roll_delta[i, k - 1]), natural, scale)
            k1 = natural_at_end(e1, m[k], h * (s[k] + scratch.roll_delta[i, k]), natural, scale)
            loaded = kappa - S(0.5) * (k0 + k1)
            own0 = j0 + wp.outer(e0 * (S(0.5) / (n0 * n0)), k0)
            own1 = j1 + wp.outer(e1 * (S(0.5) / (n1 * n1)), k1)
        added = S(ALPHA) * h * h * stiffness / (wp.dot(loaded, loaded) + S(BENT * BENT))
        moment = stiffness * loaded + damping * rate * kappa
        weight = added * S(BENT * BENT) * wp.identity(3, S) + added * wp.outer(loaded, loaded)
        damps = h * damping * wp.outer(kappa, kappa)
        f0 = h * (wp.transpose(j0) @ moment)
        f1 = h * (wp.transpose(j1) @ moment)
        b00 = wp.transpose(own0) @ weight @ own0 + wp.transpose(j0) @ damps @ j0
        b01 = wp.transpose(own0) @ weight @ own1 + wp.transpose(j0) @ damps @ j1
        b11 = wp.transpose(own1) @ weight @ own1 + wp.transpose(j1) @ damps @ j1
        if model.directors > 0:
            stiffness = p[wp.static(AT["twist_stiffness"])] / share
            spin = s[k] + scratch.roll_delta[i, k] - s[k - 1] - scratch.roll_delta[i, k - 1]
            turning = h * torque(e0, e1, m[k - 1], m[k], spin, stiffness, p[wp.static(AT["twist_damping"])], h)
            g0 = S(0.5) / n0 * kappa
            g1 = S(0.5) / n1 * kappa
            f0 = f0 + turning * g0
            f1 = f1 + turning * g1
            weigh = S(ALPHA) * h * h * stiffness
            b00 = b00 + weigh * wp.outer(g0, g0)
            b01 = b01 + weigh * wp.outer(g0, g1)
            b11 = b11 + weigh * wp.outer(g1, g1)
        scratch.delta[i, k - 1] = scratch.delta[i, k - 1] + f0
        scratch.delta[i, k] = scratch.delta[i, k] - f0 + f1
        scratch.delta[i, k + 1] = scratch.delta[i, k + 1] - f1
        scratch.diagonal[i, k - 1] = scratch.diagonal[i, k - 1] + b00
        scratch.diagonal[i, k] = scratch.diagonal[i, k] + b00 + b11 - b01 - wp.transpose(b01)
        scratch.diagonal[i, k + 1] = scratch.diagonal[i, k + 1] + b11
        scratch.next[i, k - 1] = scratch.next[i, k - 1] + b01 - b00
        scratch.next[i, k] = scratch.next[i, k] + b01 - b11
        scratch.second[i, k - 1] = scratch.second[i, k - 1] - b01

    @wp.func(inline=whole)
    def solve_roll(model: Model, scratch: Scratch, i: int):
        """Replace the spins' right-hand side by the solution."""
        edges = model.directors
        for k in range(1, edges):
            scratch.roll_delta[i, k] = scratch.roll_delta[i, k] - scratch.roll_next[i, k - 1] / scratch.roll_diagonal[i, k - 1] * scratch.roll_delta[i, k - 1]
        for back in range(edges):
            k = edges - 1 - back
            spin = S(scratch.roll_delta[i, k])
            if k < edges - 1:
                spin -= scratch.roll_next[i, k] * scratch.roll_delta[i, k + 1]
            scratch.roll_delta[i, k] = spin / scratch.roll_diagonal[i, k]

    @wp.func
    def natural_torques(model: Model, p: row_type, x: points_type, m: points_type, s: ends_type, scratch: Scratch, i: int, k: int):
        """Natural curvature of an inner vertex turns the edges beside it towards where the rod is bent."""
        h = model.seconds
        stiffness = p[wp.static(AT["curvature_scale"])] * p[wp.static(AT["bend_stiffness"])] / share_of(model, p, k)
        kappa, _chi = curvature(x[k] - x[k - 1], x[k + 1] - x[k])
        for j in range(k - 1, k + 1):
            turn, less = natural_torque(x[j + 1] - x[j], m[j], kappa, natural_of(p, k), stiffness)
            scratch.roll_delta[i, j] = scratch.roll_delta[i, j] + h * (turn - h * less * s[j])
            scratch.roll_diagonal[i, j] = scratch.roll_diagonal[i, j] + h * h * less

    @wp.func(inline=whole)
    def roll(model: Model, p: row_type, x: points_type, m: points_type, s: ends_type, scratch: Scratch, i: int):
        """The changes of spin over a substep, in `scratch.roll_delta`, and the factor of their matrix, which is tridiagonal."""
        h = model.seconds
        for k in range(model.directors):
            scratch.roll_diagonal[i, k] = spin_inertia(model, p, k)
            scratch.roll_next[i, k] = S(0.0)
            scratch.roll_delta[i, k] = S(0.0)
        lag = h + p[wp.static(AT["twist_damping"])]
        for k in range(1, model.directors):
            stiffness = p[wp.static(AT["twist_stiffness"])] / share_of(model, p, k)
            moment = h * torque(x[k] - x[k - 1], x[k + 1] - x[k], m[k - 1], m[k], s[k] - s[k - 1], stiffness, p[wp.static(AT["twist_damping"])], h)
            bound = h * stiffness * lag
            scratch.roll_delta[i, k - 1] = scratch.roll_delta[i, k - 1] + moment
            scratch.roll_delta[i, k] = scratch.roll_delta[i, k] - moment
            scratch.roll_diagonal[i, k - 1] = scratch.roll_diagonal[i, k - 1] + bound
            scratch.roll_diagonal[i, k] = scratch.roll_diagonal[i, k] + bound
            scratch.roll_next[i, k - 1] = scratch.roll_next[i, k - 1] - bound
            natural_torques(model, p, x, m, s, scratch, i, k)
        for k in range(model.directors):
            if model.roll[k] != -1:
                scratch.roll_diagonal[i, k] = S(1.0)
                scratch.roll_next[i, k] = S(0.0)
                scratch.roll_delta[i, k] = S(0.0)
                if k > 0:
                    scratch.roll_next[i, k - 1] = S(0.0)
        for k in range(1, model.directors):
            up = scratch.roll_next[i, k - 1]
            scratch.roll_diagonal[i, k] = scratch.roll_diagonal[i, k] - up * up / scratch.roll_diagonal[i, k - 1]
        solve_roll(model, scratch, i)

    @wp.func
    def assemble(model: Model, p: row_type, x: points_type, v: points_type, m: points_type, s: ends_type, scratch: Scratch, i: int):
        """Matrix and right-hand side, with nothing left to solve for what is driven."""
        n = model.vertices
        for k in range(n):
            vertex_terms(model, p, x, v, scratch, i, k)
        for k in range(n - 1):
            stretch_terms(model, p, x, v, scratch, i, k)
        for k in range(1, n - 1):
            joint_terms(model, p, x, v, m, s, scratch, i, k)
        for k in range(n):
            if model.drive[k] >= 0:
                scratch.diagonal[i, k] = wp.identity(3, S)
                scratch.next[i, k] = mat33()
                scratch.second[i, k] = mat33()
                scratch.delta[i, k] = vec3()
                if k > 0:
                    scratch.next[i, k - 1] = mat33()
                if k > 1:
                    scratch.second[i, k - 2] = mat33()

    @wp.func
    def factorise(model: Model, scratch: Scratch, i: int):
        """L D L^T by blocks: the inverses of D's blocks on the diagonal, D L^T beside it."""
        for k in range(model.vertices):
            pivot = scratch.diagonal[i, k]
            if k > 0:
                up = scratch.next[i, k - 1]
                held = wp.transpose(up) @ scratch.diagonal[i, k - 1]
                pivot = pivot - held @ up
                scratch.next[i, k] = scratch.next[i, k] - held @ scratch.second[i, k - 1]
            if k > 1:
                up = scratch.second[i, k - 2]
                pivot = pivot - wp.transpose(up) @ scratch.diagonal[i, k - 2] @ up
            scratch.diagonal[i, k] = wp.inverse(pivot)

    @wp.func(inline=whole)
    def solve(model: Model, scratch: Scratch, i: int):
        """Replace the right-hand side by the solution."""
        n = model.vertices
        for k in range(n):
            right = scratch.delta[i, k]
            if k > 0:
                right = right - wp.transpose(scratch.next[i, k - 1]) @ (scratch.diagonal[i, k - 1] @ scratch.delta[i, k - 1])
            if k > 1:
                right = right - wp.transpose(scratch.second[i, k - 2]) @ (scratch.diagonal[i, k - 2] @ scratch.delta[i, k - 2])
            scratch.delta[i, k] = right
        for back in range(n):
            k = n - 1 - back
            right = scratch.delta[i, k]
            if k < n - 1:
                right = right - scratch.next[i, k] @ scratch.delta[i, k + 1]
            if k < n - 2:
                right = right - scratch.second[i, k] @ scratch.delta[i, k + 2]
            scratch.delta[i, k] = scratch.diagonal[i, k] @ right

    @wp.func
    def begin(
        model: Model,
        x: points_type,
        v: points_type,
        m: points_type,
        s: ends_type,
        u: row_type,
        x_now: points_type,
        v_now: points_type,
        m_now: points_type,
        s_now: ends_type,
    ):
        """Copy a state, with the velocities and spins that are commanded."""
        for k in range(model.vertices):
            x_now[k] = x[k]
            v_now[k] = v[k]
            at = model.drive[k]
            if at >= 0:
                v_now[k] = vec3(u[at], u[at + 1], u[at + 2])
        for k in range(model.directors):
            m_now[k] = m[k]
            s_now[k] = s[k]
            at = model.roll[k]
            if at >= 0:
                s_now[k] = u[at]
            elif at == -2:
                s_now[k] = S(0.0)

    @wp.func(inline=whole)
    def drift(
        model: Model,
        x: points_type,
        v: points_type,
        m: points_type,
        s: ends_type,
        seconds: S,
        x_after: points_type,
        m_after: points_type,
    ):
        """Move on at the present velocities; the places after may be those before."""
        for k in range(model.directors):
            e = x[k + 1] - x[k]
            m_after[k] = rolled(e, e + seconds * (v[k + 1] - v[k]), m[k], seconds * s[k])
        for k in range(model.vertices):
            x_after[k] = x[k] + seconds * v[k]

    @wp.func(inline=whole)
    def kick(model: Model, p: row_type, x: points_type, v: points_type, m: points_type, s: ends_type, scratch: Scratch, i: int):
        """The changes of velocity and spin over a substep but for friction, in `scratch`."""
        roll(model, p, x, m, s, scratch, i)
        assemble(model, p, x, v, m, s, scratch, i)
        factorise(model, scratch, i)
        solve(model, scratch, i)

    @wp.func(inline=whole)
    def change(model: Model, p: row_type, x: points_type, v: points_type, s: ends_type, scratch: Scratch, i: int, v_after: points_type, s_after: ends_type):
        """Velocities and spins at the end of the substep, with friction by the obstacle that presses most; they may be those at its start."""
        for k in range(model.vertices):
            after = v[k] + scratch.delta[i, k]
            if model.drive[k] < 0:
                o = strongest(model, p, x[k], after)
                if o >= 0:
                    gap, n = touch(model, p, o, x[k])
                    after = rubbed(
                        gap,
                        n,
                        after,
                        mass_of(model, p, k),
                        p[wp.static(AT["friction"])],
                        p[wp.static(AT["contact_stiffness"])],
                        p[wp.static(AT["contact_damping"])],
                        model.seconds,
                    )
            v_after[k] = after
        for k in range(model.directors):
            s_after[k] = s[k] + scratch.roll_delta[i, k]

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, wp.Function)})
