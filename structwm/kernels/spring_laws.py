"""The physics of particles joined by springs, one by one: functions without loops, so that `wp.grad` gives their derivatives.

Springs and dashpots are those of PhysTwin (Jiang et al., 2025, section 3.2). What a particle touches takes its velocity by an implicit step, which is stable
however stiff the contact: the force at the end of the substep is that of a spring and a dashpot at the place and velocity then. Coulomb friction follows.
"""

from functools import cache
from typing import Any

import warp as wp

from .obstacle_laws import obstacle_laws
from .rigid_structs import with_adjoints

CROWD = 6.0  # particles that press on one at once, for which pushing between particles is stable
SLOW = 0.01  # speed of sliding below which friction between particles grows with it [m/s]


@cache
def laws(scalar: type) -> Any:
    """The functions for one type of number."""
    S = scalar
    vec3, grip = wp.types.vector(3, S), obstacle_laws(S).grip

    @wp.func
    def met(gap: S, n: vec3, v: vec3, carrier: vec3, friction: S, stiffness: S, damping: S, h: S):
        """The velocity after contact with what moves at `carrier`, at a distance `gap` below 0 along the normal n; stiffness over mass [1/s^2], damping time
        [s]."""
        slip = v - carrier
        normal = wp.dot(n, slip)
        pushed = -h * stiffness * (gap + (h + damping) * normal) / (S(1.0) + h * stiffness * (h + damping))
        if pushed <= S(0.0):
            return v
        along = slip - normal * n
        return v + pushed * n - grip(along, friction * pushed)

    @wp.func
    def met_test(gap: S, n: vec3, v: vec3, carrier: vec3, friction: S, stiffness: S, damping: S, h: S, seed: vec3):
        return wp.dot(met(gap, n, v, carrier, friction, stiffness, damping, h), seed)

    @wp.func
    def touching(e: vec3, w: vec3, width: S, mass: S, friction: S, stiffness: S, damping: S, h: S):
        """Force [N] on a particle by another one at e from it that moves at w beside it, nearer than `width`; `mass`: of the two together, reduced."""
        n = wp.length(e)
        if n >= width or n <= S(1.0e-9):
            return vec3()
        u = e / n
        firm = mass * stiffness / (S(1.0) + S(CROWD) * h * stiffness * (h + damping))
        press = firm * (width - n - damping * wp.dot(u, w))
        if press <= S(0.0):
            return vec3()
        along = w - wp.dot(u, w) * u
        rub = friction * press
        return rub / (wp.length(along) + S(SLOW) + S(CROWD) * h * rub / mass) * along - press * u

    @wp.func
    def touching_power(e: vec3, w: vec3, width: S, mass: S, friction: S, stiffness: S, damping: S, h: S, q: vec3):
        return wp.dot(touching(e, w, width, mass, friction, stiffness, damping, h), q)

    return with_adjoints({name: value for name, value in locals().items() if isinstance(value, wp.Function)})
