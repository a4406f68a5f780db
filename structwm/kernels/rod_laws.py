"""The physics of a discrete elastic rod, element by element: functions without loops, so that `wp.grad` gives their derivatives.

Strains are those of Bergou et al. (Discrete elastic rods, 2008): elongation of an edge, curvature binormal of two edges (section 4.2), twist between the
material directors of two edges (section 5). A substep solves `A delta = r` for the change of velocity, with every force taken at the velocity at the end:
stretch by implicit Euler, which is as good as a constraint where it is stiff; bend and twist at the configuration half a substep ahead, with a quarter of their
stiffness and a little more added to the mass, which makes them stable and takes no energy (Newmark's trapezoidal rule, linearised); damping implicitly.

Natural curvature (section 4.2) belongs to the material: it turns with the directors of both edges, half with each. Curvature stands across both edges, so that
parallel transport of the directors adds nothing to its force; what turns an edge about itself is its torque. What is added to the mass resists change of the
curvature that is loaded, the one beyond the natural; spins are solved first, and the vertices see the directors as these leave them.

Each `..._power` is what an element adds to `lam . (r - A delta)`: the power of its forces in the motion `lam`. Its gradient by configuration, velocity and
parameters, with `lam` and `delta` held fixed, is the backward pass of the substep (the adjoint method).

`e`, `w`, `d`, `l` of an edge: the edge [m], and along it the differences of velocity, of its change and of `lam`.
"""

from functools import cache
from typing import Any

import warp as wp

from .obstacle_laws import obstacle_laws
from .rigid_structs import with_adjoints
from .rod_structs import types

ALPHA = 0.3  # share of bending's and twisting's stiffness that is added to the mass: 1/4 is the limit of stability, and what turns with spins needs some more
STRAIGHT = 0.05  # curvature (twice the tangent of half the angle) below which bending is damped less [-]
BENT = 0.2  # loaded curvature above which what is added to the mass resists change of the angle only, and so no turning as a whole [-]
SLIGHT = 1e-5  # product of curvatures below which one does not turn the other [-]


@cache
def laws(scalar: type, *, whole: bool | None = None) -> Any:
    """The functions for one type of number; `whole`: whether those whose gradients are long are inlined, as `wp.func` takes it."""
    S = scalar
    vec2, vec3, grip = types(S).vec2, types(S).vec3, obstacle_laws(S, whole=whole).grip

    @wp.func(inline=whole)
    def mass_power(v: vec3, d: vec3, lam: vec3, mass: S, drag: S, quadratic: S, gravity: S, h: S):
        """Inertia, weight and drag of a vertex."""
        slow = drag + quadratic * wp.length(v)
        return -mass * (wp.dot(d, lam) + h * gravity * lam[2] + h * slow * wp.dot(v + d, lam))

    @wp.func(inline=whole)
    def stretch_power(e: vec3, w: vec3, d: vec3, lam: vec3, rest: S, stiffness: S, damping: S, h: S):
        """Of an edge with stiffness [N] and a damping time [s]."""
        n = wp.length(e)
        u = e / n
        rate = wp.dot(u, w + d)
        return -h * stiffness / rest * (n - rest + (h + damping) * rate) * wp.dot(u, lam)

    @wp.func
    def curvature(e0: vec3, e1: vec3):
        """The curvature binormal [-], and what it is divided by."""
        chi = wp.length(e0) * wp.length(e1) + wp.dot(e0, e1)
        return S(2.0) / chi * wp.cross(e0, e1), chi

    @wp.func
    def bends(e0: vec3, e1: vec3, kappa: vec3, chi: S, a0: vec3, a1: vec3):
        """Change of the curvature binormal as the edges change by a0 and a1."""
        n0 = wp.length(e0)
        n1 = wp.length(e1)
        spread = wp.dot(e0 * (n1 / n0) + e1, a0) + wp.dot(e1 * (n0 / n1) + e0, a1)
        return (S(2.0) * (wp.cross(a0, e1) + wp.cross(e0, a1)) - spread * kappa) / chi

    @wp.func
    def transported(e0: vec3, e1: vec3, k0: vec3, k1: vec3, a0: vec3, a1: vec3):
        """What turning the edges takes from natural curvature k0 and k1, which stays across them, as they change by a0 and a1."""
        n0 = wp.length(e0)
        n1 = wp.length(e1)
        return S(0.5) * (wp.dot(k0, a0) / (n0 * n0) * e0 + wp.dot(k1, a1) / (n1 * n1) * e1)

    @wp.func(inline=whole)
    def bend_power(e0: vec3, e1: vec3, w0: vec3, w1: vec3, d0: vec3, d1: vec3, l0: vec3, l1: vec3, k0: vec3, k1: vec3, stiffness: S, damping: S, h: S):
        """Of a vertex between two edges; stiffness and damping over its share of the length [N m, N m s]; natural curvature as either edge holds it [-]. What
        is damped is the change of the angle alone: a rod that turns as a whole is not."""
        kappa, chi = curvature(e0, e1)
        loaded = kappa - S(0.5) * (k0 + k1)
        by_lam = bends(e0, e1, kappa, chi, l0, l1)
        by_d = bends(e0, e1, kappa, chi, d0, d1)
        rate = bends(e0, e1, kappa, chi, w0, w1) + by_d
        own_lam = by_lam + transported(e0, e1, k0, k1, l0, l1)
        own_d = by_d + transported(e0, e1, k0, k1, d0, d1)
        added = (S(BENT * BENT) * wp.dot(own_d, own_lam) + wp.dot(loaded, own_d) * wp.dot(loaded, own_lam)) / (wp.dot(loaded, loaded) + S(BENT * BENT))
        damped = wp.dot(kappa, rate) * wp.dot(kappa, by_lam) / (wp.dot(kappa, kappa) + S(STRAIGHT * STRAIGHT))
        return -h * (stiffness * (wp.dot(loaded, by_lam) + S(ALPHA) * h * added) + damping * damped)

    @wp.func
    def carried(a: vec3, b: vec3, x: vec3):
        """x, turned as the shortest rotation turns the unit vector a to b (parallel transport)."""
        c = wp.cross(a, b)
        return x + wp.cross(c, x) + wp.cross(c, wp.cross(c, x)) / (S(1.0) + wp.dot(a, b))

    @wp.func
    def twist(e0: vec3, e1: vec3, m0: vec3, m1: vec3):
        """Angle [rad] by which the director m1 of the second edge is ahead of that of the first, carried over."""
        b = wp.normalize(e1)
        at = carried(wp.normalize(e0), b, m0)
        return wp.atan2(wp.dot(wp.cross(at, m1), b), wp.dot(at, m1))

    @wp.func
    def winds(e0: vec3, e1: vec3, a0: vec3, a1: vec3):
        """Change of the twist as the edges change by a0 and a1 while directors are carried along."""
        kappa, _chi = curvature(e0, e1)
        return S(0.5) * (wp.dot(kappa, a0) / wp.length(e0) + wp.dot(kappa, a1) / wp.length(e1))

    @wp.func
    def natural_held(e: vec3, m: vec3, natural: vec2):
        """A natural curvature in the world, as an edge with a director holds it [-]."""
        return natural[0] * m + natural[1] * wp.cross(wp.normalize(e), m)

    @wp.func
    def natural_at_end(e: vec3, m: vec3, angle: S, natural: vec2, scale: S):
        """The same, `scale` times as large as given, once the edge has turned about itself by a small angle."""
        held = scale * natural_held(e, m, natural)
        return held + angle * wp.cross(wp.normalize(e), held)

    @wp.func(inline=whole)
    def natural_test(e: vec3, m: vec3, angle: S, natural: vec2, scale: S, seed: vec3):
        return wp.dot(natural_at_end(e, m, angle, natural, scale), seed)

    @wp.func
    def natural_torque(e: vec3, m: vec3, kappa: vec3, natural: vec2, stiffness: S):
        """Torque about an edge [N m] by which a bent rod's natural curvature turns towards its curvature, and about how much that changes by angle."""
        held = natural_held(e, m, natural)
        along = wp.dot(kappa, held)
        change = along * along / wp.sqrt(along * along + S(SLIGHT * SLIGHT))
        return S(0.5) * stiffness * wp.dot(kappa, wp.cross(wp.normalize(e), held)), S(0.5) * stiffness * change

    @wp.func(inline=whole)
    def natural_torque_power(e0: vec3, e1: vec3, m0: vec3, m1: vec3, s0: S, s1: S, lam0: S, lam1: S, natural: vec2, stiffness: S, scale: S, h: S):
        """Of that in the edges' turning about themselves; s: their spins at the end of the substep."""
        kappa, _chi = curvature(e0, e1)
        turn0, less0 = natural_torque(e0, m0, kappa, natural, stiffness * scale)
        turn1, less1 = natural_torque(e1, m1, kappa, natural, stiffness * scale)
        return h * ((turn0 - h * less0 * s0) * lam0 + (turn1 - h * less1 * s1) * lam1)

    @wp.func
    def torque(e0: vec3, e1: vec3, m0: vec3, m1: vec3, spin: S, stiffness: S, damping: S, h: S):
        """Twisting moment [N m] of a vertex between two edges at the end of the substep; stiffness over its share of the length [N m], damping time [s];
        `spin`: how much faster the second edge spins than the first, then."""
        return stiffness * (twist(e0, e1, m0, m1) + (h + damping) * spin)

    @wp.func(inline=whole)
    def roll_power(e0: vec3, e1: vec3, m0: vec3, m1: vec3, s: S, d: S, lam: S, stiffness: S, damping: S, h: S):
        """Of the twisting moment in the edges' turning about themselves; `s`, `d`, `lam`: differences of spin, of its change and of the spins' `lam`."""
        return -h * torque(e0, e1, m0, m1, s + d, stiffness, damping, h) * lam

    @wp.func(inline=whole)
    def twist_power(e0: vec3, e1: vec3, m0: vec3, m1: vec3, d0: vec3, d1: vec3, l0: vec3, l1: vec3, spin: S, stiffness: S, damping: S, h: S):
        """Of the same moment in the motion of the vertices, to which it belongs where the rod is bent."""
        by_lam = winds(e0, e1, l0, l1)
        moment = torque(e0, e1, m0, m1, spin, stiffness, damping, h)
        return -h * (moment + S(ALPHA) * h * stiffness * winds(e0, e1, d0, d1)) * by_lam

    @wp.func
    def rolled(e: vec3, after: vec3, m: vec3, angle: S):
        """The director of an edge that has moved and turned about itself."""
        a = wp.normalize(e)
        b = wp.normalize(after)
        x = carried(a, b, m)
        x = wp.normalize(x - wp.dot(x, b) * b)
        return wp.cos(angle) * x + wp.sin(angle) * wp.cross(b, x)

    @wp.func(inline=whole)
    def rolled_test(e: vec3, after: vec3, m: vec3, angle: S, seed: vec3):
        return wp.dot(rolled(e, after, m, angle), seed)

    @wp.func
    def pressed(gap: S, n: vec3, v: vec3, stiffness: S, damping: S, h: S):
        """Force [N] along the normal at the end of the substep, of a vertex that then has the velocity v: a spring and a damping time [s]; less than 0 where it
        would pull."""
        return -stiffness * (gap + (h + damping) * wp.dot(n, v))

    @wp.func(inline=whole)
    def contact_power(gap: S, n: vec3, v: vec3, d: vec3, lam: vec3, stiffness: S, damping: S, h: S):
        """Of a vertex that touches, along the normal; what would pull at the start of the substep is left out."""
        if pressed(gap, n, v, stiffness, damping, h) <= S(0.0):
            return S(0.0)
        return h * pressed(gap, n, v + d, stiffness, damping, h) * wp.dot(n, lam)

    @wp.func
    def rubbed(gap: S, n: vec3, v: vec3, mass: S, friction: S, stiffness: S, damping: S, h: S):
        """The velocity that Coulomb friction leaves of v over a substep."""
        reach = h * friction * wp.max(pressed(gap, n, v, stiffness, damping, h), S(0.0)) / mass
        along = v - wp.dot(n, v) * n
        return v - grip(along, reach)

    @wp.func(inline=whole)
    def rubbed_test(gap: S, n: vec3, v: vec3, mass: S, friction: S, stiffness: S, damping: S, h: S, seed: vec3):
        return wp.dot(rubbed(gap, n, v, mass, friction, stiffness, damping, h), seed)

    return with_adjoints({name: value for name, value in locals().items() if isinstance(value, wp.Function)})
